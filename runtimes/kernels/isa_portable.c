/* Plain C: what every other instruction set is tested against, and what a CPU without them runs. */
#define TOKENS_AT_ONCE 2
#define HEADS_AT_ONCE 2
#define MANY 4
#include "attend.h"

static int usable(void) { return 1; }

/* By integers: 2^112 takes a half's exponent to a float's, also a subnormal one's; infinities are put right. */
INLINE v16 load_halves(const uint16_t *p) {
  u16 bits;
  for (int i = 0; i < 16; i++) {
    uint16_t half;
    memcpy(&half, (const char *)p + 2 * i, 2);
    bits[i] = half;
  }
  const u16 rest = bits & 0x7fff, sign = (bits & 0x8000) << 16, huge = (u16)(rest >= 0x7c00);
  const v16 small = (v16)(rest << 13) * 0x1p112f;
  return (v16)((((u16)small & ~huge) | (((rest << 13) | 0x7f800000) & huge)) | sign);
}

INLINE int weight(int bits, const uint8_t *w, int lane, int column) {
  const int quad = column / 4, at = 4 * lane + column % 4;
  if (bits == 8) return (int8_t)w[quad * 64 + at];
  return (w[quad % 4 * 64 + at] >> (quad < 4 ? 0 : 4) & 15) - 8;
}

INLINE void tile(int bits, const uint8_t *w, const activations *x, size_t token, const int n, float out[][TILE]) {
  memset(out, 0, (size_t)n * sizeof *out);
  for (size_t group = 0; group < x->groups; group++, w += tile_group_bytes(bits))
    for (int lane = 0; lane < TILE; lane++) {
      int8_t row[GROUP];
      uint16_t half;
      for (int column = 0; column < GROUP; column++) row[column] = (int8_t)weight(bits, w, lane, column);
      memcpy(&half, w + bits * 64 + 2 * lane, 2);
      const float scale = half_to_float(half);
      for (int i = 0; i < n; i++) {
        const size_t at = (token + (size_t)i) * x->groups + group;
        int32_t sum = 0;
        for (int column = 0; column < GROUP; column++) sum += row[column] * x->q[at * GROUP + (size_t)column];
        out[i][lane] += (float)sum * (scale * x->scale[at]);
      }
    }
}
INLINE void tile4(const uint8_t *w, const activations *x, size_t token, const int n, float out[][TILE]) {
  tile(4, w, x, token, n, out);
}
INLINE void tile8(const uint8_t *w, const activations *x, size_t token, const int n, float out[][TILE]) {
  tile(8, w, x, token, n, out);
}

INLINE i16 block(const uint8_t *w, const int8_t *q, const int apart, i16 init) {
  for (int quad = 0; quad < 8; quad++)
    for (int at = 0; at < 4 * TILE; at++)
      init[at / 4] += 64 * (w[64 * (quad % 2) + at] >> quad / 2 * 2 & 3) * q[apart ? 64 * quad + at : 4 * quad + at % 4];
  return init;
}

#include "planes.h"
#include "product.h"
INSTRUCTION_SET(edge_portable, "portable")
