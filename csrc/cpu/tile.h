// Small matrix products on tiles that lie in the caches.
#pragma once

#include <cstdint>

namespace imgrec::cpu {

enum class Operand { plain, transposed };

/// c (rows, columns) = or += a b, with b (depth, columns) and c in memory padded to whole vectors of columns.
/// a is (rows, depth), or (depth, rows) where transposed; its elements are broadcast, so it needs no packing.
/// Each element is one sum in the order of depth, whatever the tile's extent.
template <class T, Operand a_operand>
void multiply_tile(std::int64_t rows, std::int64_t columns, std::int64_t depth, const T* a, std::int64_t lda,
                   const T* b, std::int64_t ldb, T* c, std::int64_t ldc, bool add);

}  // namespace imgrec::cpu
