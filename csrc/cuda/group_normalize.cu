// Group normalisation. Three ways, by where the members of a group lie:
//
//   rows      contiguous groups of up to 1,024: in the registers of neighbouring threads, one read and one write
//   streams   longer or ragged contiguous groups: a warp each, which reads its group three times
//   columns   groups across rows: a thread per column, neighbours on neighbouring columns, so that a warp's reads
//             are contiguous; read three times, the second and third mostly from the cache. Few columns of many
//             members keep few threads busy.
#include "normalize.cuh"

namespace minirec::cuda {

template <typename T, int LANES, int ITEMS>
__global__ void normalize_rows(Groups<T> a, Factor<T> factor, bool wide) {
  const int lane = threadIdx.x % LANES, k0 = lane * ITEMS, per_block = THREADS / LANES, size = int(a.group);
  for (int64_t top = int64_t(blockIdx.x) * per_block; top < a.outer; top += int64_t(gridDim.x) * per_block) {
    const int64_t row = top + threadIdx.x / LANES;
    const bool some = row < a.outer;
    T x[ITEMS] = {};
    unsigned valid = 0;
    if (some) read_row(a.rewards, row * size, k0, size, wide, x);
    int first = size;  // the place of the first reward that counts
#pragma unroll
    for (int i = ITEMS - 1; i >= 0; i--) {
      bool counts = some && k0 + i < size && (!a.mask || a.mask[row * size + k0 + i]);
      valid |= unsigned(counts) << i;
      if (counts) first = k0 + i;
    }
    first = least<LANES>(first);
    T pivot = 0, total = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < ITEMS; i++)
      if (k0 + i == first && (valid >> i & 1)) pivot = x[i];
    pivot = sum<LANES>(pivot);  // one lane has it, the others have 0
#pragma unroll
    for (int i = 0; i < ITEMS; i++)
      if (valid >> i & 1) total += x[i] -= pivot;
    T n = sum<LANES>(T(__popc(valid)));
    T mean = sum<LANES>(total) / (n > 0 ? n : T(1));
#pragma unroll
    for (int i = 0; i < ITEMS; i++)
      if (valid >> i & 1) {
        x[i] -= mean;
        squares += x[i] * x[i];
      }
    T by = factor(sum<LANES>(squares), n);
#pragma unroll
    for (int i = 0; i < ITEMS; i++) x[i] = valid >> i & 1 ? x[i] * by : T(0);
    if (some) write_row(a.out, row * size, k0, size, wide, x);
  }
}

template <typename T>
__global__ void normalize_streams(Groups<T> a, Factor<T> factor) {
  const int lane = threadIdx.x % 32, warps = THREADS / 32;
  const int64_t groups = a.outer * a.pieces;
  for (int64_t top = int64_t(blockIdx.x) * warps; top < groups; top += int64_t(gridDim.x) * warps) {
    const int64_t own = top + threadIdx.x / 32;  // the same for a whole warp
    if (own >= groups) continue;
    const int64_t row = own / a.pieces, piece = own % a.pieces;
    const int64_t begin = row * a.group + (a.offsets ? a.offsets[piece] : 0);
    const int64_t end = row * a.group + (a.offsets ? a.offsets[piece + 1] : a.group);
    const bool* mask = a.mask;
    auto counts = [&](int64_t k) { return !mask || mask[k]; };
    int64_t first = end;
    for (int64_t k = begin + lane; k < end; k += 32)
      if (counts(k) && k < first) first = k;
    first = least<32>(first);
    T pivot = first < end ? read(a.rewards, first) : T(0), total = 0, n = 0, squares = 0;
    for (int64_t k = begin + lane; k < end; k += 32)
      if (counts(k)) total += read(a.rewards, k) - pivot, n += 1;
    n = sum<32>(n);
    const T mean = sum<32>(total) / (n > 0 ? n : T(1));
    for (int64_t k = begin + lane; k < end; k += 32)
      if (counts(k)) {
        T centred = read(a.rewards, k) - pivot - mean;
        squares += centred * centred;
      }
    const T by = factor(sum<32>(squares), n);
    for (int64_t k = begin + lane; k < end; k += 32)
      write(a.out + k, counts(k) ? (read(a.rewards, k) - pivot - mean) * by : T(0));
  }
}

template <typename T>
__global__ void normalize_columns(Groups<T> a, Factor<T> factor) {
  const int64_t work = a.outer * a.pieces * a.inner;
  for (int64_t t = int64_t(blockIdx.x) * THREADS + threadIdx.x; t < work; t += int64_t(gridDim.x) * THREADS) {
    const int64_t column = t % a.inner, piece = t / a.inner % a.pieces, row = t / a.inner / a.pieces;
    const int64_t begin = a.offsets ? a.offsets[piece] : 0, end = a.offsets ? a.offsets[piece + 1] : a.group;
    auto place = [&](int64_t k) { return (row * a.group + begin + k) * a.inner + column; };
    auto counts = [&](int64_t k) {
      return (!a.mask || a.mask[place(k)]) && (!a.lengths || column < a.lengths[row * a.group + begin + k]);
    };
    normalize_alone<T>(
        end - begin, factor, [&](int64_t k) { return read(a.rewards, place(k)); }, counts,
        [&](int64_t k, T value) { write(a.out + place(k), value); });
  }
}

template <typename T, int LANES, int ITEMS>
void launch_rows(const Groups<T>& a, const Factor<T>& factor, cudaStream_t stream) {
  int64_t per_block = THREADS / LANES;
  auto kernel = normalize_rows<T, LANES, ITEMS>;
  LAUNCH(kernel, blocks_for((a.outer + per_block - 1) / per_block), THREADS, 0, stream, a, factor,
         wide(a.rewards, a.out, a.group));
}

template <typename T>
cudaError_t group_normalize(const Groups<T>& a, cudaStream_t stream) {
  if (a.outer == 0 || a.group == 0 || a.inner == 0 || a.pieces == 0) return cudaSuccess;
  Factor<T> factor{a.ddof, a.eps, a.scale, a.leave_one_out};
  if (a.inner > 1 || a.lengths) {
    auto kernel = normalize_columns<T>;
    int64_t work = a.outer * a.pieces * a.inner;
    LAUNCH(kernel, blocks_for((work + THREADS - 1) / THREADS), THREADS, 0, stream, a, factor);
  } else if (a.offsets || a.group > IN_REGISTERS<T>) {
    auto kernel = normalize_streams<T>;
    int64_t warps = THREADS / 32;
    LAUNCH(kernel, blocks_for((a.outer * a.pieces + warps - 1) / warps), THREADS, 0, stream, a, factor);
  } else if (a.group <= 16) {
    launch_rows<T, 4, 4>(a, factor, stream);
  } else if (a.group <= 128) {
    launch_rows<T, 8, 16>(a, factor, stream);
  } else if constexpr (IN_REGISTERS<T> > 128) {
    launch_rows<T, 32, 32>(a, factor, stream);
  }
  return cudaGetLastError();
}

template cudaError_t group_normalize(const Groups<float>&, cudaStream_t);
template cudaError_t group_normalize(const Groups<double>&, cudaStream_t);

}  // namespace minirec::cuda
