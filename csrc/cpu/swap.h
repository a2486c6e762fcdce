// Swap rewards. One vector lane per list: position k of W lists is one vector, so the recurrences run in plain
// vector arithmetic, W lists at a time and without a shuffle. Every value is read once and written once.

// ---- the unit and the IDCG of a tile's lists ----

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
      for (int64_t start = r; start < size - d; start += 2 * p)  // the places i with (i & p) == r
        for (int64_t i = start; i < start + p && i < size - d; i++) {
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

// The same where some positions are not valid, and hold NONE; so would a gain of minus infinity, unchecked.
template <typename T>
constexpr T NONE = -T(__builtin_huge_val());

template <typename T>
inline void swap_later_valid(Vector<T>* tile, int64_t size, const Discounts<T>& table, Vector<T> per_unit,
                             Vector<T> scale) {
  Vector<T> last{}, S{}, N{}, U{}, Tk{}, zero{}, one = zero + 1;
  for (int64_t k = size - 1; k >= 0; k--) {
    auto valid = tile[k] != NONE<T>;
    last = N == 0 ? tile[k] : last;
    Vector<T> x = valid ? (tile[k] - last) * per_unit : zero;
    U += N * table.step[k];
    Tk += S * table.step[k];
    Vector<T> reward = (x * U - Tk) * scale / (N == 0 ? one : N);
    tile[k] = valid & (N != 0) ? reward : zero;
    N += valid ? one : zero;
    S += x;
  }
}

template <typename T>
inline void swap_all_valid(Vector<T>* tile, int64_t size, const Discounts<T>& table, Vector<T> per_unit,
                           Vector<T> scale) {
  Vector<T> last{}, N{}, total{}, weight{}, covariance{}, zero{}, one = zero + 1;
  for (int64_t k = size - 1; k >= 0; k--) {
    auto valid = tile[k] != NONE<T>;
    last = N == 0 ? tile[k] : last;
    tile[k] = valid ? (tile[k] - last) * per_unit : tile[k];
    N += valid ? one : zero;
    total += valid ? tile[k] : zero;
    weight += valid ? zero + table.d[k] : zero;
  }
  Vector<T> count = N == 0 ? one : N, mean_x = total / count, mean_d = weight / count;
  for (int64_t k = 0; k < size; k++)
    covariance += tile[k] != NONE<T> ? (tile[k] - mean_x) * (table.d[k] - mean_d) : zero;
  scale = N > 1 ? scale / (N > 1 ? N - 1 : one) : zero;
  for (int64_t k = 0; k < size; k++) {
    Vector<T> reward = ((tile[k] - mean_x) * (table.d[k] - mean_d) * N + covariance) * scale;
    tile[k] = (tile[k] != NONE<T>)&(N > 1) ? reward : zero;
  }
}

// ---- the kernel ----

template <typename In, typename T>
int64_t swap_tiles(const SwapArguments<In, T>& a) {
  return (a.n + Lanes<T>::W - 1) / Lanes<T>::W;
}

template <typename In, typename T>
bool swap(const SwapArguments<In, T>& a, int64_t begin, int64_t end, void* scratch) {
  constexpr int W = Lanes<T>::W;
  const int64_t size = a.size;
  Vector<T>*tile = static_cast<Vector<T>*>(scratch), *best = tile + rounded_up(size, W), zero{};
  const bool holes = a.lengths || a.mask;
  constexpr T most = sizeof(T) == 4 ? T(3.40282347e+38) : T(1.7976931348623157e+308);
  typename Lanes<T>::Bits lane = below<T>(0), good = zero == 0;
  for (int l = 0; l < W; l++) lane[l] = l;
  for (int64_t first = begin * W; first < end * W; first += W) {
    const int64_t count = first + W <= a.n ? W : a.n - first;
    Vector<T> largest{}, idcg{};
    if (a.idcg) idcg = count == W ? load<T, T>(a.idcg + first) : load<T, T>(a.idcg + first, count);
    if (holes)
      fill<In, T>(tile, a.gains + first * size, count, size, [&](Vector<T> v, int l, int64_t k, int some) {
        const bool* flags = a.mask + (first + l) * size + k;
        auto valid = zero == 0;
        if (a.mask) valid = (some == W ? load<bool, T>(flags) : load<bool, T>(flags, some)) != 0;
        const int64_t behind = a.lengths ? a.lengths[first + l] - k : W;
        valid &= lane < (typename Lanes<T>::Integer)(behind > W ? W : behind);
        good &= (v >= 0) | ~valid;
        return valid ? v : zero + NONE<T>;
      });
    else
      fill<In, T>(tile, a.gains + first * size, count, size, [&](Vector<T> v, int, int64_t, int) {
        good &= v >= 0;
        return v;
      });
    for (int64_t k = 0; k < size; k++)
      largest = tile[k] > largest ? tile[k] : largest;  // a NaN is passed over
    good &= (largest <= most) & (idcg >= 0) & (idcg <= most);
    const Vector<T> per_unit = one_over_unit<T>(largest);
    if (a.idcg) {
      idcg *= per_unit;
    } else {
      for (int64_t k = 0; k < size; k++) best[k] = tile[k] == NONE<T> ? zero : tile[k] * per_unit;
      idcg = ideal<T>(best, size, a.discounts);
    }
    const Vector<T> scale = one_over<T>(idcg);
    if (holes && a.later)
      swap_later_valid<T>(tile, size, a.discounts, per_unit, scale);
    else if (holes)
      swap_all_valid<T>(tile, size, a.discounts, per_unit, scale);
    else if (a.later)
      swap_later<T>(tile, size, a.discounts, per_unit, scale);
    else
      swap_all<T>(tile, size, a.discounts, per_unit, scale);
    empty<T>(tile, a.out + first * size, count, size);
  }
  return all<T>(good);
}
