/* Latent attention: one token's rows divided among the threads, or each of several tokens with one thread. */
#include "format.h"

/* Rows that are worth a thread of their own. */
#define ROWS_PER_PART 64

typedef struct mla_job {
  const instruction_set *isa;
  size_t heads, latent, row, position, parts;
  const uint16_t *cache, *own;
  const float *query;
  float *state; /* of one token: [parts][state_floats] */
  float *turned;
  float *out;
} mla_job;

static size_t state_floats(const mla_job *job) { return up_to(job->heads, 16) / 16 * (32 + 16 * up_to(job->latent, 16)); }
static size_t turned_floats(const mla_job *job) { return up_to(job->heads, 16) * job->row; }
static size_t tile_floats(const mla_job *job) { return up_to(job->row, 16) * RUN + 16 * RUN; }

/* The query [heads][row] as [blocks][row][16 heads]. */
static void turn(const mla_job *job, const float *query, float *turned) {
  memset(turned, 0, turned_floats(job) * sizeof(float));
  for (size_t head = 0; head < job->heads; head++)
    for (size_t d = 0; d < job->row; d++)
      turned[(head / 16 * job->row + d) * 16 + head % 16] = query[head * job->row + d];
}

static void begin_state(const mla_job *job, float *state) {
  const size_t each = 32 + 16 * up_to(job->latent, 16);
  memset(state, 0, state_floats(job) * sizeof(float));
  for (size_t block = 0; block < up_to(job->heads, 16) / 16; block++)
    for (size_t lane = 0; lane < 16; lane++) state[block * each + lane] = -1e30f;
}

/* Outputs [heads][latent] of the states that `parts` threads came to. */
static void finish(const mla_job *job, size_t parts, const float *states, float *out) {
  const size_t padded = up_to(job->latent, 16), each = 32 + 16 * padded, whole = state_floats(job);
  for (size_t head = 0; head < job->heads; head++) {
    const float *state = states + head / 16 * each;
    const size_t lane = head % 16;
    float most = state[lane], sum = 0;
    for (size_t part = 1; part < parts; part++)
      if (state[part * whole + lane] > most) most = state[part * whole + lane];
    float *to = out + head * job->latent;
    memset(to, 0, job->latent * sizeof(float));
    for (size_t part = 0; part < parts; part++) {
      const float *mine = state + part * whole;
      const float weight = expf(mine[lane] - most);
      sum += weight * mine[16 + lane];
      for (size_t v = 0; v < job->latent; v++) to[v] += weight * mine[32 + lane * padded + v];
    }
    for (size_t v = 0; v < job->latent; v++) to[v] /= sum;
  }
}

static void part_of_one(void *context, size_t part) {
  const mla_job *job = context;
  float *scratch = edge_scratch(SCRATCH_TASK, tile_floats(job) * sizeof(float)), *state = job->state + part * state_floats(job);
  begin_state(job, state);
  if (!scratch) return;
  const size_t first = job->position * part / job->parts, last = job->position * (part + 1) / job->parts;
  job->isa->attend(job->heads, job->latent, job->row, last - first, job->cache + first * job->row, job->turned, scratch, state);
  if (part == job->parts - 1) job->isa->attend(job->heads, job->latent, job->row, 1, job->own, job->turned, scratch, state);
}

static void one_of_many(void *context, size_t token) {
  const mla_job *job = context;
  const size_t turned = up_to(turned_floats(job), 16), state = up_to(state_floats(job), 16);
  float *memory = edge_scratch(SCRATCH_TASK, (turned + state + tile_floats(job)) * sizeof(float));
  if (!memory) return;
  turn(job, job->query + token * job->heads * job->row, memory);
  begin_state(job, memory + turned);
  float *scratch = memory + turned + state;
  job->isa->attend(job->heads, job->latent, job->row, job->position, job->cache, memory, scratch, memory + turned);
  job->isa->attend(job->heads, job->latent, job->row, token + 1, job->own, memory, scratch, memory + turned);
  finish(job, 1, memory + turned, job->out + token * job->heads * job->latent);
}

int edge_mla(const edge_pool *pool, size_t heads, size_t latent, size_t rope, size_t position, const uint16_t *cache,
             size_t tokens, const uint16_t *own, const float *query, float *out) {
  if (!heads || !latent) return EDGE_BAD_ARGUMENT;
  mla_job job = {edge_isa(), heads, latent, latent + rope, position, 1, cache, own, query, NULL, NULL, out};
  if (tokens > 1) {
    edge_parallel(pool, tokens, one_of_many, &job);
    return 0;
  }
  if (!tokens) return 0;
  job.parts = position / ROWS_PER_PART < edge_threads(pool) ? position / ROWS_PER_PART : edge_threads(pool);
  if (job.parts < 1) job.parts = 1;
  const size_t turned = up_to(turned_floats(&job), 16);
  float *memory = edge_scratch(SCRATCH_ATTENTION, (turned + job.parts * state_floats(&job)) * sizeof(float));
  if (!memory) return EDGE_NO_MEMORY;
  job.turned = memory;
  job.state = memory + turned;
  turn(&job, query, job.turned);
  edge_parallel(pool, job.parts, part_of_one, &job);
  finish(&job, job.parts, job.state, out);
  return 0;
}
