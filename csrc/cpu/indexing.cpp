#include "ops/indexing.h"

#include <algorithm>

#include "cpu/dtypes.h"
#include "cpu/parallel.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr std::int64_t grain = 256;         // rows a task
constexpr std::int64_t block_columns = 64;  // whose sums stay in registers and the first-level cache

/// y = the sum of the rows numbered by `order`.
template <class S>
void sum_rows(S* y, const S* rows, const std::int64_t* order, std::int64_t count, std::int64_t columns) {
  for (std::int64_t first = 0; first < columns; first += block_columns) {
    double sums[block_columns] = {};
    const std::int64_t width = std::min(block_columns, columns - first);
    for (std::int64_t i = 0; i < count; ++i) {
      const S* row = rows + order[i] * columns + first;
      for (std::int64_t c = 0; c < width; ++c) sums[c] += widen(row[c]);
    }
    for (std::int64_t c = 0; c < width; ++c) y[first + c] = narrow<S>(static_cast<Compute<S>>(sums[c]));
  }
}

}  // namespace
}  // namespace cpu

Plan index_add_plan(const Context&, std::int64_t, std::int64_t) { return {.algorithm = "runs"}; }

void index_add(const Context& context, const Array& y, const Array& rows, const Array& order, const Array& positions,
               const Array&) {
  const std::int64_t count = rows.shape[0], columns = rows.shape[1], places = y.shape[0];
  const auto *numbers = order.as<const std::int64_t>(), *sorted = positions.as<const std::int64_t>();
  cpu::for_floating(rows.dtype, [&](auto tag) {
    using S = decltype(tag);
    // A task has the runs of equal positions that begin in its range, and goes on to where the last of them ends.
    cpu::parallel_range(context, count, cpu::grain, [&](std::int64_t begin, std::int64_t end) {
      while (begin > 0 && begin < end && sorted[begin] == sorted[begin - 1]) ++begin;
      while (begin < end) {
        const std::int64_t position = sorted[begin];
        const std::int64_t next =
            std::find_if(sorted + begin, sorted + count, [&](std::int64_t other) { return other != position; }) -
            sorted;
        if (position >= 0 && position < places)
          cpu::sum_rows(y.as<S>() + position * columns, rows.as<const S>(), numbers + begin, next - begin, columns);
        begin = next;
      }
    });
  });
}

}  // namespace imgrec
