#include "sim/check/profile_log.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <utility>

#include "sim/check/checker.h"

namespace imgrec::sim::check {
namespace {

constexpr int banks = 32;
constexpr std::uintptr_t sector_bytes = 32, bank_bytes = 4;

/// What an instruction is counted under. One that copies reads and writes at the same site.
struct Kind {
  SiteId site;
  bool shared, write;

  auto operator<=>(const Kind&) const = default;
};

Kind kind_of(const LogEntry& entry) { return {entry.site, entry.shared, entry.write}; }

struct Counted {
  KernelProfile profile;
  SiteId function;  // where the kernel begins
  std::map<Kind, LineCounters> kinds;
};
std::vector<Counted> kernels;
bool undecided = true;  // until the first launch, or profile_start
bool count_banks = false, count_coalescing = false;
std::size_t running = 0;  // the kernel of the launch that goes on

/// The lanes' parts of one instruction.
struct Instruction {
  std::array<const LogEntry*, warp_lanes> lanes{};
};

void count_global(LineCounters& counters, KernelProfile& profile, const Instruction& instruction) {
  std::vector<std::uintptr_t> sectors;
  std::vector<std::uintptr_t> addresses;
  std::int64_t bytes = 0;
  std::uint32_t size = 0;
  for (const LogEntry* entry : instruction.lanes) {
    if (!entry) continue;
    size = entry->size;
    bytes += size;
    addresses.push_back(entry->address);
    for (std::uintptr_t s = entry->address / sector_bytes; s <= (entry->address + size - 1) / sector_bytes; ++s)
      sectors.push_back(s);
    (entry->write ? profile.global_bytes_written : profile.global_bytes_read) += size;
  }
  const auto distinct = [](std::vector<std::uintptr_t>& all) {
    std::sort(all.begin(), all.end());
    return std::unique(all.begin(), all.end()) - all.begin();
  };
  ++counters.global_requests;
  counters.global_sectors += distinct(sectors);
  counters.global_minimum_sectors += (distinct(addresses) * size + static_cast<std::int64_t>(sector_bytes) - 1) /
                                     static_cast<std::int64_t>(sector_bytes);
}

/// The turns that some lanes of an instruction take together: as many as the busiest bank has different words.
void count_wavefronts(LineCounters& counters, const LogEntry* const* lanes, int count) {
  std::vector<std::uintptr_t> words;
  for (int lane = 0; lane < count; ++lane)
    for (std::uint32_t byte = 0; lanes[lane] && byte < lanes[lane]->size; byte += bank_bytes)
      words.push_back((lanes[lane]->address + byte) / bank_bytes);
  if (words.empty()) return;
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  int in_bank[banks] = {};
  for (const std::uintptr_t word : words) ++in_bank[word % banks];
  counters.shared_wavefronts += *std::max_element(in_bank, in_bank + banks);
  counters.shared_minimum_wavefronts += static_cast<std::int64_t>((words.size() + banks - 1) / banks);
}

void count(Counted& kernel, const Instruction& instruction) {
  const LogEntry* const first =
      *std::find_if(instruction.lanes.begin(), instruction.lanes.end(), [](const LogEntry* entry) { return entry; });
  LineCounters& counters = kernel.kinds[kind_of(*first)];
  ++counters.executions;
  if (!first->shared) {
    if (count_coalescing) count_global(counters, kernel.profile, instruction);
    return;
  }
  if (!count_banks) return;
  ++counters.shared_requests;
  // Wide accesses are made by halves and quarters of the warp, one after another.
  const int together = first->size <= 4 ? warp_lanes : first->size <= 8 ? warp_lanes / 2 : warp_lanes / 4;
  for (int lane = 0; lane < warp_lanes; lane += together)
    count_wavefronts(counters, instruction.lanes.data() + lane, together);
}

using Logs = std::vector<LogEntry>* const[warp_lanes];

/// Whether all lanes did the same, so that their logs match entry by entry.
bool in_step(const Logs& logs) {
  const std::vector<LogEntry>* first = nullptr;
  for (const auto* log : logs) {
    if (!log) continue;
    if (!first) first = log;
    if (log->size() != first->size()) return false;
    for (std::size_t i = 0; i < log->size(); ++i)
      if (kind_of((*log)[i]) != kind_of((*first)[i])) return false;
  }
  return true;
}

void count_in_step(Counted& kernel, const Logs& logs) {
  const auto* const* first = std::find_if(logs, logs + warp_lanes, [](const auto* log) { return log; });
  if (first == logs + warp_lanes) return;
  for (std::size_t i = 0; i < (*first)->size(); ++i) {
    Instruction instruction;
    for (int lane = 0; lane < warp_lanes; ++lane)
      if (logs[lane]) instruction.lanes[static_cast<std::size_t>(lane)] = &(*logs[lane])[i];
    count(kernel, instruction);
  }
}

/// Lanes that went different ways: the n-th time that each came to an instruction belongs together.
void count_diverged(Counted& kernel, const Logs& logs) {
  std::map<std::pair<Kind, std::uint32_t>, Instruction> instructions;
  for (int lane = 0; lane < warp_lanes; ++lane) {
    if (!logs[lane]) continue;
    std::map<Kind, std::uint32_t> times;
    for (const LogEntry& entry : *logs[lane])
      instructions[{kind_of(entry), times[kind_of(entry)]++}].lanes[static_cast<std::size_t>(lane)] = &entry;
  }
  for (const auto& [key, instruction] : instructions) count(kernel, instruction);
}

}  // namespace

bool profiling = false;

void LineCounters::add(const LineCounters& other) {
  executions = std::max(executions, other.executions);
  global_requests += other.global_requests;
  global_sectors += other.global_sectors;
  global_minimum_sectors += other.global_minimum_sectors;
  shared_requests += other.shared_requests;
  shared_wavefronts += other.shared_wavefronts;
  shared_minimum_wavefronts += other.shared_minimum_wavefronts;
  barriers += other.barriers;
}

void profile_launch(const Launch& launch) {
  if (std::exchange(undecided, false)) {
    count_banks = options().banks;
    count_coalescing = options().coalescing;
    profiling = count_banks || count_coalescing;
  }
  if (!profiling) return;
  const auto same = [&](const Counted& kernel) { return kernel.profile.kernel == launch.kernel; };
  auto found = std::find_if(kernels.begin(), kernels.end(), same);
  if (found == kernels.end()) {
    found = kernels.emplace(kernels.end());
    found->profile.kernel = launch.kernel;
    found->function = site_of_function(launch.function);
  }
  running = static_cast<std::size_t>(found - kernels.begin());
  KernelProfile& profile = found->profile;
  ++profile.launches;
  profile.blocks += std::int64_t{launch.blocks.x} * launch.blocks.y * launch.blocks.z;
  profile.threads_per_block = std::int64_t{launch.threads.x} * launch.threads.y * launch.threads.z;
  profile.dynamic_shared_bytes = std::max(profile.dynamic_shared_bytes, launch.shared_bytes);
}

void profile_static_shared(std::int64_t bytes) {
  KernelProfile& profile = kernels[running].profile;
  profile.static_shared_bytes = std::max(profile.static_shared_bytes, bytes);
}

void profile_barrier(SiteId site) {
  LineCounters& counters = kernels[running].kinds[{site, false, false}];
  ++counters.barriers;
  ++counters.executions;
}

void profile_accesses(Logs& logs) {
  in_step(logs) ? count_in_step(kernels[running], logs) : count_diverged(kernels[running], logs);
  for (auto* log : logs)
    if (log) log->clear();
}

void profile_start() {
  const std::lock_guard lock(one_launch);
  kernels.clear();
  undecided = false;
  profiling = count_banks = count_coalescing = true;
}

std::vector<KernelProfile> profile_take() {
  const std::lock_guard lock(one_launch);
  std::vector<KernelProfile> taken;
  for (Counted& kernel : kernels) {
    std::vector<SiteId> sites{kernel.function};
    for (const auto& [kind, counters] : kernel.kinds) sites.push_back(kind.site);
    const std::vector<Line> lines = lines_of(sites);
    kernel.profile.function = lines[0];
    std::size_t next = 1;
    for (const auto& [kind, counters] : kernel.kinds) kernel.profile.lines[lines[next++]].add(counters);
    taken.push_back(std::move(kernel.profile));
  }
  kernels.clear();
  profiling = false;
  return taken;
}

}  // namespace imgrec::sim::check
