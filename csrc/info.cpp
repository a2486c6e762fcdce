// How the kernels were built, for people: python -m minirec.ops. Its absence hurts nothing.
#include <pybind11/pybind11.h>

#include <string>

#ifndef MINIREC_CUDA_TARGETS
#define MINIREC_CUDA_TARGETS ""
#endif

namespace {

pybind11::dict build_info() {
  pybind11::dict info;
#ifdef __clang__
  info["compiler"] = std::string("clang ") + __clang_version__;
#else
  info["compiler"] = std::string("gcc ") + __VERSION__;
#endif
#if defined(__x86_64__) && !defined(__clang__)
  info["instruction sets"] = "avx512, avx2, baseline";
#else
  info["instruction sets"] = "baseline";
#endif
  info["CUDA targets asked for"] = std::string(MINIREC_CUDA_TARGETS).empty() ? "none" : MINIREC_CUDA_TARGETS;
  return info;
}

}  // namespace

PYBIND11_MODULE(_info, m) {
  m.def("build_info", &build_info, "Compiler, instruction sets and CUDA targets of this build.");
}
