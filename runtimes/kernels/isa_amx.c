/* AMX beside AVX-512: tiles of 16 rows of 64 bytes that are multiplied whole. For several tokens, where one tile of weights
 * serves 16 of them, and for attention, whose 16 heads are one tile's columns; the rest is as with AVX-512. */
#if defined(__x86_64__) && defined(__linux__)
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "avx512.h"

/* Tokens from which the tiles are worth being filled. */
#define ENOUGH 6

typedef struct tile_config {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
} tile_config;

static void set_tile(tile_config *config, int tile, size_t rows, size_t bytes) {
  config->rows[tile] = (uint8_t)rows;
  config->bytes[tile] = (uint16_t)bytes;
}

/* ---- whether it works: a system may announce tiles and forbid them ---- */
static sigjmp_buf refused;
static int works;
static pthread_once_t tried = PTHREAD_ONCE_INIT;

static void on_refusal(int number) {
  (void)number;
  siglongjmp(refused, 1);
}

static void try(void) {
  unsigned a, b, c, d;
  if (!has_avx512(1u << 17 | 1u << 18) || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
  const unsigned needed = 1u << 22 | 1u << 24 | 1u << 25; /* AMX-BF16, AMX-TILE, AMX-INT8 */
  /* ARCH_REQ_XCOMP_PERM for XFEATURE_XTILEDATA: Documentation/arch/x86/xstate.rst of Linux */
  if ((d & needed) != needed || syscall(SYS_arch_prctl, 0x1023, 18)) return;
  struct sigaction ours = {.sa_handler = on_refusal}, before;
  if (sigaction(SIGILL, &ours, &before)) return;
  if (!sigsetjmp(refused, 1)) {
    tile_config config = {.palette = 1};
    set_tile(&config, 0, 16, 64);
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_release();
    works = 1;
  }
  sigaction(SIGILL, &before, NULL);
}

static int usable(void) {
  pthread_once(&tried, try);
  return works;
}

/* ---- products ---- */
#define OWN_PRODUCTS
#include "product.h"

/* A tile's weights [groups][8 quads][16 rows][4], as signed bytes. */
INLINE void unpack(size_t groups, const uint8_t *w, int8_t *out) {
  const __m512i nibble = _mm512_set1_epi8(15), eight = _mm512_set1_epi8(8);
  for (size_t group = 0; group < groups; group++, w += 288, out += 512) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
      const __m512i both = _mm512_loadu_si512(w + 64 * v);
      _mm512_storeu_si512(out + 64 * v, _mm512_sub_epi8(_mm512_and_si512(both, nibble), eight));
      _mm512_storeu_si512(out + 64 * v + 256, _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(both, 4), nibble), eight));
    }
  }
}

INLINE void add_scaled(const int32_t *dots, __m512 scale, const float *scales, size_t groups, const size_t n, __m512 *sums) {
#pragma GCC unroll 16
  for (size_t i = 0; i < n; i++)
    sums[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(dots + 16 * i)),
                              _mm512_mul_ps(scale, _mm512_set1_ps(scales[i * groups])), sums[i]);
}

/* Four groups from `at` on, of as many tokens as the tiles are configured for: dots [4][tokens][16]. */
#define DOTS(at)                                                                                     \
  do {                                                                                               \
    ONE(at, 0, 4, 6);                                                                                \
    ONE(at, 1, 5, 7);                                                                                \
    ONE(at, 2, 4, 6);                                                                                \
    ONE(at, 3, 5, 7);                                                                                \
    _tile_stored(0, dots[(at) / 4 % 2][0], 64);                                                      \
    _tile_stored(1, dots[(at) / 4 % 2][1], 64);                                                      \
    _tile_stored(2, dots[(at) / 4 % 2][2], 64);                                                      \
    _tile_stored(3, dots[(at) / 4 % 2][3], 64);                                                      \
  } while (0)
#define ONE(at, sum, left, right)                                                                    \
  do {                                                                                               \
    const size_t mine = (at) + (sum) < groups ? (at) + (sum) : groups - 1;                           \
    _tile_zero(sum);                                                                                 \
    _tile_loadd(left, q + mine * GROUP, groups * GROUP);                                             \
    _tile_loadd(right, weights + mine * step, 64);                                                   \
    _tile_dpbssd(sum, left, right);                                                                  \
  } while (0)

INLINE void add_four(size_t group, size_t groups, int32_t dots[4][256], const uint8_t *scales, size_t each, const float *others,
                     const size_t n, __m512 *sums) {
  for (size_t i = 0; i < 4 && group + i < groups; i++)
    add_scaled(dots[i], (__m512)load_halves((const uint16_t *)(scales + (group + i) * each)), others + group + i, groups, n, sums);
}

/* The products of a tile with up to 16 tokens. The vectors' work on four groups goes on beside the tiles' on the next four. */
INLINE void product_block(int bits, const uint8_t *w, const int8_t *weights, const activations *x, size_t token, const size_t n,
                          __m512 *sums) {
  const size_t groups = x->groups, each = tile_group_bytes(bits), step = bits == 4 ? 512 : each;
  const int8_t *q = x->q + token * groups * GROUP;
  const float *others = x->scale + token * groups;
  int32_t dots[2][4][256] __attribute__((aligned(64)));
  for (size_t i = 0; i < n; i++) sums[i] = _mm512_setzero_ps();
  DOTS((size_t)0);
  for (size_t group = 4; group < groups; group += 4) {
    DOTS(group);
    add_four(group - 4, groups, dots[(group - 4) / 4 % 2], w + 64 * bits, each, others, n, sums);
  }
  const size_t last = (groups - 1) / 4 * 4;
  add_four(last, groups, dots[last / 4 % 2], w + 64 * bits, each, others, n, sums);
}

static void configure(size_t tokens) {
  tile_config config = {.palette = 1};
  for (int i = 0; i < 4; i++) set_tile(&config, i, tokens, 64);
  for (int i = 4; i < 6; i++) set_tile(&config, i, tokens, 32), set_tile(&config, i + 2, 8, 64);
  _tile_loadconfig(&config);
}

INLINE void product_tiles(int bits, size_t first, size_t last, size_t rows, const uint8_t *packed, size_t tokens,
                          const activations *x, float *y, size_t stride) {
  const size_t groups = x->groups, bytes = groups * tile_group_bytes(bits), rest = tokens % 16;
  int8_t *unpacked = tokens >= ENOUGH ? edge_scratch(SCRATCH_TILES, groups * 512) : NULL;
  if (!unpacked) {
    product(bits, first, last, rows, packed, tokens, x, y, stride);
    return;
  }
  if (tokens >= 16) configure(16);
  for (size_t tile = first; tile < last; tile++) {
    const uint8_t *w = packed + tile * bytes;
    const size_t valid = rows - tile * TILE < TILE ? rows - tile * TILE : TILE;
    const __mmask16 kept = (__mmask16)(0xffffu >> (16 - valid));
    const int8_t *weights = (const int8_t *)w;
    if (bits == 4) unpack(groups, w, unpacked), weights = unpacked;
    __m512 sums[16];
    for (size_t token = 0; token + 16 <= tokens; token += 16) {
      product_block(bits, w, weights, x, token, 16, sums);
#pragma GCC unroll 16
      for (size_t i = 0; i < 16; i++) _mm512_mask_storeu_ps(y + (token + i) * stride + tile * TILE, kept, sums[i]);
    }
    if (rest) {
      configure(rest);
      product_block(bits, w, weights, x, tokens - rest, rest, sums);
      for (size_t i = 0; i < rest; i++) _mm512_mask_storeu_ps(y + (tokens - rest + i) * stride + tile * TILE, kept, sums[i]);
      if (tokens >= 16) configure(16);
    }
  }
  _tile_release();
}
static void product4(size_t first, size_t last, size_t rows, const uint8_t *packed, size_t tokens, const activations *x, float *y,
                         size_t stride) {
  product_tiles(4, first, last, rows, packed, tokens, x, y, stride);
}
static void product8(size_t first, size_t last, size_t rows, const uint8_t *packed, size_t tokens, const activations *x, float *y,
                         size_t stride) {
  product_tiles(8, first, last, rows, packed, tokens, x, y, stride);
}

#include "amx_attend.h"

const instruction_set edge_amx = {"amx",   usable,  quantize, product4, product8, down4, down8,
                                  EXPAND4, expand8, gather,   attend_amx, coarse, coarse_step, fine};
#endif
