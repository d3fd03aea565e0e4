// What a kernel that could not be run, or that the simulator found at fault, ends with.
#pragma once

#include <stdexcept>
#include <string>

namespace imgrec {

/// Raised as imgrec_engine.errors.KernelError.
struct KernelError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace imgrec
