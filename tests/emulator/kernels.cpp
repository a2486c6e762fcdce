// The CUDA kernels under the emulator, as a library of plain functions for tests/test_cuda_kernels.py.
#include "control.h"

#include "../../csrc/cuda/swap_normalize.cu"
#include "../../csrc/ladder/group_normalize.cu"
#include "../../csrc/ladder/swap_ndcg.cu"

using namespace minirec;

// dtype: 0 float32, 1 float64, 2 bfloat16
template <typename F>
int by_dtype(int dtype, F work) {
  return int(dtype == 1 ? work(double()) : work(float()));
}

cudaStream_t const stream = &emulator::stream;

extern "C" {

int swap_ndcg(int dtype, const void* gains, const void* idcg, const int64_t* lengths, const bool* mask,
              void* out, int64_t n, int size, int cutoff, bool later) {
  return by_dtype(dtype, [&](auto t) {
    using T = decltype(t);
    cuda::Lists<T> lists{{gains, dtype == 2},
                         static_cast<const T*>(idcg),
                         lengths,
                         mask,
                         static_cast<T*>(out),
                         n,
                         size,
                         cutoff,
                         later};
    return cuda::swap_ndcg(lists, stream);
  });
}

int group_normalize(int dtype, const void* rewards, const bool* mask, const int64_t* offsets, int64_t pieces,
                    void* out, int64_t outer, int64_t group, int64_t inner, int ddof, double eps, bool scale,
                    bool leave_one_out) {
  return by_dtype(dtype, [&](auto t) {
    using T = decltype(t);
    cuda::Groups<T> groups{{rewards, dtype == 2},
                           mask,
                           nullptr,
                           offsets,
                           static_cast<T*>(out),
                           outer,
                           group,
                           inner,
                           pieces,
                           ddof,
                           T(eps),
                           scale,
                           leave_one_out};
    return cuda::group_normalize(groups, stream);
  });
}

int swap_normalize(int dtype, const void* gains, const void* idcg, const int64_t* lengths, const bool* mask,
                   void* out, int64_t contexts, int64_t group, int size, int cutoff, bool later, int ddof,
                   double eps, bool scale, bool leave_one_out) {
  return by_dtype(dtype, [&](auto t) {
    using T = decltype(t);
    T* to = static_cast<T*>(out);
    cuda::Lists<T> lists{{gains, dtype == 2},
                         static_cast<const T*>(idcg),
                         lengths,
                         mask,
                         to,
                         contexts * group,
                         size,
                         cutoff,
                         later};
    cuda::Groups<T> groups{{to, false}, mask, lengths, nullptr, to,    contexts,     group,
                           size,        1,    ddof,    T(eps),  scale, leave_one_out};
    return cuda::swap_normalize(lists, groups, stream);
  });
}
}
