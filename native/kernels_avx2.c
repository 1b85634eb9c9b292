/* The kernels with AVX2: four doubles or eight floats at a time. */

#include "fl_kernels.h"

#ifdef FL_X86_64

#include <immintrin.h>
#include <string.h>

/* On each function instead of on the file: one set of compiler flags builds everything,
 * and no AVX2 instruction can get into code that runs before the choice. */
#define TARGET __attribute__((target("avx2")))

enum { BLOCK = 32, FLOATS = 8, DOUBLES = 4 };

TARGET static size_t
find_unfit_avx2(const fl_float32 *x, float limit, size_t n)
{
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    const __m256 limits = _mm256_set1_ps(limit);
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        __m256 unfit = _mm256_setzero_ps();
        for (size_t j = 0; j < BLOCK; j += FLOATS) {
            const __m256 v = _mm256_loadu_ps((const float *)(x + i + j));
            /* "Not less or equal" is true for NaN. */
            unfit = _mm256_or_ps(
                unfit, _mm256_cmp_ps(_mm256_and_ps(v, magnitude), limits, _CMP_NLE_UQ));
        }
        if (_mm256_movemask_ps(unfit) != 0) {
            break;
        }
    }
    return i + fl_portable.find_unfit(x + i, limit, n - i);
}

TARGET static void
fold_avx2(fl_int64 *restrict acc, const fl_float32 *restrict x, double multiplier, size_t n)
{
    /* AVX2 has no conversion of doubles to int64: see round_half_even in
     * kernels_portable.c for why this sum and this difference are one. */
    const __m256d shift = _mm256_set1_pd(0x1.8p52);
    const __m256i shift_bits = _mm256_castpd_si256(shift);
    const __m256d multipliers = _mm256_set1_pd(multiplier);
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        for (size_t j = 0; j < BLOCK; j += DOUBLES) {
            const __m256d v = _mm256_cvtps_pd(_mm_loadu_ps((const float *)(x + i + j)));
            const __m256d shifted = _mm256_add_pd(_mm256_mul_pd(v, multipliers), shift);
            const __m256i q = _mm256_sub_epi64(_mm256_castpd_si256(shifted), shift_bits);
            __m256i *const sum = (__m256i *)(acc + i + j);
            _mm256_storeu_si256(sum, _mm256_add_epi64(_mm256_loadu_si256(sum), q));
        }
    }
    fl_portable.fold(acc + i, x + i, multiplier, n - i);
}

TARGET static void
merge_avx2(fl_int64 *restrict acc, const fl_int64 *restrict other, size_t n)
{
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        for (size_t j = 0; j < BLOCK; j += DOUBLES) {
            __m256i *const sum = (__m256i *)(acc + i + j);
            const __m256i v = _mm256_loadu_si256((const __m256i *)(other + i + j));
            _mm256_storeu_si256(sum, _mm256_add_epi64(_mm256_loadu_si256(sum), v));
        }
    }
    fl_portable.merge(acc + i, other + i, n - i);
}

/* int64 to double, rounded once, to nearest even.
 *
 * AVX2 has no such conversion.  The low half of v, put into the fraction of 2^52, is the
 * double 2^52 + low; the high half with its sign bit flipped, put into the fraction of
 * 2^84, is 2^84 + 2^63 + high * 2^32.  Taking away 2^84 + 2^63 + 2^52 leaves a multiple of
 * 2^32 below 2^64, which is exact, so only the last sum rounds, and it rounds v. */
TARGET static inline __m256d
convert_int64(__m256i v)
{
    const __m256i low_bits = _mm256_castpd_si256(_mm256_set1_pd(0x1p52));
    const __m256i high_bits = _mm256_castpd_si256(_mm256_set1_pd(0x1p84 + 0x1p63));
    const __m256d both = _mm256_set1_pd(0x1p84 + 0x1p63 + 0x1p52);
    const __m256i low = _mm256_blend_epi32(low_bits, v, 0x55);
    const __m256i high = _mm256_xor_si256(_mm256_srli_epi64(v, 32), high_bits);
    const __m256d rest = _mm256_sub_pd(_mm256_castsi256_pd(high), both);

    return _mm256_add_pd(rest, _mm256_castsi256_pd(low));
}

TARGET static void
finalise_avx2(fl_float32 *restrict out, const fl_int64 *restrict acc, double divisor, size_t n)
{
    const __m256d divisors = _mm256_set1_pd(divisor);
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        for (size_t j = 0; j < BLOCK; j += DOUBLES) {
            const __m256i v = _mm256_loadu_si256((const __m256i *)(acc + i + j));
            const __m256d quotient = _mm256_div_pd(convert_int64(v), divisors);
            _mm_storeu_ps((float *)(out + i + j), _mm256_cvtpd_ps(quotient));
        }
    }
    fl_portable.finalise(out + i, acc + i, divisor, n - i);
}

/* The decoded differences of the next BLOCK elements, 0 where none is kept; where the
 * quants go on. */
static const int8_t *
expand(float *differences, const uint8_t *kept, const int8_t *q, float scale, float minimum)
{
    uint32_t bits;

    memcpy(&bits, kept, sizeof bits);
    memset(differences, 0, BLOCK * sizeof *differences);
    for (; bits != 0; bits &= bits - 1) {
        differences[__builtin_ctz(bits)] = (float)(*q++ + 128) * scale + minimum;
    }
    return q;
}

TARGET static void
fold_quantised_avx2(fl_int64 *acc, const struct fl_quantised *update, size_t n)
{
    const __m256d shift = _mm256_set1_pd(0x1.8p52);
    const __m256i shift_bits = _mm256_castpd_si256(shift);
    const __m256d multipliers = _mm256_set1_pd(update->multiplier);
    const __m128 sizes = _mm_set1_ps(update->data_size);
    struct fl_quantised rest = *update;
    float differences[BLOCK];
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        rest.quants = expand(differences, update->kept + i / 8, rest.quants, update->scale,
                             update->minimum);
        for (size_t j = 0; j < BLOCK; j += DOUBLES) {
            const __m128 base = _mm_loadu_ps((const float *)(update->base + i + j));
            const __m128 x = _mm_add_ps(_mm_loadu_ps(differences + j), _mm_mul_ps(base, sizes));
            const __m256d v = _mm256_mul_pd(_mm256_cvtps_pd(x), multipliers);
            const __m256i shifted = _mm256_castpd_si256(_mm256_add_pd(v, shift));
            const __m256i q = _mm256_sub_epi64(shifted, shift_bits);
            __m256i *const sum = (__m256i *)(acc + i + j);
            _mm256_storeu_si256(sum, _mm256_add_epi64(_mm256_loadu_si256(sum), q));
        }
    }
    rest.base = update->base + i;
    rest.kept = update->kept + i / 8;
    fl_portable.fold_quantised(acc + i, &rest, n - i);
}

const struct fl_kernel_set fl_avx2 = {
    .name = "avx2",
    .block = BLOCK,
    .runs_here = fl_cpu_has_avx2,
    .find_unfit = find_unfit_avx2,
    .fold = fold_avx2,
    .merge = merge_avx2,
    .finalise = finalise_avx2,
    .fold_quantised = fold_quantised_avx2,
    .choose_kept = fl_choose_kept,
};

#endif
