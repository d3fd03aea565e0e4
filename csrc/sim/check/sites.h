// Lines of kernels, as numbers small enough for shadow memory. An access is known by the instruction that makes it, a
// barrier or an asynchronous copy by the line that the source hands over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "sim/runtime.h"

namespace imgrec::sim::check {

using SiteId = std::uint16_t;

/// The loaded module's parts, in memory.
struct Module {
  std::uintptr_t load_address = 0;                     // what the linker counts addresses from
  std::uintptr_t begin = ~std::uintptr_t{0}, end = 0;  // all of it
  std::string path;
};
const Module& this_module();

extern SiteId* const site_of_instruction;  // for each byte of the module; 0: not seen yet
extern const std::uintptr_t module_begin;

SiteId add_instruction(const void* return_address);

/// The number of the instruction before a return address.
inline SiteId site_of(const void* return_address) {
  const SiteId known = site_of_instruction[reinterpret_cast<std::uintptr_t>(return_address) - module_begin];
  return __builtin_expect(known != 0, 1) ? known : add_instruction(return_address);
}

SiteId site_of(Site site);

/// The line that a function begins with.
SiteId site_of_function(const void* function);

struct Line {
  std::string file;  // from csrc/ on, where it lies there
  int number = 0;

  auto operator<=>(const Line&) const = default;
};

/// The kernels' lines that sites belong to: of functions that were inlined, the first outside of csrc/cuda/arch and
/// csrc/sim. addr2line is asked once for all that are new.
std::vector<Line> lines_of(const std::vector<SiteId>& sites);

/// "csrc/cuda/x.cu:12"
std::string text_of(const Line& line);

}  // namespace imgrec::sim::check
