// Build: a rung that reads 16 bytes at once.
//
// It normalises groups of 16 rewards. Here every thread holds one reward, so 16 neighbouring threads are a
// group, and a warp asks for 128 bytes a request. Give each thread four neighbouring rewards of its group:
// four threads are a group then, a request is of 512 bytes, and reads and writes take a quarter of the
// requests. No sector more may move, and groups of equal rewards must stay exactly 0.
//
// csrc/cuda/warp.cuh has what you need: read4<false>(numbers, i, x), write4(to, x), and sum<TEAM>(value),
// which adds up across teams of 2, 4, 8, 16 or 32 neighbouring threads. All threads of a warp must take part
// in a sum or a shuffle, also those beyond the last group.
#include "../../csrc/cuda/normalize.cuh"

namespace minirec::cuda {

constexpr int SIZE = 16;  // rewards of a group

__global__ void normalize_rung(const float* rewards, float* out, int64_t groups, Factor<float> factor) {
  const int64_t place = int64_t(blockIdx.x) * THREADS + threadIdx.x;
  const bool inside = place < groups * SIZE;
  float x = inside ? read(rewards + place) : 0;
  x -= __shfl_sync(EVERY, x, 0, SIZE);  // the first reward of the group
  x -= sum<SIZE>(x) / SIZE;
  const float by = factor(sum<SIZE>(x * x), float(SIZE));
  if (inside) write(out + place, x * by);
}

extern "C" int normalize_groups(const float* rewards, float* out, int64_t groups, void* stream) {
  const int64_t threads = groups * SIZE;
  LAUNCH(normalize_rung, unsigned((threads + THREADS - 1) / THREADS), THREADS, 0,
         static_cast<cudaStream_t>(stream), rewards, out, groups, Factor<float>{1, 1e-6f, true, false});
  return cudaGetLastError();
}

}  // namespace minirec::cuda
