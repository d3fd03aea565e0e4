// What the checkers found in a launch.
#pragma once

#include <cstdint>
#include <string>

#include "sim/check/sites.h"
#include "sim/launch.h"

namespace imgrec::sim::check {

/// Who touched a word, when on its own clock, and where. stamp 0: nobody.
struct Access {
  std::uint64_t party : 24, stamp : 24, site : 16;  // party: the thread's number in the launch
};

void reports_begin(const Launch& launch);

/// Adds a report, unless the same was found at the same places before.
void report(const char* kind, const std::string& what, Access who);

/// ... with the other thread that it takes: "which conflicts with" a write.
void report(const char* kind, const std::string& what, Access who, const std::string& relation, Access other);

/// Everything found in this launch, empty where that is nothing.
std::string reports_text();

}  // namespace imgrec::sim::check
