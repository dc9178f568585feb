/* Weights: from float to groups of 4 or 8 bits, and from the plain form to the packed ones and back. */
#include <math.h>

#include "format.h"

static int bad(int bits, size_t rows, size_t columns) { return (bits != 4 && bits != 8) || !rows || !columns; }

size_t edge_tiled_bytes(int bits, size_t rows, size_t columns) {
  if (bad(bits, rows, columns)) return 0;
  return up_to(rows, TILE) / TILE * (up_to(columns, GROUP) / GROUP) * tile_group_bytes(bits);
}

size_t edge_neurons_bytes(int bits, size_t hidden, size_t width) {
  return bad(bits, hidden, width) ? 0 : hidden * neuron_bytes(bits, width);
}

/* Error of a group at one scale, and the least-squares scale for the integers it leads to. */
static float error_at(size_t n, const float *w, float scale, int low, int high, float *better) {
  const float inverse = 1.0f / scale;
  float wq = 0, qq = 0, error = 0;
  for (size_t i = 0; i < n; i++) {
    float q = w[i] * inverse + 12582912.0f; /* 1.5 * 2^23: adding it rounds to the nearest integer */
    q -= 12582912.0f;
    q = q < (float)low ? (float)low : q > (float)high ? (float)high : q;
    wq += w[i] * q;
    qq += q * q;
    error += (w[i] - q * scale) * (w[i] - q * scale);
  }
  *better = qq > 0 ? wq / qq : scale;
  return error;
}

/* A scale as it is stored: of weights too large for it, the largest one, which clips them. */
static uint16_t stored_scale(float scale) {
  const float largest = 65504.0f;
  return float_to_half(scale > largest ? largest : scale < -largest ? -largest : scale);
}

static uint16_t best_scale(int bits, size_t n, const float *w) {
  float most = 0, extreme = 0;
  for (size_t i = 0; i < n; i++)
    if (fabsf(w[i]) > most) most = fabsf(w[i]), extreme = w[i];
  if (!(most > 1e-30f) || !(most < 3e38f)) return 0;
  if (bits == 8) return stored_scale(most / 127.0f);
  /* -8 has no positive twin: the widest weight takes it, or 7 of either sign, or is clipped a little. */
  float best = extreme / -8.0f, least = INFINITY;
  for (int step = -5; step <= 5; step++)
    for (int sign = -1; sign <= 1; sign += 2) {
      float scale = extreme / ((float)sign * 8.0f + 0.25f * (float)step), better;
      error_at(n, w, scale, -8, 7, &better);
      const float stored = half_to_float(stored_scale(better));
      if (stored == 0) continue;
      const float error = error_at(n, w, stored, -8, 7, &better);
      if (error < least) least = error, best = stored;
    }
  return stored_scale(best);
}

typedef struct quantizing {
  int bits;
  size_t columns;
  const float *weights;
  int8_t *q;
  uint16_t *scales;
} quantizing;

static void quantize_row(void *context, size_t row) {
  const quantizing *job = context;
  const size_t groups = up_to(job->columns, GROUP) / GROUP;
  const int low = job->bits == 4 ? -8 : -127, high = job->bits == 4 ? 7 : 127;
  for (size_t group = 0; group < groups; group++) {
    const size_t start = group * GROUP, n = job->columns - start < GROUP ? job->columns - start : GROUP;
    const float *w = job->weights + row * job->columns + start;
    const uint16_t half = best_scale(job->bits, n, w);
    const float scale = half_to_float(half);
    job->scales[row * groups + group] = half;
    for (size_t i = 0; i < n; i++) {
      const float q = scale != 0 && isfinite(scale) ? w[i] / scale : 0;
      const float kept = q > (float)high ? (float)high : q < (float)low ? (float)low : q == q ? q : 0;
      job->q[row * job->columns + start + i] = (int8_t)lrintf(kept);
    }
  }
}

int edge_quantize(const edge_pool *pool, int bits, size_t rows, size_t columns, const float *weights, int8_t *q,
                  uint16_t *scales) {
  if (bad(bits, rows, columns)) return EDGE_BAD_ARGUMENT;
  quantizing job = {bits, columns, weights, q, scales};
  edge_parallel(pool, rows, quantize_row, &job);
  return 0;
}

/* Where (row, column) of a tiled matrix lies: the byte, and for 4 bits which half of it. */
static uint8_t *tiled_byte(int bits, size_t groups, uint8_t *packed, size_t row, size_t column, int *high) {
  const size_t lane = row % TILE, quad = column % GROUP / 4, k = column % 4;
  uint8_t *at = packed + (row / TILE * groups + column / GROUP) * tile_group_bytes(bits);
  *high = bits == 4 && quad >= 4;
  return at + (bits == 4 ? quad % 4 : quad) * 64 + 4 * lane + k;
}

static uint8_t *tiled_scale(int bits, size_t groups, uint8_t *packed, size_t row, size_t group) {
  return packed + (row / TILE * groups + group) * tile_group_bytes(bits) + (size_t)bits * 64 + 2 * (row % TILE);
}

int edge_pack_tiled(int bits, size_t rows, size_t columns, const int8_t *q, const uint16_t *scales, void *packed) {
  if (bad(bits, rows, columns)) return EDGE_BAD_ARGUMENT;
  const size_t groups = up_to(columns, GROUP) / GROUP;
  memset(packed, 0, edge_tiled_bytes(bits, rows, columns));
  for (size_t row = 0; row < up_to(rows, TILE); row++) {
    for (size_t column = 0; column < groups * GROUP; column++) {
      int high;
      uint8_t *byte = tiled_byte(bits, groups, packed, row, column, &high);
      const int value = row < rows && column < columns ? q[row * columns + column] : 0;
      if (bits == 8)
        *byte = (uint8_t)value;
      else
        *byte |= (uint8_t)((value + 8) << (high ? 4 : 0));
    }
    for (size_t group = 0; row < rows && group < groups; group++)
      memcpy(tiled_scale(bits, groups, packed, row, group), &scales[row * groups + group], 2);
  }
  return 0;
}

int edge_unpack_tiled(int bits, size_t rows, size_t columns, const void *packed, int8_t *q, uint16_t *scales) {
  if (bad(bits, rows, columns)) return EDGE_BAD_ARGUMENT;
  const size_t groups = up_to(columns, GROUP) / GROUP;
  for (size_t row = 0; row < rows; row++) {
    for (size_t column = 0; column < columns; column++) {
      int high;
      const uint8_t byte = *tiled_byte(bits, groups, (uint8_t *)packed, row, column, &high);
      q[row * columns + column] = bits == 8 ? (int8_t)byte : (int8_t)((byte >> (high ? 4 : 0) & 15) - 8);
    }
    for (size_t group = 0; group < groups; group++)
      memcpy(&scales[row * groups + group], tiled_scale(bits, groups, (uint8_t *)packed, row, group), 2);
  }
  return 0;
}

int edge_embed(int bits, size_t rows, size_t columns, const void *packed, size_t tokens, const int64_t *ids, float *out) {
  if (bad(bits, rows, columns)) return EDGE_BAD_ARGUMENT;
  const size_t groups = up_to(columns, GROUP) / GROUP;
  for (size_t token = 0; token < tokens; token++)
    if (ids[token] < 0 || (uint64_t)ids[token] >= rows) return EDGE_BAD_ARGUMENT;
  for (size_t token = 0; token < tokens; token++)
    for (size_t column = 0; column < columns; column++) {
      const size_t row = (size_t)ids[token];
      int high;
      uint16_t scale;
      const uint8_t byte = *tiled_byte(bits, groups, (uint8_t *)packed, row, column, &high);
      memcpy(&scale, tiled_scale(bits, groups, (uint8_t *)packed, row, column / GROUP), 2);
      const int q = bits == 8 ? (int8_t)byte : (byte >> (high ? 4 : 0) & 15) - 8;
      out[token * columns + column] = (float)q * half_to_float(scale);
    }
  return 0;
}

/* Where output `column` of a neuron's weights lies; for 4 bits also the shift in its byte. */
static uint8_t *neuron_byte(int bits, size_t width, uint8_t *neuron, size_t column, int *shift) {
  uint8_t *at = neuron + neuron_scales_bytes(width);
  *shift = 0;
  if (bits == 8) return at + column;
  const size_t lane = column % 16, nibble = column % STRIP / 16;
  *shift = (int)(nibble % 2) * 4;
  return at + column / STRIP * 64 + 4 * lane + nibble / 2;
}

int edge_pack_neurons(int bits, size_t hidden, size_t width, const int8_t *q, const uint16_t *scales, void *packed) {
  if (bad(bits, hidden, width)) return EDGE_BAD_ARGUMENT;
  const size_t groups = up_to(width, GROUP) / GROUP, stride = neuron_bytes(bits, width);
  memset(packed, 0, hidden * stride);
  for (size_t neuron = 0; neuron < hidden; neuron++) {
    uint8_t *at = (uint8_t *)packed + neuron * stride;
    memcpy(at, scales + neuron * groups, 2 * groups);
    for (size_t column = 0; column < width; column++) {
      int shift;
      uint8_t *byte = neuron_byte(bits, width, at, column, &shift);
      const int value = q[neuron * width + column];
      *byte |= bits == 8 ? (uint8_t)value : (uint8_t)((value & 15) << shift);
    }
  }
  return 0;
}

int edge_unpack_neurons(int bits, size_t hidden, size_t width, const void *packed, int8_t *q, uint16_t *scales) {
  if (bad(bits, hidden, width)) return EDGE_BAD_ARGUMENT;
  const size_t groups = up_to(width, GROUP) / GROUP, stride = neuron_bytes(bits, width);
  for (size_t neuron = 0; neuron < hidden; neuron++) {
    const uint8_t *at = (const uint8_t *)packed + neuron * stride;
    memcpy(scales + neuron * groups, at, 2 * groups);
    for (size_t column = 0; column < width; column++) {
      int shift;
      const uint8_t byte = *neuron_byte(bits, width, (uint8_t *)at, column, &shift);
      q[neuron * width + column] = bits == 8 ? (int8_t)byte : (int8_t)(((byte >> shift & 15) ^ 8) - 8);
    }
  }
  return 0;
}
