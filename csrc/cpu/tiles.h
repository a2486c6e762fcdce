// The CPU kernels. kernels.cpp includes this file once per instruction set, with BYTES the size of a vector.
//
// One vector lane per list: a tile of W lists is transposed on the way in, so that position k of all W lists
// is one vector, and the recurrences run in plain vector arithmetic, W lists at a time and without a shuffle.
// The tile lies in the first cache. On the way out it is transposed back. Every value is read once and
// written once.
//
// No function of the standard library is called here: one compiled for a newer machine could be the copy that
// the linker keeps for all.

template <typename T>
struct Lanes {
  static constexpr int W = BYTES / sizeof(T);
  typedef T V __attribute__((vector_size(BYTES)));
  typedef double Wide __attribute__((vector_size(BYTES / sizeof(T) * sizeof(double))));
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Integer;
  typedef Integer Bits __attribute__((vector_size(BYTES)));
};
template <typename T>
using Vector = typename Lanes<T>::V;

template <typename T>
inline Vector<T> load(const T* from) {
  Vector<T> v;
  __builtin_memcpy(&v, from, BYTES);  // needs no alignment
  return v;
}

template <typename T>
inline void store(T* to, Vector<T> v) {
  __builtin_memcpy(to, &v, BYTES);
}

inline float number(float x) { return x; }
inline double number(double x) { return x; }
inline float number(bfloat16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;  // a bfloat16 is the upper half of a float32
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

// W neighbouring numbers.
template <typename In, typename T>
inline Vector<T> some(const In* from) {
  if constexpr (sizeof(In) == sizeof(T)) {
    return load<T>(from);
  } else {
    typedef uint16_t Halves __attribute__((vector_size(BYTES / 2)));
    Halves halves;
    __builtin_memcpy(&halves, from, BYTES / 2);
    return (Vector<T>)(__builtin_convertvector(halves, typename Lanes<T>::Bits) << 16);
  }
}

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

// ---- transposing W x W numbers in registers ----

// Two rows, S apart, exchange their off-diagonal S x S blocks.
template <typename T, int S, int... J>
inline void exchange(Vector<T>& a, Vector<T>& b, std::integer_sequence<int, J...>) {
  constexpr int W = Lanes<T>::W;
  Vector<T> upper = __builtin_shufflevector(a, b, ((J & S) ? W + J - S : J)...);
  Vector<T> lower = __builtin_shufflevector(a, b, ((J & S) ? W + J : J + S)...);
  a = upper;
  b = lower;
}

template <typename T, int S = Lanes<T>::W / 2>
inline void transpose(Vector<T>* rows) {
  constexpr int W = Lanes<T>::W;
#pragma GCC unroll 16
  for (int i = 0; i < W; i++)
    if (!(i & S)) exchange<T, S>(rows[i], rows[i + S], std::make_integer_sequence<int, W>());
  if constexpr (S > 1) transpose<T, S / 2>(rows);
}

// ---- filling a tile, and emptying it ----

// Where `count` lists (or groups) of `length` numbers lie: number k of list l at l * lane + k * step.
struct Place {
  int64_t count, length, lane, step;
};

// Inlined, the loop over single numbers would lack registers.
template <typename In, typename T>
__attribute__((noinline)) void fill(Vector<T>* tile, const In* from, Place at) {
  constexpr int W = Lanes<T>::W;
  int64_t k = 0;
  if (at.count == W && at.lane == 1) {  // lists lie side by side: no need to transpose
    for (; k < at.length; k++) {
      tile[k] = some<In, T>(from + k * at.step);
      __builtin_prefetch(from + k * at.step + 4 * W);  // the same row, a few tiles on
    }
  } else if (at.count == W && at.step == 1) {
    for (; k + W <= at.length; k += W) {
      Vector<T> rows[W];
#pragma GCC unroll 16
      for (int l = 0; l < W; l++) {
        rows[l] = some<In, T>(from + l * at.lane + k);
        __builtin_prefetch(from + (W + l) * at.lane + k);  // the next tile; the hardware loses so many rows
      }
      transpose<T>(rows);
#pragma GCC unroll 16
      for (int l = 0; l < W; l++) tile[k + l] = rows[l];
    }
  }
  for (; k < at.length; k++) {
    tile[k] = Vector<T>{};
    for (int l = 0; l < at.count; l++) tile[k][l] = number(from[l * at.lane + k * at.step]);
  }
}

template <typename T>
inline void empty(const Vector<T>* tile, T* to, Place at) {
  constexpr int W = Lanes<T>::W;
  int64_t k = 0;
  if (at.count == W && at.lane == 1) {
    for (; k < at.length; k++) {
      store<T>(to + k * at.step, tile[k]);
      __builtin_prefetch(to + k * at.step + 4 * W, 1);
    }
  } else if (at.count == W && at.step == 1) {
    for (; k + W <= at.length; k += W) {
      Vector<T> rows[W];
#pragma GCC unroll 16
      for (int l = 0; l < W; l++) rows[l] = tile[k + l];
      transpose<T>(rows);
#pragma GCC unroll 16
      for (int l = 0; l < W; l++) {
        store<T>(to + l * at.lane + k, rows[l]);
        __builtin_prefetch(to + (W + l) * at.lane + k, 1);
      }
    }
  }
  for (; k < at.length; k++)
    for (int l = 0; l < at.count; l++) to[l * at.lane + k * at.step] = tile[k][l];
}

// ---- the unit and the IDCG of a tile's lists ----

template <typename T>
inline Vector<T> larger(Vector<T> a, Vector<T> b) {
  return a > b ? a : b;  // a NaN in `a` is passed over
}

// One over the unit of a list, the power of two at its largest gain: multiplied by it gains keep all of their
// digits, and no sum of them overflows. Both are normal numbers.
template <typename T>
inline Vector<T> one_over_unit(Vector<T> largest) {
  using Bits = typename Lanes<T>::Bits;
  constexpr typename Lanes<T>::Integer digits = sizeof(T) == 4 ? 23 : 52, most = sizeof(T) == 4 ? 253 : 2045;
  Bits exponent = (Bits)largest >> digits & (most + 2);
  exponent = exponent < 1 ? Bits{} + 1 : exponent > most ? Bits{} + most : exponent;
  return (Vector<T>)((most + 1 - exponent) << digits);
}

template <typename T>
inline Vector<T> one_over(Vector<T> idcg) {
  constexpr T tiny = sizeof(T) == 4 ? T(1.17549435e-38) : T(2.2250738585072014e-308);
  return idcg < tiny ? Vector<T>{} : 1 / idcg;  // a NaN stays
}

// Batcher's merge exchange: which pairs are compared does not depend on the numbers, so W lists are sorted at
// once, the largest to the front, without a branch. K log^2 K comparisons, where std::sort guesses its way.
template <typename T>
inline void sort_falling(Vector<T>* tile, int64_t size) {
  int64_t top = 1;
  while (2 * top < size) top *= 2;
  for (int64_t p = size > 1 ? top : 0; p > 0; p /= 2)
    for (int64_t q = top, r = 0, d = p; d > 0; d = q > p ? q - p : 0, q /= 2, r = p)
      for (int64_t i = 0; i < size - d; i++) {
        if ((i & p) != r) continue;
        Vector<T> a = tile[i], b = tile[i + d];
        tile[i] = a < b ? b : a;
        tile[i + d] = a < b ? a : b;
      }
}

// DCG of the best order of gains, which are left sorted. Lists of 0 and 1 need no sort, only how many ones
// there are; both ways add up the same numbers in the same order.
template <typename T>
inline Vector<T> ideal(Vector<T>* gains, int64_t size, const Discounts<T>& table) {
  constexpr int W = Lanes<T>::W;
  using Wide = typename Lanes<T>::Wide;
  Vector<T> ones{};
  auto other = ones != 0;  // whether a list has something else than 0 and 1
  for (int64_t k = 0; k < size; k++) {
    ones += gains[k];
    other |= gains[k] * gains[k] != gains[k];
  }
  bool binary = true;
  for (int l = 0; l < W; l++) binary = binary && !other[l];
  Wide total{};
  if (binary) {
    for (int l = 0; l < W; l++) total[l] = table.upto[int64_t(ones[l])];
  } else {
    sort_falling<T>(gains, size);
    for (int64_t k = 0; k < size; k++) total += __builtin_convertvector(gains[k], Wide) * table.exact[k];
  }
  return __builtin_convertvector(total, Vector<T>);
}

// ---- swap rewards of a tile, in place ----
//
// Gains are taken relative to the last valid one, g. Where all gains from k on are equal, x and the sums behind
// k are therefore 0, and so is the reward, however it is rounded or fused.

// r_k = (x_k U_k - T_k)/(n_k IDCG), from the last position to the first; S is the sum of x behind k.
template <typename T>
inline void swap_later(Vector<T>* tile, int64_t size, const Discounts<T>& table, Vector<T> per_unit,
                       Vector<T> scale) {
  Vector<T> last = tile[size - 1], S{}, U{};
  for (int64_t k = size - 1; k >= 0; k--) {
    Vector<T> x = (tile[k] - last) * per_unit;
    U += S * table.step[k];  // this is T_k; U_k/n_k is in the table
    tile[k] = (x * table.share[k] - U * table.part[k]) * scale;
    S += x;
  }
}

// r_k = n/(n-1) [(x_k - mean)(d_k - mean) + their covariance] / IDCG.
template <typename T>
inline void swap_all(Vector<T>* tile, int64_t size, const Discounts<T>& table, Vector<T> per_unit,
                     Vector<T> scale) {
  Vector<T> last = tile[size - 1], total{}, covariance{};
  for (int64_t k = 0; k < size; k++) total += tile[k] = (tile[k] - last) * per_unit;
  Vector<T> mean = total / T(size);
  for (int64_t k = 0; k < size; k++) covariance += (tile[k] -= mean) * table.centred[k];
  scale *= size > 1 ? 1 / T(size - 1) : T(0);
  for (int64_t k = 0; k < size; k++) tile[k] = (tile[k] * (table.centred[k] * T(size)) + covariance) * scale;
}

// The same where some positions are not valid: m is 1 for those that are. An invalid number may be anything.
template <typename T>
inline void swap_later(Vector<T>* tile, const Vector<T>* m, int64_t size, const Discounts<T>& table,
                       Vector<T> per_unit, Vector<T> scale) {
  Vector<T> last{}, S{}, N{}, U{}, Tk{};
  for (int64_t k = size - 1; k >= 0; k--) {
    last = N == 0 ? tile[k] : last;
    Vector<T> x = m[k] != 0 ? (tile[k] - last) * per_unit : Vector<T>{};
    U += N * table.step[k];
    Tk += S * table.step[k];
    Vector<T> reward = (x * U - Tk) * scale / (N == 0 ? Vector<T>{} + 1 : N);
    tile[k] = m[k] * N != 0 ? reward : Vector<T>{};
    N += m[k];
    S += x;
  }
}

template <typename T>
inline void swap_all(Vector<T>* tile, const Vector<T>* m, int64_t size, const Discounts<T>& table,
                     Vector<T> per_unit, Vector<T> scale) {
  Vector<T> last{}, N{}, total{}, weight{}, covariance{};
  for (int64_t k = size - 1; k >= 0; k--) {
    last = N == 0 ? tile[k] : last;
    tile[k] = m[k] != 0 ? (tile[k] - last) * per_unit : Vector<T>{};
    N += m[k];
    total += tile[k];
    weight += m[k] * table.d[k];
  }
  Vector<T> one = Vector<T>{} + 1, count = N == 0 ? one : N;
  Vector<T> mean_x = total / count, mean_d = weight / count;
  for (int64_t k = 0; k < size; k++) {
    tile[k] = m[k] != 0 ? tile[k] - mean_x : Vector<T>{};
    covariance += tile[k] * (table.d[k] - mean_d);
  }
  scale = N > 1 ? scale / (N > 1 ? N - 1 : one) : Vector<T>{};
  for (int64_t k = 0; k < size; k++) {
    Vector<T> reward = (tile[k] * (table.d[k] - mean_d) * N + covariance) * scale;
    tile[k] = m[k] * (N > 1 ? one : Vector<T>{}) != 0 ? reward : Vector<T>{};
  }
}

// m is 1 where a position is valid, else 0. Compared W lists at a time where lengths alone say so.
template <typename T>
inline void fill_valid(Vector<T>* m, const int64_t* lengths, const bool* mask, int64_t first, Place at) {
  Vector<T> length{}, one = length + 1;
  for (int l = 0; l < at.count; l++) length[l] = T(lengths ? lengths[first + l] : at.length);
  for (int64_t k = 0; k < at.length; k++) {
    Vector<T> flag = one;
    if (mask)
      for (int l = 0; l < at.count; l++) flag[l] = mask[(first + l) * at.length + k];
    m[k] = T(k) + Vector<T>{} < length ? flag : Vector<T>{};
  }
}

template <typename In, typename T>
int64_t swap_tiles(const SwapArguments<In, T>& a) {
  return (a.n + Lanes<T>::W - 1) / Lanes<T>::W;
}

template <typename In, typename T>
void swap(const SwapArguments<In, T>& a, int64_t begin, int64_t end, void* scratch) {
  constexpr int W = Lanes<T>::W;
  Vector<T>*tile = static_cast<Vector<T>*>(scratch), *m = tile + a.size, *best = m + a.size;
  const bool holes = a.lengths || a.mask;
  for (int64_t first = begin * W; first < end * W; first += W) {
    Place at{first + W <= a.n ? W : a.n - first, a.size, a.size, 1};
    Vector<T> largest{}, idcg{};
    for (int l = 0; a.idcg && l < at.count; l++) idcg[l] = a.idcg[first + l];  // early: it is divided by
    fill<In, T>(tile, a.gains + first * a.size, at);
    if (holes) fill_valid<T>(m, a.lengths, a.mask, first, at);
    if (holes)
      for (int64_t k = 0; k < a.size; k++) largest = larger<T>(m[k] != 0 ? tile[k] : largest, largest);
    else
      for (int64_t k = 0; k < a.size; k++) largest = larger<T>(tile[k], largest);
    const Vector<T> per_unit = one_over_unit<T>(largest);
    if (a.idcg) {
      idcg *= per_unit;
    } else {
      for (int64_t k = 0; k < a.size; k++)
        best[k] = holes ? (m[k] != 0 ? tile[k] * per_unit : Vector<T>{}) : tile[k] * per_unit;
      idcg = ideal<T>(best, a.size, a.discounts);
    }
    const Vector<T> scale = one_over<T>(idcg);
    if (holes && a.later)
      swap_later<T>(tile, m, a.size, a.discounts, per_unit, scale);
    else if (holes)
      swap_all<T>(tile, m, a.size, a.discounts, per_unit, scale);
    else if (a.later)
      swap_later<T>(tile, a.size, a.discounts, per_unit, scale);
    else
      swap_all<T>(tile, a.size, a.discounts, per_unit, scale);
    empty<T>(tile, a.out + first * a.size, at);
  }
}

// ---- normalising a tile, in place ----

// The factor of a centred reward, from the sum of squares and the number of rewards.
template <typename In, typename T>
inline Vector<T> factor(const NormalizeArguments<In, T>& a, Vector<T> squares, Vector<T> n) {
  Vector<T> zero{}, one = zero + 1, result = one;
  if (a.scale) {
    Vector<T> divisor = n - T(a.ddof), variance = squares / (divisor > 1 ? divisor : one), spread;
    for (int l = 0; l < Lanes<T>::W; l++) spread[l] = root(variance[l]);
    spread += a.eps;
    result = spread == 0 ? zero : one / (spread == 0 ? one : spread);
  }
  if (a.leave_one_out) result *= n > 1 ? n / (n > 1 ? n - 1 : one) : one;
  return result;
}

// The first reward is subtracted first, so equal rewards are exact zeros; a second pass takes the squares.
template <typename In, typename T>
inline void normalize_whole(const NormalizeArguments<In, T>& a, Vector<T>* tile, int64_t size) {
  Vector<T> first = tile[0], total{}, squares{};
  for (int64_t k = 0; k < size; k++) total += tile[k] -= first;
  Vector<T> mean = total / T(size);
  for (int64_t k = 0; k < size; k++) {
    tile[k] -= mean;
    squares += tile[k] * tile[k];
  }
  Vector<T> by = factor<In, T>(a, squares, Vector<T>{} + T(size));
  for (int64_t k = 0; k < size; k++) tile[k] *= by;
}

template <typename In, typename T>
inline void normalize_some(const NormalizeArguments<In, T>& a, Vector<T>* tile, const Vector<T>* m,
                           int64_t size) {
  Vector<T> first{}, N{}, total{}, squares{}, zero{};
  for (int64_t k = 0; k < size; k++) {
    first = m[k] != 0 && N == 0 ? tile[k] : first;
    N += m[k];
  }
  for (int64_t k = 0; k < size; k++) total += tile[k] = m[k] != 0 ? tile[k] - first : zero;
  Vector<T> mean = total / (N == 0 ? zero + 1 : N);
  for (int64_t k = 0; k < size; k++) {
    tile[k] = m[k] != 0 ? tile[k] - mean : zero;
    squares += tile[k] * tile[k];
  }
  Vector<T> by = factor<In, T>(a, squares, N);
  for (int64_t k = 0; k < size; k++) tile[k] = m[k] != 0 ? tile[k] * by : zero;
}

// A contiguous group that is too long for a tile is read three times. Sums are of W lanes over a piece, and of
// the pieces in float64, so that they stay exact to the last digits however long the group is.
constexpr int64_t LONG = 4096;

template <typename In, typename T>
inline void normalize_long(const NormalizeArguments<In, T>& a, const In* r, T* out) {
  constexpr int W = Lanes<T>::W;
  const int64_t n = a.group, whole = n / W * W;
  const T first = number(r[0]);
  T mean = 0;
  double total = 0, squares = 0;
  for (int pass = 0; pass < 2; pass++) {  // the mean, then the squares around it
    for (int64_t start = 0; start < whole; start += LONG) {
      Vector<T> sum{};
      for (int64_t k = start; k < start + LONG && k < whole; k += W) {
        Vector<T> x = some<In, T>(r + k) - first - mean;
        sum += pass ? x * x : x;
      }
      for (int l = 0; l < W; l++) (pass ? squares : total) += double(sum[l]);
    }
    for (int64_t k = whole; k < n; k++) {
      double x = double(T(number(r[k])) - first - mean);
      (pass ? squares : total) += pass ? x * x : x;
    }
    mean = T(total / double(n));
  }
  const T by = factor<In, T>(a, Vector<T>{} + T(squares), Vector<T>{} + T(n))[0];
  for (int64_t k = 0; k < whole; k += W) store<T>(out + k, (some<In, T>(r + k) - first - mean) * by);
  for (int64_t k = whole; k < n; k++) out[k] = (T(number(r[k])) - first - mean) * by;
}

template <typename In, typename T>
inline bool too_long(const NormalizeArguments<In, T>& a) {
  return a.inner == 1 && a.group > LONG && !a.offsets && !a.mask;
}

// Lanes are groups where a group is contiguous (I = 1), neighbouring columns otherwise.
template <typename In, typename T>
int64_t normalize_tiles(const NormalizeArguments<In, T>& a) {
  constexpr int W = Lanes<T>::W;
  if (too_long(a)) return a.outer;
  if (a.inner > 1) return a.outer * a.pieces * ((a.inner + W - 1) / W);
  return a.offsets ? a.outer * ((a.pieces + W - 1) / W) : (a.outer + W - 1) / W;
}

// W contiguous groups of different lengths, one per lane.
template <typename In, typename T>
void ragged(const NormalizeArguments<In, T>& a, Vector<T>* tile, Vector<T>* m, int64_t t) {
  constexpr int W = Lanes<T>::W;
  int64_t per_row = (a.pieces + W - 1) / W, first = t % per_row * W, longest = 0;
  int64_t base = t / per_row * a.group, start[W] = {}, length[W] = {};
  for (int l = 0; l < W && first + l < a.pieces; l++) {
    start[l] = base + a.offsets[first + l];
    length[l] = base + a.offsets[first + l + 1] - start[l];
    longest = length[l] > longest ? length[l] : longest;
  }
  for (int64_t k = 0; k < longest; k++) {
    tile[k] = m[k] = Vector<T>{};
    for (int l = 0; l < W; l++)
      if (k < length[l]) {
        tile[k][l] = number(a.rewards[start[l] + k]);
        m[k][l] = 1;
      }
  }
  normalize_some<In, T>(a, tile, m, longest);
  for (int l = 0; l < W; l++)
    for (int64_t k = 0; k < length[l]; k++) a.out[start[l] + k] = tile[k][l];
}

template <typename In, typename T>
void normalize(const NormalizeArguments<In, T>& a, int64_t begin, int64_t end, void* scratch) {
  constexpr int W = Lanes<T>::W;
  Vector<T>*tile = static_cast<Vector<T>*>(scratch), *m = tile + a.longest;
  for (int64_t t = begin; t < end; t++) {
    if (too_long(a)) {
      normalize_long<In, T>(a, a.rewards + t * a.group, a.out + t * a.group);
      continue;
    }
    if (a.inner == 1 && a.offsets) {
      ragged<In, T>(a, tile, m, t);
      continue;
    }
    int64_t start, length = a.group;
    Place at;
    if (a.inner == 1) {
      start = t * W * a.group;
      at = {t * W + W <= a.outer ? W : a.outer - t * W, length, a.group, 1};
    } else {
      int64_t columns = (a.inner + W - 1) / W, column = t % columns * W, row = t / columns;
      int64_t piece = row % a.pieces, outer = row / a.pieces;
      int64_t top = a.offsets ? a.offsets[piece] : 0;
      if (a.offsets) length = a.offsets[piece + 1] - top;
      start = (outer * a.group + top) * a.inner + column;
      at = {column + W <= a.inner ? W : a.inner - column, length, 1, a.inner};
    }
    if (length == 0) continue;
    fill<In, T>(tile, a.rewards + start, at);
    if (a.mask) {
      for (int64_t k = 0; k < length; k++) {
        m[k] = Vector<T>{};
        for (int l = 0; l < at.count; l++) m[k][l] = a.mask[start + l * at.lane + k * at.step];
      }
      normalize_some<In, T>(a, tile, m, length);
    } else {
      normalize_whole<In, T>(a, tile, length);
    }
    empty<T>(tile, a.out + start, at);
  }
}
