/* Steps of a learning engine, as mapping/chip/learning.py defines them, number for number.

   Rules arrive as int32 "words": the number of products, then for each of them variable (w 0, d 1,
   t 2), dependency (none 0, x0 1, y0 2), mantissa, bits to shift right, bits to shift left, number
   of factors, and for each factor its source, constant, whether its sign is taken, and the largest
   magnitude of it. Sources: 0 nothing, 1 x1, 2 x2, 3 to 5 y1 to y3, 6 w, 7 d, 8 t. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ACCUMULATOR = 1 << 15, SHIFT = 7, HEAD = 6, WORDS = 4 };

struct synapses {
    long inputs;
    int64_t *variables[3], *traces;
    int32_t *total[3], *value;
};

static int32_t clipped(int64_t value, int64_t low, int64_t high) {
    return (int32_t)(value < low ? low : value > high ? high : value);
}

static int64_t rounded(double value, double draw) {
    double below = floor(value);
    return (int64_t)below + (draw < value - below);
}

/* Multiply by one factor, in 32 bits that wrap around. */
static void multiply(struct synapses *s, const int32_t *factor, const int64_t *sent, long row) {
    long source = factor[0], n = s->inputs;
    int64_t constant = factor[1], most = factor[3];
    int32_t *value = s->value;
    if (source == 0 || (source >= 3 && source <= 5)) {
        int64_t term = constant + (source ? sent[source - 3] : 0);
        uint32_t by = (uint32_t)clipped(term, -most, most - 1);
        for (long i = 0; i < n; i++) value[i] = (int32_t)((uint32_t)value[i] * by);
        return;
    }
    const int64_t *from =
        source <= 2 ? s->traces + (source - 1) * n : s->variables[source - 6] + row * n;
    if (factor[2])
        for (long i = 0; i < n; i++) {
            int64_t term = from[i] + constant;
            value[i] *= (term > 0) - (term < 0);
        }
    else
        for (long i = 0; i < n; i++) {
            uint32_t by = (uint32_t)clipped(from[i] + constant, -most, most - 1);
            value[i] = (int32_t)((uint32_t)value[i] * by);
        }
}

/* Whether a product is nothing, since the neuron does not fire or sends nothing that is in it. */
static int idle(const int32_t *words, int fires, const int64_t *sent) {
    const int32_t *factor = words + HEAD;
    for (long f = 0; f < words[5]; f++, factor += WORDS)
        if (factor[0] >= 3 && factor[0] <= 5 && factor[1] + sent[factor[0] - 3] == 0) return 1;
    return words[1] == 2 && !fires;
}

/* Change the synapses of one neuron. */
static void change(struct synapses *s, const int32_t *words, const uint8_t *pre, int fires,
                   const int64_t *sent, double draw, long row) {
    static const int64_t lowest[3] = {-256, 0, -257};
    long n = s->inputs, products = *words++;
    int touched[3] = {0, 0, 0};
    for (long p = 0; p < products; p++) {
        long variable = words[0], dependency = words[1], factors = words[5];
        int32_t *total = s->total[variable], *value = s->value;
        const int32_t *factor = words + HEAD;
        if (!touched[variable])
            for (long i = 0; i < n; i++)
                total[i] = (int32_t)s->variables[variable][row * n + i] * (1 << SHIFT);
        touched[variable] = 1;
        if (!idle(words, fires, sent)) {
            for (long i = 0; i < n; i++) value[i] = dependency == 1 ? pre[i] : 1;
            for (long f = 0; f < factors; f++) multiply(s, factor + f * WORDS, sent, row);
            uint32_t mantissa = (uint32_t)words[2];
            int right = words[3], left = words[4];
            for (long i = 0; i < n; i++) {
                int32_t one = (int32_t)((uint32_t)value[i] * mantissa) >> right;
                one = clipped((int32_t)((uint32_t)one << left), -ACCUMULATOR - 1, ACCUMULATOR - 1);
                total[i] = clipped((int64_t)total[i] + one, -ACCUMULATOR - 1, ACCUMULATOR - 1);
            }
        }
        words = factor + factors * WORDS;
    }
    for (long v = 0; v < 3; v++)
        for (long i = 0; touched[v] && i < n; i++) {
            int32_t total = v == 1 && s->total[v][i] < 0 ? 0 : s->total[v][i];
            double rest = (total & ((1 << SHIFT) - 1)) / (double)(1 << SHIFT);
            s->variables[v][row * n + i] = clipped((total >> SHIFT) + (draw < rest), lowest[v], 255);
        }
}

/* Traces decay, and spikes raise them. Numbers are decay, whole impulse and its part of each. */
static void trace(int64_t *traces, const double *numbers, const uint8_t *pre, long n, double decay,
                  double impulse) {
    for (long k = 0; k < 2; k++) {
        if (numbers[3 * k] == 0 && numbers[3 * k + 1] == 0 && numbers[3 * k + 2] == 0) {
            memset(traces + k * n, 0, sizeof(*traces) * (size_t)n);
            continue;
        }
        int64_t rise = (int64_t)numbers[3 * k + 1] + (impulse < numbers[3 * k + 2]);
        for (long i = 0; i < n; i++) {
            int64_t kept = rounded(numbers[3 * k] * (double)traces[k * n + i], decay);
            traces[k * n + i] = pre[i] ? clipped(kept + rise, 0, 127) : kept;
        }
    }
}

/* Take the spikes of some steps; draws are four a step: decay, impulse, sent, rounding. */
void learn(long threads, long steps, long inputs, long neurons, const int32_t *words, long waits,
           const double *numbers, double kept, const double *draws, const uint8_t *pre,
           const uint8_t *post, const int64_t *sent, int64_t *traces, int64_t *w, int64_t *d,
           int64_t *t) {
    (void)threads;
    struct synapses s = {inputs, {w, d, t}, traces, {0}, 0};
    int32_t *room = malloc(sizeof(int32_t) * 4 * (size_t)inputs);
    for (long k = 0; k < 3; k++) s.total[k] = room + k * inputs;
    s.value = room + 3 * inputs;
    for (long step = 0; step < steps; step++, draws += 4, pre += inputs, post += neurons) {
        trace(traces, numbers, pre, inputs, draws[0], draws[1]);
        for (long row = 0; row < neurons; row++) {
            int64_t now[3], any = post[row];
            for (long k = 0; k < 3; k++) {
                now[k] = rounded((double)sent[(step * 3 + k) * neurons + row] * kept, draws[2]);
                any |= now[k];
            }
            if (any || !waits) change(&s, words, pre, post[row], now, draws[3], row);
        }
    }
    free(room);
}
