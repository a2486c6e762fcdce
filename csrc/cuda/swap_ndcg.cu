// Swap rewards. Lists of up to 1,024 positions lie in the registers of 8 or 32 neighbouring threads: every
// gain is read once and every reward written once, 8 bytes per position, and nothing else touches global
// memory. Longer lists have a block each, which goes through them in pieces.
#include "swap.cuh"

namespace minirec::cuda {

// Blocks that shall share a multiprocessor where the compiler would take registers for one less.
template <typename T, int ITEMS, bool HOLES>
constexpr int BLOCKS_AT_LEAST = sizeof(T) == 8          ? 1
                                : ITEMS == 16 && !HOLES ? 4
                                                        : 2;

template <typename T, int LANES, int ITEMS, bool HOLES>
__global__ void __launch_bounds__(THREADS, (BLOCKS_AT_LEAST<T, ITEMS, HOLES>))
    swap_lists(Lists<T> a, bool wide) {
  SHARED(T, memory);
  Table<T, LANES, ITEMS> table(memory);
  const int k0 = threadIdx.x % LANES * ITEMS, per_block = THREADS / LANES;
  // The loop is the same for all threads of a block, as all lanes of a warp take part in a shuffle.
  for (int64_t first = int64_t(blockIdx.x) * per_block; first < a.n;
       first += int64_t(gridDim.x) * per_block) {
    int64_t list = first + threadIdx.x / LANES;
    bool some = list < a.n;
    T x[ITEMS] = {};
    unsigned valid = some ? read_list<T, LANES, ITEMS>(a, list, wide, x) : 0u;
    T idcg = some ? read(a.idcg + list) : T(0);
    if (first == int64_t(blockIdx.x) * per_block)
      table.make(a.size, a.cutoff, a.later);  // while gains arrive
    rewards<T, LANES, ITEMS, HOLES>(x, valid, a.size, a.later, idcg, table);
    if (!some) continue;  // no shuffle follows in this turn
    write_row(a.out, list * a.size, k0, a.size, wide, x);
  }
}

// The sum over the threads behind this one in the block, and over all. One slot per warp in `slots`.
template <typename T>
__device__ inline T behind_in_block(T value, Shared<T> slots, T* total) {
  const int warp = threadIdx.x / 32, warps = THREADS / 32;
  T after = behind<32>(value), whole = sum<32>(value), every = 0;
  __syncthreads();  // the slots are free
  if (threadIdx.x % 32 == 0) slots[warp] = whole;
  __syncthreads();
  for (int w = warps - 1; w >= 0; w--) {
    if (w > warp) after += slots[w];
    every += slots[w];
  }
  *total = every;
  return after;
}

template <typename T>
__device__ inline T least_in_block(T value, Shared<T> slots) {
  value = least<32>(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = value;
  __syncthreads();
  for (int w = 0; w < THREADS / 32; w++) value = slots[w] < value ? slots[w] : value;
  return value;
}

// A block per list of any length. It is read once for the largest gain and once more, from the end, for the
// rewards; with the pool of all positions once more for the sums.
template <typename T>
__global__ void swap_long(Lists<T> a) {
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
    const T per_unit = one_over_unit(-least_in_block(negative, slots));
    const T scale = one_over(read(a.idcg + list) * per_unit);
    const T last = read(a.gains, row - int64_t(least_in_block(minus_place, slots)));
    auto relative = [&](int k) { return (read(a.gains, row + k) - last) * per_unit; };
    T S = 0, N = 0, U = 0, Tk = 0;  // of what lies behind the piece at hand
    if (a.later) {
      for (int top = (a.size - 1) / THREADS * THREADS; top >= 0; top -= THREADS) {
        const int k = top + int(threadIdx.x);
        const bool counts = k < a.size && valid(k);
        T x = counts ? relative(k) : T(0), m = T(counts), sum_x, sum_m, sum_T, sum_U;
        T s = S + behind_in_block(x, slots, &sum_x), n = N + behind_in_block(m, slots, &sum_m);
        T by = k < a.size ? step<T>(k, a.cutoff) : T(0);
        T t = Tk + s * by + behind_in_block(s * by, slots, &sum_T);
        T u = U + n * by + behind_in_block(n * by, slots, &sum_U);
        if (k < a.size) write(out + k, counts && n > 0 ? (x * u - t) * scale / n : T(0));
        S += sum_x, N += sum_m, Tk += sum_T, U += sum_U;
      }
      continue;
    }
    T x = 0, m = 0, d = 0, covariance = 0, mean_x, mean_d, n;
    for (int k = threadIdx.x; k < a.size; k += THREADS)
      if (valid(k)) x += relative(k), m += 1, d += discount<T>(k, a.cutoff);
    behind_in_block(m, slots, &n);
    behind_in_block(x, slots, &mean_x);
    behind_in_block(d, slots, &mean_d);
    mean_x /= n > 0 ? n : T(1), mean_d /= n > 0 ? n : T(1);
    auto product = [&](int k) { return (relative(k) - mean_x) * (discount<T>(k, a.cutoff) - mean_d); };
    for (int k = threadIdx.x; k < a.size; k += THREADS)
      if (valid(k)) covariance += product(k);
    behind_in_block(covariance, slots, &S);
    for (int k = threadIdx.x; k < a.size; k += THREADS)
      write(out + k, valid(k) && n > 1 ? (product(k) * n + S) * scale / (n - 1) : T(0));
  }
}

template <typename T, int LANES, int ITEMS>
void launch(const Lists<T>& a, cudaStream_t stream) {
  auto kernel = a.mask || a.lengths ? swap_lists<T, LANES, ITEMS, true> : swap_lists<T, LANES, ITEMS, false>;
  int64_t per_block = THREADS / LANES;
  LAUNCH(kernel, blocks_for((a.n + per_block - 1) / per_block), THREADS, 3 * LANES * ITEMS * sizeof(T),
         stream, a, wide(a.gains, a.out, a.size));
}

template <typename T>
cudaError_t swap_ndcg(const Lists<T>& a, cudaStream_t stream) {
  if (a.n == 0 || a.size == 0) return cudaSuccess;
  if (a.size <= 32) {
    launch<T, 8, 4>(a, stream);
  } else if (a.size <= 128) {
    launch<T, 8, 16>(a, stream);
  } else if (a.size <= IN_REGISTERS<T>) {
    if constexpr (IN_REGISTERS<T> > 128) launch<T, 32, 32>(a, stream);
  } else {
    auto kernel = swap_long<T>;
    LAUNCH(kernel, blocks_for(a.n), THREADS, THREADS / 32 * sizeof(T), stream, a);
  }
  return cudaGetLastError();
}

template cudaError_t swap_ndcg(const Lists<float>&, cudaStream_t);
template cudaError_t swap_ndcg(const Lists<double>&, cudaStream_t);

}  // namespace minirec::cuda
