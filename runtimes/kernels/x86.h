/* What an x86-64 CPU has and its system saves, asked of the CPU itself: compilers' own tests need start-up code of theirs,
 * which is not always linked. Numbers from the Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2A, CPUID,
 * and volume 1, 13.3 (XCR0). */
#include <cpuid.h>

static int x86_has(unsigned leaf7_ebx, unsigned leaf7_ecx, unsigned saved) {
  unsigned a, b, c, d, low, high;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  const unsigned needed = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29; /* FMA, OSXSAVE, AVX, F16C */
  if ((c & needed) != needed) return 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & saved) != saved) return 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  return (b & leaf7_ebx) == leaf7_ebx && (c & leaf7_ecx) == leaf7_ecx;
}

/* Whether CPUID's leaf 0 names the maker so: 12 letters in EBX, EDX, ECX. */
static inline int x86_vendor_is(const char *name) {
  unsigned a, letters[3];
  return __get_cpuid(0, &a, &letters[0], &letters[2], &letters[1]) && !memcmp(letters, name, sizeof letters);
}
