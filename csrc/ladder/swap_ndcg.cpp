// The ladder of swap rewards on a CPU: the same numbers seven times, each time for less.
//
//   r_k = mean over j > k of NDCG(list) - NDCG(list with k and j exchanged),   d_k = 1/log2(k + 2), k from 0
//
// Rungs, with what a list of K costs and how long 65,536 lists of 128 take, as multiples of one pass of
// torch.mul(out=) over the same 67 MB (one thread each; `python -m bench.ladder` measures them on your
// machine, bench/results/ladder.md has these):
//
//   1  literal      exchange, compute DCG, exchange back           K^3/2 terms         119,172
//   2  pairs        one product per pair                           K^2/2 products      90
//   3  closed form  two running sums, log2 on the way              K steps, 2K log2    45
//   4  tables       log2 and divisions out of the loop             K steps             5.4
//   5  lanes        sixteen lists at a time, no two neighbours     K strided loads     8.0
//                   in memory: each vector is put together from
//                   sixteen cache lines
//   6  tiles        the production kernel, cpu/swap.h: blocks      8 bytes/position    1.7
//                   of 16 x 16 transposed in registers
//   7  threads      the same, the lists shared out                                     1.3
//
// From 1 to 4 less is computed; from 4 on the same is computed closer to the memory: 4 bytes in and 4 bytes
// out per position is what nobody can go below.
#include <cmath>
#include <cstdint>
#include <vector>

#include "../cpu/kernels.cpp"

namespace {

double discount(int64_t k) { return 1 / std::log2(double(k + 2)); }

// What depends on the rank alone, for a list of K.
struct Ranks {
  std::vector<float> d, step, share, part, centred;

  explicit Ranks(int64_t K) : d(K), step(K), share(K), part(K), centred(K) {
    double behind = 0;
    for (int64_t k = K - 1; k >= 0; k--) {
      double n = double(K - 1 - k), fall = n > 0 ? discount(k) - discount(k + 1) : 0;
      behind += n * fall;  // the sum of d_k - d_j over the j behind
      d[k] = float(discount(k)), step[k] = float(fall);
      share[k] = float(n > 0 ? behind / n : 0), part[k] = float(n > 0 ? 1 / n : 0);
    }
  }
};

}  // namespace

extern "C" {

// 1. The definition. K^2/2 exchanges, a DCG of K terms for each.
void swap_literal(const float* gains, const float* idcg, float* out, int64_t n, int64_t K) {
  std::vector<float> list(K);
  auto dcg = [&] {
    double total = 0;
    for (int64_t k = 0; k < K; k++) total += list[k] * discount(k);
    return total;
  };
  for (int64_t i = 0; i < n; i++) {
    list.assign(gains + i * K, gains + (i + 1) * K);
    double own = dcg();
    for (int64_t k = 0; k < K; k++) {
      double total = 0;
      for (int64_t j = k + 1; j < K; j++) {
        std::swap(list[k], list[j]);
        total += own - dcg();
        std::swap(list[k], list[j]);
      }
      out[i * K + k] = k + 1 < K ? float(total / double(K - 1 - k) / idcg[i]) : 0;
    }
  }
}

// 2. Only two terms of DCG change: (g_k - g_j)(d_k - d_j).
void swap_pairs(const float* gains, const float* idcg, float* out, int64_t n, int64_t K) {
  Ranks ranks(K);
  for (int64_t i = 0; i < n; i++) {
    const float* g = gains + i * K;
    for (int64_t k = 0; k < K; k++) {
      float total = 0;
      for (int64_t j = k + 1; j < K; j++) total += (g[k] - g[j]) * (ranks.d[k] - ranks.d[j]);
      out[i * K + k] = k + 1 < K ? total / float(K - 1 - k) / idcg[i] : 0;
    }
  }
}

// 3. Going backwards, two sums are enough. Multiplied out, g_k sum(d_k - d_j) - sum g_j (d_k - d_j) would
// subtract two large numbers where gains are nearly equal; with the pivot x = g - (the last g) they are small
// where gains are close, and where all gains from k on are equal, all of them are exactly 0.
void swap_closed(const float* gains, const float* idcg, float* out, int64_t n, int64_t K) {
  for (int64_t i = 0; i < n; i++) {
    const float* g = gains + i * K;
    double S = 0, T = 0, U = 0;  // over what lies behind: sum of x; of x_j (d_k - d_j); of d_k - d_j
    for (int64_t k = K - 1; k >= 0; k--) {
      double behind = double(K - 1 - k), x = double(g[k]) - double(g[K - 1]);
      double fall = behind > 0 ? discount(k) - discount(k + 1) : 0;
      U += behind * fall, T += S * fall;
      out[i * K + k] = behind > 0 ? float((x * U - T) / (behind * idcg[i])) : 0;
      S += x;
    }
  }
}

// 4. U_k/n_k and 1/n_k are the same for every list, so they are tables; float32 is enough, as nothing
// cancels.
void swap_tables(const float* gains, const float* idcg, float* out, int64_t n, int64_t K) {
  Ranks ranks(K);
  for (int64_t i = 0; i < n; i++) {
    const float* g = gains + i * K;
    float S = 0, T = 0, scale = 1 / idcg[i];
    for (int64_t k = K - 1; k >= 0; k--) {
      float x = g[k] - g[K - 1];
      T += S * ranks.step[k];
      out[i * K + k] = (x * ranks.share[k] - T * ranks.part[k]) * scale;
      S += x;
    }
  }
}

// 5. Each step of 4 waits for the one before. Sixteen lists at once fill a vector and the waiting, but
// position k of sixteen lists is sixteen addresses K apart. (n is a multiple of 16 here.)
void swap_lanes(const float* gains, const float* idcg, float* out, int64_t n, int64_t K) {
  constexpr int W = 16;
  Ranks ranks(K);
  for (int64_t i = 0; i < n; i += W) {
    const float* g = gains + i * K;
    float last[W], S[W] = {}, T[W] = {}, scale[W];
    for (int l = 0; l < W; l++) last[l] = g[l * K + K - 1], scale[l] = 1 / idcg[i + l];
    for (int64_t k = K - 1; k >= 0; k--)
      for (int l = 0; l < W; l++) {
        float x = g[l * K + k] - last[l];
        T[l] += S[l] * ranks.step[k];
        out[(i + l) * K + k] = (x * ranks.share[k] - T[l] * ranks.part[k]) * scale[l];
        S[l] += x;
      }
  }
}

// 6. PRODUCTION, in one thread: cpu/swap.h. The tile is transposed in registers on the way in and on the way
// out; memory is touched in whole cache lines, in order, once.
void swap_tiles(const float* gains, const float* idcg, float* out, int64_t n, int64_t K) {
  using namespace minirec;
  Ranks r(K);
  InstructionSet best = can_run(InstructionSet::avx512) ? InstructionSet::avx512
                        : can_run(InstructionSet::avx2) ? InstructionSet::avx2
                                                        : InstructionSet::baseline;
  SwapArguments<float, float> a{
      gains,
      idcg,
      nullptr,
      nullptr,
      out,
      n,
      1,
      K,
      true,
      nullptr,
      {r.d.data(), r.step.data(), r.share.data(), r.part.data(), r.centred.data(), nullptr, nullptr}};
  auto kernels = kernels_of<float, float>(best);
  const Work work = kernels.swap_work(a);
  std::vector<char> memory(work.room + 64);
  auto start = (reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64;
  kernels.swap(a, 0, work.tiles, reinterpret_cast<void*>(start));
}

// 7. Lists are independent: two threads of a pool take half each. In production the pool is torch's
// (ops.cpp).
void swap_threads(const float* gains, const float* idcg, float* out, int64_t n, int64_t K) {
#pragma omp parallel for num_threads(2)
  for (int64_t half = 0; half < 2; half++) {
    int64_t begin = n * half / 2, end = n * (half + 1) / 2;
    swap_tiles(gains + begin * K, idcg + begin, out + begin * K, end - begin, K);
  }
}
}
