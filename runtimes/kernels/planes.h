/* Products of one token with a matrix in planes, for an instruction set that defines
 *   block(const uint8_t *w, const int8_t *q, const int apart, i16 init): of a block, for each lane, init + 64 times the sum over its 32
 *   values of value times activation. Without `apart` all lanes have the same 32 activations; with it each has its own,
 *   [8 quads][16 lanes][4].
 * In the integers of edge_matmul a group comes to 4 * C + L - 8 * A: the sums of high halves, of low halves, and of the activations. With
 * low halves of 1.5 it is 4 * C - 6.5 * A = (64 * C - 104 * A) / 16, and the rest is L - 1.5 * A = (64 * L - 96 * A) / 64.
 */
#define PLANES_AHEAD 4096
#define ROWS_BESIDE 2 /* rows of the fine plane that share each load of activations */

INLINE i16 all16i(int32_t x) { return (i16){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

/* `n` tiles side by side, several of which are told what comes after them: see side_by_side() in avx512.h. */
INLINE void coarse_tiles(const uint8_t *w, const activations *x, const int n, v16 sums[]) {
  const size_t bytes = coarse_tile_bytes(x->groups), ahead = PLANES_AHEAD / PLANE_BLOCK;
  for (int i = 0; i < n; i++) sums[i] = all16(0);
  for (size_t group = 0; group < x->groups; group++, w += PLANE_BLOCK) {
    /* Where these tiles end those of the next round begin. */
    const size_t next = ahead * PLANE_BLOCK + (group + ahead < x->groups ? 0 : (size_t)(n - 1) * bytes);
    const int8_t *q = x->q + group * GROUP;
    const i16 bias = all16i(104 * x->bias[group]);
    const v16 scale = all16(x->scale[group] / 16.0f);
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
      const uint8_t *at = w + (size_t)i * bytes;
      for (int line = 0; n > 1 && line < 3; line++) __builtin_prefetch(at + next + 64 * line);
      const v16 both = load_halves((const uint16_t *)(at + 128)) * scale;
      sums[i] += __builtin_convertvector(block(at, q, 0, bias), v16) * both;
    }
  }
}

static size_t coarse_step(void) {
#ifdef SIDE
  return side_by_side() ? SIDE : 1;
#else
  return 1;
#endif
}

static void coarse(size_t first, size_t last, size_t rows, const uint8_t *packed, const activations *x, float *y) {
  const size_t bytes = coarse_tile_bytes(x->groups);
#ifdef SIDE
  for (const int many = side_by_side(); many && first + SIDE <= last && (first + SIDE) * TILE <= rows; first += SIDE) {
    v16 sums[SIDE];
    coarse_tiles(packed + first * bytes, x, SIDE, sums);
    memcpy(y + first * TILE, sums, sizeof sums);
  }
#endif
  for (size_t tile = first; tile < last; tile++) {
    v16 sums[1];
    coarse_tiles(packed + tile * bytes, x, 1, sums);
    memcpy(y + tile * TILE, sums, (rows - tile * TILE < TILE ? rows - tile * TILE : TILE) * sizeof(float));
  }
}

INLINE void fine_rows(const uint8_t *packed, const uint32_t *rows, const activations *x, const int n, float *y) {
  const size_t stride = x->groups / TILE * PLANE_BLOCK;
  v16 sums[ROWS_BESIDE];
  for (int i = 0; i < n; i++) sums[i] = all16(0);
  for (size_t strip = 0; strip < x->groups / TILE; strip++) {
    const int8_t *q = x->q + strip * TILE * GROUP;
    const v16 scale = load16(x->scale + strip * TILE);
    i16 bias;
    memcpy(&bias, x->bias + strip * TILE, sizeof bias);
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
      const uint8_t *w = packed + rows[i] * stride + strip * PLANE_BLOCK;
      const v16 both = load_halves((const uint16_t *)(w + 128)) * scale;
      sums[i] += __builtin_convertvector(block(w, q, 1, bias), v16) * both;
    }
  }
  for (int i = 0; i < n; i++) y[rows[i]] += sum16(sums[i]);
}

static void fine(const uint8_t *packed, size_t count, const uint32_t *rows, const activations *x, float *y) {
  size_t i = 0;
  for (; i + ROWS_BESIDE <= count; i += ROWS_BESIDE) fine_rows(packed, rows + i, x, ROWS_BESIDE, y);
  for (; i < count; i++) fine_rows(packed, rows + i, x, 1, y);
}
