// The one formula of normalisation, for whoever holds the sums.
#pragma once

#include <cmath>

#include "warp.cuh"

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

// A group that one thread goes through three times: get(k) gives a reward, counts(k) whether it counts.
// Its first reward is subtracted first, so that equal rewards are exact zeros.
template <typename T, typename Get, typename Counts, typename Put>
__device__ inline void normalize_alone(int64_t size, const Factor<T>& factor, Get get, Counts counts,
                                       Put put) {
  T first = 0, n = 0, total = 0, squares = 0;
  for (int64_t k = 0; k < size; k++) {
    if (!counts(k)) continue;
    T r = get(k);
    if (n == 0) first = r;
    total += r - first;
    n += 1;
  }
  T mean = total / (n > 0 ? n : T(1));
  for (int64_t k = 0; k < size; k++) {
    if (!counts(k)) continue;
    T centred = get(k) - first - mean;
    squares += centred * centred;
  }
  T by = factor(squares, n);
  for (int64_t k = 0; k < size; k++) put(k, counts(k) ? (get(k) - first - mean) * by : T(0));
}

}  // namespace minirec::cuda
