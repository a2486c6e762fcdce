// The CPU kernels as plain functions of pointers and sizes, and the tables they read.
#pragma once

#include <cstdint>

namespace minirec {

struct bfloat16 {
  uint16_t bits;
};

// Discounts of a list of K, made in float64 and rounded once to T; k counts from 0.
template <typename T>
struct Discounts {
  const T* d;           // 1/log2(k + 2), 0 from the cut-off on
  const T* step;        // d[k] - d[k + 1]
  const T* share;       // U_k/n_k where all positions are valid, 0 for the last
  const T* part;        // 1/n_k there
  const T* centred;     // d[k] minus the mean of d
  const double* exact;  // d, not rounded
  const double* upto;   // the sum of so many of them, from 0 to all
};

template <typename In, typename T>
struct SwapArguments {
  const In* gains;         // (n, K)
  const T* idcg;           // (n,), or null: that of the list's own gains
  const int64_t* lengths;  // (n,) or null
  const bool* mask;        // (n, K) or null
  T* out;                  // (n, K)
  int64_t n, size;
  bool later;
  Discounts<T> discounts;
};

template <typename In, typename T>
struct NormalizeArguments {
  const In* rewards;       // (A, G, I)
  const bool* mask;        // (A, G, I) or null
  const int64_t* offsets;  // (pieces + 1,) or null
  T* out;                  // (A, G, I)
  int64_t outer, group, inner, pieces;
  int64_t longest;  // of the pieces
  int64_t ddof;
  T eps;
  bool scale, leave_one_out;
};

// What an instruction set offers. Work is cut into tiles, such as as many lists as a vector has lanes. A thread
// does tiles [begin, end), and says whether all that counts is finite, and gains and IDCG not negative; a false
// alarm is possible where squares overflow. Its scratch holds SCRATCH_BYTES per position of a list or member of a
// group, and for SPARE more.
template <typename In, typename T>
struct Kernels {
  int64_t (*swap_tiles)(const SwapArguments<In, T>&);
  bool (*swap)(const SwapArguments<In, T>&, int64_t begin, int64_t end, void* scratch);
  int64_t (*normalize_tiles)(const NormalizeArguments<In, T>&);
  bool (*normalize)(const NormalizeArguments<In, T>&, int64_t begin, int64_t end, void* scratch);
};

constexpr int64_t SCRATCH_BYTES = 2 * 64, SPARE = 16;
constexpr int64_t TILED = 256;  // the longest group that is transposed; others need no scratch

enum class InstructionSet { avx512, avx2, baseline };

bool can_run(InstructionSet);

template <typename In, typename T>
Kernels<In, T> kernels_of(InstructionSet);

}  // namespace minirec
