// Group normalisation. Short groups are transposed into a tile, one lane per group. Others are read where they lie:
// for the mean, for the squares around it, and to be written, the second and the third time from a cache.
// A reward of the group, the first where all count, is subtracted first, so equal rewards are exact zeros.

constexpr int64_t RUN = 32;      // numbers in a sum of a tile; a sum of sums is rounded less
constexpr int64_t PIECE = 256;   // numbers in a sum of a block; sums of pieces are in float64
constexpr int64_t TILED = 1024;  // numbers of the largest group or context that is transposed
constexpr int64_t COLUMNS = 64, NUMBERS = 1 << 15;  // the most vectors in a row of a block, and numbers in it

// The factor of a centred reward, from the variance and the number of rewards.
template <typename T>
inline Vector<T> factor(const Normal<T>& how, Vector<T> variance, Vector<T> n) {
  Vector<T> zero{}, one = zero + 1, result = one;
  if (how.scale) {
    Vector<T> spread = root<T>(variance) + how.eps;
    result = spread == 0 ? zero : one / (spread == 0 ? one : spread);
  }
  if (how.leave_one_out) result *= n > 1 ? n / (n > 1 ? n - 1 : one) : one;
  return result;
}

template <typename T>
inline Vector<T> at_least_one(Vector<T> n) {
  return n > 1 ? n : Vector<T>{} + 1;
}

// ---- W groups in a tile, in place: every `step`-th vector ----
//
// The sums of squares come back, which are finite if the rewards are.

// N neighbours at once: a sum waits for itself, and the other sums fill the time.
template <typename T, int N>
inline Vector<T> normalize_whole(const Normal<T>& how, Vector<T>* tile, int64_t size, int64_t step) {
  Vector<T> first[N], mean[N] = {}, squares[N] = {}, by[N], every{}, n = every + T(size);
  const Vector<T> share = 1 / n, freedom = 1 / at_least_one<T>(n - T(how.ddof));
  auto sum = [&](Vector<T>* total, auto term) {
    for (int64_t begin = 0; begin < size; begin += RUN) {
      Vector<T> part[N] = {};
      for (int64_t k = begin; k < size && k < begin + RUN; k++)
        for (int v = 0; v < N; v++) part[v] += term(tile[k * step + v] - first[v], mean[v]);
      for (int v = 0; v < N; v++) total[v] += part[v];
    }
  };
  for (int v = 0; v < N; v++) first[v] = tile[v];
  sum(mean, [](Vector<T> x, Vector<T>) { return x; });
  for (int v = 0; v < N; v++) mean[v] *= share;
  sum(squares, [](Vector<T> x, Vector<T> mean) { return (x - mean) * (x - mean); });
  for (int v = 0; v < N; v++) {
    by[v] = factor<T>(how, squares[v] * freedom, n);
    every += squares[v];
  }
  for (int64_t k = 0; k < size; k++)
    for (int v = 0; v < N; v++) tile[k * step + v] = (tile[k * step + v] - first[v] - mean[v]) * by[v];
  return every;
}

// The same where gaps may be, which become 0.
template <typename T>
inline Vector<T> normalize_some(const Normal<T>& how, Vector<T>* tile, int64_t size, int64_t step) {
  Vector<T> first{}, N{}, total{}, squares{}, part{}, zero{}, one = zero + 1;
  for (int64_t k = 0; k < size; k++) {
    auto valid = counts<T>(tile[k * step]);
    first = valid & (N == 0) ? tile[k * step] : first;
    N += valid ? one : zero;
    part += valid ? tile[k * step] - first : zero;
    if (k % RUN == RUN - 1 || k == size - 1) total += part, part = zero;
  }
  Vector<T> mean = total / at_least_one<T>(N);
  for (int64_t k = 0; k < size; k++) {
    Vector<T> x = counts<T>(tile[k * step]) ? tile[k * step] - first - mean : zero;
    part += x * x;
    if (k % RUN == RUN - 1 || k == size - 1) squares += part, part = zero;
  }
  Vector<T> by = factor<T>(how, squares / at_least_one<T>(N - T(how.ddof)), N);
  for (int64_t k = 0; k < size; k++)
    tile[k * step] = counts<T>(tile[k * step]) ? (tile[k * step] - first - mean) * by : zero;
  return squares;
}

// Every `step`-th vector from each of the first `step` on. Returns whether all is finite.
template <typename T>
inline typename Lanes<T>::Bits normalize_lanes(const Normal<T>& how, Vector<T>* tile, int64_t size,
                                               int64_t step, bool gaps) {
  Vector<T> squares{};
  int64_t i = 0;
  for (; !gaps && i + 4 <= step; i += 4) squares += normalize_whole<T, 4>(how, tile + i, size, step);
  for (; !gaps && i + 2 <= step; i += 2) squares += normalize_whole<T, 2>(how, tile + i, size, step);
  for (; !gaps && i < step; i++) squares += normalize_whole<T, 1>(how, tile + i, size, step);
  for (; i < step; i++) squares += normalize_some<T>(how, tile + i, size, step);
  return squares - squares == 0;
}

// W contiguous groups of different lengths, one per lane.
template <typename In, typename T>
Vector<T> ragged(const NormalizeArguments<In, T>& a, Vector<T>* tile, int64_t t) {
  constexpr int W = Lanes<T>::W;
  int64_t per_row = (a.pieces + W - 1) / W, first = t % per_row * W, longest = 0;
  int64_t base = t / per_row * a.group, start[W] = {}, length[W] = {};
  for (int l = 0; l < W && first + l < a.pieces; l++) {
    start[l] = base + a.offsets[first + l];
    length[l] = base + a.offsets[first + l + 1] - start[l];
    longest = length[l] > longest ? length[l] : longest;
  }
  for (int64_t k = 0; k < longest; k++) {
    tile[k] = gap<T>();
    for (int l = 0; l < W; l++)
      if (k < length[l]) tile[k][l] = number(a.rewards[start[l] + k]);
  }
  Vector<T> squares = normalize_some<T>(a.how, tile, longest, 1);
  for (int l = 0; l < W; l++)
    for (int64_t k = 0; k < length[l]; k++) a.out[start[l] + k] = tile[k][l];
  return squares;
}

// ---- groups that are read where they lie ----

// A block of rows, `step` numbers apart, of `width` numbers, and `last` in the last one. Columns that are
// `period` numbers apart are one group: its rewards may be laid out as a few long rows.
struct Block {
  int64_t start, rows, step, width, last, period;
  int64_t ahead;  // how far the next block is, which is called into the second cache
};

// What is known of a vector of columns.
template <typename T>
struct Column {
  Vector<T> first, n, mean, by, sum;
  typename Lanes<T>::Wide wide;  // the sum in float64
};

// Let the columns of a group share a value, by f of two of them and their values.
template <typename T, typename V, typename F>
inline void share(const Block& b, Column<T>* columns, V Column<T>::* value, F f) {
  constexpr int W = Lanes<T>::W;
  for (int64_t c = b.period; c < b.width; c++) {
    V& common = columns[c % b.period / W].*value;
    common[c % b.period % W] = f(c % b.period, c, common[c % b.period % W], (columns[c / W].*value)[c % W]);
  }
  for (int64_t c = b.period; c < b.width; c++)
    (columns[c / W].*value)[c % W] = (columns[c % b.period / W].*value)[c % b.period % W];
}

template <typename In, typename T, bool MASKED>
bool normalize_block(const NormalizeArguments<In, T>& a, const Block& b, T size, Column<T>* columns) {
  constexpr int W = Lanes<T>::W;
  using Wide = typename Lanes<T>::Wide;
  using Full = std::integral_constant<int, W>;
  const In* r = a.rewards + b.start;
  const bool* mask = MASKED ? a.mask + b.start : nullptr;
  T* out = a.out + b.start;
  const int64_t vectors = (b.width + W - 1) / W;
  const Vector<T> zero{}, one = zero + 1;

  // f(column, place, how many numbers of it are there), row by row as memory lies.
  auto over = [&](int64_t begin, int64_t end, auto f) {
    for (int64_t k = begin; k < end; k++) {
      const int64_t width = k + 1 < b.rows ? b.width : b.last;
      int64_t v = 0;
      for (; v * W + W <= width; v++) f(columns[v], k * b.step + v * W, Full());
      if (v * W < width) f(columns[v], k * b.step + v * W, int(width - v * W));
    }
  };
  auto at = [&](int64_t place, auto some) {
    if constexpr (std::is_same_v<decltype(some), Full>)
      return load<In, T>(r + place);
    else
      return load<In, T>(r + place, some);
  };
  auto valid = [&](int64_t place, auto some) {
    if constexpr (!MASKED)
      return below<T>(some);
    else if constexpr (std::is_same_v<decltype(some), Full>)
      return truths<T>(mask + place);
    else
      return truths<T>(mask + place, some);
  };
  auto centred = [&](const Column<T>& c, int64_t place, auto some) {
    Vector<T> x = at(place, some) - c.first - c.mean;
    return valid(place, some) ? x : zero;
  };
  auto total = [&](auto term) {
    for (int64_t v = 0; v < vectors; v++) columns[v].wide = Wide{};
    for (int64_t begin = 0; begin < b.rows; begin += PIECE) {
      for (int64_t v = 0; v < vectors; v++) columns[v].sum = zero;
      over(begin, begin + PIECE < b.rows ? begin + PIECE : b.rows,
           [&](Column<T>& c, int64_t place, auto some) { c.sum += term(c, place, some); });
      for (int64_t v = 0; v < vectors; v++) columns[v].wide += __builtin_convertvector(columns[v].sum, Wide);
    }
    share(b, columns, &Column<T>::wide, [](int64_t, int64_t, double x, double y) { return x + y; });
  };

  for (int64_t v = 0; v < vectors; v++)
    columns[v].first = columns[v].mean = zero, columns[v].n = MASKED ? zero : zero + size;
  over(0, MASKED ? b.rows : 1, [&](Column<T>& c, int64_t place, auto some) {
    if (MASKED) {
      auto there = valid(place, some);
      c.first = there & (c.n == 0) ? at(place, some) : c.first;
      c.n += there ? one : zero;
    } else {
      c.first = at(place, some);
    }
  });
  auto n = [&](int64_t c) { return columns[c / W].n[c % W]; };
  share(b, columns, &Column<T>::first, [&](int64_t i, int64_t, T x, T y) { return n(i) != 0 ? x : y; });
  if (MASKED) share(b, columns, &Column<T>::n, [](int64_t, int64_t, T x, T y) { return x + y; });
  total([&](const Column<T>& c, int64_t place, auto some) {
    __builtin_prefetch(r + place + b.ahead, 0, 2);
    return centred(c, place, some);
  });
  for (int64_t v = 0; v < vectors; v++)
    columns[v].mean = __builtin_convertvector(columns[v].wide, Vector<T>) / at_least_one<T>(columns[v].n);
  total([&](const Column<T>& c, int64_t place, auto some) {
    Vector<T> x = centred(c, place, some);
    return x * x;
  });
  auto good = zero == 0;
  for (int64_t v = 0; v < vectors; v++) {
    Vector<T> squares = __builtin_convertvector(columns[v].wide, Vector<T>);
    good &= squares - squares == 0;
    columns[v].by = factor<T>(a.how, squares / at_least_one<T>(columns[v].n - T(a.how.ddof)), columns[v].n);
  }
  over(0, b.rows, [&](const Column<T>& c, int64_t place, auto some) {
    __builtin_prefetch(out + place + b.ahead, 1, 2);
    Vector<T> x = (at(place, some) - c.first - c.mean) * c.by;
    if (MASKED) x = valid(place, some) ? x : zero;
    if constexpr (std::is_same_v<decltype(some), Full>)
      store<T>(out + place, x);
    else
      store<T>(out + place, x, some);
  });
  return all<T>(good);
}

// ---- the kernel: tiles of W groups or contexts, or blocks ----

template <typename In, typename T>
inline bool in_tiles(const NormalizeArguments<In, T>& a) {
  if (a.offsets) return a.inner == 1 && a.longest <= TILED;
  return a.inner < Lanes<T>::W && a.group * a.inner <= TILED && 2 * a.outer >= Lanes<T>::W;
}

// Into how many blocks the columns of a group are divided.
template <typename In, typename T>
inline int64_t blocks(const NormalizeArguments<In, T>& a) {
  constexpr int64_t W = Lanes<T>::W;
  int64_t vectors = NUMBERS / W / (a.longest ? a.longest : 1);
  vectors = vectors < 4 ? 4 : vectors > COLUMNS ? COLUMNS : vectors;
  return (a.inner + vectors * W - 1) / (vectors * W);
}

template <typename In, typename T>
Work normalize_work(const NormalizeArguments<In, T>& a) {
  constexpr int W = Lanes<T>::W;
  const int64_t tiles = a.offsets ? a.outer * ((a.pieces + W - 1) / W) : (a.outer + W - 1) / W;
  if (in_tiles(a)) return {tiles, rounded_up(a.longest * a.inner, W) * BYTES};
  return {a.outer * a.pieces * blocks(a), (COLUMNS + W) * int64_t(sizeof(Column<T>))};
}

template <typename In, typename T>
bool normalize(const NormalizeArguments<In, T>& a, int64_t begin, int64_t end, void* scratch) {
  constexpr int W = Lanes<T>::W;
  Vector<T>*tile = static_cast<Vector<T>*>(scratch), zero{};
  Column<T>* columns = static_cast<Column<T>*>(scratch);
  auto good = zero == 0;
  bool fine = true;
  for (int64_t t = begin; t < end; t++) {
    if (in_tiles(a) && a.offsets) {
      Vector<T> squares = ragged<In, T>(a, tile, t);
      good &= squares - squares == 0;
    } else if (in_tiles(a)) {
      const int64_t length = a.group * a.inner, start = t * W * length;
      const int64_t count = t * W + W <= a.outer ? W : a.outer - t * W;
      const Next<In, T> next{a.rewards + start + W * length, a.out + start + W * length};
      fill<In, T>(tile, a.rewards + start, a.mask ? a.mask + start : nullptr, count, length);
      for (int64_t k = 0; k < length; k++) next.call(k);
      good &= normalize_lanes<T>(a.how, tile, a.group, a.inner, a.mask);
      empty<T>(tile, a.out + start, count, length);
    } else {
      const int64_t each = blocks(a), row = t / each, piece = row % a.pieces, s = t % each;
      const int64_t top = a.offsets ? a.offsets[piece] : 0;
      const int64_t size = a.offsets ? a.offsets[piece + 1] - top : a.group;
      const int64_t start = (row / a.pieces * a.group + top) * a.inner, width = a.inner;
      Block b{start, size, width, width, width, width, size * width};
      if (size == 0) continue;
      if (a.inner < W) {  // W rows and more are one
        b.step = b.width = a.inner * W * (a.inner < 4 ? 4 : 1);
        b.rows = (size * a.inner + b.width - 1) / b.width;
        b.last = size * a.inner - (b.rows - 1) * b.width;
      } else if (each > 1) {
        const int64_t from = width * s / each / W * W;
        const int64_t to = s + 1 < each ? width * (s + 1) / each / W * W : width;
        b.start += from;
        b.width = b.last = b.period = b.ahead = to - from;
      }
      fine &= a.mask ? normalize_block<In, T, true>(a, b, size, columns)
                     : normalize_block<In, T, false>(a, b, size, columns);
    }
  }
  return fine && all<T>(good);
}
