/* PLM's attention between its two outer projections: rotation, the latent's norm, kv_b absorbed on both sides. */
#include "format.h"

typedef struct layer_job {
  const edge_mla_shape *shape;
  const float *projected, *cos, *sin;
  float eps;
  float *plain, *rotated, *absorbed;
  uint16_t *own;
} layer_job;

static void rotate(size_t half, const float *even, const float *odd, const float *cos, const float *sin, float *out) {
  for (size_t i = 0; i < half; i++) {
    out[i] = even[i] * cos[i] - odd[i] * sin[i];
    out[half + i] = odd[i] * cos[i] + even[i] * sin[i];
  }
}

static void prepare(void *context, size_t token) {
  const layer_job *job = context;
  const edge_mla_shape *shape = job->shape;
  const size_t half = shape->rope / 2, row = shape->latent + shape->rope, heads = shape->heads;
  const float *cos = job->cos + token * half, *sin = job->sin + token * half;
  const float *x = job->projected + token * (heads * (shape->nope + shape->rope) + row);
  memcpy(job->plain + token * heads * shape->nope, x, heads * shape->nope * sizeof(float));
  x += heads * shape->nope;
  for (size_t head = 0; head < heads; head++)
    rotate(half, x + head * half, x + (heads + head) * half, cos, sin, job->rotated + (token * heads + head) * shape->rope);
  x += heads * shape->rope;
  /* The absorbed queries are not there yet: their place serves for one row. */
  float *mine = job->absorbed + token * heads * shape->latent;
  edge_rms_norm(1, shape->latent, x, job->eps, NULL, mine);
  for (size_t i = 0; i < shape->latent; i++) job->own[token * row + i] = float_to_half(mine[i]);
  rotate(half, x + shape->latent, x + shape->latent + half, cos, sin, mine);
  for (size_t i = 0; i < shape->rope; i++) job->own[token * row + shape->latent + i] = float_to_half(mine[i]);
}

int edge_mla_layer(const edge_pool *pool, const edge_mla_shape *shape, int bits, const void *to_key, const void *to_value,
                   size_t tokens, const float *projected, const float *cos, const float *sin, float eps, size_t position,
                   const uint16_t *cache, uint16_t *own, float *out) {
  const size_t heads = shape->heads, latent = shape->latent;
  /* A row is put together where the first head's absorbed query will be. */
  if (!heads || !latent || !shape->nope || !shape->value || shape->rope % 2 || shape->rope > latent) return EDGE_BAD_ARGUMENT;
  const size_t plain = up_to(tokens * heads * shape->nope, 16), rotated = up_to(tokens * heads * shape->rope, 16);
  float *memory = edge_scratch(SCRATCH_LAYER, (plain + rotated + tokens * heads * latent) * sizeof(float));
  if (!memory) return EDGE_NO_MEMORY;
  layer_job job = {shape, projected, cos, sin, eps, memory, memory + plain, memory + plain + rotated, own};
  edge_parallel(tokens > 1 ? pool : NULL, tokens, prepare, &job);
  int status = edge_matmul_blocks(pool, heads, bits, latent, shape->nope, to_key, tokens, job.plain, job.absorbed);
  if (status) return status;
  status = edge_mla_in_two(pool, heads, latent, shape->rope, position, cache, tokens, own, job.absorbed, job.rotated, job.absorbed);
  if (status) return status;
  return edge_matmul_blocks(pool, heads, bits, shape->value, latent, to_value, tokens, job.absorbed, out);
}
