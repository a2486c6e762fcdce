// Numbers on their way through shared memory. Global memory is touched in whole runs, four numbers lane after lane,
// whatever the lists and groups in it are; there a thread goes through its own list.
//
// Shared memory has 32 banks, and each serves one word at a time. Threads that go through neighbouring lists of C
// numbers in step meet in a bank unless C is odd; so a gap of one word follows each run of lcm(C, 32). A run of 32
// never has a gap inside, and a list of C neither.
#pragma once

#include <limits>

#include "warp.cuh"

namespace minirec::cuda {

constexpr int STAGE = 32 * 1024;  // bytes that a block stages, where it can choose
constexpr int ALONE = 128;        // lists and groups of up to so many have a thread each, longer ones a warp

// In place of what does not count. No gain and no reward that is finite is this.
template <typename T>
constexpr T HOLE = -std::numeric_limits<T>::infinity();

// Rows of `width` numbers, `pitch` apart, from number `base` of an array on. Staged they are one run.
struct Tile {
  int64_t base, pitch;
  int rows, width;
};

template <typename T>
struct Stage {
  Shared<T> memory;
  unsigned gaps;  // 2^32 over the distance of gaps, rounded up; 0 without

  // Where number f of the run stands.
  __device__ int slot(int f) const { return f + int(__umulhi(unsigned(f), gaps)); }

  // Fill it, with HOLE where the mask is false, and wait until that is done.
  __device__ void fetch(Input<T> input, const bool* mask, const Tile& tile) const {
    const int head = first_piece(input.numbers, input.half ? 2 : sizeof(T), tile);
    auto one = [&](int f, int64_t i) { memory[slot(f)] = read(input, i); };
    if constexpr (sizeof(T) == 4) {
      auto fill = [&](auto half) {
        for_each(
            tile, head,
            [&](int f, int64_t i) {
              T x[4];
              read4<decltype(half)::value>(input.numbers, i, x);
              const int at = slot(f), r = turn(at);
              rotate(x, r);
#pragma unroll
              for (int s = 0; s < 4; s++) memory[at + (s + r & 3)] = x[s];
            },
            one);
      };
      input.half ? fill(std::true_type()) : fill(std::false_type());
    } else {
      for_each(tile, head, one, one);
    }
    __syncthreads();
    if (!mask) return;
    auto mark = [&](int f, int64_t i) {
      if (!read(mask + i)) memory[slot(f)] = HOLE<T>;
    };
    for_each(tile, tile.width, mark, mark);
    __syncthreads();
  }

  // Write it out, once all threads have come here, and let it be filled again.
  __device__ void store(T* out, const Tile& tile) const {
    __syncthreads();
    for_each(
        tile, first_piece(out, sizeof(T), tile),
        [&](int f, int64_t i) {
          if constexpr (sizeof(T) == 4) {
            T x[4];
            const int at = slot(f), r = turn(at);
#pragma unroll
            for (int s = 0; s < 4; s++) x[s] = memory[at + (s + r & 3)];
            rotate(x, -r);
            write4(out + i, x);
          }
        },
        [&](int f, int64_t i) { write(out + i, memory[slot(f)]); });
    __syncthreads();
  }

 private:
  // Which of the four numbers at a slot a lane moves first, of which the others follow in a ring: eight lanes hold
  // a row of banks, and four such rows take turns.
  __device__ static int turn(int at) { return int(threadIdx.x) / 8 - at & 3; }

  // Number r comes first.
  __device__ static void rotate(T (&x)[4], int r) {
    const T y[4] = {r & 1 ? x[1] : x[0], r & 1 ? x[2] : x[1], r & 1 ? x[3] : x[2], r & 1 ? x[0] : x[3]};
#pragma unroll
    for (int s = 0; s < 4; s++) x[s] = r & 2 ? y[s ^ 2] : y[s];
  }

  // How many numbers of each row come before the first that can be moved with the three after it, which have no gap
  // between them.
  __device__ int first_piece(const void* array, int bytes, const Tile& tile) const {
    const int head = -int(reinterpret_cast<uintptr_t>(array) / bytes + tile.base) & 3;
    const bool together = head == 0 ? tile.rows == 1 || tile.pitch % 4 == 0 : tile.rows == 1 && gaps == 0;
    return sizeof(T) == 4 && together && head < tile.width ? head : tile.width;
  }

  // four(f, i) for the pieces of four from `head` on and one(f, i) for what is left of each row: f is the number in
  // the run, i in the array.
  template <typename Four, typename One>
  __device__ static void for_each(const Tile& tile, int head, Four four, One one) {
    const int pieces = (tile.width - head) / 4, rest = tile.width - 4 * pieces;
#pragma unroll 4
    for (int p = int(threadIdx.x); p < tile.rows * pieces; p += THREADS) {
      const int row = tile.rows == 1 ? 0 : p / pieces, at = head + 4 * (p - row * pieces);
      four(row * tile.width + at, tile.base + row * tile.pitch + at);
    }
#pragma unroll 4
    for (int p = int(threadIdx.x); p < tile.rows * rest; p += THREADS) {
      const int row = tile.rows == 1 ? 0 : p / rest, before = p - row * rest;
      const int at = before < head ? before : before + 4 * pieces;
      one(row * tile.width + at, tile.base + row * tile.pitch + at);
    }
  }
};

// A stage of `numbers` for threads that go through lists of `size` each; 0: for neighbours on neighbouring numbers.
template <typename T>
struct Room {
  unsigned gaps = 0;
  int64_t bytes;

  Room(int64_t numbers, int size) {
    int64_t distance = size;
    while (distance % (128 / int64_t(sizeof(T)))) distance += size;
    if (size) gaps = unsigned((int64_t(1) << 32) / distance + 1);
    bytes = (numbers + (size ? numbers / distance : 0) + 1) * int64_t(sizeof(T));
  }
};

}  // namespace minirec::cuda
