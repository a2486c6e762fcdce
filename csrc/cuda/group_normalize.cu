// Group normalisation. Three ways, by where the members of a group lie:
//
//   runs      contiguous groups: as many as a block can stage, a thread or a warp for each; a group that is too long
//             for that has the block, which reads it three times
//   columns   groups across rows: as many whole contexts as a block can stage, or some columns of one, a thread for
//             each column
//   far       columns of too many members to be staged, read three times
//
// What is staged is read once and written once, in whole runs.
#include "normalize.cuh"

namespace minirec::cuda {

template <typename T>
__global__ void __launch_bounds__(THREADS, BLOCKS)
    normalize_runs(Groups<T> a, Factor<T> factor, int together, int alone, unsigned gaps) {
  SHARED(T, slots);
  const Stage<T> stage{slots + WARPS, gaps};
  // Even groups are all in one row. Up to the average size `alone` each has a thread.
  const int64_t groups = a.offsets ? a.pieces : a.outer, parts = (groups + together - 1) / together;
  const int64_t units = a.offsets ? a.outer * parts : parts;
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const int64_t row = unit / parts, top = (unit - row * parts) * together;
    const int here = groups - top < together ? int(groups - top) : together;
    auto begin = [&](int own) {
      return a.offsets ? row * a.group + a.offsets[top + own] : (top + own) * a.group;
    };
    const int64_t base = begin(0), size = begin(here) - base;
    const bool staged = size <= STAGE / int(sizeof(T));
    const Tile tile{base, 0, 1, staged ? int(size) : 0};
    if (staged) stage.fetch(a.rewards, a.mask, tile);
    auto in_stage = [&](auto team, int own) {
      const int from = int(begin(own) - base), end = int(begin(own + 1) - base);
      const Shared<T> x = stage.memory + stage.slot(from);
      normalize<decltype(team)::value>(
          end - from, factor, [&](int k) { return x[k]; }, [&](int k) { return !a.mask || x[k] != HOLE<T>; },
          [&](int k, T value) { x[k] = value; }, slots);
    };
    if (staged && size <= int64_t(alone) * here) {
      if (int(threadIdx.x) < here) in_stage(Team<1>(), int(threadIdx.x));
    } else if (staged && here > 1) {
      for (int own = int(threadIdx.x) / 32; own < here; own += WARPS) in_stage(Team<32>(), own);
    } else if (staged) {
      in_stage(Team<THREADS>(), 0);
    } else {
      for (int own = 0; own < here; own++) {
        const int64_t from = begin(own);
        normalize<THREADS>(
            begin(own + 1) - from, factor, [&](int64_t k) { return read(a.rewards, from + k); },
            [&](int64_t k) { return !a.mask || read(a.mask + from + k); },
            [&](int64_t k, T value) { write(a.out + from + k, value); }, slots);
      }
    }
    if (staged) stage.store(a.out, tile);
  }
}

template <typename T>
__global__ void __launch_bounds__(THREADS, BLOCKS)
    normalize_columns(Groups<T> a, Factor<T> factor, int together, int width) {
  SHARED(T, memory);
  const Stage<T> stage{memory, 0};
  const int inner = int(a.inner), group = int(a.group), parts = (inner + width - 1) / width;
  for (int64_t unit = blockIdx.x; unit * together < a.outer * parts; unit += gridDim.x) {
    const int64_t context = unit / parts * together, list = context * group;
    const int contexts = a.outer - context < together ? int(a.outer - context) : together;
    const int column = int(unit % parts) * width, columns = inner - column < width ? inner - column : width;
    const Tile tile = parts == 1 ? Tile{list * inner, 0, 1, contexts * group * inner}
                                 : Tile{list * inner + column, inner, group, columns};
    stage.fetch(a.rewards, a.mask, tile);
    normalize_staged(stage, a, factor, a.mask, contexts, columns, list, column);
    stage.store(a.out, tile);
  }
}

template <typename T>
__global__ void __launch_bounds__(THREADS, BLOCKS) normalize_far(Groups<T> a, Factor<T> factor) {
  const int64_t work = a.outer * a.pieces * a.inner;
  for (int64_t t = int64_t(blockIdx.x) * THREADS + threadIdx.x; t < work; t += int64_t(gridDim.x) * THREADS) {
    const int64_t column = t % a.inner, piece = t / a.inner % a.pieces, row = t / a.inner / a.pieces;
    const int64_t begin = a.offsets ? a.offsets[piece] : 0, end = a.offsets ? a.offsets[piece + 1] : a.group;
    auto place = [&](int64_t k) { return (row * a.group + begin + k) * a.inner + column; };
    auto counts = [&](int64_t k) {
      return (!a.mask || read(a.mask + place(k))) &&
             (!a.lengths || column < a.lengths[row * a.group + begin + k]);
    };
    normalize<1>(
        end - begin, factor, [&](int64_t k) { return read(a.rewards, place(k)); }, counts,
        [&](int64_t k, T value) { write(a.out + place(k), value); });
  }
}

template <typename T>
cudaError_t launch_runs(const Groups<T>& a, const Factor<T>& factor, cudaStream_t stream) {
  const int64_t fit = STAGE / int64_t(sizeof(T));
  const bool rows = !a.offsets && a.group <= ALONE;
  int64_t together = fit / a.group / (rows ? 32 : WARPS) * (rows ? 32 : WARPS);
  if (a.offsets)
    together = fit / (a.group / a.pieces + 1) / 2;  // half of what fits if all are of average size
  together = together < 1 ? 1 : together < THREADS ? together : THREADS;
  const Room<T> room(rows ? together * a.group : fit, rows ? int(a.group) : 0);
  const int64_t bytes = room.bytes + WARPS * int64_t(sizeof(T));
  const int64_t parts = ((a.offsets ? a.pieces : a.outer) + together - 1) / together;
  auto kernel = normalize_runs<T>;
  LAUNCH(kernel, blocks_for(kernel, bytes, a.offsets ? a.outer * parts : parts), THREADS, size_t(bytes),
         stream, a, factor, int(together), a.offsets ? 32 : ALONE, room.gaps);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_columns(const Groups<T>& a, const Factor<T>& factor, cudaStream_t stream) {
  auto kernel = normalize_columns<T>;
  const int64_t row = a.group * int64_t(sizeof(T)), context = row * a.inner;  // bytes of a column and of all
  int64_t together = context <= STAGE ? STAGE / context : 1, width = a.inner;
  // Part of the columns, if rows keep to sectors or nothing else fits.
  if (context > STAGE && (a.inner % 16 == 0 || !fits(kernel, context)))
    for (width = 256; width > 16 && width * row > STAGE;) width /= 2;
  width = width < a.inner ? width : a.inner;
  const int64_t bytes = together * width * row;
  if (a.inner < 1 << 30 && fits(kernel, bytes)) {
    const int64_t units = (a.outer + together - 1) / together * ((a.inner + width - 1) / width);
    LAUNCH(kernel, blocks_for(kernel, bytes, units), THREADS, size_t(bytes), stream, a, factor, int(together),
           int(width));
    return cudaGetLastError();
  }
  auto far = normalize_far<T>;
  const int64_t units = (a.outer * a.pieces * a.inner + THREADS - 1) / THREADS;
  LAUNCH(far, blocks_for(far, 0, units), THREADS, 0, stream, a, factor);
  return cudaGetLastError();
}

template <typename T>
cudaError_t group_normalize(const Groups<T>& a, cudaStream_t stream) {
  if (a.outer == 0 || a.group == 0 || a.inner == 0 || a.pieces == 0) return cudaSuccess;
  const Factor<T> factor{a.ddof, a.eps, a.scale, a.leave_one_out};
  return a.inner > 1 || a.lengths ? launch_columns(a, factor, stream) : launch_runs(a, factor, stream);
}

template cudaError_t group_normalize(const Groups<float>&, cudaStream_t);
template cudaError_t group_normalize(const Groups<double>&, cudaStream_t);

}  // namespace minirec::cuda
