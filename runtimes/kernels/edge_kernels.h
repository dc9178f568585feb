/* Kernels for quantized language models on CPUs: int4 and int8 matrix products, an MLP of squared ReLUs that reads only what
 * is live, latent attention over a float16 cache. Plain C11, no dependency; the instruction set is chosen at run time.
 *
 * Matrices are symmetric: value = scale * q in groups of 32, a float16 scale each; q is -8..7 (bits 4) or -127..127 (bits 8).
 *   tiled    [rows outputs][columns inputs], groups along the inputs, 16 rows interleaved (see format.h): edge_matmul
 *   neurons  [hidden][width outputs], groups along the outputs, a neuron's weights side by side: the down half of an MLP
 *   planes   a 4-bit matrix like a tiled one, its high two bits and its low two bits apart: an up half that can be skipped
 *
 * Buffers may have any alignment, and none is kept after a call. Functions that can fail return 0, or EDGE_* below; all may
 * be called from several threads at once. Activations into products are quantized to int8 in groups of 32, each with
 * a scale of its own; those into the down half stay float. Not-a-number in gives not-a-number out, never a crash.
 */
#ifndef EDGE_KERNELS_H
#define EDGE_KERNELS_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGE_KERNELS_ABI 1
#define EDGE_KERNELS_VERSION "1.3"

#define EDGE_BAD_ARGUMENT 1 /* bits that are neither 4 nor 8, a size of zero, an unknown instruction set */
#define EDGE_NO_MEMORY 2

#if defined(__GNUC__)
#define EDGE_API __attribute__((visibility("default")))
#else
#define EDGE_API
#endif

/* The host's threads: `run` calls task(context, i) once for each i below `count`, in any order, and returns after all.
 * `threads` is how many of them run at once. A NULL pool means the calling thread alone. */
typedef void (*edge_task)(void *context, size_t index);
typedef struct edge_pool {
  void (*run)(void *self, size_t count, edge_task task, void *context);
  void *self;
  size_t threads;
} edge_pool;

EDGE_API int edge_kernels_abi_version(void);
EDGE_API const char *edge_kernels_version(void);
/* The instruction set in use: portable, avx2, avx512vnni, amx, neon, dotprod. */
EDGE_API const char *edge_kernels_isa(void);
/* Use another (tests do, to compare); NULL: the best one again. EDGE_BAD_ARGUMENT if this CPU lacks it. */
EDGE_API int edge_kernels_use(const char *isa);

/* A small pool of our own, for hosts without one; the calling thread is one of its `threads`. NULL without memory. */
EDGE_API edge_pool *edge_pool_create(size_t threads);
EDGE_API void edge_pool_destroy(edge_pool *pool);

/* Bytes of a packed matrix; 0 for bad arguments. */
EDGE_API size_t edge_tiled_bytes(int bits, size_t rows, size_t columns);
EDGE_API size_t edge_neurons_bytes(int bits, size_t hidden, size_t width);

/* Quantize float weights [rows][columns] (each group's scale is the best of several, by squared error) to the plain form:
 * q [rows][columns], scales float16 bits [rows][ceil(columns / 32)]. Weights beyond the largest scale's reach, 524032 in 4 bits
 * and 8319008 in 8, are clipped to it; a group with an infinity is zero. */
EDGE_API int edge_quantize(const edge_pool *pool, int bits, size_t rows, size_t columns, const float *weights, int8_t *q,
                           uint16_t *scales);
/* The plain form to and from the packed ones. Neurons take the plain form of [hidden][width]. */
EDGE_API int edge_pack_tiled(int bits, size_t rows, size_t columns, const int8_t *q, const uint16_t *scales, void *packed);
EDGE_API int edge_unpack_tiled(int bits, size_t rows, size_t columns, const void *packed, int8_t *q, uint16_t *scales);
EDGE_API int edge_pack_neurons(int bits, size_t hidden, size_t width, const int8_t *q, const uint16_t *scales, void *packed);
EDGE_API int edge_unpack_neurons(int bits, size_t hidden, size_t width, const void *packed, int8_t *q, uint16_t *scales);

/* y [tokens][rows] = x [tokens][columns] times the transpose of a tiled matrix. */
EDGE_API int edge_matmul(const edge_pool *pool, int bits, size_t rows, size_t columns, const void *packed, size_t tokens,
                         const float *x, float *y);
/* The same for `blocks` matrices of one shape, packed one after the other, each on its own part of the inputs:
 * x [tokens][blocks][columns] to y [tokens][blocks][rows]. */
EDGE_API int edge_matmul_blocks(const edge_pool *pool, size_t blocks, int bits, size_t rows, size_t columns,
                                const void *packed, size_t tokens, const float *x, float *y);
/* y [tokens][rows], the logits of a head: two tiled matrices of bits 4 whose sum it is, the second what the first leaves out. Of
 * a single token the second is read only where it can matter: for the tiles of 16 with the largest logits, one in 16 of them
 * (but 16), and none that is 11 below the largest. Of several tokens it is read whole. */
EDGE_API int edge_head(const edge_pool *pool, size_t rows, size_t columns, const void *coarse, const void *fine, size_t tokens,
                       const float *x, float *y);
/* out [tokens][columns]: rows `ids` of a tiled matrix, which serves as table of embeddings too. Ids beyond it are refused. */
EDGE_API int edge_embed(int bits, size_t rows, size_t columns, const void *packed, size_t tokens, const int64_t *ids,
                        float *out);
/* out = x / sqrt(mean(x^2) + eps) * gain for the rows of x [tokens][width]; gain may be NULL. */
EDGE_API int edge_rms_norm(size_t tokens, size_t width, const float *x, float eps, const float *gain, float *out);

/* y [tokens][width] = down(relu(up(x))^2): up is tiled [hidden][width], down are neurons [hidden][width]. Only the weights
 * of neurons that are not zero are read, and the sum is the same. `live`, unless NULL, gets how many were not, in all. */
EDGE_API int edge_relu2_mlp(const edge_pool *pool, int bits, size_t width, size_t hidden, const void *up, const void *down,
                            size_t tokens, const float *x, float *y, uint64_t *live);
/* Its second half alone: activations [tokens][hidden], taken as they are. */
EDGE_API int edge_sparse_down(const edge_pool *pool, int bits, size_t width, size_t hidden, const void *down, size_t tokens,
                              const float *activations, float *y, uint64_t *live);

/* The same with an up half in planes, of bits 4. Of a single token the coarse plane is read and says what a neuron comes to if its
 * low bits are what they are on average; one that comes to less than -reach * |x| (the Euclidean norm) is taken as zero, of the
 * others the fine plane is read as well, and they come to what they do in edge_relu2_mlp. A reach of infinity leaves out nothing.
 * Of several tokens both are read whole. `read`, unless NULL, gets of how many neurons the fine plane was read, in all. */
EDGE_API int edge_relu2_mlp_skip(const edge_pool *pool, int bits, size_t width, size_t hidden, const void *coarse,
                                 const void *fine, const void *down, size_t tokens, const float *x, float *y, uint64_t *live,
                                 uint64_t *read);
EDGE_API size_t edge_coarse_bytes(size_t rows, size_t columns);
EDGE_API size_t edge_fine_bytes(size_t rows, size_t columns);
/* The plain form of 4 bits to planes and back, with each row's reach [rows]. */
EDGE_API int edge_pack_planes(size_t rows, size_t columns, const int8_t *q, const uint16_t *scales, const float *reach,
                              void *coarse, void *fine);
EDGE_API int edge_unpack_planes(size_t rows, size_t columns, const void *coarse, const void *fine, int8_t *q, uint16_t *scales,
                                float *reach);

/* Absorbed latent attention (DeepSeek-AI, arXiv 2405.04434, section 2.1). Token t sees cache rows below `position` and rows
 * 0..t of its own chunk, all [latent + rope] float16: latent, then the rotated key that all heads share. Queries are
 * [tokens][heads][latent + rope], with the softmax's scale in them; out is [tokens][heads][latent]. */
EDGE_API int edge_mla(const edge_pool *pool, size_t heads, size_t latent, size_t rope, size_t position,
                      const uint16_t *cache, size_t tokens, const uint16_t *own, const float *query, float *out);

/* A whole attention layer between its two outer projections, of a model in the form of PLM:
 *   projected [tokens][heads * nope | heads * rope/2 even | heads * rope/2 odd | latent | rope/2 even | rope/2 odd]
 * is rotated by cos and sin [tokens][rope/2], its latent normed (eps, no gain), and both become `own` [tokens][latent + rope].
 * to_key and to_value are `heads` tiled matrices each, [latent][nope] and [value][latent]; out is [tokens][heads * value]. */
typedef struct edge_mla_shape {
  size_t heads, nope, rope, value, latent;
} edge_mla_shape;
EDGE_API int edge_mla_layer(const edge_pool *pool, const edge_mla_shape *shape, int bits, const void *to_key,
                            const void *to_value, size_t tokens, const float *projected, const float *cos, const float *sin,
                            float eps, size_t position, const uint16_t *cache, uint16_t *own, float *out);

/* Reads `bytes` (whole cache lines of them) and gives their exclusive or: the memory's speed, to measure the others against. */
EDGE_API uint64_t edge_read(const edge_pool *pool, const void *data, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
