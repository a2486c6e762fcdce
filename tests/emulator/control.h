// What tests ask of the emulator, next to the kernels in the same library.
#pragma once

#include "cuda_emulator.h"

extern "C" {

void size_of_gpu(int processors, int shared_memory) {
  emulator::processors = processors;
  emulator::shared_memory = shared_memory;
  emulator::granted.clear();
}

// Whether threads run from the last to the first.
void set_order(bool falling) { emulator::falling = falling; }

// The arrays that kernels may touch from now on, as pairs of begin and end; all memory without any.
void set_arrays(int64_t size, const uintptr_t* ends) {
  emulator::arrays.clear();
  for (int64_t i = 0; i < size; i++) emulator::arrays.emplace_back(ends[2 * i], ends[2 * i + 1]);
}

// The next launches run from this block on: for offsets that no memory of a test reaches.
void start_at_block(int64_t block) { emulator::first_block = block; }

// The stream that launches must be on.
void* current_stream() { return &emulator::stream; }

// After so many launches one is refused; -1: none.
void refuse_after(int launches) { emulator::until_failure = launches; }

// What went wrong since the last call, or "".
const char* error() {
  static std::string last;
  last = std::exchange(emulator::error, "");
  return last.c_str();
}

// Since the last call: bytes read, bytes written, accesses, shuffles of a warp.
void counts(int64_t* four) {
  four[0] = std::exchange(emulator::bytes_read, 0);
  four[1] = std::exchange(emulator::bytes_written, 0);
  four[2] = std::exchange(emulator::accesses, 0);
  four[3] = std::exchange(emulator::shuffles, 0);
}

// Counts the requests of the next launches, from 0.
void count_requests() {
  emulator::requests = emulator::Requests();
  emulator::requests.counting = true;
}

// Since then, of reads and of writes: sectors of each array in the order of set_arrays, requests of each;
// wavefronts with the least possible.
void counted_requests(int64_t* rows) {
  auto& seen = emulator::requests;
  seen.counting = false;
  for (auto* count : {&seen.sectors, &seen.requests})
    for (int i = 0; i < int(emulator::arrays.size()); i++)
      *rows++ = (*count)[{i, false}], *rows++ = (*count)[{i, true}];
  *rows++ = seen.wavefronts, *rows++ = seen.least_wavefronts;
}

// Records every access of the next launches: rows of address, bytes, thread, written. Returns how many; call
// with a null pointer to start, then with room for them.
int64_t traced(int64_t* rows) {
  static std::vector<emulator::Access> seen;
  if (!rows) {
    int64_t size = int64_t(seen.size());
    if (!emulator::trace) seen.clear(), emulator::trace = &seen;
    return size;
  }
  emulator::trace = nullptr;
  for (size_t i = 0; i < seen.size(); i++) {
    rows[4 * i] = int64_t(reinterpret_cast<uintptr_t>(seen[i].address));
    rows[4 * i + 1] = seen[i].bytes, rows[4 * i + 2] = seen[i].thread, rows[4 * i + 3] = seen[i].written;
  }
  return int64_t(seen.size());
}

}  // extern "C"
