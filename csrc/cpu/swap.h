// Swap rewards. One vector lane per list: position k of W lists is one vector, so the recurrences run in plain
// vector arithmetic, W lists at a time and without a shuffle. Every value is read once and written once.

constexpr int64_t SHORT = 32;  // lists below it may lie side by side with others of their context
constexpr int64_t PANEL = 4;   // vectors of positions over which groups are normalised together

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
//
// Numbers from 0 on are ordered as their bits are, and of integers the larger and the smaller one are an instruction
// each. While p is small the inner loop goes from run to run instead of along one. Both together bought a tenth.
template <typename T>
inline void sort_falling(Vector<T>* tile, int64_t size) {
  typedef typename Lanes<T>::Bits Bits;
  auto compare = [&](int64_t i, int64_t d) {
    const Bits a = (Bits)tile[i], b = (Bits)tile[i + d];
    tile[i] = (Vector<T>)(a < b ? b : a);
    tile[i + d] = (Vector<T>)(a < b ? a : b);
  };
  int64_t top = 1;
  while (2 * top < size) top *= 2;
  for (int64_t p = size > 1 ? top : 0; p > 0; p /= 2)
    for (int64_t q = top, r = 0, d = p; d > 0; d = q > p ? q - p : 0, q /= 2, r = p) {
      const int64_t end = size - d;  // the places i with (i & p) == r below it
      if (p < 4)
        for (int64_t first = r; first < r + p; first++)
          for (int64_t i = first; i < end; i += 2 * p) compare(i, d);
      else
        for (int64_t start = r; start < end; start += 2 * p)
          for (int64_t i = start; i < start + p && i < end; i++) compare(i, d);
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

// Positions from the length of each list on become gaps; the lengths lie `step` apart.
template <typename T>
inline void cut(Vector<T>* tile, int64_t size, const int64_t* lengths, int64_t count, int64_t step) {
  typename Lanes<T>::Bits until{};
  for (int l = 0; l < count; l++) until[l] = lengths[l * step];
  for (int64_t k = 0; k < size; k++) tile[k] = (typename Lanes<T>::Integer)k < until ? tile[k] : gap<T>();
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

// The same where some positions are gaps, which become `hole`.
template <typename T>
inline void swap_later_valid(Vector<T>* tile, int64_t size, const Discounts<T>& table, Vector<T> per_unit,
                             Vector<T> scale, Vector<T> hole) {
  Vector<T> last{}, S{}, N{}, U{}, Tk{}, zero{}, one = zero + 1;
  for (int64_t k = size - 1; k >= 0; k--) {
    auto valid = counts<T>(tile[k]);
    last = N == 0 ? tile[k] : last;
    Vector<T> x = valid ? (tile[k] - last) * per_unit : zero;
    U += N * table.step[k];
    Tk += S * table.step[k];
    Vector<T> reward = (x * U - Tk) * scale / (N == 0 ? one : N);
    tile[k] = valid ? (N != 0 ? reward : zero) : hole;
    N += valid ? one : zero;
    S += x;
  }
}

template <typename T>
inline void swap_all_valid(Vector<T>* tile, int64_t size, const Discounts<T>& table, Vector<T> per_unit,
                           Vector<T> scale, Vector<T> hole) {
  Vector<T> last{}, N{}, total{}, weight{}, covariance{}, zero{}, one = zero + 1;
  for (int64_t k = size - 1; k >= 0; k--) {
    auto valid = counts<T>(tile[k]);
    last = N == 0 ? tile[k] : last;
    tile[k] = valid ? (tile[k] - last) * per_unit : tile[k];
    N += valid ? one : zero;
    total += valid ? tile[k] : zero;
    weight += valid ? zero + table.d[k] : zero;
  }
  Vector<T> count = N == 0 ? one : N, mean_x = total / count, mean_d = weight / count;
  for (int64_t k = 0; k < size; k++)
    covariance += counts<T>(tile[k]) ? (tile[k] - mean_x) * (table.d[k] - mean_d) : zero;
  scale = N > 1 ? scale / (N > 1 ? N - 1 : one) : zero;
  for (int64_t k = 0; k < size; k++) {
    Vector<T> reward = ((tile[k] - mean_x) * (table.d[k] - mean_d) * N + covariance) * scale;
    tile[k] = counts<T>(tile[k]) ? (N > 1 ? reward : zero) : hole;
  }
}

// ---- the kernel ----

// A list per lane, in place. Returns whether gains and IDCG are finite and not negative.
template <typename In, typename T>
inline typename Lanes<T>::Bits swap_lists(const SwapArguments<In, T>& a, Vector<T>* list, Vector<T>* best,
                                          Vector<T> idcg, const Next<In, T>& next) {
  constexpr T most = sizeof(T) == 4 ? T(3.40282347e+38) : T(1.7976931348623157e+308);
  const bool holes = a.lengths || a.mask;
  const int64_t size = a.size;
  Vector<T> largest{}, zero{};
  auto good = zero == 0;
  for (int64_t k = 0; k < size; k++) {
    next.call(k);
    good &= holes ? (list[k] >= 0) | ~counts<T>(list[k]) : list[k] >= 0;
    largest = list[k] > largest ? list[k] : largest;  // a NaN is passed over
  }
  const Vector<T> per_unit = one_over_unit<T>(largest);
  if (a.idcg) {
    good &= (idcg >= 0) & (idcg <= most);
    idcg *= per_unit;
  } else {
    for (int64_t k = 0; k < size; k++) best[k] = counts<T>(list[k]) ? list[k] * per_unit : zero;
    idcg = ideal<T>(best, size, a.discounts);
  }
  const Vector<T> scale = one_over<T>(idcg), hole = a.groups ? gap<T>() : zero;
  if (holes && a.later)
    swap_later_valid<T>(list, size, a.discounts, per_unit, scale, hole);
  else if (holes)
    swap_all_valid<T>(list, size, a.discounts, per_unit, scale, hole);
  else if (a.later)
    swap_later<T>(list, size, a.discounts, per_unit, scale);
  else
    swap_all<T>(list, size, a.discounts, per_unit, scale);
  return good & (largest <= most);
}

// Small contexts lie side by side, one per lane, with their lists one after another. Then no lane is empty however
// short a list is, and to normalise is plain arithmetic of vectors too.
template <typename In, typename T>
inline bool side_by_side(const SwapArguments<In, T>& a) {
  return a.groups && a.size < SHORT && a.group * a.size <= TILED && 2 * a.n >= Lanes<T>::W;
}

// Of W of them.
template <typename In, typename T>
inline typename Lanes<T>::Bits swap_contexts(const SwapArguments<In, T>& a, int64_t first, Vector<T>* tile) {
  constexpr int W = Lanes<T>::W;
  const int64_t size = a.size, length = a.group * size, count = first + W <= a.n ? W : a.n - first;
  Vector<T>*best = tile + rounded_up(length, W), *idcg = best + size, zero{};
  auto good = zero == 0;
  fill<In, T>(tile, a.gains + first * length, a.mask ? a.mask + first * length : nullptr, count, length);
  if (a.idcg) fill<T, T>(idcg, a.idcg + first * a.group, nullptr, count, a.group);
  for (int64_t g = 0; g < a.group; g++) {
    if (a.lengths) cut<T>(tile + g * size, size, a.lengths + first * a.group + g, count, a.group);
    good &= swap_lists<In, T>(
        a, tile + g * size, best, a.idcg ? idcg[g] : zero,
        {a.gains + (first + W) * length + g * size * W, a.out + (first + W) * length + g * size * W});
  }
  normalize_lanes<T>(*a.groups, tile, a.group, size, a.mask || a.lengths);
  empty<T>(tile, a.out + first * length, count, length);
  return good;
}

// The lists of some contexts, in tiles of W. Groups are normalised on the way out, when W positions of all lists have
// been transposed back.
template <typename In, typename T>
inline typename Lanes<T>::Bits swap_some(const SwapArguments<In, T>& a, int64_t first, int64_t contexts,
                                         Vector<T>* tile) {
  constexpr int W = Lanes<T>::W;
  const int64_t size = a.size, room = rounded_up(size, W), lists = contexts * a.group;
  const int64_t from = first * a.group;
  Vector<T>*best = tile + rounded_up(lists, W) / W * room, *panel = best + size, zero{};
  auto good = zero == 0;
  for (int64_t l = 0; l < lists; l += W) {
    const int64_t at = (from + l) * size, count = l + W <= lists ? W : lists - l;
    Vector<T>*list = tile + l / W * room, idcg{};
    fill<In, T>(list, a.gains + at, a.mask ? a.mask + at : nullptr, count, size);
    if (a.lengths) cut<T>(list, size, a.lengths + from + l, count, 1);
    if (a.idcg) fill<T, T>(&idcg, a.idcg + from + l, nullptr, count, 1);
    good &= swap_lists<In, T>(a, list, best, idcg, {a.gains + at + W * size, a.out + at + lists * size});
    if (!a.groups) empty<T>(list, a.out + at, count, size);
  }
  for (int64_t k = 0; a.groups && k < size; k += PANEL * W) {
    const int64_t wide = size - k < PANEL * W ? (size - k + W - 1) / W : PANEL;
    for (int64_t l = 0; l < lists; l += W)
      for (int64_t b = 0; b < wide; b++) {
        Vector<T> rows[W];
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) rows[i] = tile[l / W * room + k + b * W + i];
        transpose<T>(rows);
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) panel[(l + i) * wide + b] = rows[i];
      }
    for (int64_t l = 0; l < lists; l += a.group)
      normalize_lanes<T>(*a.groups, panel + l * wide, a.group, wide, a.mask || a.lengths);
    for (int64_t l = 0; l < lists; l += W)
      for (int64_t b = 0; b < wide; b++)
        put<T>(panel + l * wide + b, wide, a.out + (from + l) * size + k + b * W,
               lists - l < W ? lists - l : W, size, size - k - b * W);
  }
  return good;
}

// How many contexts are done together.
template <typename In, typename T>
inline int64_t together(const SwapArguments<In, T>& a) {
  constexpr int W = Lanes<T>::W;
  return side_by_side(a) ? W : a.group < W ? W / a.group : 1;
}

template <typename In, typename T>
Work swap_work(const SwapArguments<In, T>& a) {
  constexpr int W = Lanes<T>::W;
  const int64_t some = together(a), lists = rounded_up(some * a.group, W);
  const int64_t tile = side_by_side(a) ? a.group * a.size + W : lists / W * rounded_up(a.size, W);
  return {(a.n + some - 1) / some, (tile + a.size + PANEL * lists + W) * BYTES};
}

template <typename In, typename T>
bool swap(const SwapArguments<In, T>& a, int64_t begin, int64_t end, void* scratch) {
  Vector<T>*tile = static_cast<Vector<T>*>(scratch), zero{};
  const int64_t some = together(a);
  auto good = zero == 0;
  for (int64_t first = begin * some; first < end * some && first < a.n; first += some)
    good &= side_by_side(a) ? swap_contexts<In, T>(a, first, tile)
                            : swap_some<In, T>(a, first, first + some <= a.n ? some : a.n - first, tile);
  return all<T>(good);
}
