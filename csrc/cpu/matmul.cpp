#include "ops/matmul.h"

#include "cpu/dtypes.h"
#include "cpu/gemm.h"

namespace imgrec {
namespace cpu {
namespace {

/// Fills panels from a matrix of any strides: the copy that packing makes anyway widens 16-bit elements on its way.
template <class S>
struct Matrix {
  const S* data;
  std::int64_t row_stride, column_stride;

  using T = Compute<S>;

  void fill_rows(T* panel, std::int64_t row, int rows, std::int64_t k, std::int64_t depth) const {
    const S* from = data + row * row_stride + k * column_stride;
    if (row_stride == 1) {
      for (std::int64_t i = 0; i < depth; ++i)
        for (int r = 0; r < rows; ++r) panel[i * micro_rows + r] = widen(from[i * column_stride + r]);
    } else {
      for (int r = 0; r < rows; ++r)
        for (std::int64_t i = 0; i < depth; ++i)
          panel[i * micro_rows + r] = widen(from[r * row_stride + i * column_stride]);
    }
  }

  void fill_columns(T* to, std::int64_t row, std::int64_t column, int count) const {
    const S* from = data + row * row_stride + column * column_stride;
    if (column_stride == 1)
      for (int c = 0; c < count; ++c) to[c] = widen(from[c]);
    else
      for (int c = 0; c < count; ++c) to[c] = widen(from[c * column_stride]);
  }
};

template <class S>
Matrix<S> matrix_of(const Array& array, std::int64_t batch) {
  return {array.as<const S>() + batch * array.strides[0], array.strides[1], array.strides[2]};
}

template <class T>
GemmTiling<T> tiling_of(const Context& context, const MatmulShape& shape) {
  return {context, shape.m, shape.n, shape.k, shape.batch};
}

template <class S>
void pack(const Context& context, const Array& packed, const Array& b, const MatmulShape& shape) {
  using T = Compute<S>;
  const GemmTiling<T> tiling = tiling_of<T>(context, shape);
  for (std::int64_t batch = 0; batch < shape.batch; ++batch) {
    const Matrix<S> matrix = matrix_of<S>(b, batch);
    pack_columns(
        context, packed.as<T>() + batch * tiling.packed_size(), tiling.n, tiling.k,
        [&](T* to, std::int64_t k, std::int64_t column, int count) { matrix.fill_columns(to, k, column, count); });
  }
}

template <class S>
void multiply(const Context& context, const Array& c, const Array& a, const Array& packed_b, const Array& workspace) {
  using T = Compute<S>;
  const std::int64_t batches = c.shape[0];
  const GemmTiling<T> tiling = tiling_of<T>(context, {batches, c.shape[1], c.shape[2], a.shape[2]});
  const T* packed = packed_b.as<const T>();
  T* scratch = workspace.as<T>();
  parallel_tasks(context, batches * tiling.count(), [&](std::int64_t task, int worker) {
    const std::int64_t batch = task / tiling.count();
    const Matrix<S> matrix = matrix_of<S>(a, batch);
    S* out = c.as<S>() + batch * tiling.m * tiling.n;
    gemm_tile(
        tiling, task % tiling.count(), packed + batch * tiling.packed_size(), scratch + worker * tiling.scratch_size(),
        [&](T* panel, std::int64_t row, int rows, std::int64_t k, std::int64_t depth) {
          matrix.fill_rows(panel, row, rows, k, depth);
        },
        [&](const T* tile, std::int64_t ld, std::int64_t row, std::int64_t rows, std::int64_t column,
            std::int64_t columns) {
          for (std::int64_t r = 0; r < rows; ++r)
            for (std::int64_t j = 0; j < columns; ++j)
              out[(row + r) * tiling.n + column + j] = narrow<S>(tile[r * ld + j]);
        });
  });
}

}  // namespace
}  // namespace cpu

Plan matmul_plan(const Context& context, const MatmulShape& shape, DType dtype) {
  Plan plan{.algorithm = "packed"};
  cpu::for_floating(dtype, [&](auto tag) {
    using T = cpu::Compute<decltype(tag)>;
    const auto tiling = cpu::tiling_of<T>(context, shape);
    constexpr auto element = static_cast<std::int64_t>(sizeof(T));
    plan.workspace_bytes = element * context.threads * tiling.scratch_size();
    plan.packed_bytes = element * shape.batch * tiling.packed_size();
  });
  return plan;
}

void matmul_pack(const Context& context, const Array& packed, const Array& b, const MatmulShape& shape) {
  cpu::for_floating(b.dtype, [&](auto tag) { cpu::pack<decltype(tag)>(context, packed, b, shape); });
}

void matmul(const Context& context, const Array& c, const Array& a, const Array&, const Array& packed,
            const Array& workspace) {
  cpu::for_floating(c.dtype, [&](auto tag) { cpu::multiply<decltype(tag)>(context, c, a, packed, workspace); });
}

}  // namespace imgrec
