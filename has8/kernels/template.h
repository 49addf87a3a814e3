/* One set of kernels: S is how large tensors are stored, R what is computed with. */

#define NAME(f) JOIN(f, KIND)

/* The membrane of one block after a step, before its reset; the inputs are in storage order. */
static inline void NAME(integrate)(
    long length, const S *restrict y, const R *restrict scale, const R *restrict shift, R gain,
    R beta, const R *restrict kept, R *restrict membrane
) {
    if (scale)
        for (long i = 0; i < length; i++)
            membrane[i] = kept[i] * beta + (LOAD(y[i]) * scale[i] + shift[i]) * gain;
    else
        for (long i = 0; i < length; i++) membrane[i] = kept[i] * beta + LOAD(y[i]) * gain;
}

/* A block is several whole rows of channels, so that the rows' factors repeat in it. */
static long NAME(block)(long n, long channels) {
    if (channels == 1) return smaller(n, 512);
    return channels * (channels < 128 ? 128 / channels : 1);
}

/* Factors of each channel, repeated over one block. */
static R *NAME(repeated)(const R *factors, long length, long channels) {
    if (!factors) return NULL;
    R *all = malloc(length * sizeof(R));
    for (long i = 0; i < length; i++) all[i] = factors[i % channels];
    return all;
}

/* Batch norm (scale, shift; may be NULL), leaky integrate and fire with reset to zero, and either
   spikes[steps, n] or decoded[n] = sum_t weights[t] s_t. */
void NAME(leaky_forward)(
    long threads, long steps, long n, long channels, const S *y, const R *scale, const R *shift,
    double gain_, double beta_, double threshold_, const R *weights, S *spikes, R *decoded
) {
    const R gain = gain_, beta = beta_, threshold = threshold_;
    const long length = NAME(block)(n, channels), blocks = (n + length - 1) / length;
    const S one = STORE((R)1), zero = STORE((R)0);
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_part(blocks, &from, &to);
        R *a = NAME(repeated)(scale, length, channels), *b = NAME(repeated)(shift, length, channels);
        R *kept = malloc(length * sizeof(R)), *membrane = malloc(length * sizeof(R));
        for (long block = from; block < to; block++) {
            const long start = block * length, size = smaller(length, n - start);
            memset(kept, 0, size * sizeof(R));
            R *sum = decoded ? decoded + start : NULL;
            if (sum) memset(sum, 0, size * sizeof(R));
            for (long t = 0; t < steps; t++) {
                NAME(integrate)(size, y + t * n + start, a, b, gain, beta, kept, membrane);
                if (sum) {
                    const R weight = weights[t];
                    for (long i = 0; i < size; i++) sum[i] += membrane[i] > threshold ? weight : 0;
                } else {
                    S *restrict out = spikes + t * n + start;
                    for (long i = 0; i < size; i++) out[i] = membrane[i] > threshold ? one : zero;
                }
                for (long i = 0; i < size; i++)
                    kept[i] = membrane[i] > threshold ? 0 : membrane[i];
            }
        }
        free(a), free(b), free(kept), free(membrane);
    }
}

/* Gradient of the normalised currents into grad[steps, n], from that of the spikes or of the decoded
   values; membranes are computed again. With scale, also sums[2, channels]: of the gradient, and of
   the gradient times (y - mean) * deviation, deviation being 1 / sqrt(var + eps). */
void NAME(leaky_backward)(
    long threads, long steps, long n, long channels, const S *y, const R *scale, const R *shift,
    double gain_, double beta_, double threshold_, double alpha_, const R *weights,
    const S *grad_spikes, const R *grad_decoded, const R *mean, const R *deviation, S *grad,
    double *sums
) {
    const R gain = gain_, beta = beta_, threshold = threshold_;
    const R width = 1.57079632679489661923 * alpha_, height = alpha_ / 2;
    const long length = NAME(block)(n, channels), blocks = (n + length - 1) / length;
    double *all_totals = calloc(threads * 2 * length, sizeof(double));
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_part(blocks, &from, &to);
        R *a = NAME(repeated)(scale, length, channels), *b = NAME(repeated)(shift, length, channels);
        R *m = NAME(repeated)(mean, length, channels), *d = NAME(repeated)(deviation, length, channels);
        R *kept = malloc(length * sizeof(R)), *later = malloc(length * sizeof(R));
        R *membranes = malloc(steps * length * sizeof(R));
        R *total = malloc(length * sizeof(R)), *moment = malloc(length * sizeof(R));
        double *totals = all_totals + omp_get_thread_num() * 2 * length;
        for (long block = from; block < to; block++) {
            const long start = block * length, size = smaller(length, n - start);
            memset(kept, 0, size * sizeof(R));
            for (long t = 0; t < steps; t++) {
                R *restrict membrane = membranes + t * length;
                NAME(integrate)(size, y + t * n + start, a, b, gain, beta, kept, membrane);
                for (long i = 0; i < size; i++)
                    kept[i] = membrane[i] > threshold ? 0 : membrane[i];
            }
            memset(later, 0, size * sizeof(R));
            memset(total, 0, size * sizeof(R));
            memset(moment, 0, size * sizeof(R));
            for (long t = steps - 1; t >= 0; t--) {
                const R *restrict membrane = membranes + t * length;
                const S *restrict gs = grad_spikes ? grad_spikes + t * n + start : NULL;
                const R *restrict gd = grad_decoded ? grad_decoded + start : NULL;
                const R weight = weights ? weights[t] : 0;
                S *restrict out = grad + t * n + start;
                for (long i = 0; i < size; i++) {
                    R distance = width * (membrane[i] - threshold);
                    R slope = (R)1 / ((R)1 + distance * distance) * height;
                    R through = gd ? gd[i] * weight : LOAD(gs[i]);
                    R carried = membrane[i] > threshold ? 0 : later[i] * beta;
                    later[i] = slope * through + carried;
                }
                if (d) {
                    const S *restrict input = y + t * n + start;
                    for (long i = 0; i < size; i++) {
                        R g = later[i] * gain;
                        out[i] = STORE(g);
                        total[i] += g;
                        moment[i] += g * ((LOAD(input[i]) - m[i]) * d[i]);
                    }
                } else
                    for (long i = 0; i < size; i++) out[i] = STORE(later[i] * gain);
            }
            if (d)
                for (long i = 0; i < size; i++) {
                    totals[i] += total[i];
                    totals[length + i] += moment[i];
                }
        }
        free(a), free(b), free(m), free(d), free(kept), free(later), free(membranes);
        free(total), free(moment);
    }
    if (deviation) add_up(threads, length, channels, all_totals, sums);
    free(all_totals);
}

/* One step of a chip's neurons on whole numbers: decay towards zero, add, saturate. */
static inline void NAME(chip_step)(
    long length, const S *restrict drive, const R *restrict bias, R kept_part, R limit,
    const R *restrict kept, R *restrict membrane
) {
    for (long i = 0; i < length; i++) {
        R v = TRUNC(kept[i] * kept_part) + LOAD(drive[i]) + bias[i];
        v = v < limit ? v : limit;
        membrane[i] = v > -limit ? v : -limit;
    }
}

/* Spikes[steps, n] of a chip's neurons from whole numbers drive[steps, n]; bias and threshold are
   per channel. Exact as long as R holds all products with kept_part. */
void NAME(chip_forward)(
    long threads, long steps, long n, long channels, const S *drive, const R *bias,
    const R *threshold, double kept_, double limit_, S *spikes
) {
    const R kept_part = kept_, limit = limit_;
    const long length = NAME(block)(n, channels), blocks = (n + length - 1) / length;
    const S one = STORE((R)1), zero = STORE((R)0);
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_part(blocks, &from, &to);
        R *b = NAME(repeated)(bias, length, channels), *h = NAME(repeated)(threshold, length, channels);
        R *kept = malloc(length * sizeof(R)), *membrane = malloc(length * sizeof(R));
        for (long block = from; block < to; block++) {
            const long start = block * length, size = smaller(length, n - start);
            memset(kept, 0, size * sizeof(R));
            for (long t = 0; t < steps; t++) {
                NAME(chip_step)(size, drive + t * n + start, b, kept_part, limit, kept, membrane);
                S *restrict out = spikes + t * n + start;
                for (long i = 0; i < size; i++) out[i] = membrane[i] > h[i] ? one : zero;
                for (long i = 0; i < size; i++) kept[i] = membrane[i] > h[i] ? 0 : membrane[i];
            }
        }
        free(b), free(h), free(kept), free(membrane);
    }
}

/* Gradient of the drive into grad[steps, n], from that of the spikes, through the arctan surrogate
   at the membrane over its threshold; membranes are computed again. sums[channels]: of the gradient. */
void NAME(chip_backward)(
    long threads, long steps, long n, long channels, const S *drive, const R *bias,
    const R *threshold, double kept_, double limit_, double alpha_, const S *grad_spikes, S *grad,
    double *sums
) {
    const R kept_part = kept_, limit = limit_;
    const R width = 1.57079632679489661923 * alpha_, height = alpha_ / 2;
    const long length = NAME(block)(n, channels), blocks = (n + length - 1) / length;
    double *all_totals = calloc(threads * 2 * length, sizeof(double));
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_part(blocks, &from, &to);
        R *b = NAME(repeated)(bias, length, channels), *h = NAME(repeated)(threshold, length, channels);
        R *kept = malloc(length * sizeof(R)), *later = malloc(length * sizeof(R));
        R *membranes = malloc(steps * length * sizeof(R)), *total = malloc(length * sizeof(R));
        double *totals = all_totals + omp_get_thread_num() * 2 * length;
        for (long block = from; block < to; block++) {
            const long start = block * length, size = smaller(length, n - start);
            memset(kept, 0, size * sizeof(R));
            for (long t = 0; t < steps; t++) {
                R *restrict membrane = membranes + t * length;
                NAME(chip_step)(size, drive + t * n + start, b, kept_part, limit, kept, membrane);
                for (long i = 0; i < size; i++) kept[i] = membrane[i] > h[i] ? 0 : membrane[i];
            }
            memset(later, 0, size * sizeof(R));
            memset(total, 0, size * sizeof(R));
            for (long t = steps - 1; t >= 0; t--) {
                const R *restrict membrane = membranes + t * length;
                const S *restrict incoming = grad_spikes + t * n + start;
                S *restrict out = grad + t * n + start;
                for (long i = 0; i < size; i++) {
                    R distance = width * (membrane[i] / h[i] - 1);
                    R slope = (R)1 / ((R)1 + distance * distance) * height / h[i];
                    R carried = membrane[i] > h[i] ? 0 : later[i] * kept_part;
                    later[i] = slope * LOAD(incoming[i]) + carried;
                    out[i] = STORE(later[i]);
                    total[i] += later[i];
                }
            }
            for (long i = 0; i < size; i++) totals[i] += total[i];
        }
        free(b), free(h), free(kept), free(later), free(membranes), free(total);
    }
    for (long thread = 0; thread < threads; thread++)
        for (long i = 0; i < length; i++)
            sums[i % channels] += all_totals[thread * 2 * length + i];
    free(all_totals);
}

#include "iir.h"

/* sums[2, channels]: of y[count] - pivot[channels], and of its squares. A pivot near the mean keeps
   the variance that follows from cancelling out. */
void NAME(moments)(
    long threads, long count, long channels, const S *y, const R *pivot, double *sums
) {
    const long length = NAME(block)(count, channels), blocks = (count + length - 1) / length;
    double *all_totals = calloc(threads * 2 * length, sizeof(double));
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_part(blocks, &from, &to);
        double *totals = all_totals + omp_get_thread_num() * 2 * length;
        R *middle = NAME(repeated)(pivot, length, channels);
        for (long block = from; block < to; block++) {
            const long start = block * length, size = smaller(length, count - start);
            const S *restrict in = y + start;
            for (long i = 0; i < size; i++) {
                double value = LOAD(in[i]) - middle[i];
                totals[i] += value;
                totals[length + i] += value * value;
            }
        }
        free(middle);
    }
    add_up(threads, length, channels, all_totals, sums);
    free(all_totals);
}

/* grad = p grad + q y + r for each channel, in place: the backward pass of batch norm. */
void NAME(combine)(
    long threads, long count, long channels, const S *y, const R *p, const R *q, const R *r, S *grad
) {
    const long length = NAME(block)(count, channels), blocks = (count + length - 1) / length;
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_part(blocks, &from, &to);
        R *ps = NAME(repeated)(p, length, channels), *qs = NAME(repeated)(q, length, channels);
        R *rs = NAME(repeated)(r, length, channels);
        for (long block = from; block < to; block++) {
            const long start = block * length, size = smaller(length, count - start);
            const S *restrict in = y + start;
            S *restrict out = grad + start;
            for (long i = 0; i < size; i++)
                out[i] = STORE(ps[i] * LOAD(out[i]) + qs[i] * LOAD(in[i]) + rs[i]);
        }
        free(ps), free(qs), free(rs);
    }
}

/* Eight bit planes of x[n] in the order of plane[8]. With range >= 0, of the integer
   clamp(round((x - lo) / range * 255), 0, 255); with range < 0 of x as it is, plane 0 fractional. */
void NAME(encode)(
    long threads, long n, const R *x, double lo_, double range_, const int32_t *plane, S *planes
) {
    const R lo = lo_, range = range_;
    const long length = smaller(n, 512), blocks = n ? (n + length - 1) / length : 0;
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_part(blocks, &from, &to);
        int32_t code[512];
        for (long block = from; block < to; block++) {
            const long start = block * length, size = smaller(length, n - start);
            const R *restrict in = x + start;
            if (range >= 0) {
                for (long i = 0; i < size; i++) {
                    R q = RINT((in[i] - lo) / range * 255);
                    q = q > 0 ? q : 0;
                    code[i] = (int32_t)(q < 255 ? q : 255);
                }
                for (int t = 0; t < PLANES; t++) {
                    S *restrict out = planes + t * n + start;
                    const int k = plane[t];
                    for (long i = 0; i < size; i++) out[i] = STORE((R)((code[i] >> k) & 1));
                }
                continue;
            }
            for (int t = 0; t < PLANES; t++) {
                S *restrict out = planes + t * n + start;
                const R unit = (R)1 / (1 << plane[t]);
                for (long i = 0; i < size; i++) {
                    R level = plane[t] ? FLOOR(in[i] * unit) : in[i];
                    out[i] = STORE(level - 2 * FLOOR(level / 2));
                }
            }
        }
    }
}

/* decoded[n] = sum_t weights[t] spikes[t, n] */
void NAME(decode)(
    long threads, long steps, long n, const S *spikes, const R *weights, R *decoded
) {
    const long length = smaller(n, 512), blocks = n ? (n + length - 1) / length : 0;
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_part(blocks, &from, &to);
        for (long block = from; block < to; block++) {
            const long start = block * length, size = smaller(length, n - start);
            R *restrict sum = decoded + start;
            memset(sum, 0, size * sizeof(R));
            for (long t = 0; t < steps; t++) {
                const S *restrict in = spikes + t * n + start;
                const R weight = weights[t];
                for (long i = 0; i < size; i++) sum[i] += weight * LOAD(in[i]);
            }
        }
    }
}

/* grad_spikes[t, n] = weights[t] grad_decoded[n] */
void NAME(decode_backward)(
    long threads, long steps, long n, const R *grad_decoded, const R *weights, S *grad_spikes
) {
    const long length = smaller(n, 512), blocks = n ? (n + length - 1) / length : 0;
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_part(blocks, &from, &to);
        for (long block = from; block < to; block++) {
            const long start = block * length, size = smaller(length, n - start);
            const R *restrict in = grad_decoded + start;
            for (long t = 0; t < steps; t++) {
                S *restrict out = grad_spikes + t * n + start;
                const R weight = weights[t];
                for (long i = 0; i < size; i++) out[i] = STORE(weight * in[i]);
            }
        }
    }
}

/* sin(pi x) for any x */
static inline R NAME(sine)(R x) {
    R r = x - 2 * FLOOR(x / 2 + (R)0.5);
    R near = FABS(r) > (R)0.5 ? (r > 0 ? 1 - r : -1 - r) : r;
    return SINE(2 * near);
}

/* sigmoid(u) (1 - sigmoid(u)) */
static inline R NAME(bell)(R u) {
    R e = FALLING(FABS(u));
    return e / ((1 + e) * (1 + e));
}

/* The slope of has8/surrogate.py of that name, at code u in units of its plane. */
static inline R NAME(slope)(enum slope kind, R u, R unit, R alpha) {
    const R pi = 3.14159265358979323846;
    R sine, cosine = NAME(sine)(u + (R)0.5), c = cosine * cosine;
    switch (kind) {
    case STRAIGHT_THROUGH:
        return (R)1 / 255;
    case CONSTANT_HALF:
        return (R)0.5;
    case FOURIER:
    case FOURIER_RELEASED:
        c = cosine * (5 + c * (-80 + c * (336 + c * (-512 + c * 256))));
        return -2 * unit * c + (kind == FOURIER ? 0 : (R)0.5);
    case SIGMOID:
        sine = NAME(sine)(u);
        return NAME(bell)(alpha * sine) * cosine * (alpha * pi * unit);
    default:
        sine = NAME(sine)(u);
        return NAME(bell)(2 * alpha * sine) * cosine * (2 * alpha * pi * unit);
    }
}

static inline void NAME(add_slopes)(
    enum slope kind, long size, const R *restrict code, R unit, R alpha, R factor,
    const S *restrict grad, R *restrict total
) {
    for (long i = 0; i < size; i++)
        total[i] += LOAD(grad[i]) * NAME(slope)(kind, code[i] * unit, unit, alpha) * factor;
}

/* Gradient of x[n] from that of its planes: sum_t factor[t] slope(code, plane[t]) grad[t]. As in
   encode, range >= 0 is the rounded code; it toggles half a unit earlier and is flat outside. */
void NAME(encode_backward)(
    long threads, long n, const R *x, double lo_, double range_, const int32_t *plane,
    const double *factor, int32_t kind, double alpha_, const S *grad_planes, R *grad
) {
    const R lo = lo_, range = range_, alpha = alpha_;
    const long length = smaller(n, 512), blocks = n ? (n + length - 1) / length : 0;
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_part(blocks, &from, &to);
        R code[512], total[512];
        for (long block = from; block < to; block++) {
            const long start = block * length, size = smaller(length, n - start);
            const R *restrict in = x + start;
            memset(total, 0, sizeof total);
            for (long i = 0; i < size; i++)
                code[i] = range >= 0 ? (in[i] - lo) / range * 255 + (R)0.5 : in[i];
            for (int t = 0; t < PLANES; t++) {
                const R unit = (R)1 / (1 << plane[t]), f = factor[t];
                const S *g = grad_planes + t * n + start;
                if (f == 0) continue;
                switch (kind) { /* constants, so that each loop is compiled for its slope */
                case STRAIGHT_THROUGH:
                    NAME(add_slopes)(STRAIGHT_THROUGH, size, code, unit, alpha, f, g, total);
                    break;
                case CONSTANT_HALF:
                    NAME(add_slopes)(CONSTANT_HALF, size, code, unit, alpha, f, g, total);
                    break;
                case FOURIER:
                    NAME(add_slopes)(FOURIER, size, code, unit, alpha, f, g, total);
                    break;
                case FOURIER_RELEASED:
                    NAME(add_slopes)(FOURIER_RELEASED, size, code, unit, alpha, f, g, total);
                    break;
                case SIGMOID:
                    NAME(add_slopes)(SIGMOID, size, code, unit, alpha, f, g, total);
                    break;
                default:
                    NAME(add_slopes)(TANH, size, code, unit, alpha, f, g, total);
                }
            }
            R *restrict out = grad + start;
            for (long i = 0; i < size; i++) {
                R c = code[i] - (R)0.5;
                int inside = range >= 0 ? c >= 0 && c <= 255 : 1;
                out[i] = inside ? (range >= 0 ? total[i] * 255 / range : total[i]) : 0;
            }
        }
    }
}

#undef NAME
#undef KIND
#undef S
#undef R
#undef LOAD
#undef STORE
#undef RINT
#undef FLOOR
#undef TRUNC
#undef FABS
#undef SINE
#undef FALLING
