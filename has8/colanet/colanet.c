// The rules of has8/colanet/plain.py, over copies at once: the same operations on float64 in the
// same order, so that every spike and every weight is equal, bit for bit.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NEVER (-1000000L)
#define BLOCK 64

// In the order of has8.colanet.compiled._numbers.
struct rule {
    double kept, threshold, threshold_share, noise, forcing, lowest, highest, anti_hebb, dopamine,
        stability_ratio, silent_synapses, mark_steps, sequence_steps, reward_steps, reward_delay,
        closed_steps, lateral, excitability;
};

struct net {
    long inputs, classes, columns, neurons;
    double *resource;   // [neurons, inputs]
    double *weight;     // [inputs, neurons]
    double *threshold;  // [neurons]
    double *stability;  // [neurons]
    double *unspent;    // [neurons]
};

// What neurons and inputs remember within an object.
struct memory {
    double *v, *current;
    long *open_from, *last, *began, *won, *seen;
    uint8_t *mark, *touched, *forced;
    int32_t *active;
};

static const volatile double TWO = 2.0;  // volatile: pow must stay the pow that Python calls

static double draw(uint64_t seed, uint64_t object, uint64_t step, uint64_t neuron) {
    uint64_t x = seed + (((object << 8) + step) << 20) + neuron;
    x *= 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    x ^= x >> 31;
    return (double)(x >> 11) * 0x1p-53;
}

static double weight_of(const struct rule *rule, double resource) {
    double span = rule->highest - rule->lowest, positive = resource > 0.0 ? resource : 0.0;
    return rule->lowest + span * positive / (span + positive);
}

static double threshold_of(const struct rule *rule, const struct net *net, long n) {
    double sum = 0.0;
    for (long i = 0; i < net->inputs; i++) {
        double w = net->weight[i * net->neurons + n];
        sum += w > 0.0 ? w : 0.0;
    }
    return rule->threshold + rule->threshold_share * sum;
}

// Adds to the resources of a neuron's synapses where mark has a bit, and counts what it spent.
static void change(const struct rule *rule, struct net *net, const uint8_t *mark, uint8_t bit,
                   long n, double by) {
    long inputs = net->inputs, neurons = net->neurons, changed = 0;
    double *resource = net->resource + n * inputs, *weight = net->weight + n;
    for (long i = 0; i < inputs; i++) {
        changed += (mark[i] & bit) != 0;
        resource[i] += mark[i] & bit ? by : 0.0;
    }
    net->unspent[n] -= (double)changed * by;
    for (long i = 0; i < inputs; i++)
        if (mark[i] & bit) weight[i * neurons] = weight_of(rule, resource[i]);
}

// Marks the synapses that contribute to a spike; for a spike that nobody forced, new ones pay.
static void contribute(const struct rule *rule, struct net *net, struct memory *m, long n, long t,
                       int forced) {
    uint8_t *mark = m->mark + n * net->inputs;
    int goes_on = m->touched[n] && (forced || t - m->last[n] < (long)rule->sequence_steps);
    if (!goes_on) m->began[n] = t;
    m->touched[n] = 1;
    m->forced[n] = (uint8_t)forced;
    m->last[n] = t;
    for (long i = 0; i < net->inputs; i++) {
        uint8_t old = goes_on ? mark[i] & 1 : 0, now = t - m->seen[i] < (long)rule->mark_steps;
        mark[i] = (uint8_t)(old | now | ((now & ~old) << 1));
    }
    double scale = pow(TWO, -net->stability[n]);
    if (!forced) change(rule, net, mark, 2, n, rule->anti_hebb * (scale < 1.0 ? scale : 1.0));
}

static void reward(const struct rule *rule, struct net *net, struct memory *m, long n, long t) {
    double scale = pow(TWO, -net->stability[n]), gap = rule->sequence_steps;
    change(rule, net, m->mark + n * net->inputs, 1, n,
           rule->dopamine * (scale < 1.0 ? scale : 1.0));
    double step = rule->stability_ratio * rule->dopamine;
    if (m->forced[n]) {
        double less = net->stability[n] - step;
        net->stability[n] = less > 0.0 ? less : 0.0;
    } else {
        double timely = 2.0 - fabs((double)(t - m->began[n]) - gap) / gap;
        net->stability[n] += step * (timely > -1.0 ? timely : -1.0);
    }
}

static void renormalise(const struct rule *rule, struct net *net, long n) {
    long inputs = net->inputs, neurons = net->neurons;
    double *resource = net->resource + n * inputs, *weight = net->weight + n;
    if (fabs(net->unspent[n]) >= 1.0) {
        double by = net->unspent[n] / ((double)inputs + rule->silent_synapses);
        net->unspent[n] = 0.0;
        for (long i = 0; i < inputs; i++) resource[i] += by;
        for (long i = 0; i < inputs; i++) weight[i * neurons] = weight_of(rule, resource[i]);
    }
    net->threshold[n] = threshold_of(rule, net, n);
}

// The current of some neurons: the sum of the weights of active inputs, in ascending order.
static void drive(const double *weight, long neurons, long block, const int32_t *active,
                  long count, double *restrict current) {
    double sum[BLOCK] = {0.0};
    if (block == BLOCK)
        for (long a = 0; a < count; a++) {
            const double *row = weight + active[a] * neurons;
            for (long n = 0; n < BLOCK; n++) sum[n] += row[n];
        }
    else
        for (long a = 0; a < count; a++) {
            const double *row = weight + active[a] * neurons;
            for (long n = 0; n < block; n++) sum[n] += row[n];
        }
    for (long n = 0; n < block; n++) current[n] = sum[n];
}

static void integrate(const struct rule *rule, const struct net *net, struct memory *m, long t,
                      long count, int learns, uint64_t seed, uint64_t object) {
    long neurons = net->neurons;
    double *current = m->current, *v = m->v;
    for (long n = 0; n < neurons; n += BLOCK)
        drive(net->weight + n, neurons, n + BLOCK < neurons ? BLOCK : neurons - n, m->active, count,
              current + n);
    if (learns)
        for (long n = 0; n < neurons; n++)
            current[n] += rule->noise * draw(seed, object, (uint64_t)t, (uint64_t)n);
    for (long n = 0; n < neurons; n++) {
        double in = t < m->open_from[n] ? 0.0 : current[n] + rule->excitability;
        double x = v[n] * rule->kept + in;
        v[n] = x > 0.0 ? x : 0.0;
    }
}

// The neuron of a column that is furthest above its threshold, or -1.
static long winner(const struct net *net, const struct memory *m, long first, double bias) {
    long best = -1;
    double most = 0.0;
    for (long n = first; n < first + net->columns; n++) {
        double above = m->v[n] + bias - net->threshold[n];
        if (above >= 0.0 && (best < 0 || above > most)) {
            best = n;
            most = above;
        }
    }
    return best;
}

static void show(const struct rule *rule, struct net *net, struct memory *m, long steps,
                 const uint8_t *spikes, long label, uint64_t seed, uint64_t object,
                 int32_t *counts) {
    long neurons = net->neurons, columns = net->columns, lateral = rule->lateral != 0.0;
    for (long n = 0; n < neurons; n++) {
        m->v[n] = 0.0;
        m->open_from[n] = 0;
        m->last[n] = m->won[n] = NEVER;
        m->touched[n] = 0;
    }
    for (long i = 0; i < net->inputs; i++) m->seen[i] = NEVER;
    memset(counts, 0, (size_t)net->classes * sizeof *counts);
    for (long t = 0; t < steps; t++) {
        const uint8_t *now = spikes + t * net->inputs;
        long count = 0;
        for (long i = 0; i < net->inputs; i++)
            if (now[i]) m->active[count++] = (int32_t)i;
        for (long a = 0; a < count; a++) m->seen[m->active[a]] = t;
        integrate(rule, net, m, t, count, label >= 0, seed, object);
        for (long k = 0; k < net->classes; k++) {
            long first = k * columns, best = winner(net, m, first, 0.0);
            if (best < 0) continue;
            counts[k]++;
            m->won[best] = t;
            for (long n = first; n < first + columns; n++) {
                int fires = n == best || (!lateral && m->v[n] >= net->threshold[n]);
                if (fires) m->v[n] = 0.0;
                if (fires && label >= 0) contribute(rule, net, m, n, t, 0);
                if (lateral && n != best) m->open_from[n] = t + 1 + (long)rule->closed_steps;
            }
        }
    }
    if (label < 0) return;
    long first = label * columns, end = steps + (long)rule->reward_delay;
    if (!counts[label]) {
        for (long n = first; n < first + columns; n++) m->v[n] *= rule->kept;
        long best = winner(net, m, first, rule->forcing);
        if (best >= 0) {
            m->won[best] = steps;
            contribute(rule, net, m, best, steps, 1);
        }
    }
    for (long n = first; n < first + columns; n++)
        if (end - m->last[n] <= (long)rule->reward_steps &&
            (lateral || end - m->won[n] <= (long)rule->reward_steps))
            reward(rule, net, m, n, end);
    for (long n = 0; n < neurons; n++)
        if (m->touched[n]) renormalise(rule, net, n);
}

static struct memory *new_memory(long neurons, long inputs) {
    struct memory *m = malloc(sizeof *m);
    m->v = malloc((size_t)neurons * sizeof(double));
    m->current = malloc((size_t)neurons * sizeof(double));
    m->open_from = malloc((size_t)neurons * sizeof(long));
    m->last = malloc((size_t)neurons * sizeof(long));
    m->began = malloc((size_t)neurons * sizeof(long));
    m->won = malloc((size_t)neurons * sizeof(long));
    m->seen = malloc((size_t)inputs * sizeof(long));
    m->mark = malloc((size_t)(neurons * inputs));
    m->touched = malloc((size_t)neurons);
    m->forced = malloc((size_t)neurons);
    m->active = malloc((size_t)inputs * sizeof(int32_t));
    return m;
}

static void free_memory(struct memory *m) {
    free(m->v), free(m->current), free(m->open_from), free(m->last), free(m->began), free(m->won);
    free(m->seen), free(m->mark), free(m->touched), free(m->forced), free(m->active);
    free(m);
}

// Memory whose vectors lie in one line of the cache each.
static void *aligned(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

// Weights and thresholds, which follow from the resources.
static void derive(const struct rule *rule, struct net *net) {
    for (long n = 0; n < net->neurons; n++) {
        for (long i = 0; i < net->inputs; i++)
            net->weight[i * net->neurons + n] = weight_of(rule, net->resource[n * net->inputs + i]);
        net->threshold[n] = threshold_of(rule, net, n);
    }
}

// spikes: [objects, steps, inputs]. labels: of the objects, or -1 to learn nothing.
// counts: [copies, objects, classes].
void colanet(long threads, long copies, long objects, long steps, long inputs, long classes,
             long columns, const double *numbers, const uint8_t *spikes, const int64_t *labels,
             const int64_t *seeds, long first, double *resource, double *stability,
             double *unspent, int32_t *counts) {
    struct rule rule;
    memcpy(&rule, numbers, sizeof rule);
    long neurons = classes * columns;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (long c = 0; c < copies; c++) {
        struct memory *m = new_memory(neurons, inputs);
        struct net net = {inputs, classes, columns, neurons, resource + c * neurons * inputs,
                          aligned((size_t)(neurons * inputs) * sizeof(double)),
                          malloc((size_t)neurons * sizeof(double)),
                          stability + c * neurons, unspent + c * neurons};
        derive(&rule, &net);
        for (long o = 0; o < objects; o++)
            show(&rule, &net, m, steps, spikes + o * steps * inputs, labels[o],
                 (uint64_t)seeds[c], (uint64_t)(first + o), counts + (c * objects + o) * classes);
        free(net.weight), free(net.threshold), free_memory(m);
    }
}
