// The ladder of group normalisation on a GPU, groups of 16. The words and the columns are those of
// swap_ndcg.cu, per group.
//
//                   bytes   requests  sectors  wavefronts  shuffles  registers
//   1  thread       196     2.03      65       0           0         24         a thread per group, 3 passes
//   2  warp         64      2         4        0           11        19         a warp per group, half idle
//   3  staged       64      0.25      4        3.03        0         80         PRODUCTION: 16 bytes a thread
//
// 65,536 such groups are 8 MB, two microseconds of an H200's memory: starting a kernel takes about as long,
// so the one thing that pays is to do all in one.
#include "../cuda/group_normalize.cu"

namespace minirec::cuda {

// 1. Three loops over the same 64 bytes; neighbouring threads read addresses 64 bytes apart.
__global__ void ladder_thread(Groups<float> a, Factor<float> factor) {
  int64_t group = int64_t(blockIdx.x) * THREADS + threadIdx.x, row = group * a.group;
  if (group >= a.outer) return;
  normalize<1>(
      a.group, factor, [&](int64_t k) { return read(a.rewards, row + k); }, [](int64_t) { return true; },
      [&](int64_t k, float value) { write(a.out + row + k, value); });
}

// 2. One reward per lane (groups of up to 32): read once, sums by shuffles.
__global__ void ladder_warp(Groups<float> a, Factor<float> factor) {
  int64_t group = int64_t(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32;
  if (group >= a.outer) return;  // the same for a whole warp
  int lane = threadIdx.x % 32;
  bool inside = lane < a.group;
  float x = inside ? read(a.rewards, group * a.group + lane) : 0, n = float(a.group);
  float first =
      __shfl_sync(EVERY, x, 0, 32);  // all lanes take part in a shuffle, also those without a reward
  x = inside ? x - first : 0;
  float mean = sum<32>(x) / n;
  x = inside ? x - mean : 0;
  float by = factor(sum<32>(x * x), n);
  if (inside) write(a.out + group * a.group + lane, x * by);
}

// 3. PRODUCTION: cuda/group_normalize.cu, normalize_runs<float>.

// A rung, by its number: float32, nothing masked, groups of at most 32.
extern "C" int normalize_ladder(int rung, const float* rewards, float* out, int64_t groups, int64_t size,
                                void* on) {
  const Groups<float> a{
      {rewards, false}, nullptr, nullptr, nullptr, out, groups, size, 1, 1, 1, 1e-6f, true, false};
  const cudaStream_t stream = static_cast<cudaStream_t>(on);
  if (rung == 3) return group_normalize(a, stream);
  Factor<float> factor{a.ddof, a.eps, a.scale, a.leave_one_out};
  auto kernel = rung == 1 ? ladder_thread : ladder_warp;
  int64_t per_block = rung == 1 ? THREADS : THREADS / 32;
  LAUNCH(kernel, unsigned((a.outer + per_block - 1) / per_block), THREADS, 0, stream, a, factor);
  return cudaGetLastError();
}

}  // namespace minirec::cuda
