/* The executor of static programs on a plan of its own, for sanitizers (tests/test_static.py): two entry points, scratch
 * memory, threads, a failing kernel, weights that are not there or another's. Prints what went wrong; status 0 or 1.
 * Arguments: a weights file that fits the plan below, and one that does not. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "executor.h"

#define COUNT 1000

typedef struct view {
  void *data;
  int32_t device[2], rank;
} view;
typedef struct environment {
  void *sync;
  int32_t tasks;
} environment;
extern void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
extern int (*__TVMBackendFreeWorkspace)(int, int, void *);
extern int (*__TVMBackendParallelLaunch)(int (*)(int, environment *, void *), void *, int);
extern void (*__TVMFFIErrorSetRaisedFromCStr)(const char *, const char *);

static float *data_of(const edge_argument *argument) { return ((view *)argument->value.pointer)->data; }

/* out = in + weights, a part of it for each thread, by way of scratch memory. */
static int part(int task, environment *shared, void *closure) {
  const edge_argument *arguments = closure;
  const float *in = data_of(&arguments[0]), *weights = data_of(&arguments[1]);
  float *out = data_of(&arguments[2]);
  const int first = COUNT * task / shared->tasks, last = COUNT * (task + 1) / shared->tasks;
  float *scratch = __TVMBackendAllocWorkspace(1, 0, sizeof(float) * (size_t)(last - first), 2, 32);
  if (!scratch) return -1;
  for (int i = first; i < last; i++) scratch[i - first] = in[i] + weights[i];
  memcpy(out + first, scratch, sizeof(float) * (size_t)(last - first));
  return __TVMBackendFreeWorkspace(1, 0, scratch);
}

static int add(void *self, const edge_argument *arguments, int32_t count, edge_argument *result) {
  (void)self, (void)result;
  if (count != 3) return -1;
  return __TVMBackendParallelLaunch(part, (void *)(uintptr_t)arguments, 0);
}

static int fail(void *self, const edge_argument *arguments, int32_t count, edge_argument *result) {
  (void)self, (void)arguments, (void)count, (void)result;
  __TVMFFIErrorSetRaisedFromCStr("ValueError", "on purpose");
  return -1;
}

static const int64_t shapes[] = {COUNT};
static const edge_kernel kernels[] = {add, edge_copy, fail};
static const char *const names[] = {"add", "edge_copy", "fail"};
static const edge_value values[] = {{"x", "float32", 4 * COUNT, 0, 1}};
static const edge_tensor tensors[] = {
    {0, 0, 0, EDGE_INPUT, 1, 2, 32}, {0, 0, 0, EDGE_WEIGHTS, 1, 2, 32}, {64, 0, 0, EDGE_ARENA, 1, 2, 32}, {0, 0, 0, EDGE_OUTPUT, 1, 2, 32},
};
static const uint32_t arguments[] = {0, 1, 2, 2, 1, 2, 2, 3};
static const edge_call calls[] = {{0, 0, 3}, {3, 0, 3}, {6, 1, 2}};
static const edge_call failing[] = {{0, 2, 0}};
static const edge_entry entries[] = {
    {"twice", values, values, tensors, arguments, calls, 1, 1, 4, 3},
    {"fails", values, values, tensors, arguments, failing, 1, 1, 4, 1},
};
static const edge_plan plan = {"check", shapes, kernels, names, entries, 64 + 4 * COUNT + 32, 4 * COUNT, 2, {7}};

static int wrong(const char *what) {
  printf("%s\n", what);
  return 1;
}

static void hear(void *self, uint32_t place, const char *kernel) {
  *(uint32_t *)self += place + (uint32_t)strlen(kernel);
}

int main(int count, char **paths) {
  const char *why = NULL;
  if (count != 3) return wrong("two files are wanted");
  if (edge_program_open(&plan, "/nonexistent", 1, &why) || !strstr(why, "cannot be read")) return wrong("weights that are not there were taken");
  if (edge_program_open(&plan, paths[2], 1, &why) || !strstr(why, "must be")) return wrong("weights of another size were taken");
  edge_plan other = plan;
  other.weights_sha256[0] = 8;
  if (edge_program_open(&other, paths[1], 1, &why) || !strstr(why, "another program")) return wrong("another program's weights were taken");
  edge_program *program = edge_program_open(&plan, paths[1], 1, &why);
  if (!program) return wrong(why);

  float *in = aligned_alloc(EDGE_ALIGNMENT, 4096), *out = aligned_alloc(EDGE_ALIGNMENT, 4096);
  edge_bound *bound = edge_bind(program, 0, (void *[]){in}, (void *[]){out});
  if (!in || !out || !bound) return wrong("no memory");
  for (size_t threads = 1; threads <= 4; threads++) {
    if (edge_program_threads(program, threads)) return wrong("no threads");
    for (int run = 0; run < 50; run++) {
      uint32_t heard = 0;
      for (int i = 0; i < COUNT; i++) in[i] = (float)(i + run);
      memset(out, 0, 4096);
      if (edge_run(bound, hear, &heard)) return wrong(edge_last_error());
      /* The weights are 0, 1, 2, ...: in + 2 * i. */
      for (int i = 0; i < COUNT; i++) {
        if (out[i] != (float)(i + run + 2 * i)) return wrong("a wrong sum");
      }
      if (heard != 0 + 1 + 2 + 3 + 3 + 9) return wrong("not every kernel was heard of");
    }
  }
  edge_bound *bad = edge_bind(program, 1, (void *[]){in}, (void *[]){out});
  if (!bad || edge_run(bad, NULL, NULL) != -1 || strcmp(edge_last_error(), "ValueError: on purpose")) return wrong("a failure was not told");
  edge_unbind(bad);
  edge_unbind(bound);
  free(in);
  free(out);
  edge_program_close(program);
  return 0;
}
