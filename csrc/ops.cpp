// The operations as torch sees them: schemas, checks, and the CPU kernels behind them.
//
// Only torch's stable interface is used, so one library serves every torch from 2.10 on. The Python wrappers
// broadcast, flatten and look at values; here only what keeps memory safe is checked.
#include "ops.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace minirec {
namespace {

// ---- the instruction set ----

constexpr const char* NAMES[] = {"avx512", "avx2", "baseline"};
std::atomic<int> forced{-1};

InstructionSet instruction_set() {
  static const int best = can_run(InstructionSet::avx512) ? 0 : can_run(InstructionSet::avx2) ? 1 : 2;
  int set = forced.load();
  return InstructionSet(set < 0 ? best : set);
}

std::string instruction_sets() {
  std::string names;
  for (int i = 0; i < 3; i++)
    if (can_run(InstructionSet(i))) names += (names.empty() ? "" : ",") + std::string(NAMES[i]);
  return names;
}

void use_instruction_set(std::string name) {
  int set = -1;
  for (int i = 0; i < 3; i++)
    if (name == NAMES[i] && can_run(InstructionSet(i))) set = i;
  STD_TORCH_CHECK(name.empty() || set >= 0, "name: '", name, "' is none of ", instruction_sets());
  forced = set;
}

// ---- threads ----

constexpr int64_t GRAIN = 1 << 14;  // numbers that are worth a thread

// Share tiles out; each thread has a scratch of its own, aligned to a cache line. Returns whether all work was
// true.
template <typename F>
bool over_tiles(Work work, int64_t numbers, F run_tiles) {
  std::atomic<bool> good{true};
  int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, numbers / work.tiles));
  auto run = [&](int64_t begin, int64_t end) {
    size_t room = work.room + 64;
    std::unique_ptr<char[]> memory(new char[room]);
    void* start = memory.get();
    if (!run_tiles(begin, end, std::align(64, work.room, start, room))) good = false;
  };
  if (work.tiles <= grain)
    run(0, work.tiles);
  else
    torch::stable::parallel_for(0, work.tiles, grain, run);
  return good;
}

// The wrapper looks for the value that is meant.
void need(bool good, bool check) { STD_TORCH_CHECK(good || !check, "minirec: a value may be out of range"); }

// ---- discounts ----

template <typename T>
struct Tables {
  std::vector<T> values[5];
  std::vector<double> exact, upto;
  Discounts<T> view() const {
    return {values[0].data(), values[1].data(), values[2].data(), values[3].data(),
            values[4].data(), exact.data(),     upto.data()};
  }
};

template <typename T>
Tables<T> make_tables(int64_t size, int64_t cutoff) {
  Tables<T> tables;
  auto &d = tables.exact, &upto = tables.upto;
  d.assign(size + 1, 0.0), upto.assign(size + 1, 0.0);
  for (int64_t k = 0; k < size; k++) {
    if (k < cutoff) d[k] = 1 / std::log2(double(k + 2));
    upto[k + 1] = upto[k] + d[k];
  }
  for (auto& table : tables.values) table.resize(size);
  double behind = 0;  // U_k = sum over j > k of d_k - d_j
  for (int64_t k = size - 1, n = 0; k >= 0; k--, n++) {
    double step = k + 1 < size ? d[k] - d[k + 1] : 0;
    behind += double(n) * step;
    tables.values[0][k] = T(d[k]);
    tables.values[1][k] = T(step);
    tables.values[2][k] = T(n ? behind / double(n) : 0);
    tables.values[3][k] = T(n ? 1 / double(n) : 0);
    tables.values[4][k] = T(d[k] - upto[size] / double(size));
  }
  return tables;
}

// The tables of the last length and cut-off are kept: training asks for the same ones again and again.
template <typename T>
std::shared_ptr<const Tables<T>> tables_of(int64_t size, int64_t cutoff) {
  thread_local int64_t last_size = -1, last_cutoff = -1;
  thread_local std::shared_ptr<const Tables<T>> last;
  if (size != last_size || cutoff != last_cutoff) {
    last = std::make_shared<const Tables<T>>(make_tables<T>(size, cutoff));
    last_size = size, last_cutoff = cutoff;
  }
  return last;
}

// ---- the operations ----

template <typename In, typename T>
void swap_lists(SwapArguments<In, T> a, int64_t cutoff, bool check) {
  auto tables = tables_of<T>(a.size, cutoff);
  a.discounts = tables->view();
  auto kernels = kernels_of<In, T>(instruction_set());
  auto run = [&](int64_t begin, int64_t end, void* scratch) { return kernels.swap(a, begin, end, scratch); };
  need(over_tiles(kernels.swap_work(a), a.n * a.group * a.size, run), check);
}

void swap_ndcg(Tensor gains, Optional idcg, Optional lengths, Optional mask, int64_t cutoff, bool later,
               bool check, Tensor out) {
  check_lists(gains, idcg, lengths, mask, cutoff, out, 2);
  int64_t n = gains.size(0), size = gains.size(1);
  if (n == 0 || size == 0) return;
  by_dtype(gains, [&](auto in, auto t) {
    using In = decltype(in);
    using T = decltype(t);
    swap_lists<In, T>({data<In>(gains),
                       data<T>(idcg),
                       data<int64_t>(lengths),
                       data<bool>(mask),
                       mutable_data<T>(out),
                       n,
                       1,
                       size,
                       later,
                       nullptr,
                       {}},
                      cutoff, check);
  });
}

template <typename In, typename T>
void normalize_groups(NormalizeArguments<In, T> a, bool check) {
  if (a.offsets) a.longest = 0;
  for (int64_t s = 0; a.offsets && s < a.pieces; s++)
    a.longest = std::max(a.longest, a.offsets[s + 1] - a.offsets[s]);
  auto kernels = kernels_of<In, T>(instruction_set());
  auto run = [&](int64_t begin, int64_t end, void* scratch) {
    return kernels.normalize(a, begin, end, scratch);
  };
  need(over_tiles(kernels.normalize_work(a), a.outer * a.group * a.inner, run), check);
}

void group_normalize(Tensor rewards, Optional mask, Optional offsets, int64_t ddof, double eps, bool scale,
                     bool leave_one_out, bool check, Tensor out) {
  check_groups(rewards, mask, offsets, out);
  if (rewards.numel() == 0) return;
  int64_t pieces = offsets ? offsets->numel() - 1 : 1;
  by_dtype(rewards, [&](auto in, auto t) {
    using In = decltype(in);
    using T = decltype(t);
    normalize_groups<In, T>({data<In>(rewards),
                             data<bool>(mask),
                             data<int64_t>(offsets),
                             mutable_data<T>(out),
                             rewards.size(0),
                             rewards.size(1),
                             rewards.size(2),
                             pieces,
                             rewards.size(1),
                             {ddof, T(eps), scale, leave_one_out}},
                            check);
  });
}

void swap_normalize(Tensor gains, Optional idcg, Optional lengths, Optional mask, int64_t cutoff, bool later,
                    int64_t ddof, double eps, bool scale, bool leave_one_out, bool check, Tensor out) {
  check_lists(gains, idcg, lengths, mask, cutoff, out, 3);
  if (gains.numel() == 0) return;
  int64_t contexts = gains.size(0), group = gains.size(1), size = gains.size(2);
  by_dtype(gains, [&](auto in, auto t) {
    using In = decltype(in);
    using T = decltype(t);
    const Normal<T> how{ddof, T(eps), scale, leave_one_out};
    swap_lists<In, T>({data<In>(gains),
                       data<T>(idcg),
                       data<int64_t>(lengths),
                       data<bool>(mask),
                       mutable_data<T>(out),
                       contexts,
                       group,
                       size,
                       later,
                       &how,
                       {}},
                      cutoff, check);
  });
}

}  // namespace
}  // namespace minirec

STABLE_TORCH_LIBRARY(minirec, m) {
  m.def(
      "swap_ndcg(Tensor gains, Tensor? idcg, Tensor? lengths, Tensor? mask, int cutoff, bool later, "
      "bool check, Tensor(a!) out) -> ()");
  m.def(
      "group_normalize(Tensor rewards, Tensor? mask, Tensor? offsets, int ddof, float eps, bool scale, "
      "bool leave_one_out, bool check, Tensor(a!) out) -> ()");
  m.def(
      "swap_normalize(Tensor gains, Tensor? idcg, Tensor? lengths, Tensor? mask, int cutoff, bool later, "
      "int ddof, float eps, bool scale, bool leave_one_out, bool check, Tensor(a!) out) -> ()");
  m.def("instruction_sets() -> str");
  m.def("use_instruction_set(str name) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(minirec, CPU, m) {
  m.impl("swap_ndcg", TORCH_BOX(&minirec::swap_ndcg));
  m.impl("group_normalize", TORCH_BOX(&minirec::group_normalize));
  m.impl("swap_normalize", TORCH_BOX(&minirec::swap_normalize));
}

STABLE_TORCH_LIBRARY_IMPL(minirec, CompositeExplicitAutograd, m) {
  m.impl("instruction_sets", TORCH_BOX(&minirec::instruction_sets));
  m.impl("use_instruction_set", TORCH_BOX(&minirec::use_instruction_set));
}
