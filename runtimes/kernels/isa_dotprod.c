/* NEON with the dot products of Armv8.2: a Cortex-A76 and nearly every phone since 2018. */
#if defined(__aarch64__)
#define MANY 4
#include "neon.h"
#if defined(__linux__)
#include <sys/auxv.h>
#endif

static int usable(void) {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) >> 20 & 1) != 0; /* HWCAP_ASIMDDP */
#elif defined(__APPLE__)
  return 1;
#else
  return 0;
#endif
}

INLINE int32x4_t dot_group(int32x4_t dot, const int8x16_t weights[8], const int8_t *q) {
  const int8x16_t first = vld1q_s8(q), second = vld1q_s8(q + 16);
  dot = vdotq_laneq_s32(dot, weights[0], first, 0);
  dot = vdotq_laneq_s32(dot, weights[1], first, 1);
  dot = vdotq_laneq_s32(dot, weights[2], first, 2);
  dot = vdotq_laneq_s32(dot, weights[3], first, 3);
  dot = vdotq_laneq_s32(dot, weights[4], second, 0);
  dot = vdotq_laneq_s32(dot, weights[5], second, 1);
  dot = vdotq_laneq_s32(dot, weights[6], second, 2);
  return vdotq_laneq_s32(dot, weights[7], second, 3);
}

/* Four rows at a time, a quarter of each vector; for bits 8 the weights are signed as they are. */
INLINE void tile(int bits, const uint8_t *w, const activations *x, size_t token, const int n, float out[][TILE]) {
  for (size_t quarter = 0; quarter < 4; quarter++) {
    const uint8_t *from = w + 16 * quarter;
    float32x4_t sums[MANY];
    for (int i = 0; i < n; i++) sums[i] = vdupq_n_f32(0);
    for (size_t group = 0; group < x->groups; group++, from += tile_group_bytes(bits)) {
      int8x16_t weights[8];
      if (bits == 4)
        for (int v = 0; v < 4; v++) {
          const uint8x16_t both = vld1q_u8(from + 64 * v);
          weights[v] = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
          weights[v + 4] = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
        }
      else
        for (int k = 0; k < 8; k++) weights[k] = vld1q_s8((const int8_t *)from + 64 * k);
      const float32x4_t scale = four_halves(from + (size_t)bits * 64 - 8 * quarter);
      for (int i = 0; i < n; i++) {
        const size_t at = (token + (size_t)i) * x->groups + group;
        const int32x4_t bias = vdupq_n_s32(bits == 4 ? x->bias[at] : 0);
        const int32x4_t dot = dot_group(bias, weights, x->q + at * GROUP);
        sums[i] = vfmaq_f32(sums[i], vcvtq_f32_s32(dot), vmulq_n_f32(scale, x->scale[at]));
      }
    }
    for (int i = 0; i < n; i++) vst1q_f32(out[i] + 4 * quarter, sums[i]);
  }
}
INLINE void tile4(const uint8_t *w, const activations *x, size_t token, const int n, float out[][TILE]) {
  tile(4, w, x, token, n, out);
}
INLINE void tile8(const uint8_t *w, const activations *x, size_t token, const int n, float out[][TILE]) {
  tile(8, w, x, token, n, out);
}

INLINE i16 block(const uint8_t *w, const int8_t *q, const int apart, i16 init) {
  union {
    int32x4_t quarter[4];
    i16 all;
  } sums = {.all = init};
  for (int quarter = 0; quarter < 4; quarter++) {
    int32x4_t dot = vdupq_n_s32(0);
#pragma GCC unroll 8
    for (int quad = 0; quad < 8; quad++) {
      const int8x16_t values = two_bits(w + 64 * (quad % 2) + 16 * quarter, quad / 2 * 2);
      const int8_t *other = apart ? q + 64 * quad + 16 * quarter : q + 4 * quad;
      dot = vdotq_s32(dot, values, apart ? vld1q_s8(other) : vcombine_s8(four(other), four(other)));
    }
    sums.quarter[quarter] = vaddq_s32(sums.quarter[quarter], vshlq_n_s32(dot, 6));
  }
  return sums.all;
}

#include "planes.h"
#include "product.h"
INSTRUCTION_SET(edge_dotprod, "dotprod")
#endif
