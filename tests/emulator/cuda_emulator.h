// Runs CUDA kernels on a CPU, one block after another: each thread of a block is a fibre, and whoever must
// wait for others hands over. It finds accesses outside of the caller's arrays, outside of the shared memory that
// was launched with or at addresses that are no multiple of their width, values that nobody wrote, shuffles of the
// wrong lane or width, launches on another stream, and threads that do not arrive where all must: the launch then
// fails and says who was where. Each warp runs as far as it can before the next, and warps run in rising or in
// falling order: results that differ are a race. On request it counts what a warp asks of memory (requests.h).
//
// Included before a .cu file by `g++ -include cuda_emulator.h -x c++`; csrc/cuda/warp.cuh leaves LAUNCH,
// SHARED, Shared and TRACE to it.
#pragma once

#undef _FORTIFY_SOURCE  // it takes a jump to another stack for a fault
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "requests.h"

#define MINIREC_EMULATOR
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

struct Dim {
  unsigned x;
};

struct float4 {
  float x, y, z, w;
};
struct ushort4 {
  unsigned short x, y, z, w;
};

inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorLaunchFailure };
enum { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };

inline Dim threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

constexpr int STACK = 1 << 16;

// How large the GPU is, as far as the launchers ask; tests make it small so that loops over blocks are taken.
inline int processors = 1, shared_memory = 227 * 1024;

inline int stream;                        // the address of the one that launches must be on
inline int until_failure = -1;            // launches that succeed before one is refused
inline cudaError_t status = cudaSuccess;  // of the last launch
inline int64_t first_block = 0;           // the blocks before it do not run
inline bool falling = false;              // the order of the threads
inline std::vector<std::pair<uintptr_t, uintptr_t>> arrays;  // what may be touched; everything if empty
inline std::map<const void*, size_t> granted;                // shared memory beyond 48 KB, by kernel
inline std::string error;                                    // what went wrong first

// Reads and writes of global memory, counted; and in order, while `trace` points to a list.
struct Access {
  const void* address;
  int bytes, thread;
  bool written;
};
inline int64_t bytes_read, bytes_written, accesses, shuffles;
inline std::vector<Access>* trace = nullptr;

// Threads that wait for one another. `operation` says at which call they do, and must be the same for all.
struct Barrier {
  int arrived = 0, generation = 0;
  const char* operation = nullptr;
  int detail = 0, line = 0;
};

struct Fibre {
  ucontext_t start;
  jmp_buf place;  // where it goes on
  std::vector<char> stack = std::vector<char>(STACK);
  bool started = false, done = false;
  int line = 0;  // where it waits
};

inline std::vector<Fibre> fibres;
inline std::vector<Barrier> warps;
inline std::vector<uint64_t> slots;
inline Barrier block;
inline jmp_buf scheduler;
inline std::vector<unsigned char> shared;
inline size_t shared_bytes;
inline std::function<void()> body;
inline unsigned current, threads;

inline void hand_over() {
  if (!_setjmp(fibres[current].place)) _longjmp(scheduler, 1);
}

// Let a fibre run until it hands over. Only its first steps need a context: a jump is much faster.
inline void resume(unsigned t) {
  if (_setjmp(scheduler)) return;
  current = threadIdx.x = t;
  if (fibres[t].started) _longjmp(fibres[t].place, 1);
  fibres[t].started = true;
  setcontext(&fibres[t].start);
}

// A thread that fails never runs again, and its launch ends.
inline void fail(const std::string& what) {
  if (error.empty()) error = "thread " + std::to_string(current) + ": " + what;
  hand_over();
}

inline void wait(Barrier& barrier, int all, const char* operation, int detail, int line) {
  if (barrier.arrived == 0) barrier.operation = operation, barrier.detail = detail, barrier.line = line;
  if (barrier.operation != std::string(operation) || barrier.detail != detail || barrier.line != line)
    fail(std::string("at ") + operation + " in line " + std::to_string(line) + ", where others are at " +
         barrier.operation + " in line " + std::to_string(barrier.line));
  fibres[current].line = line;
  int generation = barrier.generation;
  if (++barrier.arrived == all) {
    barrier.arrived = 0;
    barrier.generation++;
    requests.settle(all == WARP ? int(current) / WARP : -1);
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

// Let the threads of a warp run until all wait for other warps or have ended; whether any got further.
inline bool run_warp(unsigned warp) {
  for (bool moved = false;; moved = true) {
    const int before = warps[warp].generation + block.generation;
    unsigned steps = 0;
    for (unsigned i = 0; i < WARP && error.empty(); i++) {
      Fibre& fibre = fibres[warp * WARP + (falling ? WARP - 1 - i : i)];
      if (fibre.done) continue;
      const int arrived = warps[warp].arrived + block.arrived;
      resume(unsigned(&fibre - fibres.data()));
      steps += fibre.done || arrived != warps[warp].arrived + block.arrived;
    }
    if (!error.empty() || (steps == 0 && before == warps[warp].generation + block.generation)) return moved;
  }
}

inline void run_block() {
  fibres.resize(threads);
  warps.assign(threads / WARP, Barrier());
  slots.assign(threads, 0);
  block = Barrier();
  for (unsigned t = 0; t < threads; t++) {
    fibres[t].started = fibres[t].done = false;
    getcontext(&fibres[t].start);
    fibres[t].start.uc_stack.ss_sp = fibres[t].stack.data();
    fibres[t].start.uc_stack.ss_size = STACK;
    fibres[t].start.uc_link = nullptr;
    makecontext(&fibres[t].start, enter, 0);
  }
  // A warp runs as far as it gets before the next one begins: what it reads too early is not there yet.
  const unsigned all = threads / WARP;
  for (bool moved = true; moved && error.empty();) {
    moved = false;
    for (unsigned i = 0; i < all && error.empty(); i++) moved |= run_warp(falling ? all - 1 - i : i);
  }
  for (unsigned t = 0; t < threads && error.empty(); t++)
    if (!fibres[t].done)
      error = "thread " + std::to_string(t) + " waits in line " + std::to_string(fibres[t].line) +
              " for others that have ended or wait elsewhere";
  requests.settle(-1);
}

template <typename Kernel, typename... Arguments>
void launch(Kernel kernel, unsigned grid, unsigned block_size, size_t bytes, cudaStream_t on,
            Arguments... arguments) {
  if (until_failure-- == 0) {
    status = cudaErrorLaunchFailure;
    return;
  }
  auto grant = granted.find(reinterpret_cast<const void*>(kernel));
  if (on != &stream) error = "a launch on another stream";
  if (block_size % WARP || block_size > 1024 || grid < 1)
    error = "a launch of no blocks, or not of whole warps";
  if (bytes > (grant == granted.end() ? 48 * 1024 : grant->second)) error = "shared memory was not asked for";
  gridDim.x = grid, blockDim.x = threads = block_size;
  body = [&] { kernel(arguments...); };
  for (int64_t b = first_block; b < grid && error.empty(); b++) {
    blockIdx.x = unsigned(b);
    shared_bytes = bytes;
    shared.resize(bytes + 128);  // it begins in bank 0
    poison(shared.data(), shared.size());
    run_block();
  }
}

inline unsigned char* aligned_shared() {
  return reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(shared.data()) + 127) / 128 * 128);
}

// Every access to shared memory comes by here; the address of the caller tells instructions apart.
__attribute__((noinline)) inline unsigned char* touch_shared(unsigned char* address, int bytes) {
  if (address < aligned_shared() || address + bytes > aligned_shared() + shared_bytes)
    fail("an access outside of shared memory");
  if (reinterpret_cast<uintptr_t>(address) % bytes) fail("a misaligned access to shared memory");
  requests.add(current, SHARED_MEMORY, __builtin_return_address(0), address, bytes, false);
  return address;
}

__attribute__((noinline)) inline void touch(const void* address, int bytes, bool written) {
  uintptr_t begin = reinterpret_cast<uintptr_t>(address);
  int array = int(arrays.size());  // the last one that holds it
  while (--array >= 0 && !(arrays[array].first <= begin && begin + bytes <= arrays[array].second)) {
  }
  if (array < 0 && !arrays.empty())
    fail(written ? "a write outside of the arrays" : "a read outside of the arrays");
  if (begin % bytes) fail("a misaligned access");
  (written ? bytes_written : bytes_read) += bytes;
  accesses++;
  if (array >= 0) requests.add(current, array, __builtin_return_address(0), address, bytes, written);
  if (trace) trace->push_back({address, bytes, int(blockIdx.x * threads + current), written});
}

// The value of lane `from` of the own group of `width` lanes; the own value where that is outside.
template <typename T>
T shuffle(unsigned mask, T value, int from, int width, const char* operation, int detail, int line) {
  if (mask != ~0u) fail("shuffles are of whole warps here");
  shuffles += current % WARP == 0;
  Barrier& warp = warps[current / WARP];
  std::memcpy(&slots[current], &value, sizeof(T));
  wait(warp, WARP, operation, detail * 64 + width, line);
  unsigned group = current / width * width;
  T result = value;
  if (from >= 0 && from < width) std::memcpy(&result, &slots[group + from], sizeof(T));
  wait(warp, WARP, "after a shuffle", 0, line);  // nobody overwrites a slot before all have read
  return result;
}

}  // namespace emulator

// A pointer to shared memory whose accesses are seen.
template <typename T>
struct Shared {
  unsigned char* bytes;
  __attribute__((always_inline)) T& operator[](int64_t i) const {
    return *reinterpret_cast<T*>(emulator::touch_shared(bytes + i * int64_t(sizeof(T)), sizeof(T)));
  }
  Shared operator+(int64_t i) const { return {bytes + i * int64_t(sizeof(T))}; }
};

#define LAUNCH(kernel, grid, block, shared, stream, ...) \
  emulator::launch(kernel, grid, block, shared, stream, __VA_ARGS__)
#define SHARED(T, name) \
  Shared<T> name { emulator::aligned_shared() }
#define TRACE(address, bytes, written) emulator::touch(address, bytes, written)

// The line of the caller, to see whether all threads are at the same call.
#define LINE int line = __builtin_LINE()

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width, LINE) {
  return emulator::shuffle(mask, value, int(threadIdx.x) % width ^ lanes, width, "__shfl_xor_sync", lanes,
                           line);
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, int step, int width, LINE) {
  return emulator::shuffle(mask, value, int(threadIdx.x) % width + step, width, "__shfl_down_sync", step,
                           line);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width, LINE) {
  return emulator::shuffle(mask, value, from, width, "__shfl_sync", 0, line);
}

inline void __syncthreads(LINE) {
  emulator::wait(emulator::block, int(emulator::threads), "__syncthreads", 0, line);
}

inline void __syncwarp(LINE) {
  emulator::wait(emulator::warps[threadIdx.x / emulator::WARP], emulator::WARP, "__syncwarp", 0, line);
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline cudaError_t cudaGetLastError() {
  return emulator::error.empty() ? std::exchange(emulator::status, cudaSuccess) : cudaErrorLaunchFailure;
}
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }

inline cudaError_t cudaDeviceGetAttribute(int* value, int what, int) {
  *value = what == cudaDevAttrMultiProcessorCount ? emulator::processors : emulator::shared_memory;
  return cudaSuccess;
}

inline const char* cudaGetErrorString(cudaError_t) { return "a launch that was refused"; }

template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int block_size, size_t bytes) {
  const size_t by_memory = 228 * 1024 / (bytes + 1024), by_threads = size_t(2048 / block_size);
  return *blocks = int(by_memory < by_threads ? by_memory : by_threads), cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel kernel, int, int bytes) {
  if (bytes > emulator::shared_memory) return cudaErrorInvalidValue;
  emulator::granted[reinterpret_cast<const void*>(kernel)] = size_t(bytes);
  return cudaSuccess;
}

using std::frexp;
using std::ldexp;
using std::log1p;
using std::log2;
using std::sqrt;
