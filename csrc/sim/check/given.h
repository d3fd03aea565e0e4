// The arrays that the calling thread's operation was given.
#pragma once

#include <cstdint>
#include <vector>

namespace imgrec::sim::check {

struct GivenArray {
  std::uintptr_t begin, end;  // a strided view's with all that lies between its elements
  bool writable;
  int number;  // among the operation's arrays, from 1
};

const std::vector<GivenArray>& given_arrays();

}  // namespace imgrec::sim::check
