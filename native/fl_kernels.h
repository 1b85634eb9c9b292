/* The kernels: exact integer aggregation of float32 arrays.  No Python in here.
 *
 * A kernel set is one table of the same operations, written for one instruction
 * set.  All sets return the same bits for the same input, and kernels_portable.c is the
 * definition of those bits.  What they rely on, and the build or the caller provides:
 *
 *   - double expressions are evaluated in double (asserted below), never contracted into
 *     fused operations (-ffp-contract=off), in the default rounding mode of C;
 *   - everything that can fail was checked: kernels never allocate, never fail, and never
 *     call Python.  They touch exactly the n elements of each array, which may have any
 *     alignment and must not overlap. */

#ifndef FL_KERNELS_H
#define FL_KERNELS_H

#include <float.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
/* Not a constant: the preprocessor has to see it. */
#define FL_X86_64 1
#endif

_Static_assert(FLT_EVAL_METHOD == 0, "a product must round once, to double");
_Static_assert(sizeof(float) == 4 && sizeof(double) == 8, "IEEE 754 single and double");

/* Elements as they lie in a message body or a stored blob: at any address. */
typedef float fl_float32 __attribute__((aligned(1)));
typedef int64_t fl_int64 __attribute__((aligned(1)));

/* The largest bound of find_unfit.  Up to 2^51 a double plus 1.5 * 2^52 is still rounded
 * to an integer, and to the nearest even one; see fl_round_half_even. */
static const int64_t fl_max_bound = INT64_C(1) << 51;

/* One tensor of a compressed update: the kept elements in 8 bits each, what they were
 * taken relative to, and the numbers that turn both into terms of the sum. */
struct fl_quantised {
    const fl_float32 *base;
    const uint8_t *kept;  /* bit i % 8 of byte i / 8: whether element i is kept */
    const int8_t *quants; /* one per kept element, in order */
    size_t quant_count;
    float minimum;
    float scale;
    float data_size;
    double multiplier;
};

struct fl_kernel_set {
    const char *name;

    /* Elements per step of the longest loop: what tests need to know about edges. */
    size_t block;

    /* Whether this processor and this system can run the set. */
    bool (*runs_here)(void);

    /* The index of the first element that is NaN or larger than limit in magnitude; n when
     * there is none.  limit is finite, so that an infinity never fits. */
    size_t (*find_unfit)(const fl_float32 *x, float limit, size_t n);

    /* acc[i] += round_half_even((double)x[i] * multiplier), modulo 2^64.  Where x[i] does
     * not fit, what is added is unspecified. */
    void (*fold)(fl_int64 *acc, const fl_float32 *x, double multiplier, size_t n);

    /* acc[i] += other[i], modulo 2^64. */
    void (*merge)(fl_int64 *acc, const fl_int64 *other, size_t n);

    /* out[i] = (float)((double)acc[i] / divisor): three roundings, each to nearest even. */
    void (*finalise)(fl_float32 *out, const fl_int64 *acc, double divisor, size_t n);

    /* acc[i] += round_half_even((double)x * multiplier), modulo 2^64, where
     * x = base[i] * data_size, plus (q + 128) * scale + minimum where element i is kept and
     * q is its quant; every operation of x is rounded to float.  There are as many quants
     * as bits that are set. */
    void (*fold_quantised)(fl_int64 *acc, const struct fl_quantised *update, size_t n);

    /* flags[i] = 1 for the `kept` elements that the published generator picks with this
     * seed, 0 for the others. */
    void (*choose_kept)(uint8_t *flags, int32_t seed, size_t kept, size_t n);
};

/* choose_kept is one chain of dependent steps, which no instruction set makes wider. */
void fl_choose_kept(uint8_t *flags, int32_t seed, size_t kept, size_t n);

extern const struct fl_kernel_set fl_portable;
#ifdef FL_X86_64
extern const struct fl_kernel_set fl_avx2;
extern const struct fl_kernel_set fl_avx512;
#endif

/* Every set of this build, best first; NULL ends the array. */
extern const struct fl_kernel_set *const fl_kernel_sets[];

/* The named set, or the best one that runs here when name is NULL.  NULL when there is no
 * set of that name or this machine cannot run it. */
const struct fl_kernel_set *fl_pick(const char *name);

bool fl_cpu_has_any(void);
#ifdef FL_X86_64
bool fl_cpu_has_avx2(void);
bool fl_cpu_has_avx512(void);
#endif

/* The largest finite float whose double product with multiplier is at most bound.
 *
 * A rounded product never falls when a factor grows, so x fits exactly when |x| is at most
 * this limit, and find_unfit needs one comparison of floats instead of a product per
 * element.  multiplier is finite and positive, bound is not negative. */
float fl_fit_limit(double multiplier, int64_t bound);

#endif
