// The CUDA kernels as torch sees them. The schemas stand in ../ops.cpp; here are the same names for CUDA
// tensors, on the current stream of the tensors' device.
#include "../ops.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "kernels.h"

namespace minirec {
namespace {

// Makes the device of a tensor the current one for a while, and knows its current stream.
struct Here {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;

  explicit Here(const Tensor& tensor) : guard(tensor.get_device()) {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device(), &current));
    stream = static_cast<cudaStream_t>(current);
  }
};

void expect(cudaError_t error) { STD_TORCH_CHECK(error == cudaSuccess, "CUDA: ", cudaGetErrorString(error)); }

template <typename T>
cuda::Input<T> input(const Tensor& tensor) {
  return {tensor.const_data_ptr(), tensor.scalar_type() == ScalarType::BFloat16};
}

template <typename T>
cuda::Lists<T> lists_of(const Tensor& gains, const Optional& idcg, const Optional& lengths,
                        const Optional& mask, int64_t cutoff, bool later, Tensor& out) {
  int64_t size = gains.size(gains.dim() - 1);
  STD_TORCH_CHECK(idcg || size * sizeof(T) <= 4096, "idcg: expected a tensor for lists of ", size,
                  " on CUDA");
  STD_TORCH_CHECK(size < (1 << 30), "gains: lists of ", size, " are too long");
  int cut = int(cutoff < size ? cutoff : size);
  return {input<T>(gains),
          data<T>(idcg),
          data<int64_t>(lengths),
          data<bool>(mask),
          mutable_data<T>(out),
          size ? gains.numel() / size : 0,
          int(size),
          cut,
          later};
}

void swap_ndcg(Tensor gains, Optional idcg, Optional lengths, Optional mask, int64_t cutoff, bool later, bool,
               Tensor out) {
  check_lists(gains, idcg, lengths, mask, cutoff, out, 2);
  Here here(gains);
  by_dtype(gains, [&](auto, auto t) {
    using T = decltype(t);
    expect(cuda::swap_ndcg(lists_of<T>(gains, idcg, lengths, mask, cutoff, later, out), here.stream));
  });
}

void group_normalize(Tensor rewards, Optional mask, Optional offsets, int64_t ddof, double eps, bool scale,
                     bool leave_one_out, bool, Tensor out) {
  check_groups(rewards, mask, offsets, out);
  Here here(rewards);
  int64_t pieces = offsets ? offsets->numel() - 1 : 1;
  by_dtype(rewards, [&](auto, auto t) {
    using T = decltype(t);
    cuda::Groups<T> groups{input<T>(rewards),
                           data<bool>(mask),
                           nullptr,
                           data<int64_t>(offsets),
                           mutable_data<T>(out),
                           rewards.size(0),
                           rewards.size(1),
                           rewards.size(2),
                           pieces,
                           int(ddof),
                           T(eps),
                           scale,
                           leave_one_out};
    expect(cuda::group_normalize(groups, here.stream));
  });
}

void swap_normalize(Tensor gains, Optional idcg, Optional lengths, Optional mask, int64_t cutoff, bool later,
                    int64_t ddof, double eps, bool scale, bool leave_one_out, bool, Tensor out) {
  check_lists(gains, idcg, lengths, mask, cutoff, out, 3);
  Here here(gains);
  by_dtype(gains, [&](auto, auto t) {
    using T = decltype(t);
    auto lists = lists_of<T>(gains, idcg, lengths, mask, cutoff, later, out);
    cuda::Groups<T> groups{
        {lists.out, false}, lists.mask, lists.lengths, nullptr, lists.out, gains.size(0), gains.size(1),
        gains.size(2),      1,          int(ddof),     T(eps),  scale,     leave_one_out};
    expect(cuda::swap_normalize(lists, groups, here.stream));
  });
}

}  // namespace
}  // namespace minirec

STABLE_TORCH_LIBRARY_IMPL(minirec, CUDA, m) {
  m.impl("swap_ndcg", TORCH_BOX(&minirec::swap_ndcg));
  m.impl("group_normalize", TORCH_BOX(&minirec::group_normalize));
  m.impl("swap_normalize", TORCH_BOX(&minirec::swap_normalize));
}
