/* How matrices and activations lie in memory, and the table of functions that each instruction set fills in.
 *
 * Tiled: a tile is 16 rows, its groups of 32 columns follow each other, tile after tile. Rows and columns are filled up with
 * zeros. One group of a tile, rows r = 0..15, columns c = 0..31, c = 4 * quad + k:
 *   bits 4: 4 vectors of 64 bytes; byte 4r + k of vector v holds q + 8 of quad v in its low nibble, of quad v + 4 in its high one
 *   bits 8: 8 vectors of 64 bytes; byte 4r + k of vector v holds q of quad v
 *   then 16 float16 scales, one a row. So 288 and 544 bytes.
 * A 32-bit lane is then four columns of one row, what an instruction for dot products of bytes takes.
 *
 * Neurons: each is its float16 scales, a group of 32 outputs each, then its weights; width is filled up to 128 outputs.
 *   bits 4: 64 bytes for 128 outputs; of 32-bit lane i, nibble n is output 16n + i, in two's complement
 *   bits 8: the outputs in order
 *
 * Planes: a 4-bit matrix in two, q + 8 = 4 * high + low. Both are made of blocks of 32 values of 16 lanes, quads as above: byte 4 * lane + k
 * of vector v of two holds quads v, v + 2, v + 4 and v + 6 from its lowest bits up, then 16 float16 scales. So 160 bytes.
 *   coarse   the high halves, in tiles: a lane is a row, a block a group of its columns; then 16 float32, each row's reach
 *   fine     the low halves, row by row: a lane is a group of columns, a block 16 of them, filled up with zeros
 */
#ifndef EDGE_FORMAT_H
#define EDGE_FORMAT_H
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "edge_kernels.h"

#define GROUP 32
#define TILE 16
#define STRIP 128
#define RUN 32 /* rows of a cache that attention takes at a time */

static inline size_t up_to(size_t n, size_t step) { return (n + step - 1) / step * step; }
static inline size_t tile_group_bytes(int bits) { return (size_t)bits * (TILE * GROUP / 8) + 2 * TILE; }
static inline size_t neuron_bytes(int bits, size_t width) {
  const size_t padded = up_to(width, STRIP);
  return padded / 8 * (size_t)bits + padded / GROUP * 2;
}
#define PLANE_BLOCK 160 /* bytes of a plane's block */
static inline size_t coarse_tile_bytes(size_t groups) { return groups * PLANE_BLOCK + TILE * sizeof(float); }
static inline size_t fine_row_bytes(size_t groups) { return up_to(groups, TILE) / TILE * PLANE_BLOCK; }
static inline size_t neuron_scales_bytes(size_t width) { return up_to(width, STRIP) / GROUP * 2; }

/* Quantized activations: [tokens][groups * 32] bytes, and for each group its scale and -offset * sum(q), which takes out
 * what weights stored with an offset (8, or 128 where an instruction wants unsigned bytes) have too much. */
typedef struct activations {
  size_t groups;
  int8_t *q;
  float *scale;
  int32_t *bias;
} activations;

/* A neuron that is not zero. */
typedef struct live_neuron {
  uint32_t index;
  float value;
} live_neuron;

/* Sizes of attention, and how many floats a query and its state take. */
typedef struct attention {
  size_t heads, latent, row, turned, state;
} attention;

typedef struct instruction_set {
  const char *name;
  int (*usable)(void);
  /* x [columns] to one token of `out`. */
  void (*quantize)(size_t columns, const float *x, int32_t offset, size_t token, activations *out);
  /* Tiles first..last of a tiled matrix; y [tokens][stride], rows of it. */
  void (*product4)(size_t first, size_t last, size_t rows, const uint8_t *packed, size_t tokens, const activations *x,
                   float *y, size_t stride);
  void (*product8)(size_t first, size_t last, size_t rows, const uint8_t *packed, size_t tokens, const activations *x,
                   float *y, size_t stride);
  /* y [padded width] += the weights of `count` neurons times their values; coefficients is scratch, 4 * padded width / 32. */
  void (*down4)(size_t width, const uint8_t *packed, size_t count, const live_neuron *live, float *coefficients, float *y);
  void (*down8)(size_t width, const uint8_t *packed, size_t count, const live_neuron *live, float *coefficients, float *y);
  /* The same for many tokens and one strip of 128 outputs, see down_strips in mlp.c: w [count][128] floats. */
  void (*expand4)(size_t width, const uint8_t *packed, size_t first, size_t count, size_t strip, float *w);
  void (*expand8)(size_t width, const uint8_t *packed, size_t first, size_t count, size_t strip, float *w);
  void (*gather)(size_t first, size_t count, const live_neuron *live, const float *w, float *y);
  /* Attention of `tokens` queries to the same `count` rows: see attend.h. */
  void (*attend)(const attention *shape, size_t count, const uint16_t *rows, size_t tokens, const float *turned, float *scratch,
                 float *state);
  /* One token and a matrix in planes, `x` quantized with an offset of 1. Tiles first..last of the coarse one, a low half taken as
   * 1.5: y [rows]. */
  void (*coarse)(size_t first, size_t last, size_t rows, const uint8_t *packed, const activations *x, float *y);
  /* How many of those tiles it takes at once. */
  size_t (*coarse_step)(void);
  /* What the fine one adds to y at `count` rows; `x` turned, see skip.c. */
  void (*fine)(const uint8_t *packed, size_t count, const uint32_t *rows, const activations *x, float *y);
} instruction_set;

extern const instruction_set edge_portable, edge_avx2, edge_avx512vnni, edge_amx, edge_neon, edge_dotprod;
const instruction_set *edge_isa(void);

/* edge_matmul of at most 64 tokens by a matrix in planes: tiles are put together on the way. */
int edge_matmul_planes(const edge_pool *pool, size_t rows, size_t columns, const uint8_t *coarse, const uint8_t *fine, size_t tokens,
                       const float *x, float *y);
/* The down half for one token: y [width] from its live neurons. */
int edge_down_live(const edge_pool *pool, int bits, size_t width, const uint8_t *down, const live_neuron *live, size_t count, float *y);
/* Of a matrix in planes, one tile of `valid` rows in the tiled form. */
void edge_merge_tile(size_t groups, size_t valid, const uint8_t *coarse, const uint8_t *fine, uint8_t *tile);

/* Threads. */
void edge_parallel(const edge_pool *pool, size_t count, edge_task task, void *context);
static inline size_t edge_threads(const edge_pool *pool) { return pool && pool->threads ? pool->threads : 1; }

/* A product's tasks a thread: enough that one which is held up delays the others little, few enough that each reads a long run. */
#define PRODUCT_TASKS 4
/* edge_matmul of one token. As soon as a task, one of up to PRODUCT_TASKS a thread, has its rows first..last of y, it calls `then`. */
typedef void (*rows_task)(void *context, size_t task, size_t first, size_t last);
int edge_matmul_then(const edge_pool *pool, int bits, size_t rows, size_t columns, const void *packed, const float *x, float *y,
                     rows_task then, void *context);
/* edge_mla, its queries in two places, [tokens][heads][latent] and [tokens][heads][rope]. `out` may be the place of the former. */
int edge_mla_in_two(const edge_pool *pool, size_t heads, size_t latent, size_t rope, size_t position, const uint16_t *cache,
                    size_t tokens, const uint16_t *own, const float *query, const float *rotated, float *out);

/* relu(x)^2; what is not a number stays so. */
static inline float relu2(float x) { return x <= 0.0f ? 0.0f : x * x; }
/* The same in place for x [tokens][hidden]. */
void edge_relu2(const edge_pool *pool, size_t tokens, size_t hidden, float *x);

/* Memory of the calling thread that lasts until it ends, 64-byte aligned: one piece for each kind of user, since they call each
 * other. What was in a piece is lost when it is asked for again. */
enum scratch_user { SCRATCH_PRODUCT, SCRATCH_MLP, SCRATCH_ATTENTION, SCRATCH_LAYER, SCRATCH_TASK, SCRATCH_TILES, SCRATCH_USERS };
void *edge_scratch(enum scratch_user user, size_t bytes);

static inline float half_to_float(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = half & 0x7fffu;
  uint32_t bits;
  float value;
  if (rest >= 0x7c00u) {
    bits = 0x7f800000u | (rest & 0x3ffu) << 13;
  } else if (rest >= 0x400u) {
    bits = (rest << 13) + (112u << 23);
  } else {
    value = (float)rest * 0x1p-24f;
    memcpy(&bits, &value, 4);
  }
  bits |= sign;
  memcpy(&value, &bits, 4);
  return value;
}

/* To the nearest, ties to even. */
static inline uint16_t float_to_half(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return sign | 0x7e00u;
  if (bits >= 0x477ff000u) return sign | 0x7c00u;
  if (bits < 0x38800000u) { /* subnormal: let the addition round to units of 2^-24 */
    float magnitude;
    memcpy(&magnitude, &bits, 4);
    magnitude += 0.5f;
    memcpy(&bits, &magnitude, 4);
    return sign | (uint16_t)(bits - 0x3f000000u);
  }
  bits += 0xfffu + (bits >> 13 & 1u);
  return sign | (uint16_t)((bits - 0x38000000u) >> 13);
}
#endif
