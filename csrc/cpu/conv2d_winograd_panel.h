// The product of matrices at each of Winograd's positions, for both of its users: tiles times filters reads rows of A,
// and the sum over tiles reads rows of its transpose.
#pragma once

#include <array>
#include <utility>

#include "cpu/gemm.h"
#include "cpu/tile.h"

namespace imgrec::cpu::winograd {

/// What Winograd's products have in common: sums[0..rows)[panel] (+)= A B over `depth`, B [depth][panel] in panels of
/// two vectors, of which V are worth computing. a is [row][pitch], or where transposed [depth][pitch].
template <Operand operand, int rows, int V>
void multiply_panel(std::int64_t depth, const float* a, std::int64_t pitch, const float* b, float* sums, bool first) {
  constexpr std::int64_t panel = micro_cols<float>;
  Vector<float> acc[rows][V] = {};
  for (std::int64_t k = 0; k < depth; ++k, a += operand == Operand::plain ? 1 : pitch, b += panel) {
    Vector<float> columns[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) columns[v] = load(b + v * lanes<float>);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) acc[r][v] += a[operand == Operand::plain ? r * pitch : r] * columns[v];
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      float* to = sums + r * panel + v * lanes<float>;
      store(to, first ? acc[r][v] : load(to) + acc[r][v]);
    }
}

template <Operand operand, int V>
constexpr auto panel_kernels = []<int... less_one>(std::integer_sequence<int, less_one...>) {
  return std::array{multiply_panel<operand, less_one + 1, V>...};
}(std::make_integer_sequence<int, micro_rows>{});

/// multiply_panel for 1 ... micro_rows rows, and so many columns.
template <Operand operand>
auto panel_kernel(std::int64_t rows, std::int64_t columns) {
  const auto& kernels = columns > lanes<float> ? panel_kernels<operand, 2> : panel_kernels<operand, 1>;
  return kernels[static_cast<std::size_t>(rows - 1)];
}

}  // namespace imgrec::cpu::winograd
