/* Latent attention: one token's rows divided among the threads, or several tokens among them. */
#include "format.h"

/* Rows that are worth a thread of their own, and tasks that a thread gets of several tokens, whose rows differ in number. */
#define ROWS_PER_PART 64
#define TASKS_PER_THREAD 2

typedef struct mla_job {
  const instruction_set *isa;
  attention shape;
  size_t position, parts, tokens;
  const uint16_t *cache, *own;
  const float *query, *rotated; /* see edge_mla_in_two */
  size_t query_step, step;
  float *state; /* of one token: [parts][shape.state] */
  float *turned;
  float *out;
} mla_job;

static attention shape_of(size_t heads, size_t latent, size_t row) {
  const size_t blocks = up_to(heads, 16) / 16;
  return (attention){heads, latent, row, blocks * 16 * row, blocks * (32 + 16 * up_to(latent, 16))};
}
static size_t tile_floats(const attention *shape) { return up_to(shape->row, 16) * RUN + 16 * RUN; }

/* Token `token`'s query as [blocks][row][16 heads]. */
static void turn(const mla_job *job, size_t token, float *turned) {
  const attention *shape = &job->shape;
  const size_t latent = shape->latent, first = token * shape->heads;
  for (size_t head = 0; head < shape->heads; head += 16, turned += 16 * shape->row) {
    const size_t n = shape->heads - head < 16 ? shape->heads - head : 16;
    const float *query = job->query + (first + head) * job->query_step, *rotated = job->rotated + (first + head) * job->step;
    if (n < 16) memset(turned, 0, 16 * shape->row * sizeof(float));
    for (size_t d = 0; d < latent; d++)
      for (size_t lane = 0; lane < n; lane++) turned[16 * d + lane] = query[lane * job->query_step + d];
    for (size_t d = latent; d < shape->row; d++)
      for (size_t lane = 0; lane < n; lane++) turned[16 * d + lane] = rotated[lane * job->step + d - latent];
  }
}

static void begin_state(const attention *shape, float *state) {
  const size_t each = 32 + 16 * up_to(shape->latent, 16);
  memset(state, 0, shape->state * sizeof(float));
  for (size_t block = 0; block < up_to(shape->heads, 16) / 16; block++)
    for (size_t lane = 0; lane < 16; lane++) state[block * each + lane] = -1e30f;
}

/* Outputs [heads][latent] of the states that `parts` threads came to. */
static void finish(const attention *shape, size_t parts, const float *states, float *out) {
  const size_t padded = up_to(shape->latent, 16), each = 32 + 16 * padded, whole = shape->state;
  for (size_t head = 0; head < shape->heads; head++) {
    const float *state = states + head / 16 * each;
    const size_t lane = head % 16;
    float most = state[lane], sum = 0;
    for (size_t part = 1; part < parts; part++)
      if (state[part * whole + lane] > most) most = state[part * whole + lane];
    for (size_t part = 0; part < parts; part++) sum += expf(state[part * whole + lane] - most) * state[part * whole + 16 + lane];
    float *to = out + head * shape->latent;
    for (size_t part = 0; part < parts; part++) {
      const float *mine = state + part * whole + 32 + lane * padded;
      const float weight = expf(state[part * whole + lane] - most) / sum;
      if (part)
        for (size_t v = 0; v < shape->latent; v++) to[v] += weight * mine[v];
      else
        for (size_t v = 0; v < shape->latent; v++) to[v] = weight * mine[v];
    }
  }
}

static void part_of_one(void *context, size_t part) {
  const mla_job *job = context;
  const attention *shape = &job->shape;
  float *scratch = edge_scratch(SCRATCH_TASK, tile_floats(shape) * sizeof(float)), *state = job->state + part * shape->state;
  begin_state(shape, state);
  if (!scratch) return;
  const size_t first = job->position * part / job->parts, last = job->position * (part + 1) / job->parts;
  job->isa->attend(shape, last - first, job->cache + first * shape->row, 1, job->turned, scratch, state);
  if (part == job->parts - 1) job->isa->attend(shape, 1, job->own, 1, job->turned, scratch, state);
}

/* Some tokens, one after the other: the rows that all of them see are read once for all. */
static void some_of_many(void *context, size_t part) {
  const mla_job *job = context;
  const attention *shape = &job->shape;
  const size_t begin = job->tokens * part / job->parts, end = job->tokens * (part + 1) / job->parts, n = end - begin;
  float *memory = edge_scratch(SCRATCH_TASK, (n * (shape->turned + shape->state) + tile_floats(shape)) * sizeof(float));
  if (!memory) return;
  float *state = memory + n * shape->turned, *scratch = state + n * shape->state;
  for (size_t i = 0; i < n; i++) {
    turn(job, begin + i, memory + i * shape->turned);
    begin_state(shape, state + i * shape->state);
  }
  job->isa->attend(shape, job->position, job->cache, n, memory, scratch, state);
  job->isa->attend(shape, begin, job->own, n, memory, scratch, state);
  for (size_t i = 0; i < n; i++) {
    const float *turned = memory + i * shape->turned;
    job->isa->attend(shape, i + 1, job->own + begin * shape->row, 1, turned, scratch, state + i * shape->state);
    finish(shape, 1, state + i * shape->state, job->out + (begin + i) * shape->heads * shape->latent);
  }
}

static int run(const edge_pool *pool, mla_job *job) {
  const attention *shape = &job->shape;
  const size_t threads = edge_threads(pool);
  if (!shape->heads || !shape->latent) return EDGE_BAD_ARGUMENT;
  if (job->tokens > 1) {
    job->parts = threads * TASKS_PER_THREAD < job->tokens ? threads * TASKS_PER_THREAD : job->tokens;
    edge_parallel(pool, job->parts, some_of_many, job);
    return 0;
  }
  if (!job->tokens) return 0;
  job->parts = job->position / ROWS_PER_PART < threads ? job->position / ROWS_PER_PART : threads;
  if (job->parts < 1) job->parts = 1;
  job->turned = edge_scratch(SCRATCH_ATTENTION, (shape->turned + job->parts * shape->state) * sizeof(float));
  if (!job->turned) return EDGE_NO_MEMORY;
  job->state = job->turned + shape->turned;
  turn(job, 0, job->turned);
  edge_parallel(pool, job->parts, part_of_one, job);
  finish(shape, job->parts, job->state, job->out);
  return 0;
}

int edge_mla(const edge_pool *pool, size_t heads, size_t latent, size_t rope, size_t position, const uint16_t *cache,
             size_t tokens, const uint16_t *own, const float *query, float *out) {
  const size_t row = latent + rope;
  mla_job job = {edge_isa(), shape_of(heads, latent, row), position, 1, tokens, cache, own, query, query + latent, row, row, NULL, NULL, out};
  return run(pool, &job);
}

int edge_mla_in_two(const edge_pool *pool, size_t heads, size_t latent, size_t rope, size_t position, const uint16_t *cache,
                    size_t tokens, const uint16_t *own, const float *query, const float *rotated, float *out) {
  const size_t row = latent + rope;
  mla_job job = {edge_isa(), shape_of(heads, latent, row), position, 1, tokens, cache, own, query, rotated, latent, rope, NULL, NULL, out};
  return run(pool, &job);
}
