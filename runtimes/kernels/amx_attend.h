/* Attention by tiles of bfloat16, 16 heads side by side: a run of the cache's rows is expanded once, for all queries. It is exact to
 * float's rounding: float16 is the sum of two bfloat16, float of three, and what their products leave out is below it.
 *
 * Included by isa_amx.c, after what it shares with AVX-512 and its tile_config. */
#define APART 32 /* a cache line */
#define BLOCK 128 /* rows of the cache that are expanded at a time */

/* Two bfloat16 of every row (their sum is the float16), as what they are multiplied into wants them:
 *   keys [BLOCK][width] a row's own; values [BLOCK / 2][padded][2] two rows' side by side; queries [width / 2][16 heads][2] three times
 * and the chances [16 heads][BLOCK], three times too. */
typedef struct expanded {
  size_t width, padded, pair; /* pair: of values, halves of two rows */
  uint16_t *keys[2], *values[2], *chances[3], *queries;
  float *scores; /* [BLOCK][16 heads] */
} expanded;

INLINE __m512 upper(__m512 x) { return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(-65536))); }
/* The upper halves of 32 floats. */
INLINE __m512i halves_of(__m512 a, __m512 b) {
  const __m512i odd = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25, 23, 21, 19, 17, 15,
                                       13, 11, 9, 7, 5, 3, 1);
  return _mm512_permutex2var_epi16(_mm512_castps_si512(a), odd, _mm512_castps_si512(b));
}
/* Those of two vectors of 16 floats, one beside the other's. */
INLINE __m512i beside(__m512 even, __m512 odd) {
  return _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(even), 16), _mm512_castps_si512(upper(odd)));
}

INLINE __m512 some_halves(const uint16_t *p, size_t left) {
  const __mmask16 kept = (__mmask16)(left >= 16 ? 0xffffu : (1u << left) - 1);
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(kept, p));
}

/* 32 columns of two rows, from `d` on, into their places. */
INLINE void expand_two(const expanded *to, size_t t, size_t d, const __m512 x[4]) {
  __m512 low[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) low[i] = _mm512_sub_ps(x[i], upper(x[i]));
#pragma GCC unroll 2
  for (size_t i = 0; i < 2; i++) {
    _mm512_storeu_si512(to->keys[0] + (t + i) * to->width + d, halves_of(x[2 * i], x[2 * i + 1]));
    _mm512_storeu_si512(to->keys[1] + (t + i) * to->width + d, halves_of(low[2 * i], low[2 * i + 1]));
  }
#pragma GCC unroll 2
  for (size_t half = 0; half < 2; half++)
    if (d + 16 * half < to->padded) {
      const size_t at = t / 2 * to->pair + 2 * (d + 16 * half);
      _mm512_storeu_si512(to->values[0] + at, beside(x[half], x[2 + half]));
      _mm512_storeu_si512(to->values[1] + at, beside(low[half], low[2 + half]));
    }
}

/* Rows 0..count, filled up with zeros to a multiple of 32. */
static void expand_rows(const attention *shape, size_t count, const uint16_t *rows, const expanded *to) {
  const size_t row = shape->row;
  for (size_t t = 0; t < up_to(count, 32); t += 2, rows += 2 * row) {
    size_t d = 0;
    for (; t + 1 < count && d + 32 <= row; d += 32) {
      /* Not a line is asked for twice: 32 halves are one. */
      _mm_prefetch((const char *)(rows + 8 * row + d), _MM_HINT_T0);
      _mm_prefetch((const char *)(rows + 9 * row + d), _MM_HINT_T0);
      const __m512 x[4] = {(__m512)load_halves(rows + d), (__m512)load_halves(rows + d + 16), (__m512)load_halves(rows + row + d),
                           (__m512)load_halves(rows + row + d + 16)};
      expand_two(to, t, d, x);
    }
    for (; d < to->width; d += 32) {
      __m512 x[4];
      for (size_t i = 0; i < 4; i++) {
        const size_t at = d + i % 2 * 16;
        x[i] = t + i / 2 < count && at < row ? some_halves(rows + i / 2 * row + at, row - at) : _mm512_setzero_ps();
      }
      expand_two(to, t, d, x);
    }
  }
}

/* turned [row][16 heads] to three times [width / 2][16][2]. */
static void split_query(size_t row, size_t width, const float *turned, uint16_t *out) {
  for (size_t d = 0; d < width; d += 2) {
    __m512 even = d < row ? _mm512_loadu_ps(turned + 16 * d) : _mm512_setzero_ps();
    __m512 odd = d + 1 < row ? _mm512_loadu_ps(turned + 16 * d + 16) : _mm512_setzero_ps();
    for (size_t part = 0; part < 3; part++) {
      _mm512_storeu_si512(out + part * width * 16 + d * 16, beside(even, odd));
      even = _mm512_sub_ps(even, upper(even));
      odd = _mm512_sub_ps(odd, upper(odd));
    }
  }
}

#define FOUR(n, with) \
  do {                \
    with(0);          \
    with(1);          \
    if (n == 4) {     \
      with(2);        \
      with(3);        \
    }                 \
  } while (0)

/* Scores [16 m rows][16 heads], m 2 or 4: rows in two parts times queries in three, but for what is below float's rounding. */
static void find_scores(const expanded *in, size_t first, const size_t m, const uint16_t *queries) {
  const size_t width = in->width, part = width * 16, stride = 2 * width;
#define NONE(i) _tile_zero(i)
#define MORE(i)                                               \
  do {                                                        \
    _tile_loadd(6, high + 16 * i * width + d, stride);        \
    _tile_dpbf16ps(i, 6, 4);                                  \
    _tile_dpbf16ps(i, 6, 5);                                  \
    _tile_loadd(7, low + 16 * i * width + d, stride);         \
    _tile_dpbf16ps(i, 7, 4);                                  \
    _tile_dpbf16ps(i, 7, 5);                                  \
  } while (0)
#define LAST(i)                                               \
  do {                                                        \
    _tile_loadd(6, high + 16 * i * width + d, stride);        \
    _tile_dpbf16ps(i, 6, 4);                                  \
  } while (0)
#define KEEP(i) _tile_stored(i, in->scores + (first + 16 * i) * 16, 64)
  const uint16_t *high = in->keys[0] + first * width, *low = in->keys[1] + first * width;
  FOUR(m, NONE);
  for (size_t d = 0; d < width; d += 32) {
    _tile_loadd(4, queries + d * 16, 64);
    _tile_loadd(5, queries + part + d * 16, 64);
    FOUR(m, MORE);
  }
  for (size_t d = 0; d < width; d += 32) {
    _tile_loadd(4, queries + 2 * part + d * 16, 64);
    FOUR(m, LAST);
  }
  FOUR(m, KEEP);
}

INLINE void transpose(const float *from, __m512 out[16]) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; i++) a[i] = _mm512_loadu_ps(from + 16 * i);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512d w = _mm512_castps_pd(b[i]), x = _mm512_castps_pd(b[i + 1]), y = _mm512_castps_pd(b[i + 2]), z = _mm512_castps_pd(b[i + 3]);
    a[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(w, y)), a[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(w, y));
    a[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, z)), a[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, z));
  }
  /* a[4j + k] has, in its quarter q, column 4q + k of rows 4j..4j + 3 */
#pragma GCC unroll 4
  for (int k = 0; k < 4; k++) {
    const __m512 low = _mm512_shuffle_f32x4(a[k], a[4 + k], 0x88), high = _mm512_shuffle_f32x4(a[8 + k], a[12 + k], 0x88);
    const __m512 odd = _mm512_shuffle_f32x4(a[k], a[4 + k], 0xdd), more = _mm512_shuffle_f32x4(a[8 + k], a[12 + k], 0xdd);
    out[k] = _mm512_shuffle_f32x4(low, high, 0x88), out[8 + k] = _mm512_shuffle_f32x4(low, high, 0xdd);
    out[4 + k] = _mm512_shuffle_f32x4(odd, more, 0x88), out[12 + k] = _mm512_shuffle_f32x4(odd, more, 0xdd);
  }
}

/* Chances [count][16 heads] to [16 heads][count] in three parts; zeros up to a multiple of 32. */
static void split_chances(size_t count, expanded *in) {
  for (size_t t = count; t < up_to(count, 32); t++) _mm512_storeu_ps(in->scores + 16 * t, _mm512_setzero_ps());
  for (size_t t = 0; t < count; t += 32) {
    __m512 a[16], b[16];
    transpose(in->scores + 16 * t, a);
    transpose(in->scores + 16 * t + 256, b);
    for (size_t head = 0; head < 16; head++) {
      for (int part = 0; part < 3; part++) {
        const __m512 first = upper(a[head]), second = upper(b[head]);
        _mm512_storeu_si512(in->chances[part] + head * BLOCK + t, halves_of(first, second));
        a[head] = _mm512_sub_ps(a[head], first), b[head] = _mm512_sub_ps(b[head], second);
      }
    }
  }
}

/* out [16 heads][padded] += chances times values; n vectors of 16 values at a time, 1 to 4. */
static void add_values(const expanded *in, size_t count, float *out) {
  const size_t padded = in->padded, stride = 4 * padded, rows = 2 * in->pair;
#define SOME(with)          \
  do {                      \
    with(0);                \
    if (n > 1) with(1);     \
    if (n > 2) with(2);     \
    if (n > 3) with(3);     \
  } while (0)
#define BEGIN(i) _tile_loadd(i, out + v + 16 * i, stride)
#define ADD(i)                                                                  \
  do {                                                                          \
    _tile_loadd(6, in->values[0] + t / 2 * in->pair + 2 * (v + 16 * i), rows);  \
    _tile_loadd(7, in->values[1] + t / 2 * in->pair + 2 * (v + 16 * i), rows);  \
    _tile_dpbf16ps(i, 4, 6);                                                    \
    _tile_dpbf16ps(i, 5, 6);                                                    \
    _tile_dpbf16ps(i, 4, 7);                                                    \
    _tile_dpbf16ps(i, 5, 7);                                                    \
  } while (0)
#define LEFT(i)                                                                 \
  do {                                                                          \
    _tile_loadd(6, in->values[0] + t / 2 * in->pair + 2 * (v + 16 * i), rows);  \
    _tile_dpbf16ps(i, 4, 6);                                                    \
  } while (0)
#define END(i) _tile_stored(i, out + v + 16 * i, stride)
  for (size_t v = 0; v < padded; v += 64) {
    const size_t n = (padded - v) / 16;
    SOME(BEGIN);
    for (size_t t = 0; t < count; t += 32) {
      _tile_loadd(4, in->chances[0] + t, 2 * BLOCK);
      _tile_loadd(5, in->chances[1] + t, 2 * BLOCK);
      SOME(ADD);
      _tile_loadd(4, in->chances[2] + t, 2 * BLOCK);
      SOME(LEFT);
    }
    SOME(END);
  }
}

static void attend_amx(const attention *shape, size_t count, const uint16_t *rows, size_t tokens, const float *turned, float *scratch,
                       float *state) {
  const size_t blocks = up_to(shape->heads, 16) / 16, width = up_to(shape->row, 32), padded = up_to(shape->latent, 16);
  /* Sizes that are no multiples of a page: what lies a page apart delays each other. */
  const size_t pair = 2 * padded + APART, keys = BLOCK * width + APART, values = BLOCK / 2 * pair + 3 * APART;
  const size_t chances = BLOCK * 16, query = 3 * width * 16;
  uint16_t *at = NULL;
  if (count >= 32)
    at = edge_scratch(SCRATCH_TILES, 2 * (2 * (keys + values) + 3 * chances + tokens * blocks * query) + sizeof(float) * chances);
  if (!at) {
    attend(shape, count, rows, tokens, turned, scratch, state);
    return;
  }
  expanded in = {width, padded, pair, {at, at + keys}, {NULL, NULL}, {NULL, NULL, NULL}, NULL, NULL};
  at += 2 * keys;
  in.values[0] = at, in.values[1] = at + values, at += 2 * values;
  in.chances[0] = at, in.chances[1] = at + chances, in.chances[2] = at + 2 * chances, at += 3 * chances;
  in.queries = at, in.scores = (float *)(at + tokens * blocks * query);
  for (size_t token = 0; token < tokens; token++)
    for (size_t block = 0; block < blocks; block++)
      split_query(shape->row, width, turned + token * shape->turned + block * shape->row * 16, in.queries + (token * blocks + block) * query);
  tile_config config = {.palette = 1};
  for (int i = 0; i < 8; i++) set_tile(&config, i, 16, 64);
  _tile_loadconfig(&config);
  for (size_t done = 0; done < count; done += BLOCK) {
    const size_t n = count - done < BLOCK ? count - done : BLOCK;
    expand_rows(shape, n, rows + done * shape->row, &in);
    for (size_t token = 0; token < tokens; token++)
      for (size_t block = 0; block < blocks; block++) {
        float *mine = state + token * shape->state + block * (32 + 16 * padded);
        for (size_t first = 0; first < n; first += 64)
          find_scores(&in, first, n - first > 32 ? 4 : 2, in.queries + (token * blocks + block) * query);
        soften(padded, n, in.scores, mine);
        split_chances(n, &in);
        add_values(&in, n, mine + 32);
      }
  }
  _tile_release();
}
