#include "cpu/outer_product.h"

#include <array>

namespace imgrec::cpu {
namespace {

/// add_outer_products for R columns of A and V vectors of B.
template <class T, int R, int V>
void outer_kernel(std::int64_t depth, const T* const* rows, std::int64_t offset, const T* b, std::int64_t b_stride,
                  T* tile, std::int64_t ld, bool first, Ahead<T> ahead) {
  Vector<T> sums[R][V] = {};
  constexpr int for_reading = 0, into_l2 = 2;
  for (std::int64_t k = 0; k < depth; ++k, b += b_stride, ahead.first += ahead.step) {
    __builtin_prefetch(ahead.first, for_reading, into_l2);
    const T* a = rows[k] + offset;
    Vector<T> columns[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) columns[v] = load(b + v * lanes<T>);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sums[r][v] += a[r] * columns[v];
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      T* to = tile + r * ld + v * lanes<T>;
      store(to, first ? sums[r][v] : load(to) + sums[r][v]);
    }
}

/// outer_kernel for 1 ... micro_rows columns of A.
template <class T, int V>
constexpr auto outer_kernels = []<int... r>(std::integer_sequence<int, r...>) {
  return std::array{outer_kernel<T, r + 1, V>...};
}(std::make_integer_sequence<int, micro_rows>{});

}  // namespace

template <class T>
void add_outer_products(int count, bool wide, std::int64_t depth, const T* const* rows, std::int64_t offset, const T* b,
                        std::int64_t b_stride, T* tile, std::int64_t ld, bool first, Ahead<T> ahead) {
  const auto& kernels = wide ? outer_kernels<T, 2> : outer_kernels<T, 1>;
  kernels[static_cast<std::size_t>(count - 1)](depth, rows, offset, b, b_stride, tile, ld, first, ahead);
}

#define IMGREC_INSTANTIATE(T)                                                                                          \
  template void add_outer_products(int, bool, std::int64_t, const T* const*, std::int64_t, const T*, std::int64_t, T*, \
                                   std::int64_t, bool, Ahead<T>);
IMGREC_INSTANTIATE(float)
IMGREC_INSTANTIATE(double)
#undef IMGREC_INSTANTIATE

}  // namespace imgrec::cpu
