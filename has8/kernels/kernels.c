/* The elementwise part of a hybrid block, each in one pass over memory.

   Channels are innermost (NHWC), steps outermost: element i of step t is y[t * n + i], its channel
   is i % channels. Built for float, double, and bfloat16 storage with float arithmetic. The order
   of operations is that of has8/neurons.py and has8/encoders/bitplane.py, and nothing is
   contracted, so that results are equal to theirs. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __SSE2__
#include <xmmintrin.h>
#endif

#ifdef _OPENMP
extern int omp_get_thread_num(void);
extern int omp_get_num_threads(void);
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_num_threads(void) { return 1; }
#endif

#define PLANES 8
enum slope { STRAIGHT_THROUGH, FOURIER, FOURIER_RELEASED, SIGMOID, TANH, CONSTANT_HALF };

/* Elements that passes over all steps take at a time: a few vectors. */
#define LANES 64

static inline long smaller(long a, long b) { return a < b ? a : b; }

/* This thread's part [*from, *to) of n blocks; the same for the same number of threads. */
static inline void my_part(long n, long *from, long *to) {
    long thread = omp_get_thread_num(), threads = omp_get_num_threads();
    *from = n * thread / threads;
    *to = n * (thread + 1) / threads;
}

/* From here on numbers below the smallest normal one are zero, until the mode that this returns is
   set again: gradients that fade over many steps come to them, and some processors take a hundred
   cycles for each. */
static inline unsigned flush_tiny(void) {
#ifdef __SSE2__
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); /* results, operands */
    return before;
#else
    return 0;
#endif
}

static inline void set_mode(unsigned mode) {
#ifdef __SSE2__
    _mm_setcsr(mode);
#endif
}

/* Cleared memory that begins with a cache line, so that no vector lies in two. */
static void *cleared(long bytes) {
    const long whole = (bytes + 63) & ~63L;
    void *memory = aligned_alloc(64, whole);
    return memory ? memset(memory, 0, whole) : NULL;
}

/* Add the threads' totals[threads][2, length] in the order of threads, for the same sum each time. */
static void add_up(long threads, long length, long channels, const double *totals, double *sums) {
    for (long thread = 0; thread < threads; thread++)
        for (long i = 0; i < 2 * length; i++)
            sums[(i < length ? 0 : channels) + i % length % channels] += totals[thread * 2 * length + i];
}

static inline float as_float(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* Round to nearest, ties to even; a NaN stays one. */
static inline uint16_t as_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return value == value ? (uint16_t)rounded : 0x7fc0;
}

/* sin(pi x / 2) for |x| <= 1 and exp(-x) for 0 <= x <= 40, without a call, so that they vectorise. */
static inline float quarter_sine_f(float x) {
    float z = x * x;
    float p = -3.5988432e-6f;
    p = p * z + 1.6044119e-4f;
    p = p * z - 4.6817541e-3f;
    p = p * z + 7.9692626e-2f;
    p = p * z - 6.4596410e-1f;
    p = p * z + 1.5707963f;
    return p * x;
}

static inline float falling_exponential_f(float x) {
    float n = rintf(x * 1.44269504f);
    float r = n * 0.693359375f - x;
    r = r + n * -2.12194440e-4f;
    float p = 1.9875691e-4f;
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.3334519e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 5.0000001e-1f;
    p = p * r * r + r + 1.0f;
    int32_t power = (127 - (int32_t)n) << 23;
    float scale;
    memcpy(&scale, &power, sizeof scale);
    return p * scale;
}

static inline double quarter_sine_d(double x) { return sin(1.57079632679489661923 * x); }
static inline double falling_exponential_d(double x) { return exp(-x); }

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)

#define KIND f32
#define S float
#define R float
#define LOAD(x) (x)
#define STORE(x) (x)
#define RINT rintf
#define FLOOR floorf
#define TRUNC truncf
#define FABS fabsf
#define SINE quarter_sine_f
#define FALLING falling_exponential_f
#include "template.h"

#define KIND f64
#define S double
#define R double
#define LOAD(x) (x)
#define STORE(x) (x)
#define RINT rint
#define FLOOR floor
#define TRUNC trunc
#define FABS fabs
#define SINE quarter_sine_d
#define FALLING falling_exponential_d
#include "template.h"

#define KIND bf16
#define S uint16_t
#define R float
#define LOAD(x) as_float(x)
#define STORE(x) as_bfloat16(x)
#define RINT rintf
#define FLOOR floorf
#define TRUNC truncf
#define FABS fabsf
#define SINE quarter_sine_f
#define FALLING falling_exponential_f
#include "template.h"
