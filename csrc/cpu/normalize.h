// Group normalisation. Short contiguous groups are transposed into a tile, one lane per group. Longer ones, and
// groups that are columns, are read three times from where they lie: for the mean, for the squares around it, and
// to be written. The second and the third time they come from a cache.
//
// A reward of the group, the first where all count, is subtracted first, so equal rewards are exact zeros.

constexpr int64_t PIECE = 256;  // numbers whose sum may be rounded to T; sums of pieces are in float64
constexpr int STRIP = 4;        // vectors of neighbouring columns that are done together

// The factor of a centred reward, from the sum of squares and the number of rewards.
template <typename In, typename T>
inline Vector<T> factor(const NormalizeArguments<In, T>& a, Vector<T> squares, Vector<T> n) {
  Vector<T> zero{}, one = zero + 1, result = one;
  if (a.scale) {
    Vector<T> divisor = n - T(a.ddof);
    Vector<T> spread = root<T>(squares / (divisor > 1 ? divisor : one)) + a.eps;
    result = spread == 0 ? zero : one / (spread == 0 ? one : spread);
  }
  if (a.leave_one_out) result *= n > 1 ? n / (n > 1 ? n - 1 : one) : one;
  return result;
}

// ---- a tile of W groups, in place; the sums of squares come back, which are finite if the rewards are ----

template <typename In, typename T>
inline Vector<T> normalize_whole(const NormalizeArguments<In, T>& a, Vector<T>* tile, int64_t size) {
  Vector<T> first = tile[0], total{}, squares{};
  for (int64_t k = 0; k < size; k++) total += tile[k] -= first;
  Vector<T> mean = total / T(size);
  for (int64_t k = 0; k < size; k++) {
    tile[k] -= mean;
    squares += tile[k] * tile[k];
  }
  Vector<T> by = factor<In, T>(a, squares, Vector<T>{} + T(size));
  for (int64_t k = 0; k < size; k++) tile[k] *= by;
  return squares;
}

template <typename In, typename T>
inline Vector<T> normalize_some(const NormalizeArguments<In, T>& a, Vector<T>* tile, const Vector<T>* m,
                                int64_t size) {
  Vector<T> first{}, N{}, total{}, squares{}, zero{};
  for (int64_t k = 0; k < size; k++) {
    first = m[k] != 0 ? tile[k] : first;
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
  return squares;
}

// W contiguous groups of different lengths, one per lane.
template <typename In, typename T>
Vector<T> ragged(const NormalizeArguments<In, T>& a, Vector<T>* tile, Vector<T>* m, int64_t t) {
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
  Vector<T> squares = normalize_some<In, T>(a, tile, m, longest);
  for (int l = 0; l < W; l++)
    for (int64_t k = 0; k < length[l]; k++) a.out[start[l] + k] = tile[k][l];
  return squares;
}

// ---- groups that are read where they lie ----

// The sum over the lanes, in each of them.
template <typename V, int S, int... J>
inline void fold(V& v, std::integer_sequence<int, J...> lanes) {
  v += __builtin_shufflevector(v, v, (J ^ S)...);
  if constexpr (S > 1) fold<V, S / 2>(v, lanes);
}

// Rows of N vectors, `step` numbers apart. They hold one group per column, or ALONG one group. Rows are full, but
// `lanes` numbers of each column's row count, or ALONG of the last row. Returns whether all is finite.
template <typename In, typename T, int N, bool ALONG>
bool stream(const NormalizeArguments<In, T>& a, int64_t start, int64_t rows, int64_t step, int lanes) {
  constexpr int W = Lanes<T>::W;
  using Wide = typename Lanes<T>::Wide;
  using Bits = typename Lanes<T>::Bits;
  const In* r = a.rewards + start;
  const bool* mask = a.mask ? a.mask + start : nullptr;
  T* out = a.out + start;
  Vector<T> first[N] = {}, mean[N] = {}, by[N], zero{};
  const int64_t whole = lanes == W ? rows
                        : ALONG    ? rows - 1
                                   : 0;  // rows that are full; others come after them

  auto at = [&](int64_t k, int v, auto full) {
    const In* from = r + k * step + v * W;
    return full ? load<In, T>(from) : load<In, T>(from, lanes);
  };
  auto valid = [&](int64_t k, int v, auto full) -> Bits {
    const bool* flags = mask + k * step + v * W;
    Bits there = full ? zero == 0 : below<T>(lanes);
    return mask ? there & ((full ? load<bool, T>(flags) : load<bool, T>(flags, lanes)) != 0) : there;
  };
  auto centred = [&](int64_t k, int v, auto full) {
    Vector<T> x = at(k, v, full) - first[v] - mean[v];
    return mask || (ALONG && !full) ? (valid(k, v, full) ? x : zero) : x;
  };
  struct Sums {
    Vector<T> of[N];
  };
  auto piece = [&](int64_t begin, int64_t end, auto term) {
    Sums sums = {};
    int64_t k = begin;
    for (; k < end && k < whole; k++)
      for (int v = 0; v < N; v++) sums.of[v] += term(k, v, std::true_type());
    for (; k < end; k++)
      for (int v = 0; v < N; v++) sums.of[v] += term(k, v, std::false_type());
    return sums;
  };
  // The sum of a term over all rows.
  auto total = [&](auto term) {
    Sums sums = piece(0, rows < PIECE ? rows : PIECE, term);
    if (rows > PIECE) {
      Wide wide[N] = {};
      for (int64_t begin = 0; begin < rows; begin += PIECE) {
        if (begin) sums = piece(begin, begin + PIECE < rows ? begin + PIECE : rows, term);
        for (int v = 0; v < N; v++) wide[v] += __builtin_convertvector(sums.of[v], Wide);
      }
      if (ALONG) fold<Wide, W / 2>(wide[0], std::make_integer_sequence<int, W>());
      for (int v = 0; v < N; v++) sums.of[v] = __builtin_convertvector(wide[v], Vector<T>);
    } else if (ALONG) {
      fold<Vector<T>, W / 2>(sums.of[0], std::make_integer_sequence<int, W>());
    }
    return sums;
  };

  int64_t i = 0;
  while (ALONG && mask && i + 1 < (rows - 1) * W + lanes && !mask[i]) i++;
  for (int v = 0; v < N; v++)
    first[v] = ALONG   ? zero + T(number(r[i]))
               : whole ? at(0, v, std::true_type())
                       : at(0, v, std::false_type());
  for (int64_t k = rows - 1; !ALONG && mask && k >= 0; k--)
    for (int v = 0; v < N; v++)
      first[v] = whole ? (valid(k, v, std::true_type()) ? at(k, v, std::true_type()) : first[v])
                       : (valid(k, v, std::false_type()) ? at(k, v, std::false_type()) : first[v]);
  Sums n = {};
  if (mask)
    n = total(
        [&](int64_t k, int v, auto full) { return __builtin_convertvector(-valid(k, v, full), Vector<T>); });
  else
    for (int v = 0; v < N; v++) n.of[v] += T(ALONG ? (rows - 1) * W + lanes : rows);
  const Sums sums = total(centred);
  for (int v = 0; v < N; v++) mean[v] = sums.of[v] / (n.of[v] == 0 ? zero + 1 : n.of[v]);
  const Sums squares = total([&](int64_t k, int v, auto full) {
    Vector<T> x = centred(k, v, full);
    return x * x;
  });
  Bits good = zero == 0;
  for (int v = 0; v < N; v++) {
    good &= squares.of[v] - squares.of[v] == 0;
    by[v] = factor<In, T>(a, squares.of[v], n.of[v]);
  }
  for (int64_t k = 0; k < whole; k++)
    for (int v = 0; v < N; v++) store<T>(out + k * step + v * W, centred(k, v, std::true_type()) * by[v]);
  for (int64_t k = whole; k < rows; k++)
    for (int v = 0; v < N; v++)
      store<T>(out + k * step + v * W, centred(k, v, std::false_type()) * by[v], lanes);
  return all<T>(good);
}

// ---- the kernel ----

template <typename In, typename T>
inline bool in_tiles(const NormalizeArguments<In, T>& a) {
  return a.inner == 1 && a.longest <= TILED;
}

// Tiles of W short groups, single long groups, or strips of columns.
template <typename In, typename T>
int64_t normalize_tiles(const NormalizeArguments<In, T>& a) {
  constexpr int W = Lanes<T>::W;
  if (in_tiles(a)) return a.offsets ? a.outer * ((a.pieces + W - 1) / W) : (a.outer + W - 1) / W;
  return a.outer * a.pieces * ((a.inner + STRIP * W - 1) / (STRIP * W));
}

template <typename In, typename T>
bool normalize(const NormalizeArguments<In, T>& a, int64_t begin, int64_t end, void* scratch) {
  constexpr int W = Lanes<T>::W;
  Vector<T>*tile = static_cast<Vector<T>*>(scratch), *m = tile + rounded_up(a.longest, W), zero{};
  auto good = zero == 0;
  bool fine = true;
  for (int64_t t = begin; t < end; t++) {
    if (in_tiles(a) && a.offsets) {
      Vector<T> squares = ragged<In, T>(a, tile, m, t);
      good &= squares - squares == 0;
    } else if (in_tiles(a)) {
      const int64_t start = t * W * a.group, count = t * W + W <= a.outer ? W : a.outer - t * W;
      fill<In, T>(tile, a.rewards + start, count, a.group);
      if (a.mask) fill<bool, T>(m, a.mask + start, count, a.group);
      Vector<T> squares =
          a.mask ? normalize_some<In, T>(a, tile, m, a.group) : normalize_whole<In, T>(a, tile, a.group);
      good &= squares - squares == 0;
      empty<T>(tile, a.out + start, count, a.group);
    } else {
      const int64_t strips = (a.inner + STRIP * W - 1) / (STRIP * W), row = t / strips,
                    piece = row % a.pieces;
      const int64_t top = a.offsets ? a.offsets[piece] : 0;
      const int64_t length = a.offsets ? a.offsets[piece + 1] - top : a.group;
      const int64_t start = (row / a.pieces * a.group + top) * a.inner;
      if (length == 0) continue;
      if (a.inner == 1) {
        const int64_t rows = (length + W - 1) / W;
        fine &= stream<In, T, 1, true>(a, start, rows, W, length - (rows - 1) * W);
        continue;
      }
      int64_t column = t % strips * STRIP * W;
      const int64_t stop = column + STRIP * W < a.inner ? column + STRIP * W : a.inner;
      if (stop - column == STRIP * W)
        fine &= stream<In, T, STRIP, false>(a, start + column, length, a.inner, W);
      else
        for (; column < stop; column += W)
          fine &= stream<In, T, 1, false>(a, start + column, length, a.inner,
                                          stop - column < W ? stop - column : W);
    }
  }
  return fine && all<T>(good);
}
