// What all kernels share: reading and writing global memory, and adding up across the lanes of a warp.
//
// The sources also compile with a plain C++ compiler against an emulator of one thread block
// (tests/emulator), so what CUDA adds to the language is used through this file: LAUNCH, SHARED and the
// functions below.
#pragma once

#ifndef MINIREC_EMULATOR
#include <cuda_runtime.h>

#define LAUNCH(kernel, grid, block, shared, stream, ...) kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define SHARED(T, name)                                         \
  extern __shared__ __align__(16) unsigned char shared_bytes[]; \
  Shared<T> name = reinterpret_cast<T*>(shared_bytes)
#define TRACE(address, bytes, written)

template <typename T>
using Shared = T*;  // the emulator looks at accesses
#endif

#include "kernels.h"

namespace minirec::cuda {

constexpr int THREADS = 256;  // of a block
constexpr int BLOCKS = 8;     // at most so many blocks per multiprocessor: the rest of the work is a loop
constexpr unsigned EVERY = 0xffffffffu;

// The longest list or group that a warp holds in registers; of float64 fewer, as they are twice as large.
template <typename T>
constexpr int IN_REGISTERS = sizeof(T) == 4 ? 1024 : 128;

template <typename T>
__device__ inline T read(const T* from) {
  TRACE(from, sizeof(T), false);
  return *from;
}

// Number i of an input. A bfloat16 is the upper half of a float32.
template <typename T>
__device__ inline T read(Input<T> input, int64_t i) {
  if (sizeof(T) == 4 && input.half)
    return T(__uint_as_float(uint32_t(read(static_cast<const uint16_t*>(input.numbers) + i)) << 16));
  return read(static_cast<const T*>(input.numbers) + i);
}

template <typename T>
__device__ inline void write(T* to, T value) {
  TRACE(to, sizeof(T), true);
  *to = value;
}

// Four float32 in one instruction. The address must be a multiple of 16.
__device__ inline void read4(const float* from, float* x) {
  TRACE(from, 16, false);
  float4 v = *reinterpret_cast<const float4*>(from);
  x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}

__device__ inline void write4(float* to, const float* x) {
  TRACE(to, 16, true);
  *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
}

// Whether rows of `size` can be read and written in pieces of sixteen bytes.
template <typename T>
bool wide(Input<T> input, const void* out, int64_t size) {
  uintptr_t both = reinterpret_cast<uintptr_t>(input.numbers) | reinterpret_cast<uintptr_t>(out);
  return sizeof(T) == 4 && !input.half && size % 4 == 0 && both % 16 == 0;
}

// The numbers k0 .. k0 + ITEMS of a row of `size` that begins at `row`; 0 beyond it.
template <typename T, int ITEMS>
__device__ inline void read_row(Input<T> input, int64_t row, int k0, int size, bool wide, T (&x)[ITEMS]) {
#pragma unroll
  for (int i = 0; i < ITEMS; i += 4) {
    if constexpr (sizeof(T) == 4) {
      if (wide) {
        if (k0 + i < size) read4(static_cast<const float*>(input.numbers) + row + k0 + i, x + i);
        continue;
      }
    }
#pragma unroll
    for (int j = i; j < i + 4; j++) x[j] = k0 + j < size ? read(input, row + k0 + j) : T(0);
  }
}

template <typename T, int ITEMS>
__device__ inline void write_row(T* out, int64_t row, int k0, int size, bool wide, const T (&x)[ITEMS]) {
#pragma unroll
  for (int i = 0; i < ITEMS; i += 4) {
    if constexpr (sizeof(T) == 4) {
      if (wide) {
        if (k0 + i < size) write4(out + row + k0 + i, x + i);
        continue;
      }
    }
#pragma unroll
    for (int j = i; j < i + 4; j++)
      if (k0 + j < size) write(out + row + k0 + j, x[j]);
  }
}

// ---- across the LANES neighbouring threads that share a list ----
// All threads of a warp call these together.

template <int LANES, typename T>
__device__ inline T sum(T value) {
#pragma unroll
  for (int step = LANES / 2; step > 0; step /= 2) value += __shfl_xor_sync(EVERY, value, step, LANES);
  return value;
}

template <int LANES, typename T>
__device__ inline T least(T value) {  // a NaN is passed over
#pragma unroll
  for (int step = LANES / 2; step > 0; step /= 2) {
    T other = __shfl_xor_sync(EVERY, value, step, LANES);
    value = other < value ? other : value;
  }
  return value;
}

// The sum over the lanes behind this one.
template <int LANES, typename T>
__device__ inline T behind(T value) {
  int lane = threadIdx.x % LANES;
#pragma unroll
  for (int step = 1; step < LANES; step *= 2) {
    T other = __shfl_down_sync(EVERY, value, step, LANES);
    if (lane + step < LANES) value += other;
  }
  T next = __shfl_down_sync(EVERY, value, 1, LANES);
  return lane + 1 < LANES ? next : T(0);
}

inline int blocks_for(int64_t units_of_work) {
  int device = 0, processors = 1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  int64_t most = int64_t(processors) * BLOCKS;
  return int(units_of_work < most ? units_of_work : most);
}

}  // namespace minirec::cuda
