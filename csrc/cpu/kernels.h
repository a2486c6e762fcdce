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

// How rewards are normalised.
template <typename T>
struct Normal {
  int64_t ddof;
  T eps;
  bool scale, leave_one_out;
};

// Lists of n contexts of G; G is 1 where lists have nothing to do with one another.
template <typename In, typename T>
struct SwapArguments {
  const In* gains;         // (n, G, K)
  const T* idcg;           // (n, G), or null: that of the list's own gains
  const int64_t* lengths;  // (n, G) or null
  const bool* mask;        // (n, G, K) or null
  T* out;                  // (n, G, K)
  int64_t n, group, size;
  bool later;
  const Normal<T>* groups;  // then each position over the context, or null: swap rewards
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
  Normal<T> how;
};

// How many tiles there are, of as many lists as a vector has lanes or more, and the bytes of scratch that one takes.
struct Work {
  int64_t tiles, room;
};

// What an instruction set offers. A thread does tiles [begin, end), with a scratch of its own, and says whether all
// that counts is finite, and gains and IDCG not negative; a false alarm is possible where squares overflow.
template <typename In, typename T>
struct Kernels {
  Work (*swap_work)(const SwapArguments<In, T>&);
  bool (*swap)(const SwapArguments<In, T>&, int64_t begin, int64_t end, void* scratch);
  Work (*normalize_work)(const NormalizeArguments<In, T>&);
  bool (*normalize)(const NormalizeArguments<In, T>&, int64_t begin, int64_t end, void* scratch);
};

enum class InstructionSet { avx512, avx2, baseline };

bool can_run(InstructionSet);

template <typename In, typename T>
Kernels<In, T> kernels_of(InstructionSet);

}  // namespace minirec
