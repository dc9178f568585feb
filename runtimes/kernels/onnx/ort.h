/* What the kernels' operators use of ONNX Runtime's C API, as numbers: its wheels carry no header, and a user needs no compiler.
 *
 * The API is a table of functions that only ever grows at its end: a function keeps its place in every later release. The
 * place of each one below, its arguments, and the values of its enumerations are those that onnxruntime_c_api.h of releases
 * 1.17 and later declares (struct OrtApi, counted from 0; tests/test_onnx_kernels.py calls each of them). A table of version
 * ORT_VERSION is asked for by that number, and a release that has none is refused. */
#ifndef EDGE_ORT_H
#define EDGE_ORT_H
#include <stddef.h>
#include <stdint.h>

/* 1.17: the first with KernelContext_ParallelFor, which is the last place used. */
#define ORT_VERSION 17

typedef struct ort_status ort_status; /* NULL means success */
typedef struct ort_options ort_options;
typedef struct ort_domain ort_domain;
typedef struct ort_value ort_value;
typedef struct ort_shape ort_shape;
typedef struct ort_info ort_info;
typedef struct ort_context ort_context;

typedef struct ort_api {
  void (*at[275])(void);
} ort_api;

typedef struct ort_base {
  const ort_api *(*table)(uint32_t version); /* NULL if this release has no such table */
  const char *(*release)(void);              /* "1.32.0" */
} ort_base;

/* Each calls the function at its place, which takes what follows the table. */
#define ORT_CALL(api, place, result, ...) ((result(*) __VA_ARGS__)(api)->at[place])
#define ORT_STATUS(api, code, message) ORT_CALL(api, 0, ort_status *, (int, const char *))(code, message)
#define ORT_DOMAIN(api, name, made) ORT_CALL(api, 26, ort_status *, (const char *, ort_domain **))(name, made)
#define ORT_DOMAIN_TAKE(api, domain, op) \
  ORT_CALL(api, 27, ort_status *, (ort_domain *, const struct ort_operator *))(domain, op)
#define ORT_OPTIONS_TAKE(api, options, domain) \
  ORT_CALL(api, 28, ort_status *, (ort_options *, ort_domain *))(options, domain)
#define ORT_DATA(api, value, data) ORT_CALL(api, 51, ort_status *, (ort_value *, void **))(value, data)
#define ORT_AXES(api, shape, count) ORT_CALL(api, 61, ort_status *, (const ort_shape *, size_t *))(shape, count)
#define ORT_EXTENTS(api, shape, extents, count) \
  ORT_CALL(api, 62, ort_status *, (const ort_shape *, int64_t *, size_t))(shape, extents, count)
#define ORT_SHAPE(api, value, shape) ORT_CALL(api, 65, ort_status *, (const ort_value *, ort_shape **))(value, shape)
#define ORT_REAL(api, info, name, found) \
  ORT_CALL(api, 85, ort_status *, (const ort_info *, const char *, float *))(info, name, found)
#define ORT_INTEGER(api, info, name, found) \
  ORT_CALL(api, 86, ort_status *, (const ort_info *, const char *, int64_t *))(info, name, found)
#define ORT_INPUT(api, context, index, value) \
  ORT_CALL(api, 90, ort_status *, (const ort_context *, size_t, const ort_value **))(context, index, value)
#define ORT_OUTPUT(api, context, index, extents, count, value)                                                      \
  ORT_CALL(api, 91, ort_status *, (ort_context *, size_t, const int64_t *, size_t, ort_value **))(context, index, extents, \
                                                                                                 count, value)
#define ORT_DROP_STATUS(api, status) ORT_CALL(api, 93, void, (ort_status *))(status)
#define ORT_DROP_SHAPE(api, shape) ORT_CALL(api, 99, void, (ort_shape *))(shape)
/* Calls task(context, i) for each i below `count` in the session's own pool; `batches` 0: one by one, as threads are free. */
#define ORT_PARALLEL(api, context, task, count, batches, data) \
  ORT_CALL(api, 274, ort_status *, (const ort_context *, void (*)(void *, size_t), size_t, size_t, void *))(context, task, \
                                                                                                        count, batches, data)

/* An operator, as version ORT_VERSION lays it out. Functions that a version does not need may be NULL. */
typedef struct ort_operator {
  uint32_t version;
  void *(*create_1)(const struct ort_operator *, const ort_api *, const ort_info *);
  const char *(*name)(const struct ort_operator *);
  const char *(*provider)(const struct ort_operator *); /* NULL: the CPU */
  int (*input_type)(const struct ort_operator *, size_t index);
  size_t (*inputs)(const struct ort_operator *);
  int (*output_type)(const struct ort_operator *, size_t index);
  size_t (*outputs)(const struct ort_operator *);
  void (*compute_1)(void *kernel, ort_context *);
  void (*destroy)(void *kernel);
  int (*input_kind)(const struct ort_operator *, size_t index); /* 0: required */
  int (*output_kind)(const struct ort_operator *, size_t index);
  int (*input_memory)(const struct ort_operator *, size_t index); /* 0: the provider's own */
  int (*variadic[4])(const struct ort_operator *);
  ort_status *(*create)(const struct ort_operator *, const ort_api *, const ort_info *, void **kernel);
  ort_status *(*compute)(void *kernel, ort_context *);
  ort_status *(*infer)(const struct ort_operator *, void *); /* shapes of outputs, at load */
  int (*first)(const struct ort_operator *);                 /* versions of the domain that have it */
  int (*last)(const struct ort_operator *);
} ort_operator;

enum { ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT64 = 7, ORT_HALF = 10 };
enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
#endif
