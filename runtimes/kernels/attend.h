/* Attention of some queries to the same rows, 16 heads side by side in a vector, rows in tiles: the tile's scores, then its part of
 * the outputs, with the running maximum of Milakov and Gimelshein, arXiv 1805.02867.
 *
 * turned   [blocks of 16 heads][row][16], the query
 * state    [blocks of 16 heads][m 16 | l 16 | out 16 * latent padded to 16]: maximum, sum of exponentials, sum of values
 * scratch  [RUN * (row padded to 16) + RUN * 16] floats
 */
#include "vectors.h"

/* e^x for x <= 0, to a few units in the last place: 2^n times a polynomial (Taylor's, to x^7) on half an octave each way. */
INLINE v16 exp16(v16 x) {
  x = (v16)(((i16)x & ~(x < -87.0f)) | ((i16)all16(-87.0f) & (x < -87.0f)));
  const v16 shifted = x * 1.44269504f + ROUNDER;
  const i16 n = (i16)shifted - ROUNDER_BITS;
  const v16 whole = shifted - ROUNDER;
  const v16 r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  v16 p = all16(1.9841270e-4f);
  p = p * r + 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * (v16)(((u16)n + 127u) << 23);
}

INLINE void scores(size_t row, size_t width, const float *tile, const float *turned, const int n, float *chances) {
  v16 sums[TOKENS_AT_ONCE];
  for (int t = 0; t < n; t++) sums[t] = (v16){0};
  for (size_t d = 0; d < row; d++) {
    const v16 q = load16(turned + 16 * d);
#pragma GCC unroll 16
    for (int t = 0; t < n; t++) sums[t] += q * tile[(size_t)t * width + d];
  }
  for (int t = 0; t < n; t++) store16(chances + 16 * t, sums[t]);
}

/* Heads first..first + HEADS_AT_ONCE of the tile's values. */
INLINE void values(size_t width, size_t padded, size_t count, const float *tile, const float *chances, size_t first, float *out) {
  for (size_t v = 0; v < padded; v += 16) {
    v16 sums[HEADS_AT_ONCE];
#pragma GCC unroll 16
    for (size_t h = 0; h < HEADS_AT_ONCE; h++) sums[h] = load16(out + (first + h) * padded + v);
    for (size_t t = 0; t < count; t++) {
      const v16 c = load16(tile + t * width + v);
#pragma GCC unroll 16
      for (size_t h = 0; h < HEADS_AT_ONCE; h++) sums[h] += c * chances[16 * t + first + h];
    }
#pragma GCC unroll 16
    for (size_t h = 0; h < HEADS_AT_ONCE; h++) store16(out + (first + h) * padded + v, sums[h]);
  }
}

/* The tile's scores become chances under the new maximum, and what was summed before fades. */
INLINE void soften(size_t padded, size_t count, float *chances, float *state) {
  const v16 before = load16(state);
  v16 most = before, sum = load16(state + 16);
  for (size_t t = 0; t < count; t++) most = greater16(load16(chances + 16 * t), most);
  float *out = state + 32;
  const v16 fade = exp16(before - most);
  sum *= fade;
  for (int h = 0; h < 16; h++)
    if (fade[h] != 1.0f)
      for (size_t v = 0; v < padded; v += 16) store16(out + (size_t)h * padded + v, load16(out + (size_t)h * padded + v) * fade[h]);
  for (size_t t = 0; t < count; t++) {
    const v16 chance = exp16(load16(chances + 16 * t) - most);
    store16(chances + 16 * t, chance);
    sum += chance;
  }
  store16(state, most);
  store16(state + 16, sum);
}

static void attend_tile(size_t latent, size_t row, size_t count, const float *tile, const float *turned, float *chances,
                        float *state) {
  const size_t width = up_to(row, 16), padded = up_to(latent, 16);
  size_t t = 0;
  for (; t + TOKENS_AT_ONCE <= count; t += TOKENS_AT_ONCE)
    scores(row, width, tile + t * width, turned, TOKENS_AT_ONCE, chances + 16 * t);
  for (; t < count; t++) scores(row, width, tile + t * width, turned, 1, chances + 16 * t);
  soften(padded, count, chances, state);
  for (size_t first = 0; first < 16; first += HEADS_AT_ONCE) values(width, padded, count, tile, chances, first, state + 32);
}

static void attend(const attention *shape, size_t count, const uint16_t *rows, size_t tokens, const float *turned, float *scratch,
                   float *state) {
  const size_t row = shape->row, latent = shape->latent, width = up_to(row, 16), each = 32 + 16 * up_to(latent, 16);
  float *chances = scratch + RUN * width;
  for (size_t done = 0; done < count; done += RUN, rows += RUN * row) {
    const size_t n = count - done < RUN ? count - done : RUN;
    for (size_t t = 0; t < n; t++) {
      size_t d = 0;
      for (; d + 16 <= row; d += 16) {
        __builtin_prefetch(rows + (t + 8) * row + d);
        store16(scratch + t * width + d, load_halves(rows + t * row + d));
      }
      for (; d < width; d++) {
        uint16_t half = 0;
        if (d < row) memcpy(&half, rows + t * row + d, 2);
        scratch[t * width + d] = half_to_float(half);
      }
    }
    for (size_t token = 0; token < tokens; token++)
      for (size_t block = 0; block < up_to(shape->heads, 16) / 16; block++)
        attend_tile(latent, row, n, scratch, turned + token * shape->turned + block * row * 16, chances,
                    state + token * shape->state + block * each);
  }
}
