/* The MLP of squared ReLUs with an up half in planes: of a token, neurons that the high bits say will be zero are left out. */
#include "format.h"

#define MOST_TOKENS 64

typedef struct skip_job {
  const instruction_set *isa;
  size_t rows, groups, tiles, chunks;
  const uint8_t *coarse, *fine;
  const activations *plain, *turned;
  float norm;     /* of x */
  uint32_t *kept;    /* [rows], each chunk's in its own part, and so are the live ones of them */
  live_neuron *live; /* [rows + 1] */
  size_t *read, *found; /* [chunks]: how many */
  float *y;
} skip_job;

/* Lanes of the fine plane are groups: activations [groups / 16][quads][16 groups][4], where `plain` has [groups][quads][4]. Their
 * scales and offsets are those of planes.h. */
static void turn(const activations *plain, activations *turned) {
  memset(turned->q, 0, turned->groups * GROUP);
  memset(turned->scale, 0, turned->groups * sizeof(float));
  memset(turned->bias, 0, turned->groups * sizeof(int32_t));
  for (size_t group = 0; group < plain->groups; group++) {
    turned->scale[group] = plain->scale[group] / 64.0f;
    turned->bias[group] = plain->bias[group] * 96;
    for (size_t quad = 0; quad < GROUP / 4; quad++)
      memcpy(turned->q + group / TILE * TILE * GROUP + quad * 4 * TILE + group % TILE * 4, plain->q + group * GROUP + quad * 4, 4);
  }
}

/* What of some tiles' rows may be live, in order: also what is not a number. */
static size_t keep(const skip_job *job, size_t first, size_t last, uint32_t *kept) {
  size_t count = 0;
  for (size_t tile = first; tile < last; tile++) {
    const size_t valid = job->rows - tile * TILE < TILE ? job->rows - tile * TILE : TILE;
    const float *y = job->y + tile * TILE;
    float reach[TILE];
    memcpy(reach, job->coarse + (tile + 1) * coarse_tile_bytes(job->groups) - sizeof reach, sizeof reach);
    for (size_t i = 0; i < valid; i++) {
      kept[count] = (uint32_t)(tile * TILE + i);
      count += !(y[i] < -reach[i] * job->norm);
    }
  }
  return count;
}

/* The fine plane's rows of a tile come while the coarse plane of the next is read: no CPU guesses which they are. They are few of
 * what a core's smallest cache would have to hold, so they wait in the next one. */
static void skip_part(void *context, size_t chunk) {
  const skip_job *job = context;
  const size_t first = job->tiles * chunk / job->chunks, last = job->tiles * (chunk + 1) / job->chunks;
  const size_t stride = fine_row_bytes(job->groups), step = job->isa->coarse_step();
  uint32_t *kept = job->kept + first * TILE;
  size_t count = 0, done = 0;
  for (size_t tile = first; tile < last; tile += step) {
    const size_t end = tile + step < last ? tile + step : last, before = count;
    job->isa->coarse(tile, end, job->rows, job->coarse, job->plain, job->y);
    count += keep(job, tile, end, kept + count);
    for (size_t i = before; i < count; i++)
      for (size_t at = 0; at < stride; at += 64) __builtin_prefetch(job->fine + kept[i] * stride + at, 0, 2);
    job->isa->fine(job->fine, before - done, kept + done, job->turned, job->y);
    done = before;
  }
  job->isa->fine(job->fine, count - done, kept + done, job->turned, job->y);
  live_neuron *live = job->live + first * TILE;
  size_t found = 0;
  for (size_t i = 0; i < count; i++) {
    const float squared = relu2(job->y[kept[i]]);
    live[found] = (live_neuron){kept[i], squared};
    found += squared != 0.0f;
  }
  job->read[chunk] = count;
  job->found[chunk] = found;
}

static float norm_of(size_t n, const float *x) {
  float sums[16] = {0}, sum = 0;
  size_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (size_t lane = 0; lane < 16; lane++) sums[lane] += x[i + lane] * x[i + lane];
  for (; i < n; i++) sum += x[i] * x[i];
  for (size_t lane = 0; lane < 16; lane++) sum += sums[lane];
  return sqrtf(sum);
}

static activations activations_at(size_t groups, uint8_t *memory) {
  float *scale = (float *)(memory + groups * GROUP);
  return (activations){groups, (int8_t *)memory, scale, (int32_t *)(scale + up_to(groups, TILE))};
}
static size_t activations_bytes(size_t groups) { return groups * GROUP + 2 * up_to(groups, TILE) * sizeof(float); }

/* `middle` holds hidden floats, then the list of live neurons. */
static int mlp_of_one(const edge_pool *pool, size_t width, size_t hidden, const uint8_t *coarse, const uint8_t *fine,
                      const uint8_t *down, const float *x, float *middle, float *y, uint64_t *live, uint64_t *read) {
  const size_t groups = up_to(width, GROUP) / GROUP, turned_groups = up_to(groups, TILE), tiles = up_to(hidden, TILE) / TILE;
  const size_t wanted = edge_threads(pool) * PRODUCT_TASKS, chunks = wanted < tiles ? wanted : tiles;
  const size_t acts = up_to(activations_bytes(groups), 64), turned_bytes = up_to(activations_bytes(turned_groups), 64);
  const size_t list = up_to((tiles * TILE + 1) * sizeof(uint32_t), 64);
  uint8_t *memory = edge_scratch(SCRATCH_PRODUCT, acts + turned_bytes + list + 2 * chunks * sizeof(size_t));
  if (!memory) return EDGE_NO_MEMORY;
  activations plain = activations_at(groups, memory), turned = activations_at(turned_groups, memory + acts);
  uint8_t *rest = memory + acts + turned_bytes;
  size_t *counts = (size_t *)(rest + list), found = 0;
  live_neuron *lives = (live_neuron *)(middle + up_to(hidden, TILE));
  skip_job job = {edge_isa(), hidden, groups, tiles, chunks, coarse, fine, &plain, &turned, norm_of(width, x), (uint32_t *)rest,
                  lives, counts, counts + chunks, middle};
  job.isa->quantize(width, x, 1, 0, &plain);
  turn(&plain, &turned);
  edge_parallel(pool, chunks, skip_part, &job);
  for (size_t chunk = 0; chunk < chunks; chunk++) {
    memmove(lives + found, lives + tiles * chunk / chunks * TILE, job.found[chunk] * sizeof *lives);
    found += job.found[chunk];
    *read += job.read[chunk];
  }
  *live += found;
  return edge_down_live(pool, 4, width, down, lives, found, y);
}

int edge_relu2_mlp_skip(const edge_pool *pool, int bits, size_t width, size_t hidden, const void *coarse, const void *fine,
                        const void *down, size_t tokens, const float *x, float *y, uint64_t *live, uint64_t *read) {
  if (bits != 4 || !width || !hidden || hidden > UINT32_MAX) return EDGE_BAD_ARGUMENT;
  uint64_t some_live, some_read;
  if (!live) live = &some_live;
  if (!read) read = &some_read;
  *live = *read = 0;
  if (!tokens) return 0;
  const size_t most = tokens < MOST_TOKENS ? tokens : MOST_TOKENS, lists = tokens == 1 ? (hidden + TILE + 1) * sizeof(live_neuron) : 0;
  float *middle = edge_scratch(SCRATCH_LAYER, most * up_to(hidden, TILE) * sizeof(float) + lists);
  if (!middle) return EDGE_NO_MEMORY;
  if (tokens == 1) return mlp_of_one(pool, width, hidden, coarse, fine, down, x, middle, y, live, read);
  for (size_t done = 0; done < tokens; done += most) {
    const size_t n = tokens - done < most ? tokens - done : most;
    uint64_t here = 0;
    int status = edge_matmul_planes(pool, hidden, width, coarse, fine, n, x + done * width, middle);
    if (status) return status;
    edge_relu2(pool, n, hidden, middle);
    status = edge_sparse_down(pool, bits, width, hidden, down, n, middle, y + done * width, &here);
    if (status) return status;
    *live += here;
    *read += n * hidden;
  }
  return 0;
}
