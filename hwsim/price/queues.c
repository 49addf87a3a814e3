/* Messages of a chip step that wait for one another, for hwsim/price/queues.py, where the same
   stands in Python and every array is explained. Both compute the same doubles. */

#include <stdint.h>
#include <string.h>

enum { READY, ARRIVED, PASSED, PROCESSED }; /* a core's neurons, a message, a link, a core */

typedef struct {
    double time;
    int64_t number, what; /* what: the kind, and 4 times who */
} Event;

typedef struct {
    long cores, links, width, buffer, overlaps;
    const int64_t *sender, *dest, *where;
    const double *gap, *service, *hold, *delay;
    double *ready, *sent, *arrived, *done;
    int64_t *head, *tail, *taken, *next, *at;       /* queues of messages */
    int64_t *waits, *last, *behind, *blocked;       /* queues of links and cores for a slot */
    int64_t *busy, *cursor, *stop, *working, *processing;
    Event *heap;
    long events, numbers;
} State;

static void schedule(State *s, double time, int64_t kind, int64_t who) {
    const Event e = {time, s->numbers++, kind + 4 * who};
    long i = s->events++;
    for (; i > 0; i = (i - 1) / 2) {
        const Event *above = &s->heap[(i - 1) / 2];
        if (above->time < time || (above->time == time && above->number < e.number)) break;
        s->heap[i] = *above;
    }
    s->heap[i] = e;
}

static Event earliest(State *s) {
    const Event first = s->heap[0], e = s->heap[--s->events];
    long i = 0, below;
    while ((below = 2 * i + 1) < s->events) {
        const Event *h = &s->heap[below];
        if (below + 1 < s->events &&
            (h[1].time < h->time || (h[1].time == h->time && h[1].number < h->number))) below++, h++;
        if (e.time < h->time || (e.time == h->time && e.number < h->number)) break;
        s->heap[i] = *h;
        i = below;
    }
    s->heap[i] = e;
    return first;
}

/* The queue in which a message at a router waits: for a link, first along x, or for its core. */
static int64_t queue_at(const State *s, int64_t router, int64_t m) {
    const int64_t end = s->where[s->dest[m]], width = s->width;
    const int64_t x = router % width, y = router / width, to_x = end % width, to_y = end / width;
    if (x != to_x) return 4 * router + (to_x < x);
    if (y != to_y) return 4 * router + 2 + (to_y < y);
    return s->links + s->dest[m];
}

static int64_t pop(State *s, int64_t q) {
    const int64_t m = s->head[q];
    s->head[q] = s->next[m];
    return m;
}

static void push(State *s, int64_t q, int64_t m) {
    s->next[m] = -1;
    if (s->head[q] < 0) s->head[q] = m;
    else s->next[s->tail[q]] = m;
    s->tail[q] = m;
}

static void wait_for(State *s, int64_t q, int64_t who) {
    s->behind[who] = -1;
    if (s->waits[q] < 0) s->waits[q] = who;
    else s->behind[s->last[q]] = who;
    s->last[q] = who;
    s->blocked[who] = 1;
}

static void release(State *s, int64_t q, double time);

/* A core begins with what waits for it: a message, and the neurons up to its next message. */
static void serve(State *s, int64_t c, double time) {
    const int64_t inbox = s->links + c;
    if (!s->processing[c] && s->head[inbox] >= 0 && (s->overlaps || !s->working[c])) {
        const int64_t m = pop(s, inbox);
        s->processing[c] = m + 1;
        schedule(s, time + s->service[m], PROCESSED, c);
        if (s->sender[m] < s->cores) release(s, inbox, time);
    }
    if (!s->working[c] && !s->blocked[s->links + c] && s->cursor[c] < s->stop[c] &&
        (s->overlaps || !s->processing[c])) {
        s->working[c] = 1;
        schedule(s, time + s->gap[s->cursor[c]], READY, c);
    }
}

/* A core's next message leaves it, or the core waits until there is room. */
static void leave(State *s, int64_t c, double time) {
    const int64_t m = s->cursor[c];
    if (s->dest[m] < 0) s->sent[m] = s->arrived[m] = s->done[m] = time;
    else {
        const int64_t q = queue_at(s, s->where[c], m);
        if (s->taken[q] >= s->buffer) { wait_for(s, q, s->links + c); return; }
        s->taken[q]++;
        s->sent[m] = time;
        s->at[m] = q;
        schedule(s, time, ARRIVED, m);
    }
    s->cursor[c]++;
}

/* A link takes the first message that waits for it, once there is room behind it. */
static void move(State *s, int64_t q, double time) {
    if (s->busy[q] || s->blocked[q] || s->head[q] < 0) return;
    const int64_t steps[4] = {1, -1, s->width, -s->width};
    const int64_t ahead = queue_at(s, q / 4 + steps[q % 4], s->head[q]);
    if (s->taken[ahead] >= s->buffer) { wait_for(s, ahead, q); return; }
    const int64_t m = pop(s, q);
    s->taken[ahead]++;
    s->busy[q] = 1;
    s->at[m] = ahead;
    schedule(s, time + s->hold[q], PASSED, q);
    schedule(s, time + (s->hold[q] > s->delay[q] ? s->hold[q] : s->delay[q]), ARRIVED, m);
}

/* A slot of a queue is free: whoever has waited longest takes it. */
static void release(State *s, int64_t q, double time) {
    s->taken[q]--;
    const int64_t who = s->waits[q];
    if (who < 0) return;
    s->waits[q] = s->behind[who];
    s->blocked[who] = 0;
    if (who < s->links) { move(s, who, time); return; }
    leave(s, who - s->links, time);
    serve(s, who - s->links, time);
}

static void happen(State *s, Event e) {
    const int64_t who = e.what / 4;
    switch (e.what % 4) {
    case READY:
        s->working[who] = 0;
        s->ready[s->cursor[who]] = e.time;
        leave(s, who, e.time);
        serve(s, who, e.time);
        break;
    case ARRIVED:
        push(s, s->at[who], who);
        if (s->at[who] < s->links) move(s, s->at[who], e.time);
        else {
            s->arrived[who] = e.time;
            serve(s, s->dest[who], e.time);
        }
        break;
    case PASSED:
        s->busy[who] = 0;
        release(s, who, e.time);
        move(s, who, e.time);
        break;
    default:
        s->done[s->processing[who] - 1] = e.time;
        s->processing[who] = 0;
        serve(s, who, e.time);
    }
}

/* room: int64[2 * messages + 8 * (links + cores) + 4 * cores], of which nothing is kept;
   heap: Event[messages + links + 2 * cores]. */
void queues(
    long threads, long steps, long messages, long cores, long links, long width, long buffer,
    long overlaps, const int64_t *first, const int64_t *sender, const int64_t *dest,
    const int64_t *where, const double *gap, const double *service, const double *hold,
    const double *delay, double *ready, double *sent, double *arrived, double *done, int64_t *room,
    void *heap
) {
    (void)threads;
    State s = {cores, links, width, buffer, overlaps, sender, dest, where, gap, service, hold,
               delay, ready, sent, arrived, done, 0};
    const long all = links + cores;
    int64_t **parts[] = {&s.head, &s.tail, &s.taken, &s.waits, &s.last, &s.behind, &s.blocked,
                         &s.busy};
    for (long i = 0; i < 8; i++, room += all) *parts[i] = room;
    int64_t **of_cores[] = {&s.cursor, &s.stop, &s.working, &s.processing};
    for (long i = 0; i < 4; i++, room += cores) *of_cores[i] = room;
    s.next = room;
    s.at = room + messages;
    s.heap = heap;
    for (long t = 0; t < steps; t++) {
        for (long q = 0; q < all; q++) {
            s.head[q] = s.waits[q] = -1;
            s.taken[q] = s.blocked[q] = s.busy[q] = 0;
        }
        memset(s.cursor, 0, 4 * cores * sizeof(int64_t)); /* and stop, working, processing */
        s.events = s.numbers = 0;
        for (int64_t m = first[t]; m < first[t + 1]; m++) {
            if (sender[m] == cores) {
                ready[m] = sent[m] = arrived[m] = 0;
                push(&s, links + dest[m], m);
            } else {
                if (!s.stop[sender[m]]) s.cursor[sender[m]] = m;
                s.stop[sender[m]] = m + 1;
            }
        }
        for (int64_t c = 0; c < cores; c++) serve(&s, c, 0);
        while (s.events) happen(&s, earliest(&s));
    }
}
