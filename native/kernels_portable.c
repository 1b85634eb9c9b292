/* The kernels in plain C: the definition of correct for every other set. */

#include "fl_kernels.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 32 };

/* v rounded to the nearest integer, ties to even, for |v| <= 2^51.
 *
 * From 2^52 to 2^53 the doubles are the integers, so adding 1.5 * 2^52 rounds v as the
 * processor rounds every sum: to nearest, ties to even.  In that range one unit is one
 * step of the representation, which continues at 2^53 itself, so the integer is a
 * difference of representations.  It is taken modulo 2^64: a v beyond the limit yields a
 * meaningless number, not undefined behaviour. */
static inline uint64_t
round_half_even(double v)
{
    const double shift = 0x1.8p52;
    const double shifted = v + shift;
    uint64_t shift_bits;
    uint64_t shifted_bits;

    memcpy(&shift_bits, &shift, sizeof shift_bits);
    memcpy(&shifted_bits, &shifted, sizeof shifted_bits);
    return shifted_bits - shift_bits;
}

/* Written so that NaN, which compares false with everything, is unfit. */
static inline bool
is_unfit(float x, float limit)
{
    return !(fabsf(x) <= limit);
}

static size_t
find_unfit_portable(const fl_float32 *x, float limit, size_t n)
{
    size_t i = 0;

    /* Compilers vectorise a block that always runs to its end, not a search that may stop
     * anywhere; so the search starts where a block has something to find. */
    for (; n - i >= BLOCK; i += BLOCK) {
        int unfit = 0;
        for (size_t j = 0; j < BLOCK; j++) {
            unfit |= is_unfit(x[i + j], limit);
        }
        if (unfit != 0) {
            break;
        }
    }
    while (i < n && !is_unfit(x[i], limit)) {
        i++;
    }
    return i;
}

static void
fold_portable(fl_int64 *restrict acc, const fl_float32 *restrict x, double multiplier, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        acc[i] = (int64_t)((uint64_t)acc[i] + round_half_even((double)x[i] * multiplier));
    }
}

static void
merge_portable(fl_int64 *restrict acc, const fl_int64 *restrict other, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        acc[i] = (int64_t)((uint64_t)acc[i] + (uint64_t)other[i]);
    }
}

static void
finalise_portable(fl_float32 *restrict out, const fl_int64 *restrict acc, double divisor,
                  size_t n)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = (float)((double)acc[i] / divisor);
    }
}

static void
fold_quantised_portable(fl_int64 *acc, const struct fl_quantised *update, size_t n)
{
    const int8_t *q = update->quants;

    for (size_t i = 0; i < n; i++) {
        float x = update->base[i] * update->data_size;
        if ((update->kept[i / 8] >> (i % 8) & 1) != 0) {
            x += (float)(*q++ + 128) * update->scale + update->minimum;
        }
        acc[i] = (int64_t)((uint64_t)acc[i] + round_half_even((double)x * update->multiplier));
    }
}

/* The published generator multiplies 32-bit integers with a sign, lets them wrap, and takes
 * the remainder with the sign of the dividend: what Java defines. */
static inline int32_t
next_state(uint32_t state)
{
    return (int32_t)(state * UINT32_C(48271)) % INT32_C(2147483647);
}

void
fl_choose_kept(uint8_t *flags, int32_t seed, size_t kept, size_t n)
{
    int32_t state = next_state((uint32_t)seed + UINT32_C(2147483647));

    memset(flags, 1, kept);
    memset(flags + kept, 0, n - kept);
    for (size_t i = 0; i < n; i++) {
        const double fraction = (double)state / 4294967294.0 + 0.5;
        const size_t j = (size_t)(fraction * (double)(n - i)) + i;
        const uint8_t flag = flags[i];

        state = next_state((uint32_t)state);
        flags[i] = flags[j];
        flags[j] = flag;
    }
}

const struct fl_kernel_set fl_portable = {
    .name = "portable",
    .block = BLOCK,
    .runs_here = fl_cpu_has_any,
    .find_unfit = find_unfit_portable,
    .fold = fold_portable,
    .merge = merge_portable,
    .finalise = finalise_portable,
    .fold_quantised = fold_quantised_portable,
    .choose_kept = fl_choose_kept,
};

float
fl_fit_limit(double multiplier, int64_t bound)
{
    /* Floats that are not negative are ordered as their representations, so the last one
     * that fits is found by bisection: 0 always fits, infinity never does. */
    uint32_t fits = 0;
    uint32_t unfit = UINT32_C(0x7f800000);
    float limit = 0.0F;

    while (unfit - fits > 1) {
        const uint32_t middle = fits + (unfit - fits) / 2;
        float candidate;
        memcpy(&candidate, &middle, sizeof candidate);
        if ((double)candidate * multiplier <= (double)bound) {
            fits = middle;
            limit = candidate;
        } else {
            unfit = middle;
        }
    }
    return limit;
}
