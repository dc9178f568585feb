/* Which instruction set is in use. Chosen once, by asking the CPU and, on x86-64, whether the system saves its registers. */
#include <stdatomic.h>

#include "format.h"

static const instruction_set *const ALL[] = {
#if defined(__x86_64__)
#if defined(__linux__)
    &edge_amx,
#endif
    &edge_avx512vnni, &edge_avx2,
#elif defined(__aarch64__)
    &edge_dotprod, &edge_neon,
#endif
    &edge_portable};
enum { COUNT = sizeof ALL / sizeof *ALL };

static _Atomic(const instruction_set *) chosen;

const instruction_set *edge_isa(void) {
  const instruction_set *found = atomic_load_explicit(&chosen, memory_order_acquire);
  if (found) return found;
  for (size_t i = 0; i < COUNT; i++)
    if (ALL[i]->usable()) {
      found = ALL[i];
      break;
    }
  atomic_store_explicit(&chosen, found, memory_order_release);
  return found;
}

int edge_kernels_use(const char *isa) {
  if (!isa) {
    atomic_store(&chosen, NULL);
    return 0;
  }
  for (size_t i = 0; i < COUNT; i++)
    if (strcmp(ALL[i]->name, isa) == 0 && ALL[i]->usable()) {
      atomic_store(&chosen, ALL[i]);
      return 0;
    }
  return EDGE_BAD_ARGUMENT;
}

int edge_kernels_abi_version(void) { return EDGE_KERNELS_ABI; }
const char *edge_kernels_version(void) { return EDGE_KERNELS_VERSION; }
const char *edge_kernels_isa(void) { return edge_isa()->name; }
