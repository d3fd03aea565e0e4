// How accesses get into the profile.
#pragma once

#include <cstdint>
#include <vector>

#include "sim/check/profile.h"
#include "sim/launch.h"

namespace imgrec::sim::check {

struct LogEntry {
  std::uintptr_t address;
  std::uint32_t size;
  SiteId site;
  bool shared, write;
};

extern bool profiling;

void profile_launch(const Launch& launch);
void profile_static_shared(std::int64_t bytes);
void profile_barrier(SiteId site);

/// The lanes of a warp have come together; null for lanes that have not. Empties the logs.
void profile_accesses(std::vector<LogEntry>* const (&logs)[warp_lanes]);

}  // namespace imgrec::sim::check
