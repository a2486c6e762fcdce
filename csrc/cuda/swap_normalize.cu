// FlexRec's advantages in one pass: a block per context, or per few small ones. The rewards of its G lists of K go to
// shared memory and never to global memory; then a thread per position goes down the G lists there. In all 8 bytes
// per position, as for the swap rewards alone. Contexts that do not fit take two kernels, with the rewards in `out`
// between them.
#include "normalize.cuh"
#include "swap.cuh"

namespace minirec::cuda {

// Where position k of a list stands in shared memory. Its 32 banks each serve one address at a time, and when a
// warp stores, lane after lane writes ITEMS positions further on: without a gap after each run of ITEMS, 16 of
// the 32 lanes would meet in one bank where K is 128, and all 32 where it is 1,024.
template <int ITEMS>
__host__ __device__ inline int with_gaps(int k) {
  return k + k / ITEMS;
}

template <typename T, int LANES, int ITEMS, bool HOLES>
__global__ void __launch_bounds__(THREADS, ITEMS == 32 ? 2 : 1)
    swap_normalize_contexts(Lists<T> a, Groups<T> g, Factor<T> factor, int together, bool wide) {
  SHARED(T, memory);
  Table<T, LANES, ITEMS> table(memory);
  Shared<T> reward = memory + 3 * LANES * ITEMS;  // (G, K) with gaps
  const int pitch = with_gaps<ITEMS>(a.size);
  table.make(a.size, a.cutoff, a.later);
  const int k0 = threadIdx.x % LANES * ITEMS, per_block = THREADS / LANES, group = int(g.group);
  for (int64_t context = int64_t(blockIdx.x) * together; context < g.outer;
       context += int64_t(gridDim.x) * together) {
    const int contexts = g.outer - context < together ? int(g.outer - context) : together;
    const int64_t first = context * group;  // list
    for (int top = 0; top < contexts * group; top += per_block) {
      const int own = top + threadIdx.x / LANES;
      const bool some = own < contexts * group;
      T x[ITEMS] = {};
      unsigned valid = some ? read_list<T, LANES, ITEMS>(a, first + own, wide, x) : 0u;
      T idcg = some ? read(a.idcg + first + own) : T(0);
      rewards<T, LANES, ITEMS, HOLES>(x, valid, a.size, a.later, idcg, table);
#pragma unroll
      for (int i = 0; i < ITEMS; i++)
        if (some && k0 + i < a.size) reward[own * pitch + with_gaps<ITEMS>(k0 + i)] = x[i];
    }
    __syncthreads();
    for (int t = threadIdx.x; t < contexts * a.size; t += THREADS) {
      const int k = t % a.size, top = t / a.size * group;  // the position, and the first list of its context
      const Shared<T> column = reward + top * pitch + with_gaps<ITEMS>(k);
      auto place = [&](int64_t i) { return (top + i) * a.size + k; };
      auto counts = [&](int64_t i) {
        return !HOLES || ((!a.mask || a.mask[first * a.size + place(i)]) &&
                          (!a.lengths || k < a.lengths[first + top + i]));
      };
      normalize_alone<T>(
          group, factor, [&](int64_t i) { return column[i * pitch]; }, counts,
          [&](int64_t i, T value) { write(a.out + first * a.size + place(i), value); });
    }
    __syncthreads();  // the next contexts overwrite the rewards
  }
}

template <typename T, int LANES, int ITEMS>
bool launch(const Lists<T>& a, const Groups<T>& g, cudaStream_t stream) {
  const int64_t context = g.group * with_gaps<ITEMS>(a.size), per_block = THREADS / LANES;
  const int together =
      int(g.group < per_block ? per_block / g.group : 1);  // contexts whose lists keep a block busy
  const int64_t bytes = (3 * LANES * ITEMS + together * context) * int64_t(sizeof(T));
  int device = 0, most = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (bytes > most) return false;
  auto kernel = a.mask || a.lengths ? swap_normalize_contexts<T, LANES, ITEMS, true>
                                    : swap_normalize_contexts<T, LANES, ITEMS, false>;
  constexpr auto size = cudaFuncAttributeMaxDynamicSharedMemorySize;
  if (bytes > 48 * 1024 && cudaFuncSetAttribute(kernel, size, int(bytes)) != cudaSuccess) {
    cudaGetLastError();  // more than 48 KiB must be asked for; a refusal is no error of the next launch
    return false;
  }
  Factor<T> factor{g.ddof, g.eps, g.scale, g.leave_one_out};
  LAUNCH(kernel, blocks_for((g.outer + together - 1) / together), THREADS, size_t(bytes), stream, a, g,
         factor, together, wide(a.gains, nullptr, a.size));
  return true;
}

template <typename T>
cudaError_t swap_normalize(const Lists<T>& a, const Groups<T>& g, cudaStream_t stream) {
  if (a.n == 0 || a.size == 0) return cudaSuccess;
  bool done = false;
  if constexpr (sizeof(T) == 4) {  // float64 always takes two kernels, which saves a third of compiling
    done = a.size <= 32                ? launch<T, 8, 4>(a, g, stream)
           : a.size <= 128             ? launch<T, 8, 16>(a, g, stream)
           : a.size <= IN_REGISTERS<T> ? launch<T, 32, 32>(a, g, stream)
                                       : false;
  }
  if (done) return cudaGetLastError();
  cudaError_t error = swap_ndcg<T>(a, stream);
  return error == cudaSuccess ? group_normalize<T>(g, stream) : error;
}

template cudaError_t swap_normalize(const Lists<float>&, const Groups<float>&, cudaStream_t);
template cudaError_t swap_normalize(const Lists<double>&, const Groups<double>&, cudaStream_t);

}  // namespace minirec::cuda
