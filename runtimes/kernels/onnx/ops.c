/* The kernels as operators of ONNX Runtime, domain edge, version 1; a session's options take them in by
 * register_custom_ops_library(this library). Inputs, attributes and outputs are those of torch_ops.py:
 *
 *   embed(ids, table)                    rows columns bits                    linear(x, packed)   rows bits
 *   head(x, coarse, fine)                rows                                 rms_norm(x)         eps
 *   relu2_mlp(x, up, down)               hidden bits
 *   mla(projected, cache, position, cos, sin, to_key, to_value)               heads nope rope value latent bits eps
 *
 * Threads are the session's own pool. Where packed matrices lie is where ONNX Runtime mapped the bundle's file. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "../edge_kernels.h"
#include "ort.h"

/* Shares of the work: fixed, so that sums do not depend on how many threads there are, which the API does not tell. */
#define SHARES 4
#define MOST_AXES 4
#define MOST_SIZES 6
#define MOST_INPUTS 7

typedef struct call call;
typedef struct operation {
  ort_operator base; /* first: the runtime gives a pointer to it back */
  const char *name, *types; /* one letter a tensor, inputs then outputs: f float, h float16, i int64, b packed bytes */
  size_t inputs, outputs;
  const char *sizes[MOST_SIZES + 1];
  int real; /* whether it has eps too */
  ort_status *(*compute)(call *);
} operation;

typedef struct kernel {
  const ort_api *api;
  const operation *op;
  size_t sizes[MOST_SIZES];
  float eps;
} kernel;

/* One tensor: its data, its number of elements, its axes. */
typedef struct tensor {
  void *data;
  size_t elements, last, axes;
  int64_t extents[MOST_AXES];
} tensor;

struct call {
  const kernel *kernel;
  ort_context *context;
  tensor in[MOST_INPUTS];
  edge_pool pool;
};

typedef struct job {
  edge_task task;
  void *context;
} job;

static void one(void *data, size_t index) {
  const job *each = data;
  each->task(each->context, index);
}

static void run(void *self, size_t count, edge_task task, void *context) {
  const call *c = self;
  const ort_api *api = c->kernel->api;
  job each = {task, context};
  ort_status *status = count > 1 ? ORT_PARALLEL(api, c->context, one, count, 0, &each) : NULL;
  /* It is refused before anything was run, or not at all. */
  if (count < 2 || status)
    for (size_t i = 0; i < count; i++) task(context, i);
  if (status) ORT_DROP_STATUS(api, status);
}

static ort_status *read(const ort_api *api, const ort_value *value, tensor *found) {
  ort_shape *shape;
  ort_status *status = ORT_SHAPE(api, value, &shape);
  if (status) return status;
  status = ORT_AXES(api, shape, &found->axes);
  if (!status && found->axes > MOST_AXES) status = ORT_STATUS(api, ORT_INVALID_ARGUMENT, "edge's kernels take at most 4 axes");
  if (!status) status = ORT_EXTENTS(api, shape, found->extents, found->axes);
  ORT_DROP_SHAPE(api, shape);
  if (status) return status;
  found->elements = 1;
  for (size_t axis = 0; axis < found->axes; axis++) found->elements *= (size_t)found->extents[axis];
  found->last = found->axes ? (size_t)found->extents[found->axes - 1] : 1;
  return ORT_DATA(api, (ort_value *)value, &found->data);
}

static ort_status *output(call *c, size_t index, size_t axes, const int64_t *extents, void **data) {
  ort_value *value;
  ort_status *status = ORT_OUTPUT(c->kernel->api, c->context, index, extents, axes, &value);
  return status ? status : ORT_DATA(c->kernel->api, value, data);
}

static ort_status *rows_of(call *c, size_t index, size_t tokens, size_t width, void **data) {
  const int64_t extents[] = {(int64_t)tokens, (int64_t)width};
  return output(c, index, 2, extents, data);
}

static ort_status *refusal(const call *c) {
  return ORT_STATUS(c->kernel->api, ORT_INVALID_ARGUMENT, "edge's kernels refuse these sizes, bits or ids");
}

static ort_status *told(const call *c, int status) {
  if (status == EDGE_NO_MEMORY) return ORT_STATUS(c->kernel->api, ORT_FAIL, "edge's kernels have no memory");
  return status ? refusal(c) : NULL;
}

static ort_status *embed(call *c) {
  const size_t *size = c->kernel->sizes, tokens = c->in[0].elements;
  void *y;
  if (!size[1] || c->in[1].elements != edge_tiled_bytes((int)size[2], size[0], size[1])) return refusal(c);
  ort_status *status = rows_of(c, 0, tokens, size[1], &y);
  if (status) return status;
  return told(c, edge_embed((int)size[2], size[0], size[1], c->in[1].data, tokens, c->in[0].data, y));
}

static ort_status *linear(call *c) {
  const size_t *size = c->kernel->sizes, columns = c->in[0].last;
  void *y;
  if (!columns || c->in[1].elements != edge_tiled_bytes((int)size[1], size[0], columns)) return refusal(c);
  const size_t tokens = c->in[0].elements / columns;
  ort_status *status = rows_of(c, 0, tokens, size[0], &y);
  if (status) return status;
  return told(c, edge_matmul(&c->pool, (int)size[1], size[0], columns, c->in[1].data, tokens, c->in[0].data, y));
}

static ort_status *head(call *c) {
  const size_t rows = c->kernel->sizes[0], columns = c->in[0].last;
  void *y;
  if (!columns || c->in[1].elements != edge_tiled_bytes(4, rows, columns) || c->in[2].elements != c->in[1].elements)
    return refusal(c);
  const size_t tokens = c->in[0].elements / columns;
  ort_status *status = rows_of(c, 0, tokens, rows, &y);
  if (status) return status;
  return told(c, edge_head(&c->pool, rows, columns, c->in[1].data, c->in[2].data, tokens, c->in[0].data, y));
}

static ort_status *rms_norm(call *c) {
  const tensor *x = &c->in[0];
  void *y;
  if (!x->last) return refusal(c);
  ort_status *status = output(c, 0, x->axes, x->extents, &y);
  return status ? status : told(c, edge_rms_norm(x->elements / x->last, x->last, x->data, c->kernel->eps, NULL, y));
}

static ort_status *relu2_mlp(call *c) {
  const tensor *x = &c->in[0];
  const size_t hidden = c->kernel->sizes[0], width = x->last;
  const int bits = (int)c->kernel->sizes[1];
  void *y;
  if (!width || c->in[1].elements != edge_tiled_bytes(bits, hidden, width) ||
      c->in[2].elements != edge_neurons_bytes(bits, hidden, width))
    return refusal(c);
  ort_status *status = output(c, 0, x->axes, x->extents, &y);
  if (status) return status;
  return told(c, edge_relu2_mlp(&c->pool, bits, width, hidden, c->in[1].data, c->in[2].data, x->elements / width, x->data, y,
                                NULL));
}

static ort_status *mla(call *c) {
  enum { PROJECTED, CACHE, POSITION, COS, SIN, TO_KEY, TO_VALUE };
  const size_t *size = c->kernel->sizes;
  const edge_mla_shape shape = {size[0], size[1], size[2], size[3], size[4]};
  const int bits = (int)size[5];
  const size_t row = shape.latent + shape.rope, wide = shape.heads * (shape.nope + shape.rope) + row;
  const tensor *in = c->in;
  if (in[PROJECTED].last != wide || !wide || in[POSITION].elements != 1) return refusal(c);
  const size_t tokens = in[PROJECTED].elements / wide;
  const int64_t position = *(const int64_t *)in[POSITION].data;
  if (in[COS].elements != tokens * (shape.rope / 2) || in[SIN].elements != in[COS].elements || position < 0 ||
      (uint64_t)position > in[CACHE].elements / row ||
      in[TO_KEY].elements != shape.heads * edge_tiled_bytes(bits, shape.latent, shape.nope) ||
      in[TO_VALUE].elements != shape.heads * edge_tiled_bytes(bits, shape.value, shape.latent))
    return refusal(c);
  void *y, *own;
  ort_status *status = rows_of(c, 0, tokens, shape.heads * shape.value, &y);
  if (!status) status = rows_of(c, 1, tokens, row, &own);
  if (status) return status;
  return told(c, edge_mla_layer(&c->pool, &shape, bits, in[TO_KEY].data, in[TO_VALUE].data, tokens, in[PROJECTED].data,
                                in[COS].data, in[SIN].data, c->kernel->eps, (size_t)position, in[CACHE].data, own, y));
}

static ort_status *compute(void *self, ort_context *context) {
  const kernel *made = self;
  call c = {made, context, {{0}}, {run, NULL, SHARES}};
  c.pool.self = &c;
  for (size_t i = 0; i < made->op->inputs; i++) {
    const ort_value *value;
    ort_status *status = ORT_INPUT(made->api, context, i, &value);
    if (!status) status = read(made->api, value, &c.in[i]);
    if (status) return status;
  }
  return made->op->compute(&c);
}

static ort_status *create(const ort_operator *self, const ort_api *api, const ort_info *info, void **made) {
  const operation *op = (const operation *)self;
  kernel *found = calloc(1, sizeof *found);
  if (!found) return ORT_STATUS(api, ORT_FAIL, "edge's kernels have no memory");
  found->api = api, found->op = op;
  ort_status *status = op->real ? ORT_REAL(api, info, "eps", &found->eps) : NULL;
  for (size_t i = 0; !status && op->sizes[i]; i++) {
    int64_t size = 0;
    status = ORT_INTEGER(api, info, op->sizes[i], &size);
    if (!status && (size < 1 || size > INT32_MAX)) status = ORT_STATUS(api, ORT_INVALID_ARGUMENT, "edge's kernels refuse this size");
    found->sizes[i] = (size_t)size;
  }
  if (status)
    free(found);
  else
    *made = found;
  return status;
}

static const char *name(const ort_operator *op) { return ((const operation *)op)->name; }
static const char *provider(const ort_operator *op) { return (void)op, NULL; }
static size_t inputs(const ort_operator *op) { return ((const operation *)op)->inputs; }
static size_t outputs(const ort_operator *op) { return ((const operation *)op)->outputs; }
static int type(char letter) {
  return letter == 'f' ? ORT_FLOAT : letter == 'h' ? ORT_HALF : letter == 'i' ? ORT_INT64 : ORT_UINT8;
}
static int input_type(const ort_operator *op, size_t index) { return type(((const operation *)op)->types[index]); }
static int output_type(const ort_operator *op, size_t index) {
  const operation *own = (const operation *)op;
  return type(own->types[own->inputs + index]);
}
static int zero_of(const ort_operator *op, size_t index) { return (void)op, (void)index, 0; }
static int one_of(const ort_operator *op) { return (void)op, 1; }

#define BASE                                                                                                         \
  {ORT_VERSION, NULL,    name,    provider, input_type, inputs,                             output_type, outputs,   \
   NULL,        free,    zero_of, zero_of,  zero_of,    {one_of, one_of, one_of, one_of}, create,      compute, \
   NULL,        one_of, one_of}

static const operation OPERATIONS[] = {
    {BASE, "embed", "ibf", 2, 1, {"rows", "columns", "bits"}, 0, embed},
    {BASE, "head", "fbbf", 3, 1, {"rows"}, 0, head},
    {BASE, "linear", "fbf", 2, 1, {"rows", "bits"}, 0, linear},
    {BASE, "mla", "fhiffbbfh", 7, 2, {"heads", "nope", "rope", "value", "latent", "bits"}, 1, mla},
    {BASE, "relu2_mlp", "fbbf", 3, 1, {"hidden", "bits"}, 0, relu2_mlp},
    {BASE, "rms_norm", "ff", 1, 1, {NULL}, 1, rms_norm},
};

/* What the runtime looks for in a library of operators. A domain is only read by its sessions: one serves them all. */
EDGE_API ort_status *RegisterCustomOps(ort_options *options, const ort_base *base) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  static ort_domain *domain;
  static const ort_api *known;
  const ort_api *api = strncmp(base->release(), "1.", 2) ? NULL : base->table(ORT_VERSION), *oldest = base->table(1);
  /* Without any table there is no way to say so; loading a model then fails for want of the operators. */
  if (!api) return oldest ? ORT_STATUS(oldest, ORT_FAIL, "edge's kernels need ONNX Runtime 1.17 or a later 1.x") : NULL;
  ort_status *status = NULL;
  pthread_mutex_lock(&lock);
  if (known != api) {
    status = ORT_DOMAIN(api, "edge", &domain);
    for (size_t i = 0; !status && i < sizeof OPERATIONS / sizeof *OPERATIONS; i++)
      status = ORT_DOMAIN_TAKE(api, domain, &OPERATIONS[i].base);
    if (!status) known = api;
  }
  pthread_mutex_unlock(&lock);
  return status ? status : ORT_OPTIONS_TAKE(api, options, domain);
}
