// The swap rewards of a list that a team of one thread or of a warp holds in shared memory.
//
//   r_k = (x_k U_k - T_k) / (n_k IDCG)
//   U_k = sum over t >= k of step_t times how many j > t,   T_k = sum over t >= k of step_t times the sum of their x
//
// Each thread goes through neighbouring positions from the end, all of the list or a 32nd part. A part needs what
// lies behind it: the sum of x, and T. Both come from a suffix sum over the lanes: first of the parts' sums of x,
// then, with that known, of their parts of T. Gains are taken relative to the last valid one: where all from k on
// are equal, x and both sums are therefore 0, and so is the reward, however it is rounded or fused.
#pragma once

#include <cmath>

#include "stage.cuh"

namespace minirec::cuda {

// The longest list that is staged whole.
template <typename T>
constexpr int WHOLE = 4096 / int(sizeof(T));

// The positions of a thread, which it goes through from the end. In a warp they are an odd number, the first threads
// may have fewer: lanes that go in step are in different banks.
template <int TEAM>
struct Part {
  int begin, end;

  __device__ explicit Part(int size) {
    const int each = TEAM == 1 ? size : (size + 31) / 32 | 1;
    end = size - (TEAM - 1 - int(threadIdx.x) % TEAM) * each, begin = end > each ? end - each : 0;
  }
};

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

// What depends on the rank alone, in shared memory, made once per block.
template <typename T>
struct Table {
  Shared<T> step, share, part;  // later: step_k, U_k/n_k, 1/n_k; all: d_k, d_k minus their mean, unused

  __device__ Table(Shared<T> shared, int size)
      : step(shared), share(shared + size), part(shared + 2 * size) {}

  // All threads of the block: logarithms and divisions are shared out among them. In between, a warp adds up
  // from the end.
  __device__ void make(int size, int cutoff, bool later) const {
#pragma unroll 1
    for (int k = int(threadIdx.x); k < size; k += THREADS)
      step[k] = later ? minirec::cuda::step<T>(k, cutoff) : discount<T>(k, cutoff);
    __syncthreads();
    if (threadIdx.x < 32) {
      const Part<32> own(size);
      auto term = [&](int k) { return step[k] * (later ? T(size - 1 - k) : T(1)); };
      T total = 0;
#pragma unroll 1
      for (int k = own.end - 1; k >= own.begin; k--) total += term(k);
      T from_here = behind<32>(total), mean = sum<32>(total) / T(size);
#pragma unroll 1
      for (int k = own.end - 1; k >= own.begin; k--) {
        from_here += term(k);
        share[k] = later ? from_here : step[k] - mean;
      }
    }
    __syncthreads();
    if (!later) return;
#pragma unroll 1
    for (int k = int(threadIdx.x); k < size; k += THREADS) {
      const int n = size - 1 - k;
      share[k] = n ? share[k] / T(n) : T(0);
      part[k] = n ? 1 / T(n) : T(0);
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

// Which positions of a staged list count. Without HOLES all do.
template <typename T, bool HOLES>
struct Valid {
  Shared<T> x;
  int64_t length;

  __device__ bool operator()(int k) const { return !HOLES || (k < length && x[k] != HOLE<T>); }
};

// The gains in x become rewards; what does not count becomes `hole`. `idcg` is in units of the list.
template <typename T, int TEAM, bool HOLES>
__device__ inline void rewards(Shared<T> x, Valid<T, HOLES> valid, const Lists<T>& a, T idcg, bool in_units,
                               const Table<T>& table, T hole) {
  const int size = a.size;
  const Part<TEAM> own(size);
  T negative = 0;  // minus the largest gain
  int place = HOLES ? -1 : size - 1;
#pragma unroll 4
  for (int k = own.end - 1; k >= own.begin; k--)
    if (valid(k)) {
      negative = -x[k] < negative ? -x[k] : negative;
      if (HOLES && place < 0) place = k;
    }
  const T per_unit = one_over_unit(-least<TEAM>(negative)),
          scale = one_over(in_units ? idcg : idcg * per_unit);
  if (HOLES) place = -least<TEAM>(-place);
  const T last = place < 0 ? T(0) : x[place];
  if (TEAM > 1) __syncwarp();  // nobody overwrites it before all have read it
  auto relative = [&](int k) { return (x[k] - last) * per_unit; };
  if (a.later) {
    T S = 0, N = 0, Tk = 0, U = 0;  // of what lies behind
    if (TEAM > 1) {
      T s = 0, n = 0, t = 0, u = 0, d = 0;
#pragma unroll 4
      for (int k = own.end - 1; k >= own.begin; k--) {
        const T by = table.step[k];
        t += s * by, d += by;
        if (HOLES) u += n * by;
        if (valid(k)) s += relative(k), n += 1;
      }
      S = behind<TEAM>(s), Tk = behind<TEAM>(t + S * d);
      if (HOLES) N = behind<TEAM>(n), U = behind<TEAM>(u + N * d);
    }
#pragma unroll 4
    for (int k = own.end - 1; k >= own.begin; k--) {
      const bool counts = valid(k);
      const T by = table.step[k], g = counts ? relative(k) : T(0);
      Tk += S * by, S += g;
      if (HOLES) {
        U += N * by;
        x[k] = !counts ? hole : N > 0 ? (g * U - Tk) * scale / N : T(0);
        N += T(counts);
      } else {
        x[k] = (g * table.share[k] - Tk * table.part[k]) * scale;
      }
    }
    return;
  }
  T n = 0, total = 0, weight = 0, covariance = 0;
#pragma unroll 4
  for (int k = own.end - 1; k >= own.begin; k--)
    if (valid(k)) {
      total += relative(k);
      if (HOLES) n += 1, weight += table.step[k];
    }
  n = HOLES ? sum<TEAM>(n) : T(size);
  const T mean = sum<TEAM>(total) / (n > 0 ? n : T(1));
  if (HOLES) weight = sum<TEAM>(weight) / (n > 0 ? n : T(1));  // the mean discount of what is valid
  auto product = [&](int k) {
    return (relative(k) - mean) * (HOLES ? table.step[k] - weight : table.share[k]);
  };
#pragma unroll 4
  for (int k = own.end - 1; k >= own.begin; k--)
    if (valid(k)) covariance += product(k);
  covariance = sum<TEAM>(covariance);
  const T by = n > 1 ? scale / (n - 1) : T(0);
#pragma unroll 4
  for (int k = own.end - 1; k >= own.begin; k--)
    x[k] = !valid(k) ? hole : n > 1 ? (product(k) * n + covariance) * by : T(0);
}

// Room to sort a list in: the next power of two, a warp's at least.
__host__ __device__ inline int room_for(int size) {
  int room = 32;
  while (room < size) room *= 2;
  return room;
}

// IDCG of a list's own gains, in units of the list. A warp counts where all gains but 0 are equal, and else sorts
// a copy, falling.
template <typename T, bool HOLES>
__device__ inline T ideal(Shared<T> x, Valid<T, HOLES> valid, const Lists<T>& a, Shared<T> sorted) {
  const int lane = threadIdx.x % 32, room = room_for(a.size);
  T negative = 0, total = 0;
  __syncwarp();  // the copy of the list before has been read
  for (int k = lane; k < room; k += 32) {
    sorted[k] = k < a.size && valid(k) ? x[k] : T(0);
    negative = -sorted[k] < negative ? -sorted[k] : negative;
  }
  const T largest = -least<32>(negative), per_unit = one_over_unit(largest);
  int most = 0, others = 0;
  for (int k = lane; k < room; k += 32)
    if (sorted[k] == largest)
      most++;
    else if (sorted[k] != 0)
      others++;
  most = sum<32>(most);
  if (sum<32>(others) == 0) {
    for (int k = lane; k < most && k < a.size; k += 32) total += discount<T>(k, a.cutoff);
    return sum<32>(total) * (largest * per_unit);
  }
  for (int run = 2; run <= room; run *= 2) {
    for (int step = run / 2; step >= 32; step /= 2) {
      __syncwarp();
      for (int p = lane; p < room / 2; p += 32) {
        const int i = 2 * p - (p & (step - 1));
        const T one = sorted[i], other = sorted[i + step];
        if (i & run ? other < one : one < other) sorted[i] = other, sorted[i + step] = one;
      }
    }
    __syncwarp();
    for (int k = lane; k < room; k += 32) {  // what is nearer goes from lane to lane
      T value = sorted[k];
      for (int step = run < 64 ? run / 2 : 16; step > 0; step /= 2) {
        const T other = __shfl_xor_sync(EVERY, value, step, 32);
        const bool larger = !(k & step) == !(k & run);  // of the two it keeps
        value = (larger ? value < other : other < value) ? other : value;
      }
      sorted[k] = value;
    }
  }
  __syncwarp();
  for (int k = lane; k < a.size; k += 32) total += sorted[k] * per_unit * discount<T>(k, a.cutoff);
  return sum<32>(total);
}

// A block with lists in shared memory.
template <typename T, int TEAM, bool HOLES>
struct Bench {
  const Lists<T>& a;
  Table<T> table;
  Shared<T> ideals, sorted;
  Stage<T> stage;

  // What it takes, for so many lists at a time.
  static int64_t bytes(const Lists<T>& a, int lists) {
    return (3 * a.size + (a.idcg ? 0 : lists + WARPS * room_for(a.size))) * int64_t(sizeof(T)) +
           Room<T>(int64_t(lists) * a.size, TEAM == 1 ? a.size : 0).bytes;
  }

  __device__ Bench(const Lists<T>& a, Shared<T> memory, int lists, unsigned gaps)
      : a(a),
        table(memory, a.size),
        ideals(memory + 3 * a.size),
        sorted(ideals + lists),
        stage{a.idcg ? ideals : sorted + WARPS * room_for(a.size), gaps} {
    table.make(a.size, a.cutoff, a.later);
  }

  // The next lists, which are `tile`: their gains come to the stage and become rewards.
  __device__ void work(int64_t first, int lists, const Tile& tile, T hole) const {
    stage.fetch(a.gains, a.mask, tile);
    auto list = [&](int own) { return stage.memory + stage.slot(own * a.size); };
    auto valid = [&](int own) {
      return Valid<T, HOLES>{list(own), HOLES && a.lengths ? read(a.lengths + first + own) : a.size};
    };
    if (!a.idcg) {
      const int warp = threadIdx.x / 32;
      for (int own = warp; own < lists; own += WARPS) {
        const T value = ideal(list(own), valid(own), a, sorted + warp * room_for(a.size));
        if (threadIdx.x % 32 == 0) ideals[own] = value;
      }
      __syncthreads();
    }
    for (int own = int(threadIdx.x) / TEAM; own < lists; own += THREADS / TEAM) {
      const T idcg = a.idcg ? read(a.idcg + first + own) : ideals[own];
      rewards<T, TEAM, HOLES>(list(own), valid(own), a, idcg, !a.idcg, table, hole);
    }
  }
};

}  // namespace minirec::cuda
