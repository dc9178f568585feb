/* AVX2 with FMA and F16C: bytes are multiplied in pairs into 16 bits, where a group's four or eight products still fit. */
#if defined(__x86_64__)
#include <immintrin.h>
#define TOKENS_AT_ONCE 6
#define HEADS_AT_ONCE 4
#define MANY 4
#include "attend.h"
#include "x86.h"

INLINE v16 load_halves(const uint16_t *p) {
  union {
    __m256 half[2];
    v16 all;
  } both;
  both.half[0] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
  both.half[1] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)));
  return both.all;
}

static int usable(void) {
  return x86_has(1u << 5, 0, 0x6); /* AVX2; vectors of 256 bits */
}

INLINE __m256i four(const int8_t *q) {
  int32_t bits;
  memcpy(&bits, q, 4);
  return _mm256_set1_epi32(bits);
}

/* Two halves of 8 rows, one after the other: 8 vectors of weights then stay in registers beside the tokens' sums. */
INLINE void tile4(const uint8_t *packed, const activations *x, size_t token, const int n, float out[][TILE]) {
  const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  for (int half = 0; half < 2; half++) {
    const uint8_t *w = packed + 32 * half;
    __m256 sums[MANY];
    for (int i = 0; i < n; i++) sums[i] = _mm256_setzero_ps();
    for (size_t group = 0; group < x->groups; group++, w += 288) {
      _mm_prefetch((const char *)w + 2048, _MM_HINT_T0);
      _mm_prefetch((const char *)w + 2048 + 64, _MM_HINT_T0);
      _mm_prefetch((const char *)w + 2048 + 128, _MM_HINT_T0);
      __m256i weights[8];
      for (int v = 0; v < 4; v++) {
        const __m256i both = _mm256_loadu_si256((const __m256i *)(w + 64 * v));
        weights[v] = _mm256_and_si256(both, nibble);
        weights[v + 4] = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
      }
      const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(w + 256 - 16 * half)));
      for (int i = 0; i < n; i++) {
        const size_t at = (token + (size_t)i) * x->groups + group;
        const int8_t *q = x->q + at * GROUP;
        __m256i pairs = _mm256_maddubs_epi16(weights[0], four(q)); /* at most 15 * 127 * 2 each, 30480 in all */
        for (int k = 1; k < 8; k++) pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(weights[k], four(q + 4 * k)));
        const __m256i dot = _mm256_add_epi32(_mm256_madd_epi16(pairs, ones), _mm256_set1_epi32(x->bias[at]));
        sums[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(scale, _mm256_set1_ps(x->scale[at])), sums[i]);
      }
    }
    for (int i = 0; i < n; i++) _mm256_storeu_ps(out[i] + 8 * half, sums[i]);
  }
}

/* |w| times the activation with w's sign: 127 * 127 * 2 fits 16 bits, two of them would not. */
INLINE void tile8(const uint8_t *packed, const activations *x, size_t token, const int n, float out[][TILE]) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (int half = 0; half < 2; half++) {
    const uint8_t *w = packed + 32 * half;
    __m256 sums[MANY];
    for (int i = 0; i < n; i++) sums[i] = _mm256_setzero_ps();
    for (size_t group = 0; group < x->groups; group++, w += 544) {
      for (int line = 0; line < 5; line++) _mm_prefetch((const char *)w + 2048 + 64 * line, _MM_HINT_T0);
      const __m256 scale = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(w + 512 - 16 * half)));
      for (int i = 0; i < n; i++) {
        const size_t at = (token + (size_t)i) * x->groups + group;
        const int8_t *q = x->q + at * GROUP;
        __m256i dot = _mm256_setzero_si256();
        for (int k = 0; k < 8; k++) {
          const __m256i weights = _mm256_loadu_si256((const __m256i *)(w + 64 * k));
          const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(four(q + 4 * k), weights));
          dot = _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, ones));
        }
        sums[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(scale, _mm256_set1_ps(x->scale[at])), sums[i]);
      }
    }
    for (int i = 0; i < n; i++) _mm256_storeu_ps(out[i] + 8 * half, sums[i]);
  }
}

INLINE i16 block(const uint8_t *w, const int8_t *q, const int apart, i16 init) {
  const __m256i three = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
  union {
    __m256i half[2];
    i16 all;
  } sums = {.all = init};
  for (int half = 0; half < 2; half++) {
    __m256i pairs = _mm256_setzero_si256(); /* at most 3 * 127 * 2 each, 6096 in all */
    for (int quad = 0; quad < 8; quad++) {
      const __m256i all = _mm256_loadu_si256((const __m256i *)(w + 64 * (quad % 2) + 32 * half));
      const __m256i values = _mm256_and_si256(_mm256_srli_epi16(all, quad / 2 * 2), three);
      const __m256i other = apart ? _mm256_loadu_si256((const __m256i *)(q + 64 * quad + 32 * half)) : four(q + 4 * quad);
      pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(values, other));
    }
    sums.half[half] = _mm256_add_epi32(sums.half[half], _mm256_slli_epi32(_mm256_madd_epi16(pairs, ones), 6));
  }
  return sums.all;
}

#include "planes.h"
#include "product.h"
INSTRUCTION_SET(edge_avx2, "avx2")
#endif
