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
  const float *query;
  float *state; /* of one token: [parts][shape.state] */
  float *turned;
  float *out;
} mla_job;

static attention shape_of(size_t heads, size_t latent, size_t row) {
  const size_t blocks = up_to(heads, 16) / 16;
  return (attention){heads, latent, row, blocks * 16 * row, blocks * (32 + 16 * up_to(latent, 16))};
}
static size_t tile_floats(const attention *shape) { return up_to(shape->row, 16) * RUN + 16 * RUN; }

/* The query [heads][row] as [blocks][row][16 heads]. */
static void turn(const attention *shape, const float *query, float *turned) {
  memset(turned, 0, shape->turned * sizeof(float));
  for (size_t head = 0; head < shape->heads; head++)
    for (size_t d = 0; d < shape->row; d++)
      turned[(head / 16 * shape->row + d) * 16 + head % 16] = query[head * shape->row + d];
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
    float *to = out + head * shape->latent;
    memset(to, 0, shape->latent * sizeof(float));
    for (size_t part = 0; part < parts; part++) {
      const float *mine = state + part * whole;
      const float weight = expf(mine[lane] - most);
      sum += weight * mine[16 + lane];
      for (size_t v = 0; v < shape->latent; v++) to[v] += weight * mine[32 + lane * padded + v];
    }
    for (size_t v = 0; v < shape->latent; v++) to[v] /= sum;
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
    turn(shape, job->query + (begin + i) * shape->heads * shape->row, memory + i * shape->turned);
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

int edge_mla(const edge_pool *pool, size_t heads, size_t latent, size_t rope, size_t position, const uint16_t *cache,
             size_t tokens, const uint16_t *own, const float *query, float *out) {
  if (!heads || !latent) return EDGE_BAD_ARGUMENT;
  const attention shape = shape_of(heads, latent, latent + rope);
  mla_job job = {edge_isa(), shape, position, 1, tokens, cache, own, query, NULL, NULL, out};
  if (tokens > 1) {
    job.parts = edge_threads(pool) * TASKS_PER_THREAD < tokens ? edge_threads(pool) * TASKS_PER_THREAD : tokens;
    edge_parallel(pool, job.parts, some_of_many, &job);
    return 0;
  }
  if (!tokens) return 0;
  job.parts = position / ROWS_PER_PART < edge_threads(pool) ? position / ROWS_PER_PART : edge_threads(pool);
  if (job.parts < 1) job.parts = 1;
  float *memory = edge_scratch(SCRATCH_ATTENTION, (shape.turned + job.parts * shape.state) * sizeof(float));
  if (!memory) return EDGE_NO_MEMORY;
  job.turned = memory;
  job.state = memory + shape.turned;
  turn(&shape, query, job.turned);
  edge_parallel(pool, job.parts, part_of_one, &job);
  finish(&shape, job.parts, job.state, out);
  return 0;
}
