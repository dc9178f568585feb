/* AVX-512 with VNNI: every x86-64 server and many a laptop since 2019. */
#if defined(__x86_64__)
#include "avx512.h"

static int usable(void) { return has_avx512(0); }

#include "product.h"
INSTRUCTION_SET(edge_avx512vnni, "avx512vnni")
#endif
