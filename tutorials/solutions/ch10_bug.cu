// A rung that gave the right numbers, and asked memory for too much.
//
// Every thread copied its own group, so the threads of a warp read 32 addresses that lay 128 bytes apart: 32
// sectors for 128 bytes. Threads must copy what lies side by side, whichever group it is of; the barrier, of
// no use before, then makes them wait until all of it is there. And rows of 32 words put number k of all
// groups into one bank: with 33 words a row, neighbours are in neighbouring banks. One could have seen both
// from two counts, without a GPU.
#include "../../csrc/cuda/normalize.cuh"

namespace minirec::cuda {

constexpr int SIZE = 32, PITCH = SIZE + 1;  // rewards of a group, and words of its row in shared memory

__global__ void normalize_rung(const float* rewards, float* out, int64_t groups, Factor<float> factor) {
  SHARED(float, memory);
  const int64_t first = int64_t(blockIdx.x) * THREADS, base = first * SIZE;
  const int here = groups - first < THREADS ? int(groups - first) : THREADS;
  auto place = [](int f) { return f / SIZE * PITCH + f % SIZE; };
  for (int f = int(threadIdx.x); f < here * SIZE; f += THREADS) memory[place(f)] = read(rewards + base + f);
  __syncthreads();
  if (int(threadIdx.x) < here) {
    const Shared<float> x = memory + int(threadIdx.x) * PITCH;
    normalize<1>(
        SIZE, factor, [&](int k) { return x[k]; }, [](int) { return true; },
        [&](int k, float value) { x[k] = value; });
  }
  __syncthreads();
  for (int f = int(threadIdx.x); f < here * SIZE; f += THREADS) write(out + base + f, memory[place(f)]);
}

extern "C" int normalize_groups(const float* rewards, float* out, int64_t groups, void* stream) {
  const size_t bytes = THREADS * PITCH * sizeof(float);
  LAUNCH(normalize_rung, unsigned((groups + THREADS - 1) / THREADS), THREADS, bytes,
         static_cast<cudaStream_t>(stream), rewards, out, groups, Factor<float>{1, 1e-6f, true, false});
  return cudaGetLastError();
}

}  // namespace minirec::cuda
