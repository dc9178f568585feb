/* The product of a language model's head: a coarse int4 matrix for every output, a finer one for what it leaves out, which is
 * read only for the outputs that matter. A softmax of tens of thousands of logits is decided by few of them; the others
 * have what int4 makes of them. */
#include "format.h"

/* Of one token's outputs those that are refined: the tiles with the largest, a share of all and never fewer than some. */
#define SHARE 16
#define AT_LEAST 16
/* Below the largest logit by more than this, an output's chance is under 2e-5 of the largest one's. */
#define REACH 11.0f
#define BINS 1024
/* Outputs of several tokens that are refined at a time, which bounds the memory it takes. */
#define SLICE 4096

typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t i4 __attribute__((vector_size(16)));

typedef struct head_job {
  const instruction_set *isa;
  size_t rows, bytes;
  const uint8_t *fine;
  const activations *x;
  const uint32_t *tiles;
  float *y;
} head_job;

static void refine(void *context, size_t index) {
  const head_job *job = context;
  const size_t tile = job->tiles[index], valid = job->rows - tile * TILE < TILE ? job->rows - tile * TILE : TILE;
  float more[TILE];
  job->isa->product4(0, 1, valid, job->fine + tile * job->bytes, 1, job->x, more, TILE);
  for (size_t i = 0; i < valid; i++) job->y[tile * TILE + i] += more[i];
}

static v4 greater(v4 a, v4 b) { return (v4)(((i4)a & (a > b)) | ((i4)b & ~(a > b))); } /* b if a is NaN */

/* Each tile's largest of y [rows]; returns the largest of all, or -infinity if none is a number. */
static float find_largest(size_t rows, const float *y, float *largest) {
  float top = -INFINITY;
  for (size_t tile = 0; tile * TILE < rows; tile++) {
    const float *at = y + tile * TILE;
    float most = -INFINITY;
    if ((tile + 1) * TILE <= rows) {
      const v4 none = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
      const v4 *four = (const v4 *)at;
      const v4 found = greater(greater(four[0], greater(four[1], none)), greater(four[2], greater(four[3], none)));
      for (int i = 0; i < 4; i++) most = found[i] > most ? found[i] : most;
    } else {
      for (size_t i = tile * TILE; i < rows; i++) most = y[i] > most ? y[i] : most;
    }
    largest[tile] = most;
    top = most > top ? most : top;
  }
  return top;
}

/* Up to some `wanted` tiles, those with the largest outputs that are within reach of the largest. */
static size_t find_tiles(size_t count, const float *largest, float top, size_t wanted, uint32_t *tiles) {
  if (!isfinite(top)) return 0;
  uint32_t bins[BINS] = {0};
  const float step = (float)BINS / REACH;
  for (size_t tile = 0; tile < count; tile++)
    if (largest[tile] >= top - REACH) {
      const size_t bin = (size_t)((top - largest[tile]) * step);
      bins[bin < BINS ? bin : BINS - 1]++;
    }
  size_t last = 1, found = bins[0];
  while (last < BINS && found + bins[last] <= wanted) found += bins[last++];
  const float least = top - (float)last / step;
  size_t chosen = 0;
  for (size_t tile = 0; tile < count; tile++) {
    tiles[chosen] = (uint32_t)tile;
    chosen += largest[tile] >= least;
  }
  return chosen;
}

/* Several tokens: everything is refined. */
static int refine_all(const edge_pool *pool, size_t rows, size_t columns, const uint8_t *fine, size_t tokens, const float *x,
                      float *y) {
  float *more = edge_scratch(SCRATCH_LAYER, tokens * (rows < SLICE ? rows : SLICE) * sizeof(float));
  if (!more) return EDGE_NO_MEMORY;
  for (size_t first = 0; first < rows; first += SLICE) {
    const size_t some = rows - first < SLICE ? rows - first : SLICE;
    const int status = edge_matmul(pool, 4, some, columns, fine + edge_tiled_bytes(4, first, columns), tokens, x, more);
    if (status) return status;
    for (size_t token = 0; token < tokens; token++)
      for (size_t i = 0; i < some; i++) y[token * rows + first + i] += more[token * some + i];
  }
  return 0;
}

int edge_head(const edge_pool *pool, size_t rows, size_t columns, const void *coarse, const void *fine, size_t tokens,
              const float *x, float *y) {
  if (!rows || !columns || rows > UINT32_MAX) return EDGE_BAD_ARGUMENT;
  int status = edge_matmul(pool, 4, rows, columns, coarse, tokens, x, y);
  if (status || !tokens) return status;
  if (tokens > 1) return refine_all(pool, rows, columns, fine, tokens, x, y);
  const size_t groups = up_to(columns, GROUP) / GROUP, tiles = up_to(rows, TILE) / TILE;
  const size_t list = up_to(tiles * sizeof(uint32_t), 64), bytes = up_to(groups * GROUP, 64), part = up_to(groups * sizeof(float), 64);
  uint8_t *memory = edge_scratch(SCRATCH_LAYER, 2 * list + bytes + 2 * part);
  if (!memory) return EDGE_NO_MEMORY;
  uint8_t *at = memory + 2 * list;
  activations acts = {groups, (int8_t *)at, (float *)(at + bytes), (int32_t *)(at + bytes + part)};
  head_job job = {edge_isa(), rows, groups * tile_group_bytes(4), fine, &acts, (uint32_t *)memory, y};
  job.isa->quantize(columns, x, 8, 0, &acts);
  float *largest = (float *)(memory + list);
  const float top = find_largest(rows, y, largest);
  const size_t wanted = tiles / SHARE > AT_LEAST ? tiles / SHARE : AT_LEAST;
  edge_parallel(pool, find_tiles(tiles, largest, top, wanted, (uint32_t *)memory), refine, &job);
  return 0;
}
