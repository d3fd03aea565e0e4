#include "cpu/tile.h"

#include <type_traits>

#include "cpu/simd.h"

namespace imgrec::cpu {
namespace {

// Sums kept in registers: tile_rows x 2 vectors, the rest for a row of b and a broadcast element of a.
constexpr int tile_rows = vector_registers == 32 ? 8 : 6;

// Whether it adds is known to the compiler: else it keeps the addresses of all rows of c through the loop over depth,
// which costs a seventh of a product of depth 16.
template <class T, Operand a_operand, bool add, int rows, int vectors>
inline void multiply_block(std::int64_t depth, const T* a, std::int64_t lda, const T* b, std::int64_t ldb, T* c,
                           std::int64_t ldc) {
  Vector<T> sum[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) sum[r][v] = add ? load(c + r * ldc + v * lanes<T>) : Vector<T>{};
  for (std::int64_t k = 0; k < depth; ++k, b += ldb) {
    Vector<T> row[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) row[v] = load(b + v * lanes<T>);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      const T element = a_operand == Operand::plain ? a[r * lda + k] : a[k * lda + r];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sum[r][v] += element * row[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) store(c + r * ldc + v * lanes<T>, sum[r][v]);
}

/// One strip of columns: as many full blocks of rows as fit, then blocks of 4, 2 and 1.
template <class T, Operand a_operand, bool add, int vectors>
void multiply_strip(std::int64_t rows, std::int64_t depth, const T* a, std::int64_t lda, const T* b, std::int64_t ldb,
                    T* c, std::int64_t ldc) {
  std::int64_t row = 0;
  const auto blocks_of = [&]<int count>(std::integral_constant<int, count>) {
    for (; row + count <= rows; row += count)
      multiply_block<T, a_operand, add, count, vectors>(depth, a + row * (a_operand == Operand::plain ? lda : 1), lda,
                                                        b, ldb, c + row * ldc, ldc);
  };
  blocks_of(std::integral_constant<int, tile_rows>{});
  blocks_of(std::integral_constant<int, 4>{});
  blocks_of(std::integral_constant<int, 2>{});
  blocks_of(std::integral_constant<int, 1>{});
}

template <class T, Operand a_operand, bool add>
void multiply_strips(std::int64_t rows, std::int64_t columns, std::int64_t depth, const T* a, std::int64_t lda,
                     const T* b, std::int64_t ldb, T* c, std::int64_t ldc) {
  std::int64_t column = 0;
  for (; column + lanes<T> < columns; column += 2 * lanes<T>)
    multiply_strip<T, a_operand, add, 2>(rows, depth, a, lda, b + column, ldb, c + column, ldc);
  if (column < columns) multiply_strip<T, a_operand, add, 1>(rows, depth, a, lda, b + column, ldb, c + column, ldc);
}

}  // namespace

template <class T, Operand a_operand>
void multiply_tile(std::int64_t rows, std::int64_t columns, std::int64_t depth, const T* a, std::int64_t lda,
                   const T* b, std::int64_t ldb, T* c, std::int64_t ldc, bool add) {
  (add ? multiply_strips<T, a_operand, true> : multiply_strips<T, a_operand, false>)(rows, columns, depth, a, lda, b,
                                                                                     ldb, c, ldc);
}

#define IMGREC_INSTANTIATE(T, a_operand)                                                                      \
  template void multiply_tile<T, a_operand>(std::int64_t, std::int64_t, std::int64_t, const T*, std::int64_t, \
                                            const T*, std::int64_t, T*, std::int64_t, bool);
IMGREC_INSTANTIATE(float, Operand::plain)
IMGREC_INSTANTIATE(float, Operand::transposed)
IMGREC_INSTANTIATE(double, Operand::plain)
IMGREC_INSTANTIATE(double, Operand::transposed)
#undef IMGREC_INSTANTIATE

}  // namespace imgrec::cpu
