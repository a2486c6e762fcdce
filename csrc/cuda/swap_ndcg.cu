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
// rewards; with the pool of all positions once more for the sums.
template <typename T>
__global__ void __launch_bounds__(THREADS, BLOCKS) swap_long(Lists<T> a) {
  SHARED(T, slots);
  for (int64_t list = blockIdx.x; list < a.n; list += gridDim.x) {
    const int64_t row = list * a.size;
    const bool* mask = a.mask ? a.mask + row : nullptr;
    const int length = a.lengths && a.lengths[list] < a.size ? int(a.lengths[list]) : a.size;
    T* out = a.out + row;
    auto valid = [&](int k) { return k < length && (!mask || mask[k]); };
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
    auto relative = [&](int k) { return (read(a.gains, row + k) - last) * per_unit; };
    T S = 0, N = 0, U = 0, Tk = 0;  // of what lies behind the piece at hand
    if (a.later) {
      for (int top = (a.size - 1) / THREADS * THREADS; top >= 0; top -= THREADS) {
        const int k = top + int(threadIdx.x);
        const bool counts = k < a.size && valid(k);
        T x = counts ? relative(k) : T(0), m = T(counts), sum_x, sum_m, sum_T, sum_U;
        T s = S + behind<THREADS>(x, slots, &sum_x), n = N + behind<THREADS>(m, slots, &sum_m);
        T by = k < a.size ? step<T>(k, a.cutoff) : T(0);
        T t = Tk + s * by + behind<THREADS>(s * by, slots, &sum_T);
        T u = U + n * by + behind<THREADS>(n * by, slots, &sum_U);
        if (k < a.size) write(out + k, counts && n > 0 ? (x * u - t) * scale / n : T(0));
        S += sum_x, N += sum_m, Tk += sum_T, U += sum_U;
      }
      continue;
    }
    T x = 0, m = 0, d = 0, covariance = 0, mean_x, mean_d, n;
    for (int k = threadIdx.x; k < a.size; k += THREADS)
      if (valid(k)) x += relative(k), m += 1, d += discount<T>(k, a.cutoff);
    behind<THREADS>(m, slots, &n);
    behind<THREADS>(x, slots, &mean_x);
    behind<THREADS>(d, slots, &mean_d);
    mean_x /= n > 0 ? n : T(1), mean_d /= n > 0 ? n : T(1);
    auto product = [&](int k) { return (relative(k) - mean_x) * (discount<T>(k, a.cutoff) - mean_d); };
    for (int k = threadIdx.x; k < a.size; k += THREADS)
      if (valid(k)) covariance += product(k);
    behind<THREADS>(covariance, slots, &S);
    for (int k = threadIdx.x; k < a.size; k += THREADS)
      write(out + k, valid(k) && n > 1 ? (product(k) * n + S) * scale / (n - 1) : T(0));
  }
}

template <typename T, int TEAM>
cudaError_t launch(const Lists<T>& a, cudaStream_t stream) {
  auto kernel = a.mask || a.lengths ? swap_lists<T, TEAM, true> : swap_lists<T, TEAM, false>;
  const int fit = STAGE / int(sizeof(T)) / a.size;
  const int together = TEAM > 1 ? WARPS : fit < THREADS ? fit / 32 * 32 : THREADS;
  const int64_t bytes = Bench<T, TEAM, false>::bytes(a, together);
  if (!fits(kernel, bytes)) return cudaErrorInvalidValue;
  LAUNCH(kernel, blocks_for(kernel, bytes, (a.n + together - 1) / together), THREADS, size_t(bytes), stream,
         a, together, Room<T>(0, TEAM == 1 ? a.size : 0).gaps);
  return cudaGetLastError();
}

template <typename T>
cudaError_t swap_ndcg(const Lists<T>& a, cudaStream_t stream) {
  if (a.n == 0 || a.size == 0) return cudaSuccess;
  if (a.size <= ALONE) return launch<T, 1>(a, stream);
  if (a.size <= WHOLE<T>) return launch<T, 32>(a, stream);
  auto kernel = swap_long<T>;
  constexpr size_t bytes = WARPS * sizeof(T);
  LAUNCH(kernel, blocks_for(kernel, bytes, a.n), THREADS, bytes, stream, a);
  return cudaGetLastError();
}

template cudaError_t swap_ndcg(const Lists<float>&, cudaStream_t);
template cudaError_t swap_ndcg(const Lists<double>&, cudaStream_t);

}  // namespace minirec::cuda
