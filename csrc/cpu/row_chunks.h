// Sums over the rows of a matrix: rows are cut into chunks by shape alone, each chunk leaves its sums in the workspace,
// and these are added up in float64 in the order of the chunks.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/parallel.h"

namespace imgrec::cpu {

constexpr int column_block = 64;  // columns whose chunks are added up at once

struct RowChunks {
  std::int64_t rows, columns, length, count;

  /// So few rows that float32 sums stay exact to a few units in the last place, and so many that the chunks' sums are
  /// small beside x.
  RowChunks(std::int64_t rows, std::int64_t columns)
      : rows(rows),
        columns(columns),
        length(std::clamp<std::int64_t>((1 << 14) / std::max<std::int64_t>(columns, 1), 8, 512)),
        count((rows + length - 1) / length) {}

  std::int64_t begin(std::int64_t chunk) const { return chunk * length; }
  std::int64_t size(std::int64_t chunk) const { return std::min(length, rows - begin(chunk)); }
};

/// Calls body(column, count) for blocks of the columns on all threads.
template <class Body>
void for_column_blocks(const Context& context, const RowChunks& chunks, Body&& body) {
  parallel_range(context, chunks.columns, column_block,
                 [&](std::int64_t begin, std::int64_t end) { body(begin, static_cast<int>(end - begin)); });
}

/// Calls store(column, total) for a block of columns from `begin` on, with the sum over chunks of partials[chunk *
/// stride + column].
template <class T, class Store>
void add_chunks(const RowChunks& chunks, const T* partials, std::int64_t stride, std::int64_t begin, Store&& store) {
  const int count = static_cast<int>(std::min<std::int64_t>(column_block, chunks.columns - begin));
  double total[column_block] = {};
  for (std::int64_t chunk = 0; chunk < chunks.count; ++chunk)
    for (int i = 0; i < count; ++i) total[i] += partials[chunk * stride + begin + i];
  for (int i = 0; i < count; ++i) store(begin + i, total[i]);
}

/// The same for all columns, on all threads.
template <class T, class Store>
void add_chunks(const Context& context, const RowChunks& chunks, const T* partials, std::int64_t stride,
                Store&& store) {
  for_column_blocks(context, chunks,
                    [&](std::int64_t begin, int) { add_chunks(chunks, partials, stride, begin, store); });
}

}  // namespace imgrec::cpu
