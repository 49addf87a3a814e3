/* The filters and neurons of has8/iir.py, a part of template.h. A pass takes up to LANES elements of
   a sample through all steps, so that their states stay in the nearest cache. Arrays have LANES
   elements, zeros behind the last that there is, so that no loop has a rest; or [steps + 2, LANES],
   of steps -2, -1, 0, ..., whose first two stay zero. */

/* The constants of a neuron. */
typedef struct {
    R gain, alpha, beta, theta, threshold;
} NAME(neuron);

/* What later steps need of neurons. */
typedef struct {
    R current[LANES], trace[LANES];
} NAME(charge);

/* Coefficients of filters. */
typedef struct {
    R a1[LANES], a2[LANES], b0[LANES];
} NAME(filters);

/* Gradients that later steps leave for neurons, and that of what arrives, summed over the steps or
   of one. */
typedef struct {
    R trace[LANES], membrane[LANES], current[LANES], input[LANES];
} NAME(of_neurons);

/* Gradients of the two later potentials, and of a1, a2 and b0. */
typedef struct {
    R next[LANES], last[LANES], a1[LANES], a2[LANES], b0[LANES];
} NAME(of_filters);

static inline void NAME(load)(long width, const S *restrict x, R *restrict values) {
    if (width == LANES)
        for (long i = 0; i < LANES; i++) values[i] = LOAD(x[i]);
    else
        for (long i = 0; i < LANES; i++) values[i] = i < width ? LOAD(x[i]) : 0;
}

static inline void NAME(store)(long width, const R *restrict values, S *restrict x) {
    if (width == LANES)
        for (long i = 0; i < LANES; i++) x[i] = STORE(values[i]);
    else
        for (long i = 0; i < width; i++) x[i] = STORE(values[i]);
}

static inline void NAME(load_filters)(
    long width, const R *restrict a1, const R *restrict a2, const R *restrict b0,
    NAME(filters) *restrict by
) {
    for (long i = 0; i < LANES; i++) {
        const int there = i < width;
        by->a1[i] = there ? a1[i] : 0, by->a2[i] = there ? a2[i] : 0, by->b0[i] = there ? b0[i] : 0;
    }
}

/* Gradients of coefficients onto those of all rows, in sums[3, size]. */
static inline void NAME(add_filters)(
    long width, const NAME(of_filters) *restrict of, long size, double *restrict sums
) {
    for (long i = 0; i < width; i++) {
        sums[i] += of->a1[i];
        sums[size + i] += of->a2[i];
        sums[2 * size + i] += of->b0[i];
    }
}

/* A postsynaptic potential: F_t = a1 F_(t-1) + a2 F_(t-2) + b0 x_t. */
static inline R NAME(filter)(const NAME(filters) *by, long i, R x, R before, R earlier) {
    return by->a1[i] * before + by->a2[i] * earlier + by->b0[i] * x;
}

/* The gradient of x by that of its potential. */
static inline R NAME(filter_back)(
    const NAME(filters) *by, long i, R x, R before, R earlier, R grad, NAME(of_filters) *of
) {
    const R whole = grad + by->a1[i] * of->next[i] + by->a2[i] * of->last[i];
    of->last[i] = of->next[i];
    of->next[i] = whole;
    of->a1[i] += whole * before;
    of->a2[i] += whole * earlier;
    of->b0[i] += whole * x;
    return by->b0[i] * whole;
}

/* The membrane of a neuron, by that before, its current and its reset trace. */
static inline R NAME(iir)(const NAME(neuron) *n, long i, R x, R before, NAME(charge) *kept) {
    kept->current[i] = kept->current[i] * n->alpha + x * n->gain;
    kept->trace[i] = kept->trace[i] * n->theta + (before > n->threshold ? 1 : 0);
    return before * n->beta + kept->current[i] - kept->trace[i] * n->threshold;
}

/* The gradient of what arrives by that of a spike, whose slope is the Gaussian density. */
static inline void NAME(iir_back)(
    const NAME(neuron) *n, R sigma, int shared, long i, R membrane, R grad, NAME(of_neurons) *of
) {
    const R peak = (R)0.39894228040143267794 / sigma, narrow = (R)0.5 / (sigma * sigma), far = 40;
    const R over = membrane - n->threshold, square = over * over * narrow;
    const R slope = FALLING(square < far ? square : far) * peak;
    const R through = (grad + of->trace[i]) * slope + of->membrane[i] * n->beta;
    of->membrane[i] = through;
    of->trace[i] = of->trace[i] * n->theta - through * n->threshold;
    of->current[i] = of->current[i] * n->alpha + through;
    of->input[i] = of->current[i] * n->gain + (shared ? of->input[i] : 0);
}

/* psp[steps, rows, size] of x[steps, rows, size], with coefficients of each of size elements. */
void NAME(psp_forward)(
    long threads, long steps, long rows, long size, const S *x, const R *a1, const R *a2,
    const R *b0, S *psp
) {
    const long chunks = (size + LANES - 1) / LANES, n = rows * size;
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_part(rows * chunks, &from, &to);
        NAME(filters) by;
        for (long block = from; block < to; block++) {
            const long c = block % chunks * LANES, width = smaller(LANES, size - c);
            const long start = block / chunks * size + c;
            R before[LANES] = {0}, earlier[LANES] = {0}, arriving[LANES];
            NAME(load_filters)(width, a1 + c, a2 + c, b0 + c, &by);
            for (long t = 0; t < steps; t++) {
                NAME(load)(width, x + t * n + start, arriving);
                for (long i = 0; i < LANES; i++) {
                    const R now = NAME(filter)(&by, i, arriving[i], before[i], earlier[i]);
                    earlier[i] = before[i], before[i] = now;
                }
                NAME(store)(width, before, psp + t * n + start);
            }
        }
    }
}

/* Gradients of x, and of a1, a2 and b0 in sums[3, size]; potentials are computed again. A thread has
   some elements of all rows, row after row as they lie in memory. */
void NAME(psp_backward)(
    long threads, long steps, long rows, long size, const S *x, const R *a1, const R *a2,
    const R *b0, const S *grad_psp, S *grad, double *sums
) {
    const long chunks = (size + LANES - 1) / LANES, n = rows * size;
#pragma omp parallel num_threads(threads)
    {
        const unsigned mode = flush_tiny();
        long from, to;
        my_part(chunks, &from, &to);
        R *psp = cleared((steps + 2) * LANES * sizeof(R)), arriving[LANES], back[LANES];
        NAME(filters) by;
        for (long block = 0; block < rows * (to - from); block++) {
            const long row = block / (to - from), c = (from + block % (to - from)) * LANES;
            const long width = smaller(LANES, size - c), start = row * size + c;
            NAME(of_filters) of = {{0}};
            NAME(load_filters)(width, a1 + c, a2 + c, b0 + c, &by);
            for (long t = 0; t < steps; t++) {
                R *restrict now = psp + (t + 2) * LANES;
                const R *restrict before = now - LANES, *restrict earlier = before - LANES;
                NAME(load)(width, x + t * n + start, arriving);
                for (long i = 0; i < LANES; i++)
                    now[i] = NAME(filter)(&by, i, arriving[i], before[i], earlier[i]);
            }
            for (long t = steps - 1; t >= 0; t--) {
                const R *before = psp + (t + 1) * LANES, *earlier = before - LANES;
                NAME(load)(width, x + t * n + start, arriving);
                NAME(load)(width, grad_psp + t * n + start, back);
                for (long i = 0; i < LANES; i++)
                    back[i] = NAME(filter_back)(
                        &by, i, arriving[i], before[i], earlier[i], back[i], &of
                    );
                NAME(store)(width, back, grad + t * n + start);
            }
            NAME(add_filters)(width, &of, size, sums + c);
        }
        free(psp);
        set_mode(mode);
    }
}

/* Spikes[steps, n] of neurons from their currents, which lie apart elements from step to step:
   x[steps, n], or with apart = 0 x[n], the same in all steps. */
void NAME(iir_forward)(
    long threads, long steps, long n, long apart, const S *x, double gain, double alpha, double beta,
    double theta, double threshold, S *spikes
) {
    const NAME(neuron) neuron = {gain, alpha, beta, theta, threshold};
    const long blocks = (n + LANES - 1) / LANES;
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_part(blocks, &from, &to);
        for (long block = from; block < to; block++) {
            const long start = block * LANES, width = smaller(LANES, n - start);
            NAME(charge) kept = {{0}};
            R membrane[LANES] = {0}, arriving[LANES], fired[LANES];
            for (long t = 0; t < steps; t++) {
                NAME(load)(width, x + t * apart + start, arriving);
                for (long i = 0; i < LANES; i++) {
                    membrane[i] = NAME(iir)(&neuron, i, arriving[i], membrane[i], &kept);
                    fired[i] = membrane[i] > neuron.threshold ? 1 : 0;
                }
                NAME(store)(width, fired, spikes + t * n + start);
            }
        }
    }
}

/* Gradient of the currents into grad, of the shape of x, through membrane, current and reset trace,
   by the Gaussian surrogate of deviation sigma; membranes are computed again. */
void NAME(iir_backward)(
    long threads, long steps, long n, long apart, const S *x, double gain, double alpha, double beta,
    double theta, double threshold, double sigma, const S *grad_spikes, S *grad
) {
    const NAME(neuron) neuron = {gain, alpha, beta, theta, threshold};
    const long blocks = (n + LANES - 1) / LANES;
#pragma omp parallel num_threads(threads)
    {
        const unsigned mode = flush_tiny();
        long from, to;
        my_part(blocks, &from, &to);
        R *membranes = cleared((steps + 2) * LANES * sizeof(R)), arriving[LANES];
        for (long block = from; block < to; block++) {
            const long start = block * LANES, width = smaller(LANES, n - start);
            NAME(charge) kept = {{0}};
            NAME(of_neurons) of = {{0}};
            for (long t = 0; t < steps; t++) {
                R *restrict now = membranes + (t + 2) * LANES;
                const R *restrict before = now - LANES;
                NAME(load)(width, x + t * apart + start, arriving);
                for (long i = 0; i < LANES; i++)
                    now[i] = NAME(iir)(&neuron, i, arriving[i], before[i], &kept);
            }
            for (long t = steps - 1; t >= 0; t--) {
                const R *membrane = membranes + (t + 2) * LANES;
                NAME(load)(width, grad_spikes + t * n + start, arriving);
                for (long i = 0; i < LANES; i++)
                    NAME(iir_back)(&neuron, sigma, !apart, i, membrane[i], arriving[i], &of);
                if (t == 0 || apart) NAME(store)(width, of.input, grad + t * apart + start);
            }
        }
        free(membranes);
        set_mode(mode);
    }
}

/* Where pixel k of a window of pool x pool pixels begins, in elements of a sample. */
static inline long NAME(pixel)(long window, long k, long width, long channels, long pool) {
    const long across = width / pool, y = window / across * pool + k / pool;
    return (y * width + window % across * pool + k % pool) * channels;
}

/* A step of neurons, and of the potentials that their spikes make. */
static inline void NAME(fired_step)(
    const NAME(neuron) *neuron, const NAME(filters) *restrict by, const R *restrict x,
    const R *restrict volts_before, const R *restrict before, const R *restrict earlier,
    NAME(charge) *restrict kept, R *restrict volts, R *restrict psp
) {
    for (long i = 0; i < LANES; i++) {
        volts[i] = NAME(iir)(neuron, i, x[i], volts_before[i], kept);
        psp[i] = NAME(filter)(by, i, volts[i] > neuron->threshold ? 1 : 0, before[i], earlier[i]);
    }
}

/* Its backward, from the gradient of the potentials. */
static inline void NAME(fired_back)(
    const NAME(neuron) *neuron, const NAME(filters) *restrict by, R sigma, int shared,
    const R *restrict volts, const R *restrict before, const R *restrict earlier,
    const R *restrict grad, NAME(of_filters) *restrict of, NAME(of_neurons) *restrict later
) {
    for (long i = 0; i < LANES; i++) {
        const R spike = volts[i] > neuron->threshold ? 1 : 0;
        const R back = NAME(filter_back)(by, i, spike, before[i], earlier[i], grad[i], of);
        NAME(iir_back)(neuron, sigma, shared, i, volts[i], back, later);
    }
}

/* iir_forward and psp_forward in one, and the largest potential of each pool x pool pixels:
   psp[steps, rows, height / pool, width / pool, channels] that the neurons' spikes make, from their
   currents as iir_forward takes them, with nothing of what lies between in memory. */
void NAME(fired_forward)(
    long threads, long steps, long rows, long height, long width, long channels, long pool,
    long apart, const S *x, double gain, double alpha, double beta, double theta, double threshold,
    const R *a1, const R *a2, const R *b0, S *psp
) {
    const NAME(neuron) neuron = {gain, alpha, beta, theta, threshold};
    const long chunks = (channels + LANES - 1) / LANES, size = height * width * channels;
    const long windows = (height / pool) * (width / pool), made = windows * channels;
#pragma omp parallel num_threads(threads)
    {
        long from, to;
        my_part(rows * windows * chunks, &from, &to);
        R *largest = cleared(steps * LANES * sizeof(R));
        NAME(filters) by;
        for (long block = from; block < to; block++) {
            const long c = block % chunks * LANES, wide = smaller(LANES, channels - c);
            const long row = block / chunks / windows, window = block / chunks % windows;
            for (long k = 0; k < pool * pool; k++) {
                const long at = NAME(pixel)(window, k, width, channels, pool) + c;
                NAME(charge) kept = {{0}};
                R volts[2][LANES] = {{0}}, state[3][LANES] = {{0}}, arriving[LANES];
                NAME(load_filters)(wide, a1 + at, a2 + at, b0 + at, &by);
                for (long t = 0; t < steps; t++) {
                    R *restrict now = state[t % 3], *restrict most = largest + t * LANES;
                    NAME(load)(wide, x + t * apart + row * size + at, arriving);
                    NAME(fired_step)(
                        &neuron, &by, arriving, volts[(t + 1) % 2], state[(t + 2) % 3],
                        state[(t + 1) % 3], &kept, volts[t % 2], now
                    );
                    if (k == 0)
                        memcpy(most, now, sizeof arriving);
                    else
                        for (long i = 0; i < LANES; i++) most[i] = now[i] > most[i] ? now[i] : most[i];
                }
            }
            for (long t = 0; t < steps; t++)
                NAME(store)(
                    wide, largest + t * LANES, psp + (t * rows + row) * made + window * channels + c
                );
        }
        free(largest);
    }
}

/* Of potentials that are larger than those of the pixels before, the pixel. */
static inline void NAME(win)(
    R pixel, const R *restrict psp, R *restrict largest, R *restrict winner
) {
    for (long i = 0; i < LANES; i++) {
        const R most = largest[i], now = psp[i], won = winner[i];
        winner[i] = now > most ? pixel : won;
        largest[i] = now > most ? now : most;
    }
}

/* Backward of fired_forward: gradients of the currents into grad, whose pixels outside of all
   windows are left as they are, and of a1, a2 and b0 in sums[3, height, width, channels]. Of equal
   potentials the first is the largest. A thread has some elements of all rows, row after row as they
   lie in memory. */
void NAME(fired_backward)(
    long threads, long steps, long rows, long height, long width, long channels, long pool,
    long apart, const S *x, double gain, double alpha, double beta, double theta, double threshold,
    double sigma, const R *a1, const R *a2, const R *b0, const S *grad_psp, S *grad, double *sums
) {
    const NAME(neuron) neuron = {gain, alpha, beta, theta, threshold};
    const long chunks = (channels + LANES - 1) / LANES, size = height * width * channels;
    const long windows = (height / pool) * (width / pool), made = windows * channels;
    const long pixels = pool * pool, lot = (steps + 2) * LANES;
#pragma omp parallel num_threads(threads)
    {
        const unsigned mode = flush_tiny();
        long from, to;
        my_part(windows * chunks, &from, &to);
        R *membranes = cleared((2 * pixels + 2) * lot * sizeof(R)), *psp = membranes + pixels * lot;
        R *largest = psp + pixels * lot, *winners = largest + lot, arriving[LANES];
        NAME(filters) by[4];
        for (long block = 0; block < rows * (to - from); block++) {
            const long row = block / (to - from), unit = from + block % (to - from);
            const long c = unit % chunks * LANES, wide = smaller(LANES, channels - c);
            const S *grads = grad_psp + row * made + unit / chunks * channels + c;
            for (long k = 0; k < pixels; k++) {
                const long at = NAME(pixel)(unit / chunks, k, width, channels, pool) + c;
                NAME(charge) kept = {{0}};
                NAME(load_filters)(wide, a1 + at, a2 + at, b0 + at, &by[k]);
                for (long t = 0; t < steps; t++) {
                    R *volts = membranes + k * lot + (t + 2) * LANES;
                    R *now = psp + k * lot + (t + 2) * LANES;
                    NAME(load)(wide, x + t * apart + row * size + at, arriving);
                    NAME(fired_step)(
                        &neuron, &by[k], arriving, volts - LANES, now - LANES, now - 2 * LANES,
                        &kept, volts, now
                    );
                }
            }
            for (long t = 0; t < steps && pixels > 1; t++) {
                memset(winners + t * LANES, 0, LANES * sizeof(R));
                memcpy(largest, psp + (t + 2) * LANES, LANES * sizeof(R));
                for (long k = 1; k < pixels; k++)
                    NAME(win)(k, psp + k * lot + (t + 2) * LANES, largest, winners + t * LANES);
            }
            for (long k = 0; k < pixels; k++) {
                const long at = NAME(pixel)(unit / chunks, k, width, channels, pool) + c;
                NAME(of_filters) of = {{0}};
                NAME(of_neurons) later = {{0}};
                for (long t = steps - 1; t >= 0; t--) {
                    const R *before = psp + k * lot + (t + 1) * LANES, *winner = winners + t * LANES;
                    NAME(load)(wide, grads + t * rows * made, arriving);
                    for (long i = 0; i < LANES && pixels > 1; i++)
                        arriving[i] = winner[i] == k ? arriving[i] : 0;
                    NAME(fired_back)(
                        &neuron, &by[k], sigma, !apart, membranes + k * lot + (t + 2) * LANES,
                        before, before - LANES, arriving, &of, &later
                    );
                    if (t == 0 || apart)
                        NAME(store)(wide, later.input, grad + t * apart + row * size + at);
                }
                NAME(add_filters)(wide, &of, size, sums + at);
            }
        }
        free(membranes);
        set_mode(mode);
    }
}
