// Swap rewards. Lists of up to 1,024 positions (512 of float64) come to shared memory whole, as many in a row as a
// block can hold: every gain is read once and every reward written once, 8 bytes per position, in whole runs. Longer
// lists have a block each, which goes through them in pieces.
#include "swap.cuh"

namespace minirec::cuda {

template <typename T, int TEAM, bool HOLES>
__global__ void __launch_bounds__(THREADS, BLOCKS) swap_lists(Lists<T> a, int together, unsigned gaps) {
  SHARED(T, memory);
  const Bench<T, TEAM, HOLES> bench(a, memory, together, gaps);
  for (int64_t first = int64_t(blockIdx.x) * together; first < a.n; first += int64_t(gridDim.x) * together) {
    const int lists = a.n - first < together ? int(a.n - first) : together;
    const Tile tile{first * a.size, 0, 1, lists * a.size};
    bench.work(first, lists, tile, T(0));
    bench.stage.store(a.out, tile);
  }
}

// A block per list of any length. It is read once for the largest gain and once more, from the end, for the
// rewards, in staged pieces whose carry is what lies behind; with the pool of all positions once more for the sums.
constexpr int EACH = 9, PIECE = EACH * THREADS;  // positions of a thread, an odd number, and of all

template <typename T>
__global__ void __launch_bounds__(THREADS, BLOCKS) swap_long(Lists<T> a) {
  SHARED(T, slots);
  const Shared<T> steps = slots + WARPS;
  const Stage<T> stage{steps + PIECE, 0};
  for (int64_t list = blockIdx.x; list < a.n; list += gridDim.x) {
    const int64_t row = list * a.size, length = a.lengths ? read(a.lengths + list) : a.size;
    auto valid = [&](int k) { return k < length && (!a.mask || read(a.mask + row + k)); };
    T negative = 0, minus_place = 0;  // minus the largest gain, and minus the place of the last valid one
    for (int k = threadIdx.x; k < a.size; k += THREADS)
      if (valid(k)) {
        T gain = read(a.gains, row + k);
        negative = -gain < negative ? -gain : negative;
        minus_place = -T(k);
      }
    const T per_unit = one_over_unit(-least<THREADS>(negative, slots));
    const T scale = one_over(read(a.idcg + list) * per_unit);
    const T last = read(a.gains, row - int64_t(least<THREADS>(minus_place, slots)));
    if (a.later) {
      T S = 0, N = 0, U = 0, Tk = 0;  // of what lies behind the piece at hand
      for (int top = (a.size - 1) / PIECE * PIECE; top >= 0; top -= PIECE) {
        const Tile tile{row + top, 0, 1, a.size - top < PIECE ? a.size - top : PIECE};
        for (int k = threadIdx.x; k < tile.width; k += THREADS) steps[k] = step<T>(top + k, a.cutoff);
        stage.fetch(a.gains, a.mask, tile);
        const Shared<T> x = stage.memory;
        const int begin = int(threadIdx.x) * EACH,
                  end = begin + EACH < tile.width ? begin + EACH : tile.width;
        auto counts = [&](int k) { return top + k < length && (!a.mask || x[k] != HOLE<T>); };
        T s = 0, n = 0, t = 0, u = 0, d = 0, sum_s, sum_n, sum_t, sum_u;
        for (int k = end - 1; k >= begin; k--) {
          t += s * steps[k], u += n * steps[k], d += steps[k];
          if (counts(k)) s += (x[k] - last) * per_unit, n += 1;
        }
        T own_S = S + behind<THREADS>(s, slots, &sum_s), own_N = N + behind<THREADS>(n, slots, &sum_n);
        T own_T = Tk + behind<THREADS>(t + own_S * d, slots, &sum_t);
        T own_U = U + behind<THREADS>(u + own_N * d, slots, &sum_u);
        for (int k = end - 1; k >= begin; k--) {
          const bool some = counts(k);
          const T g = some ? (x[k] - last) * per_unit : T(0);
          own_T += own_S * steps[k], own_U += own_N * steps[k];
          x[k] = some && own_N > 0 ? (g * own_U - own_T) * scale / own_N : T(0);
          own_S += g, own_N += T(some);
        }
        stage.store(a.out, tile);
        S += sum_s, N += sum_n, Tk += sum_t, U += sum_u;
      }
      continue;
    }
    auto relative = [&](int k) { return (read(a.gains, row + k) - last) * per_unit; };
    T x = 0, m = 0, d = 0, covariance = 0;
    for (int k = threadIdx.x; k < a.size; k += THREADS)
      if (valid(k)) x += relative(k), m += 1, d += discount<T>(k, a.cutoff);
    const T n = sum<THREADS>(m, slots), some = n > 0 ? n : T(1);
    const T mean_x = sum<THREADS>(x, slots) / some, mean_d = sum<THREADS>(d, slots) / some;
    auto product = [&](int k) { return (relative(k) - mean_x) * (discount<T>(k, a.cutoff) - mean_d); };
    for (int k = threadIdx.x; k < a.size; k += THREADS)
      if (valid(k)) covariance += product(k);
    covariance = sum<THREADS>(covariance, slots);
    for (int k = threadIdx.x; k < a.size; k += THREADS)
      write(a.out + row + k, valid(k) && n > 1 ? (product(k) * n + covariance) * scale / (n - 1) : T(0));
  }
}

template <typename T, int TEAM>
cudaError_t launch(const Lists<T>& a, cudaStream_t stream) {
  auto kernel = a.mask || a.lengths ? swap_lists<T, TEAM, true> : swap_lists<T, TEAM, false>;
  // A warp that sorts takes memory for that.
  const int fit = STAGE / int(sizeof(T)) / a.size / (TEAM > 1 && !a.idcg ? 2 : 1);
  const int together = TEAM > 1 ? fit / WARPS * WARPS : fit < THREADS ? fit / 32 * 32 : THREADS;
  const int64_t bytes = Bench<T, TEAM, false>::bytes(a, together);
  LAUNCH(kernel, blocks_for(kernel, bytes, (a.n + together - 1) / together), THREADS, size_t(bytes), stream,
         a, together, Room<T>(0, TEAM == 1 ? a.size : 0).gaps);
  return cudaGetLastError();
}

template <typename T>
cudaError_t swap_ndcg(const Lists<T>& a, cudaStream_t stream) {
  if (a.n == 0 || a.size == 0) return cudaSuccess;
  if (a.size <= ALONE) return launch<T, 1>(a, stream);
  if (a.size <= WHOLE<T>) return launch<T, 32>(a, stream);
  if (!a.idcg) return cudaErrorInvalidValue;  // a block sorts no list that it cannot hold
  auto kernel = swap_long<T>;
  constexpr size_t bytes = (WARPS + 2 * PIECE) * sizeof(T);
  LAUNCH(kernel, blocks_for(kernel, bytes, a.n), THREADS, bytes, stream, a);
  return cudaGetLastError();
}

template cudaError_t swap_ndcg(const Lists<float>&, cudaStream_t);
template cudaError_t swap_ndcg(const Lists<double>&, cudaStream_t);

}  // namespace minirec::cuda
