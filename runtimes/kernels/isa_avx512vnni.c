/* AVX-512 with VNNI: 64 products of bytes an instruction; float weights of the down half by a look-up of 16 values. */
#if defined(__x86_64__)
#include <immintrin.h>
#define TOKENS_AT_ONCE 16
#define HEADS_AT_ONCE 16
#define MANY 8
#define GATHERED 8
#define DOWN_SOME down_some_512
#include "format.h"
static inline __attribute__((always_inline)) void down_some_512(int bits, size_t width, const uint8_t *const neuron[],
                                                                const uint8_t *const next[], const float value[], const int n,
                                                                float *coefficients, float *y);
#include "attend.h"
#include "x86.h"

/* How far ahead of the weights in use others are asked for: the CPU's own prefetching stops at every page. */
#ifndef AHEAD
#define AHEAD 4096
#endif

INLINE v16 load_halves(const uint16_t *p) { return (v16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }

static int usable(void) {
  /* AVX2, AVX512F, DQ, BW and VL, VNNI; vectors of 512 bits, their masks */
  return x86_has(1u << 5 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, 1u << 11, 0xe6);
}

INLINE __m512i four(const int8_t *q) {
  int32_t bits;
  memcpy(&bits, q, 4);
  return _mm512_set1_epi32(bits);
}

INLINE void group_sums(const __m512i weights[8], __m512 scale, const activations *x, size_t token, size_t group, const int n,
                       __m512 sums[]) {
#pragma GCC unroll 8
  for (int i = 0; i < n; i++) {
    const size_t at = (token + (size_t)i) * x->groups + group;
    const int8_t *q = x->q + at * GROUP;
    __m512i dot = _mm512_set1_epi32(x->bias[at]);
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++) dot = _mm512_dpbusd_epi32(dot, weights[k], four(q + 4 * k));
    sums[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(scale, _mm512_set1_ps(x->scale[at])), sums[i]);
  }
}

INLINE void tile4(const uint8_t *w, const activations *x, size_t token, const int n, float out[][TILE]) {
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512 sums[MANY];
  for (int i = 0; i < n; i++) sums[i] = _mm512_setzero_ps();
  for (size_t group = 0; group < x->groups; group++, w += 288) {
    if (n == 1)
      for (int line = 0; line < 5; line++) _mm_prefetch((const char *)w + AHEAD + 64 * line, _MM_HINT_T0);
    __m512i weights[8];
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
      const __m512i both = _mm512_loadu_si512(w + 64 * v);
      weights[v] = _mm512_and_si512(both, nibble);
      weights[v + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
    }
    group_sums(weights, (__m512)load_halves((const uint16_t *)(w + 256)), x, token, group, n, sums);
  }
  for (int i = 0; i < n; i++) _mm512_store_ps(out[i], sums[i]);
}

INLINE void tile8(const uint8_t *w, const activations *x, size_t token, const int n, float out[][TILE]) {
  const __m512i sign = _mm512_set1_epi8((char)0x80);
  __m512 sums[MANY];
  for (int i = 0; i < n; i++) sums[i] = _mm512_setzero_ps();
  for (size_t group = 0; group < x->groups; group++, w += 544) {
    if (n == 1)
      for (int line = 0; line < 9; line++) _mm_prefetch((const char *)w + AHEAD + 64 * line, _MM_HINT_T0);
    __m512i weights[8];
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++) weights[k] = _mm512_xor_si512(_mm512_loadu_si512(w + 64 * k), sign);
    group_sums(weights, (__m512)load_halves((const uint16_t *)(w + 512)), x, token, group, n, sums);
  }
  for (int i = 0; i < n; i++) _mm512_store_ps(out[i], sums[i]);
}

INLINE void down_some_512(int bits, size_t width, const uint8_t *const neuron[], const uint8_t *const next[],
                          const float value[], const int n, float *coefficients, float *y) {
  if (bits == 8) {
    down_some(8, width, neuron, next, value, n, coefficients, y);
    return;
  }
  /* A lane's lowest four bits choose: shifting brings each nibble there, and nothing has to be masked or converted. */
  const __m512 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  const size_t groups = up_to(width, STRIP) / GROUP, head = neuron_scales_bytes(width);
  scale_values(groups, neuron, value, n, coefficients);
  for (int each = 0; each < n; each++)
    for (size_t at = 0; at < head; at += 64) __builtin_prefetch(next[each] + at, 0, HINT);
  for (size_t strip = 0; strip < groups / 4; strip++, y += STRIP) {
    __m512i w[AT_ONCE];
#pragma GCC unroll 8
    for (int each = 0; each < n; each++) {
      w[each] = _mm512_loadu_si512(neuron[each] + head + 64 * strip);
      __builtin_prefetch(next[each] + head + 64 * strip, 0, HINT);
    }
#pragma GCC unroll 8
    for (int part = 0; part < 8; part++) {
      __m512 sum = _mm512_loadu_ps(y + 16 * part);
#pragma GCC unroll 8
      for (int each = 0; each < n; each++) {
        const __m512 q = _mm512_permutexvar_ps(_mm512_srli_epi32(w[each], (unsigned)(4 * part)), table);
        sum = _mm512_fmadd_ps(q, _mm512_set1_ps(coefficients[(size_t)each * groups + 4 * strip + (size_t)part / 2]), sum);
      }
      _mm512_storeu_ps(y + 16 * part, sum);
    }
  }
}

#include "product.h"
INSTRUCTION_SET(edge_avx512vnni, "avx512vnni")
#endif
