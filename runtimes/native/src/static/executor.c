#include "executor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "edge_kernels.h"

/* The weights' file: a header, and the tensors at the plan's offsets after it (export/static_source.py). */
typedef struct header {
  char magic[8];
  uint64_t bytes; /* of all that follows the header */
  uint8_t sha256[32];
  uint8_t reserved[16];
} header;
static const char magic[8] = {'E', 'D', 'G', 'E', 'W', 'G', 'T', '1'};

/* dlpack.h's DLTensor. */
typedef struct view {
  void *data;
  int32_t device_type, device_id;
  int32_t rank;
  uint8_t code, bits;
  uint16_t lanes;
  const int64_t *shape, *strides;
  uint64_t byte_offset;
} view;

enum { CPU = 1, TENSOR_POINTER = 7 }; /* kDLCPU, kTVMFFIDLTensorPtr */

struct edge_program {
  const edge_plan *plan;
  void *file; /* the mapped weights */
  size_t file_bytes;
  uint8_t *weights, *arena;
  edge_pool *pool;
  size_t pooled;
};

struct edge_bound {
  const edge_plan *plan;
  const edge_entry *entry;
  view *views;
  edge_argument *arguments;
};

static char sentence[512];

static int map_weights(edge_program *program, const char *path, const char **why) {
  const uint64_t wanted = program->plan->weights_bytes + sizeof(header);
  *why = sentence;
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  struct stat found;
  if (file < 0 || fstat(file, &found)) {
    snprintf(sentence, sizeof sentence, "the weights '%s' cannot be read (%s)", path, strerror(errno));
    if (file >= 0) close(file);
    return -1;
  }
  if (!S_ISREG(found.st_mode) || (uint64_t)found.st_size != wanted) {
    snprintf(sentence, sizeof sentence, "the weights '%s' are %lld bytes and must be %llu", path, (long long)found.st_size, (unsigned long long)wanted);
    close(file);
    return -1;
  }
  program->file = mmap(NULL, wanted, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (program->file == MAP_FAILED) {
    program->file = NULL;
    snprintf(sentence, sizeof sentence, "the weights '%s' cannot be mapped (%s)", path, strerror(errno));
    return -1;
  }
  program->file_bytes = wanted;
  const header *head = program->file;
  if (memcmp(head->magic, magic, sizeof magic) || head->bytes != program->plan->weights_bytes || memcmp(head->sha256, program->plan->weights_sha256, 32)) {
    snprintf(sentence, sizeof sentence, "the weights '%s' belong to another program", path);
    return -1;
  }
  program->weights = (uint8_t *)program->file + sizeof(header);
  return 0;
}

edge_program *edge_program_open(const edge_plan *plan, const char *path, size_t threads, const char **why) {
  edge_program *program = calloc(1, sizeof *program);
  *why = "there is too little memory";
  if (!program) return NULL;
  program->plan = plan;
  if (map_weights(program, path, why)) goto failed;
  /* Zeros, and pages that no kernel writes to take nothing. */
  void *arena = mmap(NULL, plan->arena_bytes ? plan->arena_bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  *why = "there is too little memory for the activations";
  if (arena == MAP_FAILED) goto failed;
  program->arena = arena;
  if (edge_program_threads(program, threads)) goto failed;
  return program;
failed:
  edge_program_close(program);
  return NULL;
}

void edge_program_close(edge_program *program) {
  if (!program) return;
  edge_backend_use(NULL, 1);
  edge_pool_destroy(program->pool);
  if (program->arena) munmap(program->arena, program->plan->arena_bytes ? program->plan->arena_bytes : 1);
  if (program->file) munmap(program->file, program->file_bytes);
  free(program);
}

int edge_program_threads(edge_program *program, size_t threads) {
  if (threads > 1 && threads > program->pooled) {
    edge_pool *larger = edge_pool_create(threads);
    if (!larger) return -1;
    edge_pool_destroy(program->pool);
    program->pool = larger;
    program->pooled = threads;
  }
  edge_backend_use(program->pool, threads);
  return 0;
}

edge_bound *edge_bind(edge_program *program, uint32_t number, void *const *inputs, void *const *outputs) {
  const edge_plan *plan = program->plan;
  const edge_entry *entry = &plan->entries[number];
  uint32_t arguments = 0;
  for (uint32_t i = 0; i < entry->call_count; i++) arguments += entry->calls[i].count;
  edge_bound *bound = calloc(1, sizeof *bound);
  if (!bound) return NULL;
  bound->plan = plan;
  bound->entry = entry;
  bound->views = calloc(entry->tensor_count + 1, sizeof *bound->views);
  bound->arguments = calloc(arguments + 1, sizeof *bound->arguments);
  if (!bound->views || !bound->arguments) {
    edge_unbind(bound);
    return NULL;
  }
  for (uint32_t i = 0; i < entry->tensor_count; i++) {
    const edge_tensor *tensor = &entry->tensors[i];
    void *data = NULL;
    switch (tensor->place) {
      case EDGE_ARENA: data = program->arena + tensor->offset; break;
      case EDGE_WEIGHTS: data = program->weights + tensor->offset; break;
      case EDGE_INPUT: data = inputs[tensor->index]; break;
      case EDGE_OUTPUT: data = outputs[tensor->index]; break;
    }
    bound->views[i] = (view){data, CPU, 0, tensor->rank, tensor->code, tensor->bits, 1, plan->shapes + tensor->shape, NULL, 0};
  }
  for (uint32_t i = 0; i < arguments; i++) {
    bound->arguments[i].type = TENSOR_POINTER;
    bound->arguments[i].value.pointer = &bound->views[entry->arguments[i]];
  }
  return bound;
}

void edge_unbind(edge_bound *bound) {
  if (!bound) return;
  free(bound->views);
  free(bound->arguments);
  free(bound);
}

int edge_run(edge_bound *bound, edge_heard heard, void *self) {
  const edge_plan *plan = bound->plan;
  const edge_entry *entry = bound->entry;
  for (uint32_t i = 0; i < entry->call_count; i++) {
    const edge_call *call = &entry->calls[i];
    edge_argument result = {0};
    if (plan->kernels[call->kernel](NULL, bound->arguments + call->first, call->count, &result)) return -1;
    if (heard) heard(self, i, plan->kernel_names[call->kernel]);
  }
  return 0;
}

int edge_copy(void *self, const edge_argument *arguments, int32_t count, edge_argument *result) {
  (void)self, (void)count, (void)result;
  const view *from = arguments[0].value.pointer, *to = arguments[1].value.pointer;
  size_t bytes = (from->bits + 7u) / 8u;
  for (int32_t axis = 0; axis < from->rank; axis++) bytes *= (size_t)from->shape[axis];
  memcpy(to->data, from->data, bytes);
  return 0;
}
