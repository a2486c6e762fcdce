// What the CPU's and the CUDA's bindings share: checks that keep memory safe, and the way to plain pointers.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstring>
#include <optional>

#include "cpu/kernels.h"

namespace minirec {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Optional = std::optional<Tensor>;

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
const T* data(const Optional& tensor) {
  return tensor ? data<T>(*tensor) : nullptr;
}

template <typename T>
T* mutable_data(Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Call work(In(), T()) with the type that comes in and the type that is computed in.
template <typename F>
void by_dtype(const Tensor& tensor, F work) {
  if (tensor.scalar_type() == ScalarType::Double)
    work(double(), double());
  else if (tensor.scalar_type() == ScalarType::Float)
    work(float(), float());
  else
    work(bfloat16(), float());
}

inline void check(const char* name, const Tensor& tensor, const Tensor& like, ScalarType dtype,
                  int64_t numel) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, ": another dtype was expected");
  STD_TORCH_CHECK(tensor.numel() == numel, name, ": expected ", numel, " numbers, got ", tensor.numel());
  STD_TORCH_CHECK(tensor.is_contiguous(), name, ": expected a contiguous tensor");
  STD_TORCH_CHECK(tensor.is_cpu() == like.is_cpu() && tensor.get_device() == like.get_device(), name,
                  ": on another device than the input");
}

inline ScalarType check_input(const char* name, const Tensor& tensor, int64_t dim) {
  ScalarType dtype = tensor.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16,
                  name, ": expected float32, float64 or bfloat16");
  STD_TORCH_CHECK(tensor.dim() == dim, name, ": expected ", dim, " dimensions, got ", tensor.dim());
  STD_TORCH_CHECK(tensor.is_contiguous(), name, ": expected a contiguous tensor");
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Lists (..., K) of `dim` dimensions.
inline void check_lists(const Tensor& gains, const Optional& idcg, const Optional& lengths,
                        const Optional& mask, int64_t cutoff, const Tensor& out, int64_t dim) {
  ScalarType dtype = check_input("gains", gains, dim);
  int64_t n = 1;
  for (int64_t i = 0; i + 1 < dim; i++) n *= gains.size(i);
  if (idcg) check("idcg", *idcg, gains, dtype, n);
  if (lengths) check("lengths", *lengths, gains, ScalarType::Long, n);
  if (mask) check("mask", *mask, gains, ScalarType::Bool, gains.numel());
  STD_TORCH_CHECK(cutoff >= 1, "cutoff: expected at least 1, got ", cutoff);
  check("out", out, gains, dtype, gains.numel());
}

inline void check_groups(const Tensor& rewards, const Optional& mask, const Optional& offsets,
                         const Tensor& out) {
  ScalarType dtype = check_input("rewards", rewards, 3);
  if (mask) check("mask", *mask, rewards, ScalarType::Bool, rewards.numel());
  if (offsets) check("offsets", *offsets, rewards, ScalarType::Long, offsets->numel());
  STD_TORCH_CHECK(!mask || !offsets, "offsets: not together with mask");
  STD_TORCH_CHECK(!offsets || offsets->numel() >= 1, "offsets: expected at least one number");
  check("out", out, rewards, dtype, rewards.numel());
}

}  // namespace minirec
