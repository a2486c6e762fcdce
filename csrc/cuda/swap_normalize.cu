// FlexRec's advantages in one pass: a block stages whole contexts, makes the rewards of their lists there, and then a
// thread per position goes down the lists. In all 8 bytes per position, as for the swap rewards alone. Contexts that
// do not fit take two kernels, with the rewards in `out` between them.
#include "normalize.cuh"
#include "swap.cuh"

namespace minirec::cuda {

template <typename T, int TEAM, bool HOLES>
__global__ void __launch_bounds__(THREADS, BLOCKS)
    swap_normalize_contexts(Lists<T> a, Groups<T> g, Factor<T> factor, int together, unsigned gaps) {
  SHARED(T, memory);
  const int group = int(g.group);
  const Bench<T, TEAM, HOLES> bench(a, memory, together * group, gaps);
  for (int64_t context = int64_t(blockIdx.x) * together; context < g.outer;
       context += int64_t(gridDim.x) * together) {
    const int contexts = g.outer - context < together ? int(g.outer - context) : together;
    const int64_t list = context * group;
    const Tile tile{list * a.size, 0, 1, contexts * group * a.size};
    bench.work(list, contexts * group, tile, HOLES ? HOLE<T> : T(0));
    __syncthreads();
    normalize_staged(bench.stage, g, factor, HOLES, contexts, a.size, list, 0);
    bench.stage.store(a.out, tile);
  }
}

// Whether the contexts fit; then they are on their way, or `error` says why not.
template <typename T, int TEAM>
bool launch(const Lists<T>& a, Groups<T> g, cudaStream_t stream, cudaError_t* error) {
  const int64_t context = g.group * a.size * int64_t(sizeof(T)), most = STAGE / context;
  const int together = most < 1 ? 1 : int(most);
  if (context > 1 << 20) return false;
  const int64_t bytes = Bench<T, TEAM, false>::bytes(a, together * int(g.group));
  auto kernel =
      a.mask || a.lengths ? swap_normalize_contexts<T, TEAM, true> : swap_normalize_contexts<T, TEAM, false>;
  if (!fits(kernel, bytes)) return false;
  g.lengths = nullptr;  // the holes of the stage say it
  Factor<T> factor{g.ddof, g.eps, g.scale, g.leave_one_out};
  LAUNCH(kernel, blocks_for(kernel, bytes, (g.outer + together - 1) / together), THREADS, size_t(bytes),
         stream, a, g, factor, together, Room<T>(0, TEAM == 1 ? a.size : 0).gaps);
  *error = cudaGetLastError();
  return true;
}

template <typename T>
cudaError_t swap_normalize(const Lists<T>& a, const Groups<T>& g, cudaStream_t stream) {
  if (a.n == 0 || a.size == 0) return cudaSuccess;
  cudaError_t error = cudaSuccess;
  if constexpr (sizeof(T) == 4) {  // float64 always takes two kernels, which saves a third of compiling
    if (a.size <= ALONE ? launch<T, 1>(a, g, stream, &error)
                        : a.size <= WHOLE<T> && launch<T, 32>(a, g, stream, &error))
      return error;
  }
  error = swap_ndcg<T>(a, stream);
  return error == cudaSuccess ? group_normalize<T>(g, stream) : error;
}

template cudaError_t swap_normalize(const Lists<float>&, const Groups<float>&, cudaStream_t);
template cudaError_t swap_normalize(const Lists<double>&, const Groups<double>&, cudaStream_t);

}  // namespace minirec::cuda
