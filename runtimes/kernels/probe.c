/* How fast this machine reads memory: what the other kernels are measured against. */
#include "format.h"

typedef struct read_job {
  const uint8_t *data;
  size_t bytes, parts;
  uint64_t *found;
} read_job;

typedef uint64_t u8x8 __attribute__((vector_size(64), aligned(1), may_alias));

static void read_part(void *context, size_t part) {
  const read_job *job = context;
  const size_t lines = job->bytes / 64, first = lines * part / job->parts, last = lines * (part + 1) / job->parts;
  u8x8 sum = {0};
  for (size_t line = first; line < last; line++) {
    __builtin_prefetch(job->data + line * 64 + 1024);
    sum ^= *(const u8x8 *)(job->data + line * 64);
  }
  uint64_t all = 0;
  for (int i = 0; i < 8; i++) all ^= sum[i];
  job->found[part] = all;
}

uint64_t edge_read(const edge_pool *pool, const void *data, size_t bytes) {
  uint64_t found[64] = {0}, all = 0;
  read_job job = {data, bytes, edge_threads(pool) < 16 ? 4 * edge_threads(pool) : 64, found};
  edge_parallel(pool, job.parts, read_part, &job);
  for (size_t i = 0; i < job.parts; i++) all ^= found[i];
  return all;
}
