// The CUDA kernels under the emulator, as a library of plain functions for tests/test_cuda_kernels.py.
#include "cuda_emulator.h"

#include "../../csrc/cuda/group_normalize.cu"
#include "../../csrc/cuda/swap_ndcg.cu"
#include "../../csrc/cuda/swap_normalize.cu"

using namespace minirec;

// dtype: 0 float32, 1 float64, 2 bfloat16
template <typename F>
void by_dtype(int dtype, F work) {
  if (dtype == 0) work(float(), float());
  if (dtype == 1) work(double(), double());
  if (dtype == 2) work(bfloat16(), float());
}

extern "C" {

void size_of_gpu(int processors, int shared_memory) {
  emulator::processors = processors;
  emulator::shared_memory = shared_memory;
}

void counts(int64_t* read_written_accesses) {
  read_written_accesses[0] = emulator::bytes_read;
  read_written_accesses[1] = emulator::bytes_written;
  read_written_accesses[2] = emulator::accesses;
  emulator::bytes_read = emulator::bytes_written = emulator::accesses = 0;
}

void swap_ndcg(int dtype, const void* gains, const void* idcg, const int64_t* lengths, const bool* mask,
               void* out, int64_t n, int size, int cutoff, bool later) {
  by_dtype(dtype, [&](auto in, auto t) {
    using In = decltype(in);
    using T = decltype(t);
    cuda::swap_ndcg<In, T>({static_cast<const In*>(gains), static_cast<const T*>(idcg), lengths, mask,
                            static_cast<T*>(out), n, size, cutoff, later},
                           nullptr);
  });
}

void group_normalize(int dtype, const void* rewards, const bool* mask, const int64_t* offsets, int64_t pieces,
                     void* out, int64_t outer, int64_t group, int64_t inner, int ddof, double eps, bool scale,
                     bool leave_one_out) {
  by_dtype(dtype, [&](auto in, auto t) {
    using In = decltype(in);
    using T = decltype(t);
    cuda::group_normalize<In, T>(
        {static_cast<const In*>(rewards), mask, nullptr, offsets, static_cast<T*>(out), outer, group, inner,
         pieces, ddof, T(eps), scale, leave_one_out},
        nullptr);
  });
}

void swap_normalize(int dtype, const void* gains, const void* idcg, const int64_t* lengths, const bool* mask,
                    void* out, int64_t contexts, int64_t group, int size, int cutoff, bool later, int ddof,
                    double eps, bool scale, bool leave_one_out) {
  by_dtype(dtype, [&](auto in, auto t) {
    using In = decltype(in);
    using T = decltype(t);
    T* to = static_cast<T*>(out);
    cuda::swap_normalize<In, T>(
        {static_cast<const In*>(gains), static_cast<const T*>(idcg), lengths, mask, to, contexts * group,
         size, cutoff, later},
        {to, mask, lengths, nullptr, to, contexts, group, size, 1, ddof, T(eps), scale, leave_one_out},
        nullptr);
  });
}

// Records every access of the next launches: rows of address, bytes, thread, written. Returns how many; call
// with a null pointer to start, then with room for them.
int64_t traced(int64_t* rows) {
  static std::vector<emulator::Access> seen;
  if (!rows) {
    int64_t size = int64_t(seen.size());
    if (!emulator::trace) seen.clear(), emulator::trace = &seen;
    return size;
  }
  emulator::trace = nullptr;
  for (size_t i = 0; i < seen.size(); i++) {
    rows[4 * i] = int64_t(reinterpret_cast<uintptr_t>(seen[i].address));
    rows[4 * i + 1] = seen[i].bytes, rows[4 * i + 2] = seen[i].thread, rows[4 * i + 3] = seen[i].written;
  }
  return int64_t(seen.size());
}
}
