// Vectors of BYTES bytes: how numbers come into one and out of it, and how lists come into a tile.
//
// kernels.cpp includes this file, swap.h and normalize.h once per instruction set. No function of the standard
// library is called in them: one compiled for a newer machine could be the copy that the linker keeps for all.

template <typename T>
struct Lanes {
  static constexpr int W = BYTES / sizeof(T);
  typedef T V __attribute__((vector_size(BYTES)));
  typedef double Wide __attribute__((vector_size(W * sizeof(double))));
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Integer;
  typedef Integer Bits __attribute__((vector_size(BYTES)));  // -1 and 0 where they say yes and no
};
template <typename T>
using Vector = typename Lanes<T>::V;

// Which lanes are below a count.
template <typename T>
inline typename Lanes<T>::Bits below(int count) {
  typename Lanes<T>::Bits lane;
  for (int l = 0; l < Lanes<T>::W; l++) lane[l] = l;
  return lane < count;
}

template <typename T>
inline bool all(typename Lanes<T>::Bits yes) {
  bool result = true;
  for (int l = 0; l < Lanes<T>::W; l++) result = result && yes[l];
  return result;
}

// ---- W neighbouring numbers, or the first `count` of them and 0 for the others ----

inline float number(float x) { return x; }
inline double number(double x) { return x; }
inline float number(bfloat16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;  // a bfloat16 is the upper half of a float32
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

template <typename In, typename T>
inline Vector<T> load(const In* from) {
  if constexpr (sizeof(In) == sizeof(T)) {
    Vector<T> v;
    __builtin_memcpy(&v, from, BYTES);  // needs no alignment
    return v;
  } else {
    typedef uint16_t Halves __attribute__((vector_size(BYTES / 2)));
    Halves halves;
    __builtin_memcpy(&halves, from, sizeof halves);
    return (Vector<T>)(__builtin_convertvector(halves, typename Lanes<T>::Bits) << 16);
  }
}

template <typename In, typename T>
inline Vector<T> load(const In* from, int count) {
#if BYTES == 64
  const uint32_t first = (1u << count) - 1;
  if constexpr (std::is_same_v<In, float>) return (Vector<T>)_mm512_maskz_loadu_ps(first, from);
  if constexpr (std::is_same_v<In, double>) return (Vector<T>)_mm512_maskz_loadu_pd(first, from);
  if constexpr (std::is_same_v<In, bfloat16>) {
    __m256i halves = _mm256_maskz_loadu_epi16(first, from);
    return load<bfloat16, T>(reinterpret_cast<const bfloat16*>(&halves));
  }
#elif BYTES == 32
  if constexpr (sizeof(In) == sizeof(T)) {
    const auto first = below<T>(count);
    if constexpr (sizeof(T) == 4) return (Vector<T>)_mm256_maskload_ps(from, (__m256i)first);
    if constexpr (sizeof(T) == 8) return (Vector<T>)_mm256_maskload_pd(from, (__m256i)first);
  }
#endif
  Vector<T> v{};
  for (int l = 0; l < count; l++) v[l] = T(number(from[l]));
  return v;
}

// W neighbouring truths. Widened by hand: the compiler would take eleven instructions for two.
template <typename T>
inline typename Lanes<T>::Bits truths(const bool* from) {
  typedef uint8_t Bytes __attribute__((vector_size(16)));
  typedef typename Lanes<T>::Bits Bits;
  Bytes bytes{};
  __builtin_memcpy(&bytes, from, Lanes<T>::W);
#if BYTES == 64
  if constexpr (sizeof(T) == 4) return (Bits)_mm512_cvtepu8_epi32((__m128i)bytes) != 0;
  if constexpr (sizeof(T) == 8) return (Bits)_mm512_cvtepu8_epi64((__m128i)bytes) != 0;
#elif BYTES == 32
  if constexpr (sizeof(T) == 4) return (Bits)_mm256_cvtepu8_epi32((__m128i)bytes) != 0;
  if constexpr (sizeof(T) == 8) return (Bits)_mm256_cvtepu8_epi64((__m128i)bytes) != 0;
#endif
  Bits wide;
  for (int l = 0; l < Lanes<T>::W; l++) wide[l] = bytes[l];
  return wide != 0;
}

template <typename T>
inline typename Lanes<T>::Bits truths(const bool* from, int count) {
  bool some[Lanes<T>::W] = {};
#if BYTES == 64
  const __m128i bytes = _mm_maskz_loadu_epi8((1u << count) - 1, from);
  __builtin_memcpy(some, &bytes, sizeof some);
#else
  for (int l = 0; l < count; l++) some[l] = from[l];
#endif
  return truths<T>(some);
}

template <typename T>
inline void store(T* to, Vector<T> v) {
  __builtin_memcpy(to, &v, BYTES);
}

template <typename T>
inline void store(T* to, Vector<T> v, int count) {
#if BYTES == 64
  if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(to, (1u << count) - 1, (__m512)v);
  if constexpr (sizeof(T) == 8) _mm512_mask_storeu_pd(to, (1u << count) - 1, (__m512d)v);
#elif BYTES == 32
  if constexpr (sizeof(T) == 4) _mm256_maskstore_ps(to, (__m256i)below<T>(count), (__m256)v);
  if constexpr (sizeof(T) == 8) _mm256_maskstore_pd(to, (__m256i)below<T>(count), (__m256d)v);
#else
  for (int l = 0; l < count; l++) to[l] = v[l];
#endif
}

template <typename T>
inline Vector<T> root(Vector<T> v) {
#if BYTES == 64
  if constexpr (sizeof(T) == 4) return (Vector<T>)_mm512_sqrt_ps((__m512)v);
  if constexpr (sizeof(T) == 8) return (Vector<T>)_mm512_sqrt_pd((__m512d)v);
#elif BYTES == 32
  if constexpr (sizeof(T) == 4) return (Vector<T>)_mm256_sqrt_ps((__m256)v);
  if constexpr (sizeof(T) == 8) return (Vector<T>)_mm256_sqrt_pd((__m256d)v);
#endif
  for (int l = 0; l < Lanes<T>::W; l++) v[l] = sizeof(T) == 4 ? __builtin_sqrtf(v[l]) : __builtin_sqrt(v[l]);
  return v;
}

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

// ---- tiles: number k of `count` <= W lists, which lie one after another, is vector k ----
//
// A tile has room for the length rounded up to W.

inline int64_t rounded_up(int64_t length, int64_t lanes) { return (length + lanes - 1) / lanes * lanes; }

// The pointer so much further on. The compiler would keep 32 of them, and most in memory.
template <typename P>
inline P* after(P* row, int64_t length) {
  row += length;
  asm("" : "+r"(row));
  return row;
}

// What a tile holds where a mask is false: a NaN that no computation gives, told by its bits. So a tile needs no
// second one beside it for the mask.
template <typename T>
inline Vector<T> gap() {
  typename Lanes<T>::Bits bits{};
  return (Vector<T>)(bits + (typename Lanes<T>::Integer)(sizeof(T) == 4 ? 0x7fa5c3e1 : 0x7ff5c3e1a5c3e1a5));
}

template <typename T>
inline typename Lanes<T>::Bits counts(Vector<T> v) {
  typedef typename Lanes<T>::Bits Bits;
  return (Bits)v != (Bits)gap<T>();
}

// `see` is shown W numbers of list l from position k on, of which `some` are there, and says what the tile gets.
template <typename In, typename T, typename F>
inline void fill(Vector<T>* tile, const In* from, int64_t count, int64_t length, F see) {
  constexpr int W = Lanes<T>::W;
  for (int64_t k = 0; k < length; k += W) {
    Vector<T> rows[W];
    const In* row = from + k;
    if (count == W && k + W <= length) {
#pragma GCC unroll 16
      for (int l = 0; l < W; l++, row = after(row, length)) rows[l] = see(load<In, T>(row), l, k, W);
    } else {
#pragma GCC unroll 16
      for (int l = 0; l < W; l++, row = after(row, length)) {
        const int some = l >= count ? 0 : length - k < W ? length - k : W;
        rows[l] = see(load<In, T>(row, some), l, k, some);
      }
    }
    transpose<T>(rows);
#pragma GCC unroll 16
    for (int l = 0; l < W; l++) tile[k + l] = rows[l];
  }
}

// Lists, with gaps where a mask, if there is one, is false.
template <typename In, typename T>
__attribute__((noinline)) void fill(Vector<T>* tile, const In* from, const bool* mask, int64_t count,
                                    int64_t length) {
  constexpr int W = Lanes<T>::W;
  if (mask)
    fill<In, T>(tile, from, count, length, [&](Vector<T> v, int l, int64_t k, int some) {
      const bool* flags = mask + l * length + k;
      return (some == W ? truths<T>(flags) : truths<T>(flags, some)) ? v : gap<T>();
    });
  else if (length == 1)
    tile[0] = load<In, T>(from, count);
  else
    fill<In, T>(tile, from, count, length, [](Vector<T> v, int, int64_t, int) { return v; });
}

// Where the next tile will be read and written, which is called into the second cache while this one is worked on:
// the hardware loses so many rows, and the first cache is full. A line at a time, so that memory is never waited for.
template <typename In, typename T>
struct Next {
  const In* from;
  T* to;
  void call(int64_t vector) const {
    __builtin_prefetch(from + vector * Lanes<T>::W, 0, 2);
    __builtin_prefetch(to + vector * Lanes<T>::W, 1, 2);
  }
};

// Row l of `count` <= W rows, `length` apart, from a place on where `some` numbers of it are left.
template <typename T>
inline void put(const Vector<T>* rows, int64_t step, T* to, int64_t count, int64_t length, int64_t some) {
  constexpr int W = Lanes<T>::W;
  if (count == W && some >= W) {
#pragma GCC unroll 16
    for (int l = 0; l < W; l++, to = after(to, length)) store<T>(to, rows[l * step]);
  } else {
#pragma GCC unroll 16
    for (int l = 0; l < W; l++, to = after(to, length))
      store<T>(to, rows[l * step], l >= count ? 0 : some < W ? some : W);
  }
}

template <typename T>
__attribute__((noinline)) void empty(const Vector<T>* tile, T* to, int64_t count, int64_t length) {
  constexpr int W = Lanes<T>::W;
  for (int64_t k = 0; k < length; k += W) {
    Vector<T> rows[W];
#pragma GCC unroll 16
    for (int l = 0; l < W; l++) rows[l] = tile[k + l];
    transpose<T>(rows);
    put<T>(rows, 1, to + k, count, length, length - k);
  }
}
