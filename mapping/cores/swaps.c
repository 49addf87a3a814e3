/* Cores that change places two by two, for mapping/cores/descent.py, where the same stands in
   Python. All is on integers, so that both give the same placement everywhere. */

#include <stdint.h>
#include <stdlib.h>

/* A random number below n: xorshift of 64 bits (Marsaglia 2003). */
static inline int64_t draw(uint64_t *state, int64_t n) {
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    *state = x;
    return (int64_t)((x >> 16) % (uint64_t)n);
}

/* Try to put one of two cores that talk near the other one, so many times. A swap is kept if it
   adds no more than threshold to messages times distance; all changes are added to *change. Core a
   talks to others[starts[a]] .. others[starts[a + 1] - 1]; place s is at x[s], y[s], which are
   stretched where chips meet, and at router[s] of the grid, whose first place is first[router].
   at has room for the x and y of each core, which are then one way into memory, not three. */
void swaps(
    long threads, long tries, long pairs, long cores, long width, long height, long per_router,
    long threshold, long reach, const int64_t *ones, const int64_t *others,
    const int64_t *messages, const int64_t *starts, const int64_t *x, const int64_t *y,
    const int64_t *router, const int64_t *first, int64_t *seat, int64_t *core, uint64_t *state,
    int64_t *change, int64_t *at
) {
    (void)threads;
    for (long c = 0; c < cores; c++) {
        at[2 * c] = x[seat[c]];
        at[2 * c + 1] = y[seat[c]];
    }
    for (long t = 0; t < tries; t++) {
        const int64_t pair = draw(state, pairs), a = ones[pair], near = router[seat[others[pair]]];
        const int64_t to_x = near % width + draw(state, 2 * reach + 1) - reach;
        const int64_t to_y = near / width + draw(state, 2 * reach + 1) - reach;
        const int64_t slot = draw(state, per_router);
        if (to_x < 0 || to_x >= width || to_y < 0 || to_y >= height) continue;
        const int64_t base = first[to_y * width + to_x], to = base + slot, from = seat[a];
        if (base < 0 || to >= cores || router[to] == router[from]) continue;
        const int64_t b = core[to];
        const int64_t new_x = x[to], new_y = y[to], old_x = x[from], old_y = y[from];
        int64_t delta = 0; /* the way between a and b stays as long as it is */
        for (int64_t i = starts[a]; i < starts[a + 1]; i++) {
            const int64_t *s = at + 2 * others[i];
            if (others[i] != b)
                delta += messages[i] * (llabs(new_x - s[0]) + llabs(new_y - s[1])
                                        - llabs(old_x - s[0]) - llabs(old_y - s[1]));
        }
        for (int64_t i = starts[b]; i < starts[b + 1]; i++) {
            const int64_t *s = at + 2 * others[i];
            if (others[i] != a)
                delta += messages[i] * (llabs(old_x - s[0]) + llabs(old_y - s[1])
                                        - llabs(new_x - s[0]) - llabs(new_y - s[1]));
        }
        if (delta > threshold) continue;
        at[2 * a] = new_x, at[2 * a + 1] = new_y;
        at[2 * b] = old_x, at[2 * b + 1] = old_y;
        seat[a] = to, core[to] = a;
        seat[b] = from, core[from] = b;
        *change += delta;
    }
}
