// What batch and layer normalisation share: rows are cut into chunks by shape alone, each chunk leaves its sums in the
// workspace, and these are added up in float64 in the order of the chunks.
#pragma once

#include <algorithm>
#include <cstdint>

namespace imgrec::cpu {

struct RowChunks {
  std::int64_t rows, columns, length, count;

  /// As many rows as stay in the first-level cache for a second look, but few enough that float32 sums stay exact to a
  /// few units in the last place, and enough that the chunks' sums are small beside x.
  RowChunks(std::int64_t rows, std::int64_t columns)
      : rows(rows),
        columns(columns),
        length(std::clamp<std::int64_t>((1 << 13) / std::max<std::int64_t>(columns, 1), 8, 512)),
        count((rows + length - 1) / length) {}

  std::int64_t begin(std::int64_t chunk) const { return chunk * length; }
  std::int64_t size(std::int64_t chunk) const { return std::min(length, rows - begin(chunk)); }
};

/// Calls store(column, total) with the sum over chunks of partials[chunk * stride + column].
template <class T, class Store>
void add_chunks(const RowChunks& chunks, const T* partials, std::int64_t stride, Store&& store) {
  constexpr std::int64_t width = 64;
  for (std::int64_t column = 0; column < chunks.columns; column += width) {
    const std::int64_t count = std::min(width, chunks.columns - column);
    double total[width] = {};
    for (std::int64_t chunk = 0; chunk < chunks.count; ++chunk)
      for (std::int64_t i = 0; i < count; ++i) total[i] += partials[chunk * stride + column + i];
    for (std::int64_t i = 0; i < count; ++i) store(column + i, total[i]);
  }
}

}  // namespace imgrec::cpu
