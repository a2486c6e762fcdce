// The CUDA kernels as plain functions of pointers, sizes and a stream. Arguments are those of
// ../cpu/kernels.h.
#pragma once

#ifndef MINIREC_EMULATOR
#include <cuda_runtime_api.h>
#endif

#include "../cpu/kernels.h"

namespace minirec::cuda {

// Numbers of T, or bfloat16 that are to be computed in float32: one kernel for both, as compiling takes time.
template <typename T>
struct Input {
  const void* numbers;
  bool half;
};

template <typename T>
struct Lists {
  Input<T> gains;          // (n, K)
  const T* idcg;           // (n,), or null for that of the list's own gains, up to 4 KiB of them
  const int64_t* lengths;  // (n,) or null
  const bool* mask;        // (n, K) or null
  T* out;                  // (n, K)
  int64_t n;
  int size, cutoff;
  bool later;
};

template <typename T>
struct Groups {
  Input<T> rewards;        // (A, G, I)
  const bool* mask;        // (A, G, I) or null
  const int64_t* lengths;  // (A, G) or null: column i of a row counts if i is below its length
  const int64_t* offsets;  // (pieces + 1,) or null
  T* out;                  // (A, G, I)
  int64_t outer, group, inner, pieces;
  int ddof;
  T eps;
  bool scale, leave_one_out;
};

template <typename T>
cudaError_t swap_ndcg(const Lists<T>&, cudaStream_t);

template <typename T>
cudaError_t group_normalize(const Groups<T>&, cudaStream_t);

// Lists are (contexts * G, K), and groups say how the G lists of a context are compared: one read and one
// write where a context fits shared memory, otherwise one kernel after the other.
template <typename T>
cudaError_t swap_normalize(const Lists<T>&, const Groups<T>&, cudaStream_t);

}  // namespace minirec::cuda
