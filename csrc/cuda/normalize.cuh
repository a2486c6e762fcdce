// The one formula of normalisation, for whoever holds the sums.
#pragma once

#include <cmath>

#include "stage.cuh"

namespace minirec::cuda {

// What a centred reward is multiplied by, from the sum of squares and the number of rewards.
template <typename T>
struct Factor {
  int ddof;
  T eps;
  bool scale, leave_one_out;

  __device__ T operator()(T squares, T n) const {
    T divisor = n - T(ddof), by = 1;
    if (scale) {
      T spread = sqrt(squares / (divisor > 1 ? divisor : T(1))) + eps;
      by = spread == 0 ? T(0) : 1 / spread;
    }
    return leave_one_out && n > 1 ? by * n / (n - 1) : by;
  }
};

// A group that a team goes through three times: get(k) gives a reward, counts(k) whether it counts.
// Its first reward is subtracted first, so that equal rewards are exact zeros.
template <int TEAM, typename Size, typename T, typename Get, typename Counts, typename Put>
__device__ inline void normalize(Size size, const Factor<T>& factor, Get get, Counts counts, Put put,
                                 Shared<T> slots = {}) {
  const int lane = threadIdx.x % TEAM;
  Size first = lane;
  while (first < size && !counts(first)) first += TEAM;
  if (TEAM > 1) {  // the first of all, in numbers that T holds exactly
    const T row = least<TEAM>(T(first / TEAM), slots);
    const T place = least<TEAM>(T(first / TEAM) == row ? T(lane) : T(TEAM), slots);
    first = Size(row) * TEAM + Size(place);
  }
  const T pivot = first < size ? get(first) : T(0);
  T n = 0, total = 0, squares = 0;
#pragma unroll 4
  for (Size k = lane; k < size; k += TEAM)
    if (counts(k)) total += get(k) - pivot, n += 1;
  n = sum<TEAM>(n, slots);
  const T mean = sum<TEAM>(total, slots) / (n > 0 ? n : T(1));
#pragma unroll 4
  for (Size k = lane; k < size; k += TEAM)
    if (counts(k)) {
      const T centred = get(k) - pivot - mean;
      squares += centred * centred;
    }
  const T by = factor(sum<TEAM>(squares, slots), n);
#pragma unroll 4
  for (Size k = lane; k < size; k += TEAM) put(k, counts(k) ? (get(k) - pivot - mean) * by : T(0));
}

// The columns of staged contexts of `group` rows of `width` numbers: a thread each, neighbours on neighbouring
// columns of one context. Ragged groups are pieces of a column. The columns and lists of the stage are those from
// `column` and `list` on.
template <typename T>
__device__ inline void normalize_staged(const Stage<T>& stage, const Groups<T>& a, const Factor<T>& factor,
                                        bool holes, int contexts, int width, int64_t list, int column) {
  const int group = int(a.group), runs = (width + 31) / 32;
  for (int run = int(threadIdx.x) / 32; run < contexts * runs; run += WARPS) {
    const int top = run / runs * group, k = run % runs * 32 + int(threadIdx.x) % 32;
    if (k >= width) continue;
    for (int64_t piece = 0; piece < a.pieces; piece++) {
      const int begin = a.offsets ? int(a.offsets[piece]) : 0;
      const int end = a.offsets ? int(a.offsets[piece + 1]) : group;
      auto at = [&](int i) { return stage.slot((top + begin + i) * width + k); };
      auto counts = [&](int i) {
        return (!holes || stage.memory[at(i)] != HOLE<T>) &&
               (!a.lengths || column + k < a.lengths[list + top + begin + i]);
      };
      normalize<1>(
          end - begin, factor, [&](int i) { return stage.memory[at(i)]; }, counts,
          [&](int i, T value) { stage.memory[at(i)] = value; });
    }
  }
}

}  // namespace minirec::cuda
