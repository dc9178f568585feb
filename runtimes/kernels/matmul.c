/* Matrix products: activations are quantized once, then every task takes a run of tiles, for all tokens. */
#include <math.h>

#include "format.h"

/* Beyond so many tokens their quantized rows no longer stay in a core's cache beside a tile. */
#define MOST_TOKENS 64

typedef struct product {
  const instruction_set *isa;
  int bits;
  size_t blocks, rows, columns, tiles, chunks;
  const uint8_t *packed, *fine; /* with `fine` the two are planes */
  size_t tokens;
  const float *x;
  float *y;
  activations *acts; /* one a block */
  int alone;         /* a block's only task is the one that needs its activations quantized */
  rows_task then;
  void *context;
} product;

static void quantize_token(void *context, size_t index) {
  const product *job = context;
  const size_t token = index / job->blocks, block = index % job->blocks;
  job->isa->quantize(job->columns, job->x + index * job->columns, job->bits == 4 ? 8 : 128, token, &job->acts[block]);
}

/* Tile by tile: there are several tokens, for which putting one together is little work. */
static void multiply_planes(const product *job, size_t first, size_t last) {
  const size_t groups = job->acts->groups;
  uint8_t *whole = edge_scratch(SCRATCH_TASK, groups * tile_group_bytes(4));
  for (size_t tile = first; tile < last; tile++) {
    const size_t done = tile * TILE, valid = job->rows - done < TILE ? job->rows - done : TILE;
    if (!whole) {
      for (size_t token = 0; token < job->tokens; token++)
        for (size_t i = 0; i < valid; i++) job->y[token * job->rows + done + i] = NAN;
      continue;
    }
    edge_merge_tile(groups, valid, job->packed + tile * coarse_tile_bytes(groups), job->fine + done * fine_row_bytes(groups), whole);
    job->isa->product4(0, 1, valid, whole, job->tokens, job->acts, job->y + done, job->rows);
  }
}

static void multiply(void *context, size_t index) {
  const product *job = context;
  const size_t block = index / job->chunks, chunk = index % job->chunks;
  const size_t first = job->tiles * chunk / job->chunks, last = job->tiles * (chunk + 1) / job->chunks;
  const size_t groups = job->acts[block].groups;
  if (job->fine) {
    multiply_planes(job, first, last);
    return;
  }
  const uint8_t *packed = job->packed + block * job->tiles * groups * tile_group_bytes(job->bits);
  if (job->alone) quantize_token(context, block);
  (job->bits == 4 ? job->isa->product4 : job->isa->product8)(first, last, job->rows, packed, job->tokens, &job->acts[block],
                                                             job->y + block * job->rows, job->blocks * job->rows);
  if (job->then) job->then(job->context, index, first * TILE, last * TILE < job->rows ? last * TILE : job->rows);
}

static int multiply_blocks(const edge_pool *pool, size_t blocks, int bits, size_t rows, size_t columns, const uint8_t *packed,
                           const uint8_t *fine, size_t tokens, const float *x, float *y, rows_task then, void *context) {
  const size_t groups = up_to(columns, GROUP) / GROUP, padded = up_to(tokens * groups * GROUP, 64);
  const size_t part = up_to(tokens * groups * sizeof(float), 64);
  const size_t each = padded + 2 * part, head = up_to(blocks * sizeof(activations), 64);
  uint8_t *memory = edge_scratch(SCRATCH_PRODUCT, head + blocks * each);
  if (!memory) return EDGE_NO_MEMORY;
  activations *acts = (activations *)memory;
  for (size_t block = 0; block < blocks; block++) {
    uint8_t *at = memory + head + block * each;
    acts[block] = (activations){groups, (int8_t *)at, (float *)(at + padded), (int32_t *)(at + padded + part)};
  }
  product job = {edge_isa(), bits, blocks, rows, columns, up_to(rows, TILE) / TILE, 1, packed, fine, tokens, x, y, acts, 0, then,
                 context};
  const size_t wanted = edge_threads(pool) * PRODUCT_TASKS;
  job.chunks = wanted <= blocks ? 1 : (wanted + blocks - 1) / blocks;
  if (job.chunks > job.tiles) job.chunks = job.tiles;
  job.alone = tokens == 1 && blocks > 1 && job.chunks == 1;
  /* One token is quantized sooner than other threads are told of it. */
  if (!job.alone) edge_parallel(tokens > 1 ? pool : NULL, tokens * blocks, quantize_token, &job);
  edge_parallel(pool, blocks * job.chunks, multiply, &job);
  return 0;
}

int edge_matmul_blocks(const edge_pool *pool, size_t blocks, int bits, size_t rows, size_t columns, const void *packed,
                       size_t tokens, const float *x, float *y) {
  if ((bits != 4 && bits != 8) || !blocks || !rows || !columns) return EDGE_BAD_ARGUMENT;
  int status = 0;
  for (size_t done = 0; done < tokens && !status; done += MOST_TOKENS) {
    const size_t n = tokens - done < MOST_TOKENS ? tokens - done : MOST_TOKENS;
    status = multiply_blocks(pool, blocks, bits, rows, columns, packed, NULL, n, x + done * blocks * columns, y + done * blocks * rows,
                             NULL, NULL);
  }
  return status;
}

int edge_matmul_planes(const edge_pool *pool, size_t rows, size_t columns, const uint8_t *coarse, const uint8_t *fine, size_t tokens,
                       const float *x, float *y) {
  return multiply_blocks(pool, 1, 4, rows, columns, coarse, fine, tokens, x, y, NULL, NULL);
}

int edge_matmul_then(const edge_pool *pool, int bits, size_t rows, size_t columns, const void *packed, const float *x, float *y,
                     rows_task then, void *context) {
  if ((bits != 4 && bits != 8) || !rows || !columns) return EDGE_BAD_ARGUMENT;
  return multiply_blocks(pool, 1, bits, rows, columns, packed, NULL, 1, x, y, then, context);
}

int edge_matmul(const edge_pool *pool, int bits, size_t rows, size_t columns, const void *packed, size_t tokens, const float *x,
                float *y) {
  return edge_matmul_blocks(pool, 1, bits, rows, columns, packed, tokens, x, y);
}

int edge_rms_norm(size_t tokens, size_t width, const float *x, float eps, const float *gain, float *out) {
  if (!width) return EDGE_BAD_ARGUMENT;
  for (size_t token = 0; token < tokens; token++, x += width, out += width) {
    float sums[16] = {0};
    size_t i = 0;
    for (; i + 16 <= width; i += 16)
      for (size_t lane = 0; lane < 16; lane++) sums[lane] += x[i + lane] * x[i + lane];
    for (; i < width; i++) sums[i % 16] += x[i] * x[i];
    float sum = 0;
    for (size_t lane = 0; lane < 16; lane++) sum += sums[lane];
    const float scale = 1.0f / sqrtf(sum / (float)width + eps);
    if (gain)
      for (i = 0; i < width; i++) out[i] = x[i] * scale * gain[i];
    else
      for (i = 0; i < width; i++) out[i] = x[i] * scale;
  }
  return 0;
}
