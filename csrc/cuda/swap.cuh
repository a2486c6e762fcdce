// The swap rewards of one list that LANES threads hold in registers, ITEMS neighbouring positions each.
//
//   r_k = (x_k U_k - T_k) / (n_k IDCG)
//   U_k = sum over t >= k of step_t times how many j > t,   T_k = sum over t >= k of step_t times the sum of their x
//
// A thread needs what lies behind its own positions: the sum of x, and T. Both come from a suffix sum over
// the lanes: first of the threads' sums of x, then, with that known, of their parts of T. Gains are taken
// relative to the last valid one: where all from k on are equal, x and both sums are therefore 0, and so is
// the reward, however it is rounded or fused.
#pragma once

#include <cmath>

#include "warp.cuh"

namespace minirec::cuda {

// d_k = 1/log2(k + 2) for k from 0, and 0 from the cut-off on.
template <typename T>
__device__ inline T discount(int k, int cutoff) {
  return k < cutoff ? 1 / log2(T(k + 2)) : T(0);
}

// d_k - d_{k+1}. The difference of two neighbours would lose digits; this is the same without subtracting:
// log2((k+3)/(k+2)) / (log2(k+2) log2(k+3)).
template <typename T>
__device__ inline T step(int k, int cutoff) {
  if (k + 1 >= cutoff) return discount<T>(k, cutoff);
  constexpr T per_log2 = T(1.4426950408889634);  // 1/ln 2
  return log1p(1 / T(k + 2)) * per_log2 / (log2(T(k + 2)) * log2(T(k + 3)));
}

// What depends on the rank alone, in shared memory, made once per block. Position k = lane * ITEMS + i stands
// at i * LANES + lane, so that neighbouring lanes read neighbouring banks.
template <typename T, int LANES, int ITEMS>
struct Table {
  Shared<T> step, share, part;  // later: step_k, U_k/n_k, 1/n_k; all: d_k, d_k minus their mean, unused

  __device__ explicit Table(Shared<T> shared)
      : step(shared), share(shared + LANES * ITEMS), part(shared + 2 * LANES * ITEMS) {}

  __device__ static int at(int lane, int i) { return i * LANES + lane; }

  // All threads of the block: logarithms and divisions are shared out among them. In between, a warp adds up
  // from the end, each of LANES threads over its own ITEMS ranks, as for the rewards. Its loops
  // stay loops: unrolled they would take half as many registers again, for all of the kernel.
  __device__ void make(int size, int cutoff, bool later) {
#pragma unroll 1
    for (int k = int(threadIdx.x); k < size; k += THREADS)
      step[at(k / ITEMS, k % ITEMS)] = later ? minirec::cuda::step<T>(k, cutoff) : discount<T>(k, cutoff);
    __syncthreads();
    if (threadIdx.x < 32) {
      const int lane = threadIdx.x % LANES, k0 = lane * ITEMS;
      auto term = [&](int i) {
        return k0 + i < size ? step[at(lane, i)] * (later ? T(size - 1 - k0 - i) : T(1)) : T(0);
      };
      T total = 0;
#pragma unroll 1
      for (int i = 0; i < ITEMS; i++) total += term(i);
      T from_here = behind<LANES>(total), mean = sum<LANES>(total) / T(size);
#pragma unroll 1
      for (int i = ITEMS - 1; i >= 0; i--) {
        from_here += term(i);
        if (threadIdx.x < LANES && k0 + i < size)
          share[at(lane, i)] = later ? from_here : step[at(lane, i)] - mean;
      }
    }
    __syncthreads();
    if (!later) return;
#pragma unroll 1
    for (int k = int(threadIdx.x); k < size; k += THREADS) {
      const int place = at(k / ITEMS, k % ITEMS), n = size - 1 - k;
      share[place] = n ? share[place] / T(n) : T(0);
      part[place] = n ? 1 / T(n) : T(0);
    }
    __syncthreads();
  }
};

// 1/IDCG, and 0 where IDCG is 0. A NaN stays.
template <typename T>
__device__ inline T one_over(T idcg) {
  constexpr T tiny = sizeof(T) == 4 ? T(1.17549435e-38) : T(2.2250738585072014e-308);
  return idcg < tiny ? T(0) : 1 / idcg;
}

// One over the unit of a list, the power of two at its largest gain: multiplied by it gains keep all of their
// digits, and no sum of them overflows. Both are normal numbers.
template <typename T>
__device__ inline T one_over_unit(T largest) {
  constexpr T tiny = sizeof(T) == 4 ? T(1.17549435e-38) : T(2.2250738585072014e-308);
  int exponent = 0;
  frexp(largest < tiny ? tiny : largest > 1 / tiny ? 1 / tiny : largest, &exponent);
  return ldexp(T(1), 1 - exponent);
}

// x: gains in, rewards out. `valid` has a bit per position of this thread; without HOLES all of the list is.
template <typename T, int LANES, int ITEMS, bool HOLES>
__device__ inline void rewards(T (&x)[ITEMS], unsigned valid, int size, bool later, T idcg,
                               const Table<T, LANES, ITEMS>& table) {
  const int lane = threadIdx.x % LANES, k0 = lane * ITEMS;
  T negative = 0, last = 0;  // minus the largest gain, the last valid one
  int place = HOLES ? -1 : size - 1;
#pragma unroll
  for (int i = 0; i < ITEMS; i++)
    if (valid >> i & 1) {
      negative = -x[i] < negative ? -x[i] : negative;
      if (HOLES) place = k0 + i;
    }
  const T per_unit = one_over_unit(-least<LANES>(negative)), scale = one_over(idcg * per_unit);
  if (HOLES) place = -least<LANES>(-place);
#pragma unroll
  for (int i = 0; i < ITEMS; i++)
    if (k0 + i == place) last = x[i];
  last = __shfl_sync(EVERY, last, place / ITEMS, LANES);
  T total = 0, count = 0;
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    x[i] = valid >> i & 1 ? (x[i] - last) * per_unit : T(0);
    total += x[i];
    if (HOLES) count += T(valid >> i & 1);
  }
  if (later) {
    T S = behind<LANES>(total), N = HOLES ? behind<LANES>(count) : T(0);  // of the positions behind
    T s = S, n = N, part_of_T = 0, part_of_U = 0;
#pragma unroll
    for (int i = ITEMS - 1; i >= 0; i--) {
      if (k0 + i >= size) continue;
      T by = table.step[table.at(lane, i)];
      part_of_T += s * by;
      s += x[i];
      if (HOLES) part_of_U += n * by, n += T(valid >> i & 1);
    }
    T Tk = behind<LANES>(part_of_T), U = HOLES ? behind<LANES>(part_of_U) : T(0);
#pragma unroll
    for (int i = ITEMS - 1; i >= 0; i--) {
      if (k0 + i >= size) continue;
      const int at = table.at(lane, i);
      T own = x[i];
      Tk += S * table.step[at];
      S += own;
      if (HOLES) {
        U += N * table.step[at];
        x[i] = (valid >> i & 1) && N > 0 ? (own * U - Tk) * scale / N : T(0);
        N += T(valid >> i & 1);
      } else {
        x[i] = (own * table.share[at] - Tk * table.part[at]) * scale;
      }
    }
    return;
  }
  T n = HOLES ? sum<LANES>(count) : T(size), weight = 0, covariance = 0;
  if (HOLES) {
#pragma unroll
    for (int i = 0; i < ITEMS; i++)
      if (valid >> i & 1) weight += table.step[table.at(lane, i)];
    weight = sum<LANES>(weight) / (n > 0 ? n : T(1));  // the mean discount of what is valid
  }
  T mean = sum<LANES>(total) / (n > 0 ? n : T(1));
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    if (!(valid >> i & 1)) continue;
    x[i] -= mean;
    covariance += x[i] * (HOLES ? table.step[table.at(lane, i)] - weight : table.share[table.at(lane, i)]);
  }
  covariance = sum<LANES>(covariance);
  const T by = n > 1 ? scale / (n - 1) : T(0);
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    if (!(valid >> i & 1)) continue;
    T d = HOLES ? table.step[table.at(lane, i)] - weight : table.share[table.at(lane, i)];
    x[i] = n > 1 ? (x[i] * d * n + covariance) * by : T(0);
  }
}

// This thread's positions of a list, and a bit for each that is valid.
template <typename T, int LANES, int ITEMS>
__device__ inline unsigned read_list(const Lists<T>& a, int64_t list, bool wide, T (&x)[ITEMS]) {
  const int k0 = threadIdx.x % LANES * ITEMS;
  read_row(a.gains, list * a.size, k0, a.size, wide, x);
  int64_t length = a.lengths ? a.lengths[list] : a.size;
  unsigned valid = 0;
#pragma unroll
  for (int i = 0; i < ITEMS; i++) {
    int k = k0 + i;
    bool counts = k < a.size && k < length && (!a.mask || a.mask[list * a.size + k]);
    valid |= unsigned(counts) << i;
  }
  return valid;
}

}  // namespace minirec::cuda
