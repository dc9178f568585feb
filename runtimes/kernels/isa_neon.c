/* Arm's NEON as every 64-bit Arm CPU has it, without instructions for dot products: a Cortex-A72, say. */
#if defined(__aarch64__)
#define MANY 2
#include "neon.h"

static int usable(void) { return 1; }

/* Rows 2p and 2p + 1 of quad k: their bytes times the four activations, twice in a vector, added up in 16 bits. */
INLINE void tile4(const uint8_t *w, const activations *x, size_t token, const int n, float out[][TILE]) {
  for (int quarter = 0; quarter < 4; quarter++) {
    const uint8_t *from = w + 16 * quarter;
    float32x4_t sums[MANY];
    for (int i = 0; i < n; i++) sums[i] = vdupq_n_f32(0);
    for (size_t group = 0; group < x->groups; group++, from += 288) {
      int8x16_t weights[8];
      for (int v = 0; v < 4; v++) {
        const uint8x16_t both = vld1q_u8(from + 64 * v);
        weights[v] = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15)));
        weights[v + 4] = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
      }
      const float32x4_t scale = four_halves(from + 256 - 8 * quarter);
      for (int i = 0; i < n; i++) {
        const size_t at = (token + (size_t)i) * x->groups + group;
        int8x8_t a = four(x->q + at * GROUP);
        int16x8_t low = vmull_s8(vget_low_s8(weights[0]), a), high = vmull_s8(vget_high_s8(weights[0]), a);
        for (int k = 1; k < 8; k++) { /* at most 8 * 15 * 127 */
          a = four(x->q + at * GROUP + 4 * k);
          low = vmlal_s8(low, vget_low_s8(weights[k]), a);
          high = vmlal_s8(high, vget_high_s8(weights[k]), a);
        }
        const int32x4_t dot = vaddq_s32(vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)), vdupq_n_s32(x->bias[at]));
        sums[i] = vfmaq_f32(sums[i], vcvtq_f32_s32(dot), vmulq_n_f32(scale, x->scale[at]));
      }
    }
    for (int i = 0; i < n; i++) vst1q_f32(out[i] + 4 * quarter, sums[i]);
  }
}

/* Two products of 127 * 127 fit 16 bits, so every other quad is added up in 32. */
INLINE void tile8(const uint8_t *w, const activations *x, size_t token, const int n, float out[][TILE]) {
  for (int quarter = 0; quarter < 4; quarter++) {
    const uint8_t *from = w + 16 * quarter;
    float32x4_t sums[MANY];
    for (int i = 0; i < n; i++) sums[i] = vdupq_n_f32(0);
    for (size_t group = 0; group < x->groups; group++, from += 544) {
      const float32x4_t scale = four_halves(from + 512 - 8 * quarter);
      for (int i = 0; i < n; i++) {
        const size_t at = (token + (size_t)i) * x->groups + group;
        int32x4_t low = vdupq_n_s32(0), high = vdupq_n_s32(0);
        for (int k = 0; k < 8; k += 2) {
          const int8x16_t first = vld1q_s8((const int8_t *)from + 64 * k), second = vld1q_s8((const int8_t *)from + 64 * k + 64);
          const int8x8_t a = four(x->q + at * GROUP + 4 * k), b = four(x->q + at * GROUP + 4 * k + 4);
          low = vpadalq_s16(low, vmlal_s8(vmull_s8(vget_low_s8(first), a), vget_low_s8(second), b));
          high = vpadalq_s16(high, vmlal_s8(vmull_s8(vget_high_s8(first), a), vget_high_s8(second), b));
        }
        sums[i] = vfmaq_f32(sums[i], vcvtq_f32_s32(vpaddq_s32(low, high)), vmulq_n_f32(scale, x->scale[at]));
      }
    }
    for (int i = 0; i < n; i++) vst1q_f32(out[i] + 4 * quarter, sums[i]);
  }
}

INLINE i16 block(const uint8_t *w, const int8_t *q, const int apart, i16 init) {
  union {
    int32x4_t quarter[4];
    i16 all;
  } sums = {.all = init};
  for (int quarter = 0; quarter < 4; quarter++) {
    int16x8_t low = vdupq_n_s16(0), high = vdupq_n_s16(0); /* at most 8 * 3 * 127 */
#pragma GCC unroll 8
    for (int quad = 0; quad < 8; quad++) {
      const int8x16_t values = two_bits(w + 64 * (quad % 2) + 16 * quarter, quad / 2 * 2);
      const int8_t *other = apart ? q + 64 * quad + 16 * quarter : q + 4 * quad;
      low = vmlal_s8(low, vget_low_s8(values), apart ? vld1_s8(other) : four(other));
      high = vmlal_s8(high, vget_high_s8(values), apart ? vld1_s8(other + 8) : four(other));
    }
    const int32x4_t dot = vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
    sums.quarter[quarter] = vaddq_s32(sums.quarter[quarter], vshlq_n_s32(dot, 6));
  }
  return sums.all;
}

#include "planes.h"
#include "product.h"
INSTRUCTION_SET(edge_neon, "neon")
#endif
