/* Every instruction set against the portable one, on shapes and values drawn from a seed: `kernels_check SEED ROUNDS`.
 *
 * Buffers are as large as the header says and no larger, packed matrices at odd addresses and floats at any that a float can
 * have: what reads or writes beyond them is found when this is compiled with AddressSanitizer. Needs no Python, so that it also runs for another CPU. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edge_kernels.h"

static uint64_t state;
static uint32_t draw(void) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(state >> 33);
}
static size_t size(size_t most) { return 1 + draw() % most; }
static float uniform(void) { return (float)draw() / 1073741824.0f - 1.0f; }

/* What a row of values is made of: ordinary ones, zeros, or now and then something that no one hopes for. */
enum kind { ORDINARY, ZEROS, SPARSE, SUBNORMAL, HUGE_ONES, NOT_A_NUMBER, KINDS };
static float value(enum kind kind) {
  switch (kind) {
    case ZEROS: return 0;
    case SPARSE: return draw() % 10 ? 0 : uniform();
    case SUBNORMAL: return uniform() * 1e-39f;
    case HUGE_ONES: return draw() % 7 ? uniform() : uniform() * 1e30f;
    case NOT_A_NUMBER: return draw() % 50 ? uniform() : draw() % 2 ? NAN : INFINITY;
    default: return uniform();
  }
}
/* Where a buffer of floats begins in its block, in floats: no two in the same place of a cache line but by chance. */
static void *to_free[64];
static size_t taken;
static float *floats_at(size_t n) {
  const size_t off = draw() % 16;
  float *block = malloc((n + off) * sizeof *block + 1);
  to_free[taken++] = block;
  return block + off;
}
static float *floats(size_t n, enum kind kind) {
  float *made = floats_at(n);
  for (size_t i = 0; i < n; i++) made[i] = value(kind);
  return made;
}
/* Rows that a product takes in 8 bits: in steps of its group's scale none lies near the middle of two. There a multiplication and
 * addition that are one instruction round to another step than two do, which says nothing of the kernels. */
static float *activations(size_t rows, size_t columns, enum kind kind) {
  float *made = floats(rows * columns, kind);
  for (size_t row = 0; row < rows; row++)
    for (size_t start = 0; start < columns; start += 32) {
      float *x = made + row * columns + start;
      const size_t n = columns - start < 32 ? columns - start : 32;
      size_t widest = 0;
      int power, finite = 1;
      for (size_t i = 0; i < n; i++) {
        finite &= isfinite(x[i]) != 0;
        if (fabsf(x[i]) > fabsf(x[widest])) widest = i;
      }
      if (!finite || fabsf(x[widest]) < 1e-30f) continue;
      frexpf(x[widest], &power); /* the scale becomes 2^(power - 7) */
      for (size_t i = 0; i < n; i++) {
        const float step = ldexpf(x[i], 7 - power), whole = rintf(step * 0.98f) + 0.3f * uniform();
        x[i] = ldexpf(i == widest ? copysignf(127, step) : step == 0 ? 0 : whole, power - 7);
      }
    }
  return made;
}
static void free_floats(void) {
  while (taken) free(to_free[--taken]);
}
static uint16_t *halves(size_t n) {
  uint16_t *made = malloc(n * sizeof *made);
  for (size_t i = 0; i < n; i++) made[i] = (uint16_t)(draw() % 0x3c00 | (draw() & 1) << 15);
  return made;
}

/* A packed matrix of random weights; `*block` is to be freed. */
static uint8_t *packed(int neurons, int bits, size_t rows, size_t columns, size_t count, uint8_t **block) {
  const size_t bytes = (neurons ? edge_neurons_bytes : edge_tiled_bytes)(bits, rows, columns), off = draw() % 2;
  *block = malloc(count * bytes + off);
  for (size_t i = 0; i < count; i++) {
    float *w = floats(rows * columns, ORDINARY);
    int8_t *q = malloc(rows * columns);
    uint16_t *scales = malloc(rows * ((columns + 31) / 32) * sizeof *scales);
    edge_quantize(NULL, bits, rows, columns, w, q, scales);
    free(to_free[--taken]); /* there may be many of them */
    (neurons ? edge_pack_neurons : edge_pack_tiled)(bits, rows, columns, q, scales, *block + off + i * bytes);
    free(q);
    free(scales);
  }
  return *block + off;
}

static long compared, failures;
static double bound = 2e-5; /* of the expected values' root mean square */
static void compare(const char *what, const char *isa, size_t n, const float *expected, const float *found) {
  double square = 0, most = 0;
  for (size_t i = 0; i < n; i++) {
    if (isnan(expected[i]) != isnan(found[i])) most = INFINITY;
    if (isfinite(expected[i])) square += (double)expected[i] * expected[i];
    if (isfinite(expected[i]) && !(fabs((double)expected[i] - found[i]) <= most)) most = fabs((double)expected[i] - found[i]);
  }
  compared++;
  if (most > bound * sqrt(square / (double)n) + 1e-30) {
    failures++;
    printf("%s on %s: off by %g of %g\n", what, isa, most, sqrt(square / (double)n));
  }
}

static const char *const ISAS[] = {"portable", "avx2", "avx512vnni", "amx", "neon", "dotprod"};
enum { COUNT = sizeof ISAS / sizeof *ISAS };

/* Runs CALL, which writes `out`, on each instruction set and compares. */
#define ON_ALL(what, n, out, call)                                             \
  do {                                                                         \
    float *expected = malloc((n) * sizeof(float));                             \
    for (int isa = 0; isa < COUNT; isa++) {                                    \
      if (edge_kernels_use(ISAS[isa])) continue;                               \
      memset(out, 0xff, (n) * sizeof(float));                                  \
      if (call) failures++, printf("%s refused on %s\n", what, ISAS[isa]);     \
      if (isa)                                                                 \
        compare(what, ISAS[isa], n, expected, out);                            \
      else                                                                     \
        memcpy(expected, out, (n) * sizeof(float));                            \
    }                                                                          \
    free(expected);                                                            \
  } while (0)

static void matmul(const edge_pool *pool, int bits, enum kind kind) {
  const size_t blocks = size(3), rows = size(70), columns = size(200), tokens = size(draw() % 3 ? 12 : 70);
  uint8_t *block, *w = packed(0, bits, rows, columns, blocks, &block);
  float *x = activations(tokens * blocks, columns, kind), *y = floats_at(tokens * blocks * rows);
  ON_ALL("matmul", tokens * blocks * rows, y, edge_matmul_blocks(pool, blocks, bits, rows, columns, w, tokens, x, y));
  free(block), free_floats();
}

static void mlp(const edge_pool *pool, int bits, enum kind kind) {
  const size_t width = size(300), hidden = size(300), tokens = size(draw() % 3 ? 5 : 70);
  uint8_t *blocks[2], *up = packed(0, bits, hidden, width, 1, blocks), *down = packed(1, bits, hidden, width, 1, blocks + 1);
  float *x = activations(tokens, width, kind), *y = floats_at(tokens * width), *a = floats(tokens * hidden, kind);
  uint64_t live;
  ON_ALL("relu2_mlp", tokens * width, y, edge_relu2_mlp(pool, bits, width, hidden, up, down, tokens, x, y, &live));
  ON_ALL("sparse_down", tokens * width, y, edge_sparse_down(pool, bits, width, hidden, down, tokens, a, y, &live));
  free(blocks[0]), free(blocks[1]), free_floats();
}

/* Sets of neurons that are left out may differ by one that lies at the edge, so results are compared where none is. */
static void skip(const edge_pool *pool, enum kind kind) {
  const size_t width = size(draw() % 4 ? 300 : 1200), hidden = size(300), tokens = draw() % 2 ? 1 : size(70), off = draw() % 2;
  const size_t groups = (width + 31) / 32, coarse_bytes = edge_coarse_bytes(hidden, width);
  uint8_t *block, *down = packed(1, 4, hidden, width, 1, &block), *fine = malloc(edge_fine_bytes(hidden, width) + off) + off;
  uint8_t *coarse = malloc(coarse_bytes + off) + off;
  int8_t *q = malloc(hidden * width), *back = malloc(hidden * width);
  uint16_t *scales = malloc(hidden * groups * 2), *scales_back = malloc(hidden * groups * 2);
  float *w = floats(hidden * width, ORDINARY), *reach = floats_at(hidden), *reach_back = floats_at(hidden);
  float *x = floats(tokens * width, kind), *y = floats_at(tokens * width);
  uint64_t live, read;
  edge_quantize(pool, 4, hidden, width, w, q, scales);
  for (int all = 0; all < 2; all++) {
    for (size_t i = 0; i < hidden; i++) reach[i] = all ? INFINITY : uniform() * 0.02f;
    edge_pack_planes(hidden, width, q, scales, reach, coarse, fine);
    if (all)
      ON_ALL("relu2_mlp_skip", tokens * width, y,
             edge_relu2_mlp_skip(pool, 4, width, hidden, coarse, fine, down, tokens, x, y, &live, &read));
    else
      for (int isa = 0; isa < COUNT; isa++)
        if (!edge_kernels_use(ISAS[isa])) edge_relu2_mlp_skip(pool, 4, width, hidden, coarse, fine, down, tokens, x, y, &live, &read);
    edge_unpack_planes(hidden, width, coarse, fine, back, scales_back, reach_back);
    compared++;
    if (memcmp(q, back, hidden * width) || memcmp(scales, scales_back, hidden * groups * 2) || memcmp(reach, reach_back, hidden * 4))
      failures++, printf("planes of %zu x %zu come back others\n", hidden, width);
  }
  free(block), free(coarse - off), free(fine - off), free(q), free(back), free(scales), free(scales_back), free_floats();
}

static void mla(const edge_pool *pool, enum kind kind) {
  const edge_mla_shape shape = {size(20), size(40), 2 * size(5), size(40), 10 + size(60)};
  const size_t row = shape.latent + shape.rope, tokens = draw() % 2 ? 1 : size(9), position = draw() % 2 ? size(300) : size(20) - 1;
  uint16_t *cache = halves(position * row), *own = halves(tokens * row);
  float *query = floats(tokens * shape.heads * row, kind == HUGE_ONES ? ORDINARY : kind);
  float *out = floats_at(tokens * shape.heads * (shape.latent + shape.value));
  ON_ALL("mla", tokens * shape.heads * shape.latent, out,
         edge_mla(pool, shape.heads, shape.latent, shape.rope, position, cache, tokens, own, query, out));
  free(cache), free(own), free_floats();
}

/* A layer is its parts, one after the other, to the last bit on the same instruction set. It is not compared with the portable
 * one: between the two products values become int8, and one that lies between two steps may go to either. The parts are, and
 * the rows for the cache, which are made before any product. Nothing is rotated, so that no rounding is in the queries. */
static void layer(const edge_pool *pool, int bits) {
  const edge_mla_shape shape = {size(20), size(40), 2 * size(5), size(40), 10 + size(60)};
  const size_t heads = shape.heads, nope = shape.nope, rope = shape.rope, half = rope / 2, latent = shape.latent, row = latent + rope;
  const size_t tokens = draw() % 2 ? 1 : size(9), position = draw() % 2 ? size(300) : size(20) - 1, wide = heads * (nope + rope) + row;
  uint16_t *cache = halves(position * row), *own = halves(tokens * row), *first = NULL;
  uint8_t *blocks[2], *to_key = packed(0, bits, latent, nope, heads, blocks), *to_value = packed(0, bits, shape.value, latent, heads, blocks + 1);
  float *projected = floats(tokens * wide, ORDINARY), *cos = floats_at(tokens * half), *sin = floats(tokens * half, ZEROS);
  float *plain = floats_at(tokens * heads * nope), *absorbed = floats_at(tokens * heads * latent), *query = floats_at(tokens * heads * row);
  float *mixed = floats_at(tokens * heads * latent), *parts = floats_at(tokens * heads * shape.value), *out = floats_at(tokens * heads * shape.value);
  for (size_t i = 0; i < tokens * half; i++) cos[i] = 1;
  for (size_t token = 0; token < tokens; token++) {
    const float *x = projected + token * wide, *even = x + heads * nope, *odd = even + heads * half;
    memcpy(plain + token * heads * nope, x, heads * nope * sizeof *plain);
    for (size_t head = 0; head < heads; head++) {
      float *rotated = query + (token * heads + head) * row + latent;
      memcpy(rotated, even + head * half, half * sizeof *rotated);
      memcpy(rotated + half, odd + head * half, half * sizeof *rotated);
    }
  }
  bound = 0;
  for (int isa = 0; isa < COUNT; isa++) {
    if (edge_kernels_use(ISAS[isa])) continue;
    int status = edge_mla_layer(pool, &shape, bits, to_key, to_value, tokens, projected, cos, sin, 1e-6f, position, cache, own, out);
    status |= edge_matmul_blocks(pool, heads, bits, latent, nope, to_key, tokens, plain, absorbed);
    for (size_t i = 0; i < tokens * heads; i++) memcpy(query + i * row, absorbed + i * latent, latent * sizeof *query);
    status |= edge_mla(pool, heads, latent, rope, position, cache, tokens, own, query, mixed);
    status |= edge_matmul_blocks(pool, heads, bits, shape.value, latent, to_value, tokens, mixed, parts);
    if (status) failures++, printf("mla_layer or a part of it refused on %s\n", ISAS[isa]);
    compare("mla_layer", ISAS[isa], tokens * heads * shape.value, parts, out);
    if (first && memcmp(first, own, tokens * row * sizeof *own)) failures++, printf("rows of mla_layer are others on %s\n", ISAS[isa]);
    if (!first) first = memcpy(malloc(tokens * row * sizeof *own), own, tokens * row * sizeof *own);
  }
  bound = 2e-5;
  free(cache), free(own), free(first), free(blocks[0]), free(blocks[1]), free_floats();
}

/* Weights of every kind to the plain form, to both packed ones and back; rows of a table; the norm. */
static void storing(const edge_pool *pool, int bits, enum kind kind) {
  const size_t rows = size(70), columns = size(200), groups = (columns + 31) / 32, tokens = size(5);
  float *w = floats(rows * columns, kind), *out = floats_at(tokens * columns), *normed = floats_at(rows * columns);
  int8_t *q = malloc(rows * columns), *back = malloc(rows * columns);
  uint16_t *scales = malloc(rows * groups * 2), *scales_back = malloc(rows * groups * 2);
  int64_t ids[5];
  if (edge_quantize(pool, bits, rows, columns, w, q, scales)) failures++, printf("quantize refused\n");
  for (int neurons = 0; neurons < 2; neurons++) {
    const size_t bytes = (neurons ? edge_neurons_bytes : edge_tiled_bytes)(bits, rows, columns), off = draw() % 2;
    uint8_t *block = malloc(bytes + off);
    (neurons ? edge_pack_neurons : edge_pack_tiled)(bits, rows, columns, q, scales, block + off);
    (neurons ? edge_unpack_neurons : edge_unpack_tiled)(bits, rows, columns, block + off, back, scales_back);
    compared++;
    if (memcmp(q, back, rows * columns) || memcmp(scales, scales_back, rows * groups * 2))
      failures++, printf("a matrix of %zu x %zu comes back another\n", rows, columns);
    for (size_t i = 0; i < tokens; i++) ids[i] = draw() % rows;
    if (!neurons && edge_embed(bits, rows, columns, block + off, tokens, ids, out)) failures++, printf("embed refused\n");
    ids[0] = draw() % 2 ? -1 : (int64_t)rows;
    if (!neurons && !edge_embed(bits, rows, columns, block + off, tokens, ids, out)) failures++, printf("an id beyond is taken\n");
    free(block);
  }
  edge_rms_norm(rows, columns, w, 1e-6f, draw() % 2 ? out : NULL, normed);
  free(q), free(back), free(scales), free(scales_back), free_floats();
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  state = strtoull(arguments[1], NULL, 10);
  edge_pool *pool = edge_pool_create(3);
  for (long round = strtol(arguments[2], NULL, 10); round > 0; round--) {
    const int bits = draw() % 2 ? 4 : 8;
    const enum kind kind = (enum kind)(draw() % KINDS);
    const edge_pool *threads = draw() % 2 ? pool : NULL;
    matmul(threads, bits, kind);
    mlp(threads, bits, kind);
    skip(threads, kind);
    mla(threads, kind);
    layer(threads, bits);
    storing(threads, bits, kind);
  }
  edge_pool_destroy(pool);
  for (int isa = 1; isa < COUNT; isa++)
    if (!edge_kernels_use(ISAS[isa])) printf("%s ", ISAS[isa]);
  printf("%ld compared, %ld failed\n", compared, failures);
  return failures != 0;
}
