#include "sim/check/given.h"

#include "ops/memory.h"

namespace imgrec {
namespace sim::check {

static thread_local std::vector<GivenArray> arrays;

const std::vector<GivenArray>& given_arrays() { return arrays; }

}  // namespace sim::check

bool poisons_memory() { return true; }

void begin_operation() { sim::check::arrays.clear(); }

void give_array(const Array& array, bool writable) {
  const int number = static_cast<int>(sim::check::arrays.size()) + 1;
  const auto start = reinterpret_cast<std::uintptr_t>(array.data);
  std::int64_t first = 0, last = 0;
  for (int i = 0; i < array.ndim; ++i) {
    const std::int64_t extent = (array.shape[i] - 1) * array.strides[i];
    (extent < 0 ? first : last) += extent;
  }
  const std::int64_t item = size_of(array.dtype), count = array.size() == 0 ? 0 : last + 1;
  sim::check::arrays.push_back({start + static_cast<std::uintptr_t>(first * item),
                                start + static_cast<std::uintptr_t>(count * item), writable, number});
}

}  // namespace imgrec
