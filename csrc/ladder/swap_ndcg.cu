// The ladder of swap rewards on a GPU. Each rung gives the same numbers; what changes is who reads what.
//
// The words that the rungs need:
//
//   thread         one run of a kernel, the function marked __global__. It knows its number, and so its work.
//   block          threads that start together and can wait for one another: 128 here. threadIdx.x is the
//                  number of a thread in its block.
//   grid           all blocks of a launch. blockIdx.x is the number of a block. Blocks run in any order, on
//                  whichever multiprocessor is free, and never wait for one another.
//   warp           32 neighbouring threads of a block that go through the program in step. What they ask of
//                  memory by one instruction is one request. The answer comes in sectors of 32 bytes, however
//                  few of them are used.
//   shuffle        a thread reads a register of another one of its warp.
//   shared memory  some ten thousand bytes on the multiprocessor, which the threads of a block share while it
//                  runs. Its 32 banks serve one word of 4 bytes each at a time, word w in bank w % 32.
//                  Threads of a warp that want different words of one bank take turns: each is a wavefront.
//   barrier        __syncthreads(): nobody goes on before all threads of the block have come, and then each
//                  sees what the others wrote to shared memory.
//
// Per list of 128 gains, as the emulator counts them: bytes read; requests of a warp for gains and rewards,
// and the sectors of them; wavefronts; shuffles of a warp; and registers of a thread for sm_90. `python -m
// bench.ladder_cuda` prints them (bench/results/ladder_cuda.md), and times where there is a GPU.
//
//                   bytes   requests  sectors  wavefronts  shuffles  registers
//   1  pairs        33,024  262       8,384    0           0         38         thread per list, every pair
//   2  closed form  516     8.03      257      0           0         30         thread per list, running sums
//   3  warp         640     9         33       0           84        34         32 threads per list
//   4  shared       512     8         32       16.03       0         32         64 lists a block; then as 2
//   5  staged       516     2         32       33.14       0.17      72         PRODUCTION: 16 bytes a thread
//
// (5 reads its table from shared memory too, for which it uses shuffles, and goes through a list once more:
// it alone bears gains of any size.)
//
// In 1 and 2 the threads of a warp read 32 lists at once, at addresses 512 bytes apart: 32 sectors a request,
// of which 4 bytes each are used; the cache may or may not hold them until the next step. In 3 a warp reads
// one run of 128 bytes, but 32 threads must agree on every running sum. In 4 the threads of a block copy
// their lists to shared memory as they lie, wait for one another, and there a thread has a list of its own,
// as in 2. 5 copies 16 bytes a thread and 512 a warp. Nobody can go below 512 bytes in and 512 out, which are
// 32 sectors. In 1 to 4 a discount is computed where it is needed; in 5 a block makes a table of them once.
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
    float x = read(a.gains, row + k) - last;
    float behind = float(a.size - 1 - k), by = step<float>(k, a.size);
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

// 4. Lists of a block are neighbours, so they are one run of memory: copied 4 bytes a thread, whichever list
// they are of. Rows of shared memory have an odd length: the threads of a warp, each at the same place of its
// own row, are then in 32 different banks.
constexpr int TOGETHER = 64;  // lists of a block

__global__ void ladder_shared(Lists<float> a) {
  SHARED(float, memory);
  const int pitch = a.size | 1;
  const int64_t first = int64_t(blockIdx.x) * TOGETHER, base = first * a.size;
  const int lists = a.n - first < TOGETHER ? int(a.n - first) : TOGETHER;
  const int own = int(threadIdx.x), all = lists * a.size;
  auto place = [&](int f) { return f / a.size * pitch + f % a.size; };
  for (int f = own; f < all; f += THREADS) memory[place(f)] = read(a.gains, base + f);
  __syncthreads();  // all gains are there
  if (own < lists) {
    const Shared<float> list = memory + own * pitch;
    float last = list[a.size - 1], S = 0, T = 0, U = 0, scale = one_over(a.idcg[first + own]);
    for (int k = a.size - 1; k >= 0; k--) {
      float x = list[k] - last, behind = float(a.size - 1 - k), by = step<float>(k, a.size);
      T += S * by, U += behind * by;
      list[k] = behind > 0 ? (x * U - T) * scale / behind : 0.0f;
      S += x;
    }
  }
  __syncthreads();  // all rewards are there
  for (int f = own; f < all; f += THREADS) write(a.out + base + f, memory[place(f)]);
}

// 5. PRODUCTION: cuda/swap_ndcg.cu, swap_lists<float, 1, false>; launch() there.

// A rung, by its number: float32, nothing masked, lists of at most 190.
extern "C" int swap_ladder(int rung, const float* gains, const float* idcg, float* out, int64_t n,
                           int64_t size, void* on) {
  const Lists<float> a{{gains, false}, idcg, nullptr, nullptr, out, n, int(size), int(size), true};
  const cudaStream_t stream = static_cast<cudaStream_t>(on);
  if (rung == 5) return swap_ndcg(a, stream);
  auto kernel = rung == 1   ? ladder_pairs
                : rung == 2 ? ladder_closed
                : rung == 3 ? ladder_by_warp
                            : ladder_shared;
  const int64_t per_block = rung == 4 ? TOGETHER : rung == 3 ? THREADS / 32 : THREADS;
  const size_t bytes = rung == 4 ? TOGETHER * size_t(size | 1) * sizeof(float) : 0;
  LAUNCH(kernel, unsigned((a.n + per_block - 1) / per_block), THREADS, bytes, stream, a);
  return cudaGetLastError();
}

}  // namespace minirec::cuda
