// What each line of a kernel costs on a GPU: how often warps execute it, how many 32-byte sectors of global memory its
// accesses move, how many turns its accesses to shared memory take because banks collide.
//
// An instruction is what the lanes of a warp do together. Here they run one after another, so each lane keeps a log of
// its accesses; at every place where the warp comes together the logs are laid side by side.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "sim/check/sites.h"

namespace imgrec::sim::check {

/// Counts of a line, over all warps. A request is one instruction of a warp.
struct LineCounters {
  std::int64_t executions = 0;  // by warps, of its most often executed instruction
  std::int64_t global_requests = 0;
  std::int64_t global_sectors = 0;          // of 32 bytes
  std::int64_t global_minimum_sectors = 0;  // that would hold the same bytes
  std::int64_t shared_requests = 0;
  std::int64_t shared_wavefronts = 0;          // turns, each with at most one word of every bank
  std::int64_t shared_minimum_wavefronts = 0;  // without conflicts
  std::int64_t barriers = 0;                   // waits of warps, at barriers of any kind and at warp operations

  void add(const LineCounters& other);
};

/// All launches of one kernel since the profile was started.
struct KernelProfile {
  std::string kernel;
  Line function;  // where its source begins
  std::int64_t launches = 0;
  std::int64_t blocks = 0;  // of all launches
  std::int64_t threads_per_block = 0;
  std::int64_t static_shared_bytes = 0, dynamic_shared_bytes = 0;  // of a block, the most of any launch
  std::int64_t global_bytes_read = 0, global_bytes_written = 0;    // that threads asked for
  std::map<Line, LineCounters> lines;
};

/// Starts to count, or starts anew.
void profile_start();

/// What was counted since then, in the order of the kernels' first launches; counting ends.
std::vector<KernelProfile> profile_take();

}  // namespace imgrec::sim::check
