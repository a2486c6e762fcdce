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

#include <type_traits>

#include "kernels.h"

namespace minirec::cuda {

constexpr int THREADS = 128, WARPS = THREADS / 32;  // of a block
constexpr int BLOCKS = 5;  // of a multiprocessor at least, as far as registers decide
constexpr unsigned EVERY = 0xffffffffu;

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

// Four numbers at once, of 16 bytes or as bfloat16 (HALF) of 8. The address must be a multiple of that.
template <bool HALF>
__device__ inline void read4(const void* numbers, int64_t i, float* x) {
  if constexpr (HALF) {
    const uint16_t* from = static_cast<const uint16_t*>(numbers) + i;
    TRACE(from, 8, false);
    const ushort4 v = *reinterpret_cast<const ushort4*>(from);
    const uint16_t upper[] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int e = 0; e < 4; e++) x[e] = __uint_as_float(uint32_t(upper[e]) << 16);
  } else {
    const float* from = static_cast<const float*>(numbers) + i;
    TRACE(from, 16, false);
    const float4 v = *reinterpret_cast<const float4*>(from);
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
  }
}

__device__ inline void write4(float* to, const float* x) {
  TRACE(to, 16, true);
  *reinterpret_cast<float4*>(to) = make_float4(x[0], x[1], x[2], x[3]);
}

// ---- across the threads of a team: one thread, the lanes of a warp, or a block ----
// All threads of a team call these together. A block needs a slot for each of its warps.

template <int TEAM>
using Team = std::integral_constant<int, TEAM>;

template <int TEAM, typename T>
__device__ inline T sum(T value, Shared<T> slots = {}) {
#pragma unroll
  for (int step = TEAM < 32 ? TEAM / 2 : 16; step > 0; step /= 2)
    value += __shfl_xor_sync(EVERY, value, step, 32);
  if constexpr (TEAM == THREADS) {
    __syncthreads();  // the slots are free
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = value;
    __syncthreads();
    value = 0;
    for (int w = 0; w < WARPS; w++) value += slots[w];
  }
  return value;
}

template <int TEAM, typename T>
__device__ inline T least(T value, Shared<T> slots = {}) {  // a NaN is passed over
#pragma unroll
  for (int step = TEAM < 32 ? TEAM / 2 : 16; step > 0; step /= 2) {
    T other = __shfl_xor_sync(EVERY, value, step, 32);
    value = other < value ? other : value;
  }
  if constexpr (TEAM == THREADS) {
    __syncthreads();
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = value;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) value = slots[w] < value ? slots[w] : value;
  }
  return value;
}

// The sum over the threads of the team behind this one; of the whole team, if asked for.
template <int TEAM, typename T>
__device__ inline T behind(T value, Shared<T> slots = {}, T* whole = nullptr) {
  if constexpr (TEAM == 1) return T(0);
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    T other = __shfl_down_sync(EVERY, value, step, 32);
    if (lane + step < 32) value += other;
  }
  T next = __shfl_down_sync(EVERY, value, 1, 32), after = lane < 31 ? next : T(0);
  if constexpr (TEAM == THREADS) {
    __syncthreads();
    if (lane == 0) slots[threadIdx.x / 32] = value;
    __syncthreads();
    *whole = 0;
    for (int w = WARPS - 1; w >= 0; w--) {
      if (w > int(threadIdx.x / 32)) after += slots[w];
      *whole += slots[w];
    }
  }
  return after;
}

// ---- launching ----

// Whether a block of a kernel can have so much shared memory. More than 48 KiB must be asked for.
template <typename Kernel>
bool fits(Kernel kernel, int64_t bytes) {
  if (bytes <= 48 * 1024) return true;
  constexpr auto size = cudaFuncAttributeMaxDynamicSharedMemorySize;
  if (bytes < 1 << 30 && cudaFuncSetAttribute(kernel, size, int(bytes)) == cudaSuccess) return true;
  cudaGetLastError();  // a refusal is no error of the next launch
  return false;
}

// As many blocks as run at a time, if there is work for them: the rest of the work is a loop.
template <typename Kernel>
unsigned blocks_for(Kernel kernel, int64_t bytes, int64_t units_of_work) {
  int device = 0, processors = 1, each = 1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, THREADS, size_t(bytes));
  const int64_t most = int64_t(processors) * (each < 1 ? 1 : each);
  return unsigned(units_of_work < most ? units_of_work : most);
}

}  // namespace minirec::cuda
