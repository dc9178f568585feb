/* The kernels as functions of a TVM module, with the calling convention of tvm_ffi (tvm/ffi/c_api.h, installed with it):
 *
 *   edge_linear(x, packed, sizes, y)                                  sizes {rows, bits}
 *   edge_embed(ids, table, sizes, y)                                  sizes {rows, columns, bits}
 *   edge_head(x, coarse, fine, sizes, y)                              sizes {rows}
 *   edge_rms_norm(x, reals, y)                                        reals {eps}
 *   edge_relu2_mlp(x, up, down, sizes, y)                             sizes {hidden, bits}
 *   edge_relu2_mlp_skip(x, coarse, fine, down, sizes, y)              sizes {hidden}
 *   edge_mla(projected, cache, position, cos, sin, to_key, to_value, sizes, reals, out, own)
 *                                                                     sizes {heads, nope, rope, value, latent, bits}, reals {eps}
 * Arguments are tensors on the CPU, the last ones are written. `sizes` are int64, `reals` float32. Linked into the module that
 * calls them, so that it needs no library of ours; threads are TVM's own pool. */
#include <stdatomic.h>
#include <tvm/ffi/c_api.h>

#include "../edge_kernels.h"

/* What the loader fills in when it opens the module: TVM's compiled code has the same variable, and the linker makes them
 * one. The type of tasks is that of tvm/runtime/c_backend_api.h. */
typedef struct group {
  void *sync;
  int32_t tasks;
} group;
typedef int (*parallel_task)(int index, group *group, void *data);
__attribute__((weak, visibility("default"))) int (*__TVMBackendParallelLaunch)(parallel_task task, void *data, int tasks) = 0;

/* Shares of the work: fixed, so that sums do not depend on how many threads there are. */
#define SHARES 4

typedef struct work {
  atomic_size_t next;
  size_t count;
  edge_task task;
  void *context;
} work;

static int take(int index, group *group, void *data) {
  work *job = data;
  (void)index, (void)group;
  for (size_t i; (i = atomic_fetch_add(&job->next, 1)) < job->count;) job->task(job->context, i);
  return 0;
}

static void run(void *self, size_t count, edge_task task, void *context) {
  work job = {0, count, task, context};
  (void)self;
  if (count < 2 || !__TVMBackendParallelLaunch || __TVMBackendParallelLaunch(take, &job, 0)) take(0, 0, &job);
}

static const edge_pool THREADS = {run, 0, SHARES};

typedef struct call {
  const TVMFFIAny *arguments;
  int count, at, good;
  size_t elements, last; /* of the tensor before */
} call;

static void *next(call *c, uint8_t code, uint8_t bits) {
  if (c->at >= c->count) {
    c->good = 0;
    return 0;
  }
  const TVMFFIAny *any = &c->arguments[c->at++];
  const DLTensor *tensor = 0;
  if (any->type_index == kTVMFFIDLTensorPtr) tensor = any->v_ptr;
  if (any->type_index == kTVMFFITensor) tensor = (const DLTensor *)((const char *)any->v_obj + sizeof(TVMFFIObject));
  if (!tensor || tensor->dtype.code != code || tensor->dtype.bits != bits || tensor->dtype.lanes != 1) {
    c->good = 0;
    return 0;
  }
  c->elements = 1;
  for (int axis = 0; axis < tensor->ndim; axis++) c->elements *= (size_t)tensor->shape[axis];
  c->last = tensor->ndim ? (size_t)tensor->shape[tensor->ndim - 1] : 1;
  return (char *)tensor->data + tensor->byte_offset;
}
static float *floats(call *c) { return next(c, kDLFloat, 32); }
static uint16_t *halves(call *c) { return next(c, kDLFloat, 16); }
static int64_t *integers(call *c) { return next(c, kDLInt, 64); }
static void *packed(call *c, size_t *bytes) {
  void *data = next(c, kDLUInt, 8);
  *bytes = c->elements;
  return data;
}
static const int64_t *sizes(call *c, size_t count) {
  const int64_t *found = integers(c);
  c->good = c->good && c->elements == count;
  return found;
}

typedef int (*operator_function)(call *c);

static int linear(call *c) {
  size_t bytes;
  const float *x = floats(c);
  const size_t columns = c->last, elements = c->elements;
  const void *weights = packed(c, &bytes);
  const int64_t *size = sizes(c, 2);
  float *y = floats(c);
  if (!c->good || !columns || bytes != edge_tiled_bytes((int)size[1], (size_t)size[0], columns)) return EDGE_BAD_ARGUMENT;
  if (c->elements != elements / columns * (size_t)size[0]) return EDGE_BAD_ARGUMENT;
  return edge_matmul(&THREADS, (int)size[1], (size_t)size[0], columns, weights, elements / columns, x, y);
}

static int embed(call *c) {
  size_t bytes;
  const int64_t *ids = integers(c);
  const size_t tokens = c->elements;
  const void *table = packed(c, &bytes);
  const int64_t *size = sizes(c, 3);
  float *y = floats(c);
  if (!c->good || bytes != edge_tiled_bytes((int)size[2], (size_t)size[0], (size_t)size[1])) return EDGE_BAD_ARGUMENT;
  if (c->elements != tokens * (size_t)size[1]) return EDGE_BAD_ARGUMENT;
  return edge_embed((int)size[2], (size_t)size[0], (size_t)size[1], table, tokens, ids, y);
}

static int head(call *c) {
  size_t coarse_bytes, fine_bytes;
  const float *x = floats(c);
  const size_t columns = c->last, elements = c->elements;
  const void *coarse = packed(c, &coarse_bytes), *fine = packed(c, &fine_bytes);
  const int64_t *size = sizes(c, 1);
  float *y = floats(c);
  if (!c->good || !columns) return EDGE_BAD_ARGUMENT;
  const size_t rows = (size_t)size[0], tokens = elements / columns;
  if (coarse_bytes != edge_tiled_bytes(4, rows, columns) || fine_bytes != coarse_bytes || c->elements != tokens * rows)
    return EDGE_BAD_ARGUMENT;
  return edge_head(&THREADS, rows, columns, coarse, fine, tokens, x, y);
}

static int rms_norm(call *c) {
  const float *x = floats(c);
  const size_t elements = c->elements, width = c->last;
  const float *eps = floats(c);
  float *y = floats(c);
  if (!c->good || !width || c->elements != elements) return EDGE_BAD_ARGUMENT;
  return edge_rms_norm(elements / width, width, x, *eps, 0, y);
}

static int relu2_mlp(call *c) {
  size_t up_bytes, down_bytes;
  const float *x = floats(c);
  const size_t elements = c->elements, width = c->last;
  const void *up = packed(c, &up_bytes), *down = packed(c, &down_bytes);
  const int64_t *size = sizes(c, 2);
  float *y = floats(c);
  if (!c->good || !width || c->elements != elements) return EDGE_BAD_ARGUMENT;
  const size_t hidden = (size_t)size[0];
  const int bits = (int)size[1];
  if (up_bytes != edge_tiled_bytes(bits, hidden, width) || down_bytes != edge_neurons_bytes(bits, hidden, width))
    return EDGE_BAD_ARGUMENT;
  return edge_relu2_mlp(&THREADS, bits, width, hidden, up, down, elements / width, x, y, 0);
}

static int relu2_mlp_skip(call *c) {
  size_t coarse_bytes, fine_bytes, down_bytes;
  const float *x = floats(c);
  const size_t elements = c->elements, width = c->last;
  const void *coarse = packed(c, &coarse_bytes), *fine = packed(c, &fine_bytes), *down = packed(c, &down_bytes);
  const int64_t *size = sizes(c, 1);
  float *y = floats(c);
  if (!c->good || !width || c->elements != elements) return EDGE_BAD_ARGUMENT;
  const size_t hidden = (size_t)*size;
  if (coarse_bytes != edge_coarse_bytes(hidden, width) || fine_bytes != edge_fine_bytes(hidden, width) ||
      down_bytes != edge_neurons_bytes(4, hidden, width))
    return EDGE_BAD_ARGUMENT;
  return edge_relu2_mlp_skip(&THREADS, 4, width, hidden, coarse, fine, down, elements / width, x, y, 0, 0);
}

static int mla(call *c) {
  size_t key_bytes, value_bytes;
  const float *projected = floats(c);
  const size_t wide = c->last, tokens = wide ? c->elements / wide : 0;
  const uint16_t *cache = halves(c);
  const size_t cached = c->elements;
  const int64_t *position = integers(c);
  const float *cos = floats(c);
  const size_t cosines = c->elements;
  const float *sin = floats(c);
  const size_t sines = c->elements;
  const void *to_key = packed(c, &key_bytes), *to_value = packed(c, &value_bytes);
  const int64_t *size = sizes(c, 6);
  const float *eps = floats(c);
  float *out = floats(c);
  const size_t outputs = c->elements;
  uint16_t *own = halves(c);
  if (!c->good || !wide) return EDGE_BAD_ARGUMENT;
  const edge_mla_shape shape = {(size_t)size[0], (size_t)size[1], (size_t)size[2], (size_t)size[3], (size_t)size[4]};
  const int bits = (int)size[5];
  const size_t row = shape.latent + shape.rope;
  if (wide != shape.heads * (shape.nope + shape.rope) + row || cosines != tokens * shape.rope / 2 || sines != cosines ||
      key_bytes != shape.heads * edge_tiled_bytes(bits, shape.latent, shape.nope) ||
      value_bytes != shape.heads * edge_tiled_bytes(bits, shape.value, shape.latent) ||
      outputs != tokens * shape.heads * shape.value || c->elements != tokens * row || *position < 0 ||
      (uint64_t)*position * row > cached)
    return EDGE_BAD_ARGUMENT;
  return edge_mla_layer(&THREADS, &shape, bits, to_key, to_value, tokens, projected, cos, sin, *eps, (size_t)*position, cache,
                        own, out);
}

/* As TVM's compiled code does, by the variable that the loader fills in. */
__attribute__((weak, visibility("default"))) void (*__TVMFFIErrorSetRaisedFromCStr)(const char *kind, const char *message) = 0;

static int finish(operator_function function, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result) {
  call c = {arguments, count, 0, 1, 0, 0};
  const int status = function(&c);
  result->type_index = kTVMFFINone;
  result->v_int64 = 0;
  if (!status) return 0;
  if (__TVMFFIErrorSetRaisedFromCStr)
    __TVMFFIErrorSetRaisedFromCStr("ValueError", status == EDGE_NO_MEMORY ? "there is no memory left for the kernels"
                                                                          : "the kernels refuse these sizes, bits or ids");
  return -1;
}

#define FUNCTION(name)                                                                                                     \
  EDGE_API int __tvm_ffi_edge_##name(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result);               \
  EDGE_API int __tvm_ffi_edge_##name(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result) {              \
    (void)self;                                                                                                            \
    return finish(name, arguments, count, result);                                                                         \
  }
FUNCTION(linear)
FUNCTION(embed)
FUNCTION(head)
FUNCTION(rms_norm)
FUNCTION(relu2_mlp)
FUNCTION(relu2_mlp_skip)
FUNCTION(mla)
