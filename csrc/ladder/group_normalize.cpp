// The ladder of group normalisation on a CPU: A = (r - mean r) / (std r + eps) over groups of G.
//
// Rungs, and how long 65,536 groups of 16 take as multiples of torch.mul(out=) over the same 8 MB, in one thread
// (`python -m bench.ladder`; bench/results/ladder.md has these):
//
//   1  textbook     mean, variance as mean of squares minus square of the mean: fast, short and wrong    1.7
//   2  exact        the first reward subtracted first, the squares in a pass of their own                2.3
//   3  lanes        sixteen groups at a time, strided loads                                              3.0
//   4  tiles        the production kernel, cpu/normalize.h: a group of 16 is one block, transposed in        0.9
//                   registers and never stored
//
// What 1 gets wrong: eight rewards of 0.7 have a mean that is not 0.7 in float32, so silent groups teach; and
// of two rewards 1.00000 and 1.00001 the squares keep no digit of the difference.
#include <cmath>
#include <cstdint>
#include <vector>

#include "../cpu/kernels.cpp"

constexpr float EPS = 1e-6f;

extern "C" {

// 1. Two sums in one pass. E[r^2] - E[r]^2 subtracts two nearly equal numbers.
void normalize_textbook(const float* rewards, float* out, int64_t n, int64_t G) {
  for (int64_t i = 0; i < n; i++) {
    const float* r = rewards + i * G;
    float sum = 0, squares = 0;
    for (int64_t k = 0; k < G; k++) sum += r[k], squares += r[k] * r[k];
    float mean = sum / float(G), variance = (squares - sum * mean) / float(G - 1);
    float spread = std::sqrt(variance > 0 ? variance : 0) + EPS;
    for (int64_t k = 0; k < G; k++) out[i * G + k] = (r[k] - mean) / spread;
  }
}

// 2. Equal rewards are exact zeros from the first subtraction on. Three short loops over numbers in the
// cache.
void normalize_exact(const float* rewards, float* out, int64_t n, int64_t G) {
  for (int64_t i = 0; i < n; i++) {
    const float* r = rewards + i * G;
    float* x = out + i * G;
    float sum = 0, squares = 0;
    for (int64_t k = 0; k < G; k++) sum += x[k] = r[k] - r[0];
    float mean = sum / float(G);
    for (int64_t k = 0; k < G; k++) x[k] -= mean, squares += x[k] * x[k];
    float by = 1 / (std::sqrt(squares / float(G - 1)) + EPS);
    for (int64_t k = 0; k < G; k++) x[k] *= by;
  }
}

// 3. Sums over a group are chains of additions; sixteen groups at a time fill the waiting. (n: a multiple
// of 16.)
void normalize_lanes(const float* rewards, float* out, int64_t n, int64_t G) {
  constexpr int W = 16;
  for (int64_t i = 0; i < n; i += W) {
    const float* r = rewards + i * G;
    float* x = out + i * G;
    float sum[W] = {}, squares[W] = {}, by[W];
    for (int64_t k = 0; k < G; k++)
      for (int l = 0; l < W; l++) sum[l] += x[l * G + k] = r[l * G + k] - r[l * G];
    for (int64_t k = 0; k < G; k++)
      for (int l = 0; l < W; l++) {
        x[l * G + k] -= sum[l] / float(G);
        squares[l] += x[l * G + k] * x[l * G + k];
      }
    for (int l = 0; l < W; l++) by[l] = 1 / (std::sqrt(squares[l] / float(G - 1)) + EPS);
    for (int64_t k = 0; k < G; k++)
      for (int l = 0; l < W; l++) x[l * G + k] *= by[l];
  }
}

// 4. PRODUCTION, in one thread: cpu/normalize.h.
void normalize_tiles(const float* rewards, float* out, int64_t n, int64_t G) {
  using namespace minirec;
  InstructionSet best = can_run(InstructionSet::avx512) ? InstructionSet::avx512
                        : can_run(InstructionSet::avx2) ? InstructionSet::avx2
                                                        : InstructionSet::baseline;
  NormalizeArguments<float, float> a{rewards, nullptr, nullptr, out, n, G, 1, 1, G, {1, EPS, true, false}};
  auto kernels = kernels_of<float, float>(best);
  const Work work = kernels.normalize_work(a);
  std::vector<char> memory(work.room + 64);
  auto start = (reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64;
  kernels.normalize(a, 0, work.tiles, reinterpret_cast<void*>(start));
}
}
