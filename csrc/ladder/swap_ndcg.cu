// The ladder of swap rewards on a GPU. Each rung gives the same numbers; what changes is who reads what.
//
// Per list of 128 gains: bytes read, sectors of gains and rewards that a warp asks for, reads and writes of a thread,
// and shuffles of a warp, as the emulator counts them (tests/ops/test_cuda_kernels.py holds these numbers against
// it); registers of a thread for sm_90.
//
//                   bytes   sectors  accesses  shuffles  registers
//   1  pairs        33,024  8,384    8,384     0         38         a thread per list, every pair
//   2  closed form  516     257      257       0         30         a thread per list, running sums
//   3  warp         640     33       288       84        34         32 threads per list: neighbours read neighbours
//   4  staged       516     32       65        0.17      72         PRODUCTION: a block's lists are one run
//
// (The shuffles of 4 make a block's table of ranks. Rung 4 alone bears gains of any size.)
//
// Reading 4 bytes fetches a sector of 32. In 1 and 2 the threads of a warp read 32 lists at once, at addresses 512
// bytes apart: 32 sectors, of which 4 bytes each are used; the cache may or may not hold them until the next step.
// In 3 a warp reads one run of 128 bytes, but 32 threads must agree on every running sum. In 4 a block copies its
// lists to shared memory and back, 16 bytes a thread and 512 a warp, and there a thread has a list of its own, as in
// 2. Nobody can go below 512 bytes in and 512 out, which are 32 sectors.
// Times: not measured, no GPU was at hand. `python -m bench.kernels` prints those of the production kernel.
#include "../cuda/swap_ndcg.cu"

namespace minirec::cuda {

// 1. Every pair, in the order of the formula.
__global__ void ladder_pairs(Lists<float> a) {
  int64_t list = int64_t(blockIdx.x) * THREADS + threadIdx.x;
  if (list >= a.n) return;
  int64_t row = list * a.size;
  for (int k = 0; k < a.size; k++) {
    float total = 0, own = read(a.gains, row + k);
    for (int j = k + 1; j < a.size; j++)
      total += (own - read(a.gains, row + j)) * (discount<float>(k, a.size) - discount<float>(j, a.size));
    write(a.out + row + k, k + 1 < a.size ? total / float(a.size - 1 - k) / a.idcg[list] : 0.0f);
  }
}

// 2. One pass from the end. Gains are taken relative to the last one.
__global__ void ladder_closed(Lists<float> a) {
  int64_t list = int64_t(blockIdx.x) * THREADS + threadIdx.x;
  if (list >= a.n) return;
  int64_t row = list * a.size;
  float last = read(a.gains, row + a.size - 1), S = 0, T = 0, U = 0, scale = one_over(a.idcg[list]);
  for (int k = a.size - 1; k >= 0; k--) {
    float x = read(a.gains, row + k) - last, behind = float(a.size - 1 - k), by = step<float>(k, a.size);
    T += S * by, U += behind * by;
    write(a.out + row + k, behind > 0 ? (x * U - T) * scale / behind : 0.0f);
    S += x;
  }
}

// 3. A warp goes through its list 32 positions at a time, from the end. What lies behind a position is the
// sum over the lanes behind (a suffix sum by shuffles) and what the pieces before have left.
__global__ void ladder_by_warp(Lists<float> a) {
  int64_t list = int64_t(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32;
  if (list >= a.n) return;  // the same for a whole warp
  int lane = threadIdx.x % 32;
  int64_t row = list * a.size;
  float last = read(a.gains, row + a.size - 1), S = 0, T = 0, U = 0, scale = one_over(a.idcg[list]);
  for (int top = (a.size - 1) / 32 * 32; top >= 0; top -= 32) {
    int k = top + lane;
    bool inside = k < a.size;
    float x = inside ? read(a.gains, row + k) - last : 0, behind_k = float(a.size - 1 - k);
    float by = inside ? step<float>(k, a.size) : 0;
    float s = S + behind<32>(x);
    float t = T + behind<32>(s * by) + s * by, u = U + behind<32>(behind_k * by) + behind_k * by;
    if (inside) write(a.out + row + k, behind_k > 0 ? (x * u - t) * scale / behind_k : 0.0f);
    S = __shfl_sync(EVERY, s + x, 0, 32);  // the first lane has the whole piece behind it, and itself
    T = __shfl_sync(EVERY, t, 0, 32), U = __shfl_sync(EVERY, u, 0, 32);
  }
}

// 4. PRODUCTION: cuda/swap_ndcg.cu, swap_lists<float, 1, false>; launch() there.

cudaError_t ladder(int rung, const Lists<float>& a, cudaStream_t stream) {
  if (rung == 4) return swap_ndcg(a, stream);
  auto kernel = rung == 1 ? ladder_pairs : rung == 2 ? ladder_closed : ladder_by_warp;
  int64_t per_block = rung == 3 ? THREADS / 32 : THREADS;
  LAUNCH(kernel, unsigned((a.n + per_block - 1) / per_block), THREADS, 0, stream, a);
  return cudaGetLastError();
}

}  // namespace minirec::cuda
