// One source, compiled for three instruction sets; which one runs is decided when the library is used.
#include "kernels.h"

#include <type_traits>
#include <utility>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MINIREC_X86 1
#include <immintrin.h>
#endif

// Vectors wider than the baseline's registers never cross a function that is not inlined.
#pragma GCC diagnostic ignored "-Wpsabi"

#ifdef MINIREC_X86
namespace minirec::avx512 {
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")
#define BYTES 64
#include "lanes.h"
#include "normalize.h"
#include "swap.h"
#undef BYTES
#pragma GCC pop_options
}  // namespace minirec::avx512

namespace minirec::avx2 {
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define BYTES 32
#include "lanes.h"
#include "normalize.h"
#include "swap.h"
#undef BYTES
#pragma GCC pop_options
}  // namespace minirec::avx2
#endif

namespace minirec::baseline {
#define BYTES 16
#include "lanes.h"
#include "normalize.h"
#include "swap.h"
#undef BYTES
}  // namespace minirec::baseline

namespace minirec {

bool can_run(InstructionSet set) {
#ifdef MINIREC_X86
  if (set == InstructionSet::avx512) return __builtin_cpu_supports("x86-64-v4");
  if (set == InstructionSet::avx2) return __builtin_cpu_supports("x86-64-v3");
#endif
  return set == InstructionSet::baseline;
}

#define TABLE(set)                                                                             \
  Kernels<In, T> {                                                                             \
    set::swap_work<In, T>, set::swap<In, T>, set::normalize_work<In, T>, set::normalize<In, T> \
  }

template <typename In, typename T>
Kernels<In, T> kernels_of(InstructionSet set) {
#ifdef MINIREC_X86
  if (set == InstructionSet::avx512) return TABLE(avx512);
  if (set == InstructionSet::avx2) return TABLE(avx2);
#endif
  return TABLE(baseline);
}

template Kernels<float, float> kernels_of(InstructionSet);
template Kernels<double, double> kernels_of(InstructionSet);
template Kernels<bfloat16, float> kernels_of(InstructionSet);

}  // namespace minirec
