// Build: a rung that reads 16 bytes at once.
//
// Four neighbouring rewards a thread: a warp has eight groups at a time. It asks for 512 bytes a request, and
// a sum over a group takes two shuffles for eight groups, where it took four for two: the other two steps are
// additions in a thread.
#include "../../csrc/cuda/normalize.cuh"

namespace minirec::cuda {

constexpr int SIZE = 16, EACH = 4, TEAM = SIZE / EACH;  // rewards of a group, of a thread; threads of a group

__global__ void normalize_rung(const float* rewards, float* out, int64_t groups, Factor<float> factor) {
  const int64_t place = (int64_t(blockIdx.x) * THREADS + threadIdx.x) * EACH;
  const bool inside = place < groups * SIZE;
  float x[EACH] = {};
  if (inside) read4<false>(rewards, place, x);
  const float first = __shfl_sync(EVERY, x[0], 0, TEAM);
  float total = 0, squares = 0;
  for (int e = 0; e < EACH; e++) total += x[e] -= first;
  const float mean = sum<TEAM>(total) / SIZE;
  for (int e = 0; e < EACH; e++) x[e] -= mean, squares += x[e] * x[e];
  const float by = factor(sum<TEAM>(squares), float(SIZE));
  for (int e = 0; e < EACH; e++) x[e] *= by;
  if (inside) write4(out + place, x);
}

extern "C" int normalize_groups(const float* rewards, float* out, int64_t groups, void* stream) {
  const int64_t threads = groups * TEAM;
  LAUNCH(normalize_rung, unsigned((threads + THREADS - 1) / THREADS), THREADS, 0,
         static_cast<cudaStream_t>(stream), rewards, out, groups, Factor<float>{1, 1e-6f, true, false});
  return cudaGetLastError();
}

}  // namespace minirec::cuda
