/* The walk over tiles and tokens, for an instruction set that defines
 *   tile4, tile8(const uint8_t *tile, const activations *x, size_t token, const int n, float out[][16]):
 * one tile times `n` tokens (a constant where it is inlined), into out[0..n]. */
#ifndef MANY
#define MANY 4
#endif

INLINE void product(int bits, size_t first, size_t last, size_t rows, const uint8_t *packed, size_t tokens, const activations *x,
                    float *y, size_t stride) {
  const size_t bytes = x->groups * tile_group_bytes(bits);
#ifdef SIDE /* the instruction set has tiles(bits, packed, bytes, x, token, out): SIDE of them side by side, for one token */
  for (const int beside = tokens == 1 && side_by_side(); beside && first + SIDE <= last && (first + SIDE) * TILE <= rows; first += SIDE)
    tiles(bits, packed + first * bytes, bytes, x, 0, y + first * TILE);
#endif
  for (size_t tile = first; tile < last; tile++) {
    const uint8_t *w = packed + tile * bytes;
    const size_t valid = rows - tile * TILE < TILE ? rows - tile * TILE : TILE;
    for (size_t token = 0; token < tokens;) {
      float out[MANY][TILE] __attribute__((aligned(64)));
      size_t n = 1;
      if (tokens - token >= MANY) {
        n = MANY;
        bits == 4 ? tile4(w, x, token, MANY, out) : tile8(w, x, token, MANY, out);
      } else if (tokens - token >= 2) {
        n = 2;
        bits == 4 ? tile4(w, x, token, 2, out) : tile8(w, x, token, 2, out);
      } else {
        bits == 4 ? tile4(w, x, token, 1, out) : tile8(w, x, token, 1, out);
      }
      for (size_t i = 0; i < n; i++) memcpy(y + (token + i) * stride + tile * TILE, out[i], valid * sizeof(float));
      token += n;
    }
  }
}
#ifndef OWN_PRODUCTS
static void product4(size_t first, size_t last, size_t rows, const uint8_t *packed, size_t tokens, const activations *x, float *y,
                     size_t stride) {
  product(4, first, last, rows, packed, tokens, x, y, stride);
}
static void product8(size_t first, size_t last, size_t rows, const uint8_t *packed, size_t tokens, const activations *x, float *y,
                     size_t stride) {
  product(8, first, last, rows, packed, tokens, x, y, stride);
}
#endif

#ifndef EXPAND4
#define EXPAND4 expand4
#endif
#define INSTRUCTION_SET(name, string)                                                                                   \
  const instruction_set name = {string, usable,  quantize, product4, product8, down4, down8,                           \
                                EXPAND4, expand8, gather,   attend,   coarse,   coarse_step, fine};
