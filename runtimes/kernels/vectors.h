/* What every instruction set computes in float, in the compilers' own vectors of 16: quantizing activations, the down half
 * of the MLP, attention. Each file that includes this is compiled for one instruction set, and says how it reads halves:
 * load_halves(). TOKENS_AT_ONCE and HEADS_AT_ONCE are how many vectors of 16 its registers hold.
 *
 * To be free of undefined behaviour whatever the data, floats become integers by adding 1.5 * 2^23, never by a cast.
 */
#include "format.h"

typedef float v16 __attribute__((vector_size(64), aligned(1), may_alias));
typedef int32_t i16 __attribute__((vector_size(64), aligned(1), may_alias));
typedef uint32_t u16 __attribute__((vector_size(64), aligned(1), may_alias));
typedef int8_t b16 __attribute__((vector_size(16), aligned(1), may_alias));
#define INLINE static inline __attribute__((always_inline))
#define ROUNDER 12582912.0f
#define ROUNDER_BITS 0x4b400000

INLINE v16 load16(const float *p) { return *(const v16 *)p; }
INLINE void store16(float *p, v16 v) { *(v16 *)p = v; }
INLINE v16 all16(float x) { return (v16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
INLINE v16 greater16(v16 a, v16 b) { return (v16)(((i16)a & (a > b)) | ((i16)b & ~(a > b))); } /* b if a is NaN */
/* Halves against halves, four times: a core works on several such trees at once, but not on chains of 16. */
#define FROM(n) n, (n) + 1, (n) + 2, (n) + 3, (n) + 4, (n) + 5, (n) + 6, (n) + 7
#ifdef __clang__
#define TURNED(v, n) __builtin_shufflevector(v, v, FROM(n), FROM((n) + 8))
#else /* GCC has that one only since 12 */
#define TURNED(v, n) __builtin_shuffle(v, v, (i16){FROM(n), FROM((n) + 8)})
#endif
INLINE float most16(v16 v) {
  v = greater16(v, TURNED(v, 8));
  v = greater16(v, TURNED(v, 4));
  v = greater16(v, TURNED(v, 2));
  return greater16(v, TURNED(v, 1))[0];
}
INLINE float sum16(v16 v) {
  v += TURNED(v, 8);
  v += TURNED(v, 4);
  v += TURNED(v, 2);
  return v[0] + v[1];
}
INLINE int32_t whole_sum16(i16 v) {
  v += TURNED(v, 8);
  v += TURNED(v, 4);
  v += TURNED(v, 2);
  return v[0] + v[1];
}

/* 16 of them at any address. */
INLINE v16 load_halves(const uint16_t *p);

/* ---- activations to int8 ---- */
static void quantize(size_t columns, const float *x, int32_t offset, size_t token, activations *out) {
  const size_t groups = out->groups;
  int8_t *q = out->q + token * groups * GROUP;
  for (size_t group = 0; group < groups; group++, q += GROUP) {
    float rest[GROUP] = {0};
    const float *from = x + group * GROUP;
    if ((group + 1) * GROUP > columns) {
      memcpy(rest, from, (columns - group * GROUP) * sizeof(float));
      from = rest;
    }
    const v16 a = load16(from), b = load16(from + 16);
    const v16 most = greater16(greater16(a, -a), greater16(b, -b));
    const v16 poison = a * 0.0f + b * 0.0f; /* NaN where anything is not finite */
    const float widest = most16(most);
    const float scale = widest > 1e-30f ? widest / 127.0f : 0.0f;
    const float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    const i16 whole_a = (i16)(a * inverse + ROUNDER) - ROUNDER_BITS, whole_b = (i16)(b * inverse + ROUNDER) - ROUNDER_BITS;
    *(b16 *)q = __builtin_convertvector(whole_a, b16);
    *(b16 *)(q + 16) = __builtin_convertvector(whole_b, b16);
    /* The lowest eight bits of each, whatever a number that is none became. */
    const i16 both = ((i16)((u16)whole_a << 24) >> 24) + ((i16)((u16)whole_b << 24) >> 24);
    out->scale[token * groups + group] = scale + sum16(poison);
    out->bias[token * groups + group] = -offset * whole_sum16(both);
  }
}

/* ---- the down half ---- */
/* coefficients [n][groups]: each neuron's value times its scales. */
INLINE void scale_values(size_t groups, const uint8_t *const neuron[], const float value[], int n, float *coefficients) {
  for (int each = 0; each < n; each++, coefficients += groups) {
    size_t group = 0;
    for (; group + 16 <= groups; group += 16)
      store16(coefficients + group, load_halves((const uint16_t *)(neuron[each] + 2 * group)) * value[each]);
    for (; group < groups; group++) {
      uint16_t half;
      memcpy(&half, neuron[each] + 2 * group, 2);
      coefficients[group] = half_to_float(half) * value[each];
    }
  }
}

#ifndef AT_ONCE
#define AT_ONCE 4
#endif
#ifndef HINT
#define HINT 2
#endif
/* Up to four live neurons side by side, so that y is read and written once for all of them; meanwhile the next four come. */
INLINE void down_some(int bits, size_t width, const uint8_t *const neuron[], const uint8_t *const next[], const float value[],
                      const int n, float *coefficients, float *y) {
  const size_t groups = up_to(width, STRIP) / GROUP, head = neuron_scales_bytes(width);
  scale_values(groups, neuron, value, n, coefficients);
  for (int each = 0; each < n; each++)
    for (size_t at = 0; at < head; at += 64) __builtin_prefetch(next[each] + at, 0, HINT);
  const size_t strip_bytes = (size_t)bits * STRIP / 8;
  for (size_t strip = 0; strip < groups / 4; strip++, y += STRIP) {
    for (int each = 0; each < n; each++)
      for (size_t at = 0; at < strip_bytes; at += 64) __builtin_prefetch(next[each] + head + strip * strip_bytes + at);
    for (int part = 0; part < 8; part++) {
      v16 sum = load16(y + 16 * part);
      for (int each = 0; each < n; each++) {
        const uint8_t *w = neuron[each] + head + strip * strip_bytes;
        const float c = coefficients[(size_t)each * groups + 4 * strip + part / 2];
        if (bits == 4)
          sum += __builtin_convertvector((i16)(*(const u16 *)w << (28 - 4 * part)) >> 28, v16) * c;
        else
          sum += __builtin_convertvector(__builtin_convertvector(*(const b16 *)(w + 16 * part), i16), v16) * c;
      }
      store16(y + 16 * part, sum);
    }
  }
}

#ifndef DOWN_SOME
#define DOWN_SOME down_some
#endif
INLINE void down(int bits, size_t width, const uint8_t *packed, size_t count, const live_neuron *live, float *coefficients,
                 float *y) {
  const size_t stride = neuron_bytes(bits, width);
  size_t at = 0;
  for (; at + AT_ONCE <= count; at += AT_ONCE) {
    const uint8_t *neuron[AT_ONCE], *next[AT_ONCE];
    float value[AT_ONCE];
    for (size_t i = 0; i < AT_ONCE; i++) {
      neuron[i] = packed + live[at + i].index * stride;
      next[i] = at + AT_ONCE + i < count ? packed + live[at + AT_ONCE + i].index * stride : neuron[i];
      value[i] = live[at + i].value;
    }
    DOWN_SOME(bits, width, neuron, next, value, AT_ONCE, coefficients, y);
  }
  for (; at < count; at++) {
    const uint8_t *neuron[1] = {packed + live[at].index * stride};
    DOWN_SOME(bits, width, neuron, neuron, &live[at].value, 1, coefficients, y);
  }
}
static void down4(size_t width, const uint8_t *packed, size_t count, const live_neuron *live, float *coefficients, float *y) {
  down(4, width, packed, count, live, coefficients, y);
}
static void down8(size_t width, const uint8_t *packed, size_t count, const live_neuron *live, float *coefficients, float *y) {
  down(8, width, packed, count, live, coefficients, y);
}

#define AHEAD_NEURONS 24
INLINE void expand(int bits, size_t width, const uint8_t *packed, size_t first, size_t count, size_t strip, float *w) {
  const size_t stride = neuron_bytes(bits, width), head = neuron_scales_bytes(width);
  for (size_t each = 0; each < count; each++, w += STRIP) {
    const uint8_t *neuron = packed + (first + each) * stride, *from = neuron + head + strip * STRIP / 8 * (size_t)bits;
    /* A strip is a line or two of each neuron: no CPU guesses which come next. */
    __builtin_prefetch(neuron + AHEAD_NEURONS * stride + 8 * strip);
    for (size_t at = 0; at < (size_t)bits * STRIP / 8; at += 64) __builtin_prefetch(from + AHEAD_NEURONS * stride + at);
    float scales[4];
    for (size_t i = 0; i < 4; i++) {
      uint16_t half;
      memcpy(&half, neuron + 2 * (4 * strip + i), 2);
      scales[i] = half_to_float(half);
    }
    for (int part = 0; part < 8; part++) {
      const float scale = scales[part / 2];
      if (bits == 4)
        store16(w + 16 * part, __builtin_convertvector((i16)(*(const u16 *)from << (28 - 4 * part)) >> 28, v16) * scale);
      else
        store16(w + 16 * part, __builtin_convertvector(__builtin_convertvector(*(const b16 *)(from + 16 * part), i16), v16) * scale);
    }
  }
}
static inline void expand4(size_t width, const uint8_t *packed, size_t first, size_t count, size_t strip, float *w) {
  expand(4, width, packed, first, count, strip, w);
}
static void expand8(size_t width, const uint8_t *packed, size_t first, size_t count, size_t strip, float *w) {
  expand(8, width, packed, first, count, strip, w);
}

#ifndef GATHERED
#define GATHERED 4 /* vectors of a strip's 8 that are added up at a time */
#endif
static void gather(size_t first, size_t count, const live_neuron *live, const float *w, float *y) {
  for (int part = 0; part < 8; part += GATHERED, w += 16 * GATHERED, y += 16 * GATHERED) {
    v16 sums[GATHERED];
#pragma GCC unroll 8
    for (int v = 0; v < GATHERED; v++) sums[v] = load16(y + 16 * v);
    for (size_t i = 0; i < count; i++) {
      const float *row = w + (live[i].index - first) * STRIP, value = live[i].value;
#pragma GCC unroll 8
      for (int v = 0; v < GATHERED; v++) sums[v] += load16(row + 16 * v) * value;
    }
#pragma GCC unroll 8
    for (int v = 0; v < GATHERED; v++) store16(y + 16 * v, sums[v]);
  }
}
