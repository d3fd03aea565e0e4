// Kernels with one bug each, and the same without it: what the checkers must and must not report.
//
// A case is compiled from this directory with the simulator's instrumentation and called by name. The line that a
// report must name ends in "// HERE", the other party's in "// OTHER".
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cuda/arch/async_copy.h"
#include "cuda/arch/barrier.h"
#include "cuda/arch/cluster.h"
#include "cuda/arch/cuda.h"
#include "cuda/arch/grid.h"
#include "cuda/arch/mbarrier.h"
#include "ops/memory.h"

namespace imgrec::planted {

inline std::map<std::string, std::function<void()>>& cases() {
  static std::map<std::string, std::function<void()>> all;
  return all;
}

/// What a case may use: arrays as an operation is given them.
struct Operation {
  Context context{.sm_count = 4, .max_shared_bytes = 99 << 10};
  alignas(64) float input[4096] = {};
  alignas(64) float output[4096] = {};

  explicit Operation(std::int64_t outputs = 4096, std::int64_t inputs = 4096) {
    begin_operation();
    give_array({.data = output, .ndim = 1, .shape = {outputs}, .strides = {1}}, true);
    give_array({.data = input, .ndim = 1, .shape = {inputs}, .strides = {1}}, false);
  }
};

}  // namespace imgrec::planted

/// CASE(name) { body; } is run by that name.
#define CASE(name)                                                                                               \
  static void run_##name();                                                                                      \
  [[maybe_unused]] static const bool name##_added = imgrec::planted::cases().emplace(#name, &run_##name).second; \
  static void run_##name()
