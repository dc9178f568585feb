/* How fast this machine reads memory: what the other kernels are measured against. */
#include "format.h"

typedef struct read_job {
  const uint8_t *data;
  size_t bytes, parts;
  uint64_t *found;
} read_job;

/* Four of the smallest vectors that every CPU has: compilers keep a sum of 64 bytes in memory. */
typedef uint64_t pair __attribute__((vector_size(16), aligned(1), may_alias));

static void read_part(void *context, size_t part) {
  const read_job *job = context;
  const size_t lines = job->bytes / 64, first = lines * part / job->parts, last = lines * (part + 1) / job->parts;
  pair a = {0}, b = {0}, c = {0}, d = {0};
  for (size_t line = first; line < last; line++) {
    const pair *at = (const pair *)(job->data + line * 64);
    a ^= at[0], b ^= at[1], c ^= at[2], d ^= at[3];
  }
  a ^= b ^ c ^ d;
  job->found[part] = a[0] ^ a[1];
}

uint64_t edge_read(const edge_pool *pool, const void *data, size_t bytes) {
  uint64_t found[64] = {0}, all = 0;
  read_job job = {data, bytes, edge_threads(pool) < 16 ? 4 * edge_threads(pool) : 64, found};
  edge_parallel(pool, job.parts, read_part, &job);
  for (size_t i = 0; i < job.parts; i++) all ^= found[i];
  return all;
}
