/* The executor of a static program: maps the weights, binds an entry point's tensors, calls its kernels one by one. */
#ifndef EDGE_STATIC_EXECUTOR_H
#define EDGE_STATIC_EXECUTOR_H

#include <stddef.h>

#include "plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where an input or output begins: what kernels expect of a tensor. */
#define EDGE_ALIGNMENT 64

typedef struct edge_program edge_program;
typedef struct edge_bound edge_bound;

/* Hears of each kernel after it ran: its place in the order of calls and its name. */
typedef void (*edge_heard)(void *self, uint32_t place, const char *kernel);

/* The plan with the weights in the file `path`, to compute with `threads` threads. On failure NULL, and `*why` is a
 * sentence without its end ("'...' cannot be read"). */
edge_program *edge_program_open(const edge_plan *plan, const char *path, size_t threads, const char **why);
void edge_program_close(edge_program *program);
/* From now on; -1 if there is no memory for it. */
int edge_program_threads(edge_program *program, size_t threads);

/* Entry point number `entry` on memory that the caller keeps: one pointer for each input and output, aligned to
 * EDGE_ALIGNMENT. NULL if there is no memory. Bound calls share one arena: one runs at a time. */
edge_bound *edge_bind(edge_program *program, uint32_t entry, void *const *inputs, void *const *outputs);
void edge_unbind(edge_bound *bound);

/* 0, or -1 when a kernel failed: edge_last_error says why. `heard` may be NULL. */
int edge_run(edge_bound *bound, edge_heard heard, void *self);
const char *edge_last_error(void);

/* For backend.c. */
void edge_backend_use(void *pool, size_t threads);

#ifdef __cplusplus
}
#endif
#endif
