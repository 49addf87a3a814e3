/* What a simulated chip does between its weighted sums, each in one pass over memory.

   Storage is sample by sample: steps within a sample, channels innermost, so element i of step t of
   sample b is x[(b * steps + t) * n + i] and its channel is i % channels. All arithmetic is on
   int32 and exact; the caller has checked that nothing leaves 31 bits. Counts over the samples are
   added to what their arrays hold; each thread has its own neurons, so that none has to wait. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
extern int omp_get_thread_num(void);
extern int omp_get_num_threads(void);
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_num_threads(void) { return 1; }
#endif

#define BLOCK 512 /* neurons that are worked on at once */
#define ALIGN 64  /* threads share no cache line of spikes */

static inline long smaller(long a, long b) { return a < b ? a : b; }

/* This thread's neurons [*from, *to) of n. */
static inline void my_neurons(long n, long *from, long *to) {
    long thread = omp_get_thread_num(), threads = omp_get_num_threads();
    long blocks = (n + ALIGN - 1) / ALIGN;
    *from = smaller(n, blocks * thread / threads * ALIGN);
    *to = smaller(n, blocks * (thread + 1) / threads * ALIGN);
}

/* sign(x) * (|x| * kept >> bits), for kept <= 2^bits, without a product of more than 31 bits. */
static inline int32_t decayed(int32_t x, uint32_t kept, int bits) {
    uint32_t sign = (uint32_t)(x >> 31); /* all ones if negative; a branch would not vectorise */
    uint32_t size = ((uint32_t)x ^ sign) - sign, low = size & ((1u << bits) - 1);
    uint32_t rest = (size >> bits) * kept + (low * kept >> bits);
    return (int32_t)((rest ^ sign) - sign);
}

struct neuron {
    int decay_bits, shift, keep_top;
    int32_t half; /* u wraps at half, v is clipped at half - 1 */
    int32_t subtracts, clears; /* all ones where the step after a spike does so, else 0 */
    int32_t at_once; /* all ones where the step of a spike itself subtracts, else 0 */
};

/* One step of a block: sums that arrive to spikes. Inlined with the last three arguments known.
   Where v is kept, it is not cleared by a spike and tells in the next step that there was one. */
static inline __attribute__((always_inline)) void step(
    long size, const struct neuron *p, const float *restrict drive, const int32_t *restrict bias,
    const int32_t *restrict threshold, const int32_t *restrict kept_u,
    const int32_t *restrict kept_v, int32_t *restrict u, int32_t *restrict v, uint8_t *restrict spikes, int32_t *restrict fired, int32_t *restrict updated, int64_t *wraps,
    int64_t *clips, const int decays, const int overflows, const int keeps
) {
    const int bits = p->decay_bits, shift = p->shift;
    const int32_t limit = p->half - 1, top = p->half - !p->keep_top;
    const uint32_t range = 2 * (uint32_t)p->half - 1;
    const int32_t subtracts = p->subtracts, clears = p->clears, at_once = p->at_once;
    int32_t wrapped = 0, clipped = 0;
    for (long i = 0; i < size; i++) {
        const int32_t arriving = (int32_t)drive[i], before = v[i];
        int32_t current = (int32_t)((uint32_t)arriving << shift);
        if (decays) current += decayed(u[i], kept_u[i], bits);
        if (overflows) { /* into the range that ends at top */
            const int32_t inside = top - (int32_t)((uint32_t)(top - current) & range);
            wrapped += inside != current;
            current = inside;
        }
        if (decays) u[i] = current;
        int32_t membrane = decayed(before, kept_v[i], bits) + current + bias[i];
        const int32_t again = -(before > threshold[i]); /* all ones if it fired, where v is kept */
        if (keeps) {
            membrane = (membrane - (threshold[i] & again & subtracts)) & ~(again & clears);
        }
        if (overflows) {
            const int32_t lower = membrane < limit ? membrane : limit;
            const int32_t inside = lower > -limit ? lower : -limit;
            clipped += inside != membrane;
            membrane = inside;
        }
        const int fires = membrane > threshold[i];
        spikes[i] = fires;
        fired[i] += fires;
        updated[i] += (before | current | bias[i] | arriving) != 0;
        if (keeps) { /* taken off in the step of the spike, or given back; that stays in range, since
                        only thresholds below half of it are left behind above themselves */
            const int32_t change = (threshold[i] & again) - (threshold[i] & -fires);
            membrane += change & at_once;
        }
        v[i] = fires && !keeps ? 0 : membrane;
    }
    *wraps += wrapped, *clips += clipped;
}

/* Leaky integrate and fire over all steps, from cleared state: weighted sums drive[samples, steps,
   n], whole numbers that act times 2^shift, to spikes of the same shape. Bias, threshold and what
   decays keep, of 2^decay_bits, are per channel; lasts is 0 if kept_u is for all; fired and updated[steps, n] count over the samples, overflows[2] wraps of u and
   clips of v. may_overflow is 0 if neither can leave its range. A spike clears v at once, or keeps
   is set: then the next step subtracts the threshold (which at_once moves to the end of the step
   itself), ends at 0 or does neither. The state is cleared in front of each step t with
   t % every == first, unless every is 0. membranes[samples,
   steps, n], at the end of each step, may be NULL. */
void lif(
    long threads, long samples, long steps, long n, long channels, const float *drive, long shift,
    const int32_t *bias, const int32_t *threshold, const int32_t *kept_u, const int32_t *kept_v,
    long lasts, long decay_bits, long state_bits, long keep_top, long may_overflow, long keeps,
    long subtracts, long at_once, long clears, long every, long first, uint8_t *spikes, int32_t *fired, int32_t *updated, int64_t *overflows, int32_t *membranes
) {
    const struct neuron p = {
        decay_bits, shift, keep_top, (int32_t)1 << (state_bits - 1), -(int32_t)subtracts,
        -(int32_t)clears, -(int32_t)at_once
    };
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_neurons(n, &from, &to);
        int32_t u[BLOCK], v[BLOCK], biases[BLOCK], thresholds[BLOCK], us[BLOCK], vs[BLOCK];
        int64_t wraps = 0, clips = 0;
        for (long start = from; start < to; start += BLOCK) {
            const long size = smaller(BLOCK, to - start);
            for (long i = 0; i < size; i++) {
                biases[i] = bias[(start + i) % channels];
                thresholds[i] = threshold[(start + i) % channels];
                us[i] = kept_u[(start + i) % channels];
                vs[i] = kept_v[(start + i) % channels];
            }
            for (long b = 0; b < samples; b++) {
                memset(u, 0, sizeof u), memset(v, 0, sizeof v);
                for (long t = 0; t < steps; t++) {
                    const long at = (b * steps + t) * n + start, count = t * n + start;
                    if (every && t % every == first) memset(u, 0, sizeof u), memset(v, 0, sizeof v);
#define STEP(decays, overflows, keeps)                                                             \
    step(size, &p, drive + at, biases, thresholds, us, vs, u, v, spikes + at, fired + count,       \
         updated + count, &wraps, &clips, decays, overflows, keeps)
                    if (keeps) STEP(1, 1, 1);
                    else if (lasts && may_overflow) STEP(1, 1, 0);
                    else if (lasts) STEP(1, 0, 0);
                    else if (may_overflow) STEP(0, 1, 0);
                    else STEP(0, 0, 0);
                    if (membranes) memcpy(membranes + at, v, size * sizeof *v);
                }
            }
        }
#pragma omp critical
        {
            overflows[0] += wraps;
            overflows[1] += clips;
        }
    }
}

/* Bit planes of clamp(round((x[samples, n] - lo) / range * 255), 0, 255), in the order of
   plane[steps]; fired[steps, n] counts over the samples. As has8/encoders/bitplane.py does it. */
void encode(
    long threads, long samples, long steps, long n, const float *x, double lo_, double range_,
    const int32_t *plane, uint8_t *spikes, int32_t *fired
) {
    const float lo = lo_, range = range_;
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_neurons(n, &from, &to);
        int32_t code[BLOCK];
        for (long start = from; start < to; start += BLOCK) {
            const long size = smaller(BLOCK, to - start);
            for (long b = 0; b < samples; b++) {
                const float *restrict in = x + b * n + start;
                for (long i = 0; i < size; i++) {
                    float q = rintf((in[i] - lo) / range * 255);
                    q = q > 0 ? q : 0;
                    code[i] = (int32_t)(q < 255 ? q : 255);
                }
                for (long t = 0; t < steps; t++) {
                    uint8_t *restrict out = spikes + (b * steps + t) * n + start;
                    int32_t *restrict count = fired + t * n + start;
                    const int k = plane[t];
                    for (long i = 0; i < size; i++) {
                        const uint8_t bit = (code[i] >> k) & 1;
                        out[i] = bit;
                        count[i] += bit;
                    }
                }
            }
        }
    }
}

/* decoded[samples, n] = sum_t weights[t] spikes[samples, t, n], added in the order of the steps */
void decode(
    long threads, long samples, long steps, long n, const uint8_t *spikes, const float *weights,
    float *decoded
) {
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_neurons(n, &from, &to);
        for (long b = 0; b < samples; b++)
            for (long start = from; start < to; start += BLOCK) {
                const long size = smaller(BLOCK, to - start);
                float *restrict sum = decoded + b * n + start;
                memset(sum, 0, size * sizeof *sum);
                for (long t = 0; t < steps; t++) {
                    const uint8_t *restrict in = spikes + (b * steps + t) * n + start;
                    const float weight = weights[t];
                    for (long i = 0; i < size; i++) sum[i] += weight * in[i];
                }
            }
    }
}

/* counts[n]: how many of x[samples, n] are not zero. */
void count(long threads, long samples, long n, const float *x, int32_t *counts) {
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_neurons(n, &from, &to);
        for (long start = from; start < to; start += BLOCK) {
            const long size = smaller(BLOCK, to - start);
            int32_t *restrict total = counts + start;
            for (long b = 0; b < samples; b++) {
                const float *restrict in = x + b * n + start;
                for (long i = 0; i < size; i++) total[i] += in[i] != 0;
            }
        }
    }
}
