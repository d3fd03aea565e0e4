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

/// Whether this was not found at these places before; asked first, because to put a finding into words takes time.
bool is_new(const char* kind, Access who, Access other);
void add_report(const char* kind, Access who, const std::string& what, const char* relation, Access other);

/// Adds a report of what() and, where it takes two, how the other thread is involved.
template <class Text>
void report(const char* kind, Access who, Text&& what, const char* relation = "", Access other = {}) {
  if (is_new(kind, who, other)) add_report(kind, who, what(), relation, other);
}

/// Everything found in this launch, empty where that is nothing.
std::string reports_text();

}  // namespace imgrec::sim::check
