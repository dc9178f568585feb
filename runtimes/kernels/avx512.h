/* What the instruction sets with AVX-512 and VNNI share: 64 products of bytes an instruction; float weights of the down half by a
 * look-up of 16 values. */
#include <immintrin.h>
#include <stdatomic.h>
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

/* AVX2, AVX512F, DQ, BW and VL, VNNI; vectors of 512 bits and their masks, and what else is to be saved. */
static inline int has_avx512(unsigned saved) {
  return x86_has(1u << 5 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, 1u << 11, 0xe6 | saved);
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
    __m512i weights[8];
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++) weights[k] = _mm512_xor_si512(_mm512_loadu_si512(w + 64 * k), sign);
    group_sums(weights, (__m512)load_halves((const uint16_t *)(w + 512)), x, token, group, n, sums);
  }
  for (int i = 0; i < n; i++) _mm512_store_ps(out[i], sums[i]);
}

/* expand4 of vectors.h by the same look-up. */
static void expand4_512(size_t width, const uint8_t *packed, size_t first, size_t count, size_t strip, float *w) {
  const __m512 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  const size_t stride = neuron_bytes(4, width), head = neuron_scales_bytes(width);
  const uint8_t *neuron = packed + first * stride;
  for (size_t each = 0; each < count; each++, neuron += stride, w += STRIP) {
    const uint8_t *from = neuron + head + 64 * strip;
    _mm_prefetch((const char *)neuron + AHEAD_NEURONS * stride + 8 * strip, _MM_HINT_T0);
    _mm_prefetch((const char *)from + AHEAD_NEURONS * stride, _MM_HINT_T0);
    uint64_t halves;
    memcpy(&halves, neuron + 8 * strip, 8);
    const __m128i four_scales = _mm_cvtsi64_si128((long long)halves);
    const __m512 all = _mm512_cvtph_ps(_mm256_castsi128_si256(four_scales));
    const __m512i q = _mm512_loadu_si512(from);
#pragma GCC unroll 8
    for (int part = 0; part < 8; part++) {
      const __m512 scale = _mm512_permutexvar_ps(_mm512_set1_epi32(part / 2), all);
      _mm512_storeu_ps(w + 16 * part, _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(q, (unsigned)(4 * part)), table), scale));
    }
  }
}
#define EXPAND4 expand4_512

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

#define SIDE 4
/* Side by side is faster where a core's own prefetching follows one stream slowly: Intel's. AMD's (EPYC, Zen 4) read one stream a
 * third faster than four, and fastest without being told what comes. */
static int side_by_side(void) {
  static atomic_int known; /* 0: not asked yet, 1: no, 2: yes */
  int answer = atomic_load_explicit(&known, memory_order_relaxed);
  if (!answer) atomic_store_explicit(&known, answer = x86_vendor_is("AuthenticAMD") ? 1 : 2, memory_order_relaxed);
  return answer == 2;
}
/* One token, several tiles side by side: more of the memory's lines are under way at once, and each activation is read once. */
INLINE void tiles(int bits, const uint8_t *w, size_t bytes, const activations *x, size_t token, float *out) {
  const __m512i nibble = _mm512_set1_epi8(15), sign = _mm512_set1_epi8((char)0x80);
  const int8_t *q = x->q + token * x->groups * GROUP;
  const float *scales = x->scale + token * x->groups;
  const int32_t *bias = x->bias + token * x->groups;
  __m512 sums[SIDE];
  for (int i = 0; i < SIDE; i++) sums[i] = _mm512_setzero_ps();
  for (size_t group = 0; group < x->groups; group++, w += tile_group_bytes(bits), q += GROUP) {
    const __m512 scale = _mm512_set1_ps(scales[group]);
    __m512i act[8];
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++) act[k] = four(q + 4 * k);
#pragma GCC unroll 4
    for (int i = 0; i < SIDE; i++) {
      const uint8_t *at = w + (size_t)i * bytes;
      for (int line = 0; line < (bits == 4 ? 5 : 9); line++) _mm_prefetch((const char *)at + AHEAD + 64 * line, _MM_HINT_T0);
      __m512i a = _mm512_set1_epi32(bias[group]), b = _mm512_setzero_si512();
      if (bits == 4) {
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
          const __m512i both = _mm512_loadu_si512(at + 64 * v);
          a = _mm512_dpbusd_epi32(a, _mm512_and_si512(both, nibble), act[v]);
          b = _mm512_dpbusd_epi32(b, _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble), act[v + 4]);
        }
      } else {
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++) {
          a = _mm512_dpbusd_epi32(a, _mm512_xor_si512(_mm512_loadu_si512(at + 128 * v), sign), act[2 * v]);
          b = _mm512_dpbusd_epi32(b, _mm512_xor_si512(_mm512_loadu_si512(at + 128 * v + 64), sign), act[2 * v + 1]);
        }
      }
      const __m512 both = _mm512_mul_ps((__m512)load_halves((const uint16_t *)(at + 64 * bits)), scale);
      sums[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(a, b)), both, sums[i]);
    }
  }
  for (int i = 0; i < SIDE; i++) _mm512_storeu_ps(out + TILE * i, sums[i]);
}

/* Values are not shifted down to their lane's lowest bits but their sums up, four of them together. */
INLINE i16 block(const uint8_t *w, const int8_t *q, const int apart, i16 init) {
  __m512i sums[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), (__m512i)init};
#pragma GCC unroll 2
  for (int v = 0; v < 2; v++) {
    const __m512i all = _mm512_loadu_si512(w + 64 * v);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
      const int quad = v + 2 * k;
      const __m512i other = apart ? _mm512_loadu_si512(q + 64 * quad) : four(q + 4 * quad);
      sums[k] = _mm512_dpbusd_epi32(sums[k], _mm512_and_si512(all, _mm512_set1_epi8((char)(3 << 2 * k))), other);
    }
  }
  const __m512i low = _mm512_add_epi32(_mm512_slli_epi32(sums[0], 6), _mm512_slli_epi32(sums[1], 4));
  return (i16)_mm512_add_epi32(low, _mm512_add_epi32(_mm512_slli_epi32(sums[2], 2), sums[3]));
}
#include "planes.h"
