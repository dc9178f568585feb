/* What TVM's compiled kernels call of its runtime (tvm/runtime/c_backend_api.h, tvm/ffi/c_api.h): threads, scratch
 * memory, errors. They call it through variables that TVM's loader would set; here they are set when the program is linked. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edge_kernels.h"
#include "executor.h"

typedef struct environment {
  void *sync;
  int32_t tasks;
} environment;
typedef int (*lambda)(int task, environment *environment, void *closure);

static edge_pool *shared_pool;
static size_t threads = 1;

void edge_backend_use(void *used, size_t count) {
  shared_pool = used;
  threads = count;
}

typedef struct launch {
  lambda run;
  void *closure;
  environment environment;
  volatile int failed;
} launch;

static void run_task(void *context, size_t index) {
  launch *launched = context;
  if (launched->run((int)index, &launched->environment, launched->closure)) launched->failed = 1;
}

static int launch_all(lambda run, void *closure, int tasks) {
  launch launched = {run, closure, {NULL, tasks > 0 ? tasks : (int)threads}, 0};
  const size_t count = (size_t)launched.environment.tasks;
  if (shared_pool && count > 1) {
    shared_pool->run(shared_pool->self, count, run_task, &launched);
  } else {
    for (size_t i = 0; i < count; i++) run_task(&launched, i);
  }
  return launched.failed ? -1 : 0;
}

/* Kernels take scratch memory for as long as they run: blocks are kept for the next one, by thread. */
enum { KEPT = 8 };
typedef struct block {
  void *start;
  size_t bytes;
  int taken;
} block;
static _Thread_local block blocks[KEPT];
static pthread_key_t blocks_key;
static pthread_once_t blocks_key_made = PTHREAD_ONCE_INIT;

/* When a thread ends, as those of a pool do whose size is changed. */
static void drop_blocks(void *own) {
  for (int i = 0; i < KEPT; i++) free(((block *)own)[i].start);
}

static void make_blocks_key(void) { pthread_key_create(&blocks_key, drop_blocks); }

static void *take_scratch(int device_type, int device, uint64_t bytes, int code, int bits) {
  (void)device_type, (void)device, (void)code, (void)bits;
  block *chosen = NULL;
  for (int i = 0; i < KEPT; i++) {
    if (blocks[i].taken) continue;
    if (blocks[i].bytes >= bytes) {
      blocks[i].taken = 1;
      return blocks[i].start;
    }
    if (!chosen || blocks[i].bytes < chosen->bytes) chosen = &blocks[i];
  }
  const size_t rounded = (bytes + EDGE_ALIGNMENT - 1) / EDGE_ALIGNMENT * EDGE_ALIGNMENT;
  void *start = aligned_alloc(EDGE_ALIGNMENT, rounded ? rounded : EDGE_ALIGNMENT);
  if (start && chosen) {
    pthread_once(&blocks_key_made, make_blocks_key);
    pthread_setspecific(blocks_key, blocks);
    free(chosen->start);
    *chosen = (block){start, rounded, 1};
  }
  return start;
}

static int give_back(int device_type, int device, void *start) {
  (void)device_type, (void)device;
  for (int i = 0; i < KEPT; i++) {
    if (blocks[i].start == start && start) {
      blocks[i].taken = 0;
      return 0;
    }
  }
  free(start);
  return 0;
}

static char message[512];

const char *edge_last_error(void) { return message[0] ? message : "no message"; }

static void raise_parts(const char *kind, const char **parts, int32_t count) {
  size_t used = (size_t)snprintf(message, sizeof message, "%s: ", kind);
  for (int32_t i = 0; i < count && used < sizeof message; i++) {
    if (parts[i]) used += (size_t)snprintf(message + used, sizeof message - used, "%s", parts[i]);
  }
}

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) { raise_parts(kind, parts, count); }
void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *text) { raise_parts(kind, &text, 1); }

void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = take_scratch;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = give_back;
int (*__TVMBackendParallelLaunch)(lambda, void *, int) = launch_all;
void (*__TVMFFIErrorSetRaisedFromCStr)(const char *, const char *) = TVMFFIErrorSetRaisedFromCStr;
