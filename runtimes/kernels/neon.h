/* What both Arm instruction sets share. */
#include <arm_neon.h>
#define TOKENS_AT_ONCE 4
#define HEADS_AT_ONCE 4
#include "attend.h"

INLINE v16 load_halves(const uint16_t *p) {
  union {
    float32x4_t quarter[4];
    v16 all;
  } whole;
  for (int i = 0; i < 4; i++) {
    uint16x4_t halves;
    memcpy(&halves, p + 4 * i, 8);
    whole.quarter[i] = vcvt_f32_f16(vreinterpret_f16_u16(halves));
  }
  return whole.all;
}

INLINE float32x4_t four_halves(const uint8_t *p) {
  uint16x4_t halves;
  memcpy(&halves, p, 8);
  return vcvt_f32_f16(vreinterpret_f16_u16(halves));
}

/* Four activations, twice. */
INLINE int8x8_t four(const int8_t *q) {
  int32_t bits;
  memcpy(&bits, q, 4);
  return vreinterpret_s8_s32(vdup_n_s32(bits));
}

/* 16 values of two bits, from a shift that is 0, 2, 4 or 6. */
INLINE int8x16_t two_bits(const uint8_t *w, int shift) {
  return vreinterpretq_s8_u8(vandq_u8(vshlq_u8(vld1q_u8(w), vdupq_n_s8((int8_t)-shift)), vdupq_n_u8(3)));
}
