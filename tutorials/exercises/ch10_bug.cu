// Find the bug: a rung that gives the right numbers, and asks memory for too much.
//
// It normalises groups of 32 rewards, a thread for each. The threads of a block copy their 128 groups to
// shared memory, normalise them there, and copy them back. Every number is right. No test of numbers would
// find anything, and on a GPU it would be many times slower than it must be.
//
// Two counts of the emulator show it. A group is 128 bytes, 4 sectors to read and 4 to write; this rung asks
// for 32 and 32. And every access to shared memory takes 32 wavefronts, where one is enough. Look at what the
// 32 threads of a warp touch at the same moment, in global and in shared memory.
#include "../../csrc/cuda/normalize.cuh"

namespace minirec::cuda {

constexpr int SIZE = 32;  // rewards of a group

__global__ void normalize_rung(const float* rewards, float* out, int64_t groups, Factor<float> factor) {
  SHARED(float, memory);
  const int64_t own = int64_t(blockIdx.x) * THREADS + threadIdx.x;
  const Shared<float> x = memory + int(threadIdx.x) * SIZE;
  if (own < groups)
    for (int k = 0; k < SIZE; k++) x[k] = read(rewards + own * SIZE + k);
  __syncthreads();
  if (own < groups)
    normalize<1>(
        SIZE, factor, [&](int k) { return x[k]; }, [](int) { return true; },
        [&](int k, float value) { x[k] = value; });
  __syncthreads();
  if (own < groups)
    for (int k = 0; k < SIZE; k++) write(out + own * SIZE + k, x[k]);
}

extern "C" int normalize_groups(const float* rewards, float* out, int64_t groups, void* stream) {
  const size_t bytes = THREADS * SIZE * sizeof(float);
  LAUNCH(normalize_rung, unsigned((groups + THREADS - 1) / THREADS), THREADS, bytes,
         static_cast<cudaStream_t>(stream), rewards, out, groups, Factor<float>{1, 1e-6f, true, false});
  return cudaGetLastError();
}

}  // namespace minirec::cuda
