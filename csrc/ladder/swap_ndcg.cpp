// The ladder of swap rewards on a CPU: the same numbers, from the definition to the production kernel.
//
//   r_k = mean over j > k of NDCG(list) - NDCG(list with k and j exchanged),   d_k = 1/log2(k + 2), k from 0
//
// Rungs, with what a list of K costs and how long 65,536 lists of 128 take, as multiples of one pass of
// torch.mul(out=) over the same 67 MB. `python -m bench.ladder` measures them, keeps them in
// bench/results/ladder.md and writes the multiples here; "-" is not measured yet. One thread each, but for 9.
//
//   1  literal      exchange, compute DCG, exchange back           K^3/2 terms         82,998
//   2  pairs        one product per pair                           K^2/2 products      702
//   3  closed form  two running sums                               K steps             28
//   4  tables       logarithms and divisions out of the loop       K steps             2.8
//   5  lanes        sixteen lists at a time, no two neighbours     K strided loads     4.2
//                   in memory: each vector is put together from
//                   sixteen cache lines
//   6  blocks       the sixteen lists come to a tile through       8 bytes/position    2.6
//                   blocks of 4 x 4, transposed in registers
//   7  ahead        the same, and the next tile is called in       8 bytes/position    2.1
//                   while this one is computed
//   8  tiles        the production kernel, cpu/swap.h: vectors     8 bytes/position    1.3
//                   of 16 and blocks of 16 x 16
//   9  threads      the same, the lists shared out                                     0.7
//  10  fresh        8 into memory that nobody has touched yet:     a page fault for    3.7
//                   what a call without out= costs                 4 KB
//
// Up to 3 a discount is computed where it is needed, and each costs a logarithm and a division; from 4 on
// they are tables, made once per call. From 1 to 4 less is computed; from 4 on the same is computed closer to
// the memory: 4 bytes in and 4 bytes out per position is what nobody can go below.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
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

// ---- four rows of four numbers become four columns ----
//
// Numbers of four lists a, b, c, d lie list by list; what is wanted is position by position. First rows two
// apart exchange the 2 x 2 blocks off the diagonal, then neighbouring rows exchange single numbers: eight
// instructions for sixteen numbers, and none of them touches memory.
//
//   a0 a1 | a2 a3         a0 a1 | c0 c1         a0 b0 | c0 d0
//   b0 b1 | b2 b3         b0 b1 | d0 d1         a1 b1 | c1 d1
//   ------+------   -->   ------+------   -->   ------+------
//   c0 c1 | c2 c3         a2 a3 | c2 c3         a2 b2 | c2 d2
//   d0 d1 | d2 d3         b2 b3 | d2 d3         a3 b3 | c3 d3
//
// 16 x 16 numbers take the same steps for 8, 4, 2 and 1 (cpu/lanes.h).
typedef float Four __attribute__((vector_size(16)));

void transpose(Four* row) {
  Four a = __builtin_shufflevector(row[0], row[2], 0, 1, 4, 5);  // a0 a1 c0 c1
  Four b = __builtin_shufflevector(row[1], row[3], 0, 1, 4, 5);  // b0 b1 d0 d1
  Four c = __builtin_shufflevector(row[0], row[2], 2, 3, 6, 7);  // a2 a3 c2 c3
  Four d = __builtin_shufflevector(row[1], row[3], 2, 3, 6, 7);  // b2 b3 d2 d3
  row[0] = __builtin_shufflevector(a, b, 0, 4, 2, 6);            // a0 b0 c0 d0
  row[1] = __builtin_shufflevector(a, b, 1, 5, 3, 7);            // a1 b1 c1 d1
  row[2] = __builtin_shufflevector(c, d, 0, 4, 2, 6);            // a2 b2 c2 d2
  row[3] = __builtin_shufflevector(c, d, 1, 5, 3, 7);            // a3 b3 c3 d3
}

constexpr int LISTS = 16;  // of a tile: position k of all of them are numbers LISTS * k and on

// Sixteen lists of K into a tile, or (BACK) out of it. AHEAD calls the same place of the next sixteen into
// the second cache: so many rows at once are more than the hardware follows by itself.
template <bool BACK, bool AHEAD>
void turn(float* lists, float* tile, int64_t K) {
  for (int64_t k = 0; k < K; k += 4)
    for (int l = 0; l < LISTS; l += 4) {
      const int64_t at = std::min(k, K - 4);  // the last block may overlap the one before
      auto row = [&](int e) { return lists + (l + e) * K + at; };
      auto column = [&](int e) { return tile + (at + e) * LISTS + l; };
      Four block[4];
      for (int e = 0; e < 4; e++) __builtin_memcpy(block + e, BACK ? column(e) : row(e), sizeof(Four));
      transpose(block);
      for (int e = 0; e < 4; e++) __builtin_memcpy(BACK ? row(e) : column(e), block + e, sizeof(Four));
      if (AHEAD && k % 16 == 0)  // once for 64 bytes
        for (int e = 0; e < 4; e++) __builtin_prefetch(row(e) + LISTS * K, BACK, 2);
    }
}

// n is a multiple of 16 and K at least 4 here.
template <bool AHEAD>
void by_blocks(const float* gains, const float* idcg, float* out, int64_t n, int64_t K) {
  Ranks ranks(K);
  std::vector<float> tile(K * LISTS);
  for (int64_t i = 0; i < n; i += LISTS) {
    turn<false, AHEAD>(const_cast<float*>(gains) + i * K, tile.data(), K);
    float last[LISTS], S[LISTS] = {}, T[LISTS] = {}, scale[LISTS];
    for (int l = 0; l < LISTS; l++) last[l] = tile[(K - 1) * LISTS + l], scale[l] = 1 / idcg[i + l];
    for (int64_t k = K - 1; k >= 0; k--)
      for (int l = 0; l < LISTS; l++) {
        float& place = tile[k * LISTS + l];
        float x = place - last[l];
        T[l] += S[l] * ranks.step[k];
        place = (x * ranks.share[k] - T[l] * ranks.part[k]) * scale[l];
        S[l] += x;
      }
    turn<true, AHEAD>(out + i * K, tile.data(), K);
  }
}

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
  for (int64_t i = 0; i < n; i++) {
    const float* g = gains + i * K;
    for (int64_t k = 0; k < K; k++) {
      double total = 0;
      for (int64_t j = k + 1; j < K; j++) total += (g[k] - g[j]) * (discount(k) - discount(j));
      out[i * K + k] = k + 1 < K ? float(total / double(K - 1 - k) / idcg[i]) : 0;
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

// 4. Discounts, U_k/n_k and 1/n_k are the same for every list, so they are tables; float32 is enough, as
// nothing cancels.
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

// 6. Memory is touched in runs, and what is computed lies side by side: blocks are transposed on the way in
// and on the way out.
void swap_blocks(const float* gains, const float* idcg, float* out, int64_t n, int64_t K) {
  by_blocks<false>(gains, idcg, out, n, K);
}

// 7. Nobody waits for a row that was asked for a tile ago.
void swap_ahead(const float* gains, const float* idcg, float* out, int64_t n, int64_t K) {
  by_blocks<true>(gains, idcg, out, n, K);
}

// 8. PRODUCTION, in one thread: cpu/swap.h. The widest vectors that the machine has, and whole cache lines
// into them.
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

// 9. Lists are independent: two threads of a pool take half each. In production the pool is torch's
// (ops.cpp).
void swap_threads(const float* gains, const float* idcg, float* out, int64_t n, int64_t K) {
#pragma omp parallel for num_threads(2)
  for (int64_t half = 0; half < 2; half++) {
    int64_t begin = n * half / 2, end = n * (half + 1) / 2;
    swap_tiles(gains + begin * K, idcg + begin, out + begin * K, end - begin, K);
  }
}

// 10. The system gives memory page by page, when it is first written: it stops the program, finds a page and
// fills it with zeros. Here the pages of `out` go back first, as they do when a large result is freed and the
// next one is asked for. Whoever keeps `out` does not pay that again.
void swap_fresh(const float* gains, const float* idcg, float* out, int64_t n, int64_t K) {
  const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(out) + page - 1) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(out + n * K) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  swap_tiles(gains, idcg, out, n, K);
}
}
