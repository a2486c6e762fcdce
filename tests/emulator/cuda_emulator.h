// Runs CUDA kernels on a CPU, one block after another: each thread of a block is a fibre, and whoever must
// wait for others hands over. It finds wrong indices, values that nobody wrote, shuffles of the wrong lane or
// width, and threads that do not arrive where all must. It does not find races or misaligned loads of real
// hardware, except that a 16-byte access to an address that is no multiple of 16 is an error here too.
//
// Included before a .cu file by `g++ -include cuda_emulator.h -x c++`; csrc/cuda/warp.cuh leaves LAUNCH,
// SHARED and TRACE to it.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#define MINIREC_EMULATOR
#define __global__
#define __device__
#define __host__

struct Dim {
  unsigned x;
};

struct float4 {
  float x, y, z, w;
};

inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };

namespace emulator {

constexpr int WARP = 32, STACK = 1 << 16;

// How large the GPU is, as far as the launchers ask; tests make it small so that loops over blocks are taken.
inline int processors = 1, shared_memory = 227 * 1024;

// Reads and writes of global memory, counted; and in order, while `trace` points to a list.
struct Access {
  const void* address;
  int bytes, thread;
  bool written;
};
inline int64_t bytes_read, bytes_written, accesses, shuffles;  // shuffles of a whole warp
inline std::vector<Access>* trace = nullptr;

// Threads that wait for one another. `operation` says at which call they do, and must be the same for all.
struct Barrier {
  int arrived = 0, generation = 0;
  const char* operation = nullptr;
  int detail = 0;
};

struct Fibre {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(STACK);
  bool done = false;
};

inline std::vector<Fibre> fibres;
inline std::vector<Barrier> warps;
inline std::vector<uint64_t> slots;
inline Barrier block;
inline ucontext_t scheduler;
inline std::vector<unsigned char> shared;
inline std::function<void()> body;
inline unsigned current, threads;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulator: thread %u: %s\n", current, what);
  std::_Exit(3);
}

inline void hand_over() { swapcontext(&fibres[current].context, &scheduler); }

inline void wait(Barrier& barrier, int all, const char* operation, int detail) {
  if (barrier.arrived == 0) barrier.operation = operation, barrier.detail = detail;
  if (std::strcmp(barrier.operation, operation) != 0 || barrier.detail != detail)
    fail("threads that must act together are at different calls");
  int generation = barrier.generation;
  if (++barrier.arrived == all) {
    barrier.arrived = 0;
    barrier.generation++;
    return;
  }
  while (barrier.generation == generation) hand_over();
}

inline void enter() {
  body();
  fibres[current].done = true;
  hand_over();
}

inline void poison(void* memory, size_t bytes) {
  std::memset(memory, 0xff, bytes);
}  // NaN in every float type

}  // namespace emulator

inline Dim threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

inline void run_block() {
  fibres.resize(threads);
  warps.assign(threads / WARP, Barrier());
  slots.assign(threads, 0);
  block = Barrier();
  for (unsigned t = 0; t < threads; t++) {
    fibres[t].done = false;
    getcontext(&fibres[t].context);
    fibres[t].context.uc_stack.ss_sp = fibres[t].stack.data();
    fibres[t].context.uc_stack.ss_size = STACK;
    fibres[t].context.uc_link = nullptr;
    makecontext(&fibres[t].context, enter, 0);
  }
  for (unsigned left = threads; left > 0;) {
    unsigned before = left;
    int waiting = 0;
    for (const Barrier& warp : warps) waiting += warp.generation;
    waiting += block.generation;
    left = 0;
    for (unsigned t = 0; t < threads; t++) {
      if (fibres[t].done) continue;
      current = threadIdx.x = t;
      swapcontext(&scheduler, &fibres[t].context);
      left += !fibres[t].done;
    }
    int now = block.generation;
    for (const Barrier& warp : warps) now += warp.generation;
    if (left == before && now == waiting) fail("threads wait for others that have ended or wait elsewhere");
  }
}

template <typename Kernel, typename... Arguments>
void launch(Kernel kernel, unsigned grid, unsigned block_size, size_t bytes, Arguments... arguments) {
  if (block_size % WARP) fail("a block must be whole warps here");
  if (bytes > size_t(shared_memory)) fail("more shared memory than there is");
  gridDim.x = grid, blockDim.x = threads = block_size;
  body = [&] { kernel(arguments...); };
  for (unsigned b = 0; b < grid; b++) {
    blockIdx.x = b;
    shared.resize(bytes + 16);
    poison(shared.data(), shared.size());
    run_block();
  }
}

inline void* aligned_shared() {
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(shared.data()) + 15) / 16 * 16);
}

inline void touch(const void* address, int bytes, bool written) {
  if (reinterpret_cast<uintptr_t>(address) % bytes) fail("a misaligned access");
  (written ? bytes_written : bytes_read) += bytes;
  accesses++;
  if (trace) trace->push_back({address, bytes, int(blockIdx.x * threads + current), written});
}

// The value of lane `from` of the own group of `width` lanes; the own value where that is outside.
template <typename T>
T shuffle(T value, int from, int width, const char* operation, int detail) {
  Barrier& warp = warps[current / WARP];
  std::memcpy(&slots[current], &value, sizeof(T));
  shuffles += current % WARP == 0;
  wait(warp, WARP, operation, detail * 64 + width);
  unsigned group = current / width * width;
  T result = value;
  if (from >= 0 && from < width) std::memcpy(&result, &slots[group + from], sizeof(T));
  wait(warp, WARP, "after a shuffle", 0);  // nobody overwrites a slot before all have read
  return result;
}

}  // namespace emulator

#define LAUNCH(kernel, grid, block, shared, stream, ...) \
  emulator::launch(kernel, grid, block, shared, __VA_ARGS__)
#define SHARED(T, name) T* name = static_cast<T*>(emulator::aligned_shared())
#define TRACE(address, bytes, written) emulator::touch(address, bytes, written)

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask, int width) {
  return emulator::shuffle(value, int(threadIdx.x) % width ^ mask, width, "__shfl_xor_sync", mask);
}

template <typename T>
T __shfl_down_sync(unsigned, T value, int step, int width) {
  return emulator::shuffle(value, int(threadIdx.x) % width + step, width, "__shfl_down_sync", step);
}

template <typename T>
T __shfl_sync(unsigned, T value, int from, int width) {
  return emulator::shuffle(value, from, width, "__shfl_sync", from);
}

inline void __syncthreads() { emulator::wait(emulator::block, int(emulator::threads), "__syncthreads", 0); }

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }

inline cudaError_t cudaDeviceGetAttribute(int* value, int what, int) {
  *value = what == cudaDevAttrMultiProcessorCount ? emulator::processors : emulator::shared_memory;
  return cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, int, int) {
  return cudaSuccess;
}

using std::log1p;
using std::log2;
using std::sqrt;
