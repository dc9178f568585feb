/* What an export writes out of a compiled model (export/static_source.py): the tensors, and the kernels in the order of
 * their calls. Everything is constant and without pointers where indices do, so that little is relocated at the start. */
#ifndef EDGE_STATIC_PLAN_H
#define EDGE_STATIC_PLAN_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How the program and its bundle agree: the manifest's abi, and the protocol of --serve (docs/runner.md). */
#define EDGE_STATIC_ABI "edge-static 1"
#define EDGE_STATIC_PROTOCOL 1

/* Where a tensor lies: at an offset in the arena or the weights; an input or output of the entry point. */
enum { EDGE_ARENA, EDGE_WEIGHTS, EDGE_INPUT, EDGE_OUTPUT };

typedef struct edge_tensor {
  uint64_t offset;        /* bytes; 0 for inputs and outputs */
  uint32_t shape;         /* where its sizes begin among the plan's shapes */
  uint16_t index;         /* which input or output */
  uint8_t place, rank;
  uint8_t code, bits;     /* DLPack's type code and bits */
} edge_tensor;

/* One input or output, as the manifest has it. */
typedef struct edge_value {
  const char *name, *dtype;
  uint64_t bytes;
  uint32_t shape, rank;
} edge_value;

/* Kernel number `kernel` on `count` tensors: those that the entry's arguments name from `first` on. */
typedef struct edge_call {
  uint32_t first;
  uint16_t kernel, count;
} edge_call;

typedef struct edge_entry {
  const char *name;
  const edge_value *inputs, *outputs;
  const edge_tensor *tensors;
  const uint32_t *arguments;
  const edge_call *calls;
  uint32_t input_count, output_count, tensor_count, call_count;
} edge_entry;

/* TVM's calling convention of a compiled kernel, as far as it is needed: tvm-ffi's TVMFFIAny and TVMFFISafeCallType. */
typedef struct edge_argument {
  int32_t type, padding;
  union {
    int64_t whole;
    void *pointer;
  } value;
} edge_argument;
typedef int (*edge_kernel)(void *self, const edge_argument *arguments, int32_t count, edge_argument *result);

typedef struct edge_plan {
  const char *model;
  const int64_t *shapes;
  const edge_kernel *kernels;
  const char *const *kernel_names;
  const edge_entry *entries;
  uint64_t arena_bytes, weights_bytes;
  uint32_t entry_count;
  uint8_t weights_sha256[32];
} edge_plan;

extern const edge_plan edge_static_plan;

/* Copies its first tensor's bytes into its second: for outputs that are inputs or constants. */
int edge_copy(void *self, const edge_argument *arguments, int32_t count, edge_argument *result);

#ifdef __cplusplus
}
#endif
#endif
