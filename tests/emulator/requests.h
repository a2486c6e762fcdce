// What a warp asks of memory, counted as a GPU serves it. The lanes that come to the same instruction for the same
// time since they last waited for one another make one request. A request to an array moves whole sectors of 32
// bytes. One to shared memory goes in phases of 128 bytes (32 lanes of 4 bytes, 8 of 16), and a phase takes as
// many wavefronts as the busiest of the 32 banks has words of 4 bytes to give; at best one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

namespace emulator {

constexpr int WARP = 32, SHARED_MEMORY = -1;

class Requests {
  using Instruction = std::tuple<int, const void*, int, bool>;  // array, caller, bytes of a lane, written
  using Lanes = std::vector<std::pair<int, uintptr_t>>;         // lane, address
  struct Warp {
    std::map<std::pair<Instruction, int>, Lanes> open;  // by instruction, and for which time
    std::map<Instruction, int> times[WARP];             // by lane
  };
  std::map<int, Warp> warps;

  void close(int array, int bytes, bool written, const Lanes& lanes) {
    if (array != SHARED_MEMORY) {
      std::set<uintptr_t> seen;
      for (const auto& [lane, address] : lanes) seen.insert({address / 32, (address + bytes - 1) / 32});
      sectors[{array, written}] += int64_t(seen.size()), requests[{array, written}]++;
      return;
    }
    std::map<int, std::map<int, std::set<uintptr_t>>> phases;  // banks, and their words
    for (const auto& [lane, address] : lanes)
      for (uintptr_t word = address / 4; word <= (address + bytes - 1) / 4; word++)
        phases[lane * std::max(bytes, 4) / 128][int(word % 32)].insert(word);
    for (const auto& phase : phases) {
      size_t most = 0;
      for (const auto& bank : phase.second) most = std::max(most, bank.second.size());
      wavefronts += int64_t(most), least_wavefronts++;
    }
  }

 public:
  bool counting = false;
  std::map<std::pair<int, bool>, int64_t> requests, sectors;  // by array, and whether written
  int64_t wavefronts = 0, least_wavefronts = 0;

  void add(unsigned thread, int array, const void* caller, const void* address, int bytes, bool written) {
    if (!counting) return;
    Warp& warp = warps[int(thread) / WARP];
    const int lane = int(thread) % WARP;
    const Instruction instruction{array, caller, bytes, written};
    const int time = warp.times[lane][instruction]++;
    warp.open[{instruction, time}].push_back({lane, reinterpret_cast<uintptr_t>(address)});
  }

  // The threads of a warp, or of the block (-1), have met.
  void settle(int which) {
    if (!counting) return;
    for (auto& [number, warp] : warps) {
      if (which != -1 && which != number) continue;
      for (const auto& [key, lanes] : warp.open) {
        const auto& [array, caller, bytes, written] = key.first;
        close(array, bytes, written, lanes);
      }
      warp = Warp();
    }
  }
};

inline Requests requests;

}  // namespace emulator
