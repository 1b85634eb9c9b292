/* The kernels with AVX-512 (F and DQ): eight doubles or sixteen floats at a time.
 *
 * Tails are masked rather than peeled.  Masked-off lanes never touch memory, so working
 * right up to the end of a mapping is safe.  AddressSanitizer does not see masked loads
 * and stores: only the guard pages of the tests cover those lines. */

#include "fl_kernels.h"

#ifdef FL_X86_64

#include <immintrin.h>
#include <string.h>

/* On each function instead of on the file: one set of compiler flags builds everything,
 * and no AVX-512 instruction can get into code that runs before the choice. */
#define TARGET __attribute__((target("avx512f,avx512dq")))

enum { BLOCK = 64, FLOATS = 16, DOUBLES = 8 };

/* The first count of up to sixteen lanes. */
TARGET static inline __mmask16
first(size_t count)
{
    return (__mmask16)((1U << count) - 1U);
}

TARGET static size_t
find_unfit_avx512(const fl_float32 *x, float limit, size_t n)
{
    const __m512 limits = _mm512_set1_ps(limit);
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        unsigned unfit = 0;
        for (size_t j = 0; j < BLOCK; j += FLOATS) {
            const __m512 v = _mm512_abs_ps(_mm512_loadu_ps((const float *)(x + i + j)));
            /* "Not less or equal" is true for NaN. */
            unfit |= _mm512_cmp_ps_mask(v, limits, _CMP_NLE_UQ);
        }
        if (unfit != 0) {
            break;
        }
    }
    while (i < n) {
        const size_t count = n - i < FLOATS ? n - i : FLOATS;
        const __m512 v = _mm512_abs_ps(_mm512_maskz_loadu_ps(first(count), x + i));
        const unsigned unfit = _mm512_cmp_ps_mask(v, limits, _CMP_NLE_UQ);
        if (unfit != 0) {
            return i + (size_t)__builtin_ctz(unfit);
        }
        i += count;
    }
    return n;
}

/* acc + round_half_even(x * multiplier), in eight lanes. */
TARGET static inline __m512i
fold_lanes(__m512i acc, __m256 x, __m512d multipliers)
{
    const __m512d v = _mm512_mul_pd(_mm512_cvtps_pd(x), multipliers);

    return _mm512_add_epi64(acc, _mm512_cvtpd_epi64(v));
}

TARGET static void
fold_avx512(fl_int64 *restrict acc, const fl_float32 *restrict x, double multiplier, size_t n)
{
    const __m512d multipliers = _mm512_set1_pd(multiplier);
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        for (size_t j = 0; j < BLOCK; j += DOUBLES) {
            const __m256 v = _mm256_loadu_ps((const float *)(x + i + j));
            const __m512i sum = _mm512_loadu_si512(acc + i + j);
            _mm512_storeu_si512(acc + i + j, fold_lanes(sum, v, multipliers));
        }
    }
    while (i < n) {
        const size_t count = n - i < DOUBLES ? n - i : DOUBLES;
        const __mmask16 lanes = first(count);
        const __m256 v = _mm512_castps512_ps256(_mm512_maskz_loadu_ps(lanes, x + i));
        const __m512i sum = _mm512_maskz_loadu_epi64((__mmask8)lanes, acc + i);
        _mm512_mask_storeu_epi64(acc + i, (__mmask8)lanes, fold_lanes(sum, v, multipliers));
        i += count;
    }
}

TARGET static void
merge_avx512(fl_int64 *restrict acc, const fl_int64 *restrict other, size_t n)
{
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        for (size_t j = 0; j < BLOCK; j += DOUBLES) {
            const __m512i v = _mm512_loadu_si512(other + i + j);
            const __m512i sum = _mm512_loadu_si512(acc + i + j);
            _mm512_storeu_si512(acc + i + j, _mm512_add_epi64(sum, v));
        }
    }
    while (i < n) {
        const size_t count = n - i < DOUBLES ? n - i : DOUBLES;
        const __mmask8 lanes = (__mmask8)first(count);
        const __m512i v = _mm512_maskz_loadu_epi64(lanes, other + i);
        const __m512i sum = _mm512_maskz_loadu_epi64(lanes, acc + i);
        _mm512_mask_storeu_epi64(acc + i, lanes, _mm512_add_epi64(sum, v));
        i += count;
    }
}

TARGET static inline __m256
finalise_lanes(__m512i acc, __m512d divisors)
{
    return _mm512_cvtpd_ps(_mm512_div_pd(_mm512_cvtepi64_pd(acc), divisors));
}

TARGET static void
finalise_avx512(fl_float32 *restrict out, const fl_int64 *restrict acc, double divisor,
                size_t n)
{
    const __m512d divisors = _mm512_set1_pd(divisor);
    size_t i = 0;

    for (; n - i >= BLOCK; i += BLOCK) {
        for (size_t j = 0; j < BLOCK; j += DOUBLES) {
            const __m512i v = _mm512_loadu_si512(acc + i + j);
            _mm256_storeu_ps((float *)(out + i + j), finalise_lanes(v, divisors));
        }
    }
    while (i < n) {
        const size_t count = n - i < DOUBLES ? n - i : DOUBLES;
        const __mmask16 lanes = first(count);
        const __m512i v = _mm512_maskz_loadu_epi64((__mmask8)lanes, acc + i);
        const __m512 quotients = _mm512_castps256_ps512(finalise_lanes(v, divisors));
        _mm512_mask_storeu_ps(out + i, lanes, quotients);
        i += count;
    }
}

/* The decoded differences of sixteen elements, 0 where none is kept.  At least sixteen
 * quants can be read, of which only as many matter as lanes are kept. */
TARGET static inline __m512
decode_lanes(__mmask16 kept, const int8_t *quants, __m512 scales, __m512 minima)
{
    const __m512i few = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)quants));
    const __m512i q = _mm512_maskz_expand_epi32(kept, few);
    const __m512 steps = _mm512_cvtepi32_ps(_mm512_add_epi32(q, _mm512_set1_epi32(128)));

    return _mm512_maskz_add_ps(kept, _mm512_mul_ps(steps, scales), minima);
}

/* acc + round_half_even(x * multiplier), in sixteen lanes. */
TARGET static inline void
fold_sixteen(fl_int64 *acc, __m512 x, __m512d multipliers)
{
    const __m256 low = _mm512_castps512_ps256(x);
    const __m256 high = _mm512_extractf32x8_ps(x, 1);

    _mm512_storeu_si512(acc, fold_lanes(_mm512_loadu_si512(acc), low, multipliers));
    _mm512_storeu_si512(acc + DOUBLES,
                        fold_lanes(_mm512_loadu_si512(acc + DOUBLES), high, multipliers));
}

/* Its tail is peeled, not masked: masks of bytes are not in the sets that it asks for. */
TARGET static void
fold_quantised_avx512(fl_int64 *acc, const struct fl_quantised *update, size_t n)
{
    const __m512d multipliers = _mm512_set1_pd(update->multiplier);
    const __m512 sizes = _mm512_set1_ps(update->data_size);
    const __m512 scales = _mm512_set1_ps(update->scale);
    const __m512 minima = _mm512_set1_ps(update->minimum);
    struct fl_quantised rest = *update;
    size_t i = 0;

    for (; n - i >= FLOATS; i += FLOATS) {
        const int8_t *quants = rest.quants;
        int8_t last[FLOATS] = {0};
        uint16_t kept;
        memcpy(&kept, update->kept + i / 8, sizeof kept);
        if (rest.quant_count < FLOATS) {
            memcpy(last, quants, rest.quant_count);
            quants = last;
        }
        const __m512 base = _mm512_loadu_ps((const float *)(update->base + i));
        const __m512 decoded = decode_lanes(kept, quants, scales, minima);
        fold_sixteen(acc + i, _mm512_add_ps(decoded, _mm512_mul_ps(base, sizes)), multipliers);
        rest.quants += __builtin_popcount(kept);
        rest.quant_count -= (size_t)__builtin_popcount(kept);
    }
    rest.base = update->base + i;
    rest.kept = update->kept + i / 8;
    fl_portable.fold_quantised(acc + i, &rest, n - i);
}

const struct fl_kernel_set fl_avx512 = {
    .name = "avx512",
    .block = BLOCK,
    .runs_here = fl_cpu_has_avx512,
    .find_unfit = find_unfit_avx512,
    .fold = fold_avx512,
    .merge = merge_avx512,
    .finalise = finalise_avx512,
    .fold_quantised = fold_quantised_avx512,
    .choose_kept = fl_choose_kept,
};

#endif
