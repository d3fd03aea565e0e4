// Matrix products on the micro-kernel of convolution (conv2d_gemm.cpp), cut into tasks as gemm.h says. Rows of A are
// read in place where their elements lie side by side in the type that is computed in, else copied; sums start from the
// bias and the residual and go from registers to C, or through a tile where C is of a 16-bit type.
#include "ops/matmul.h"

#include <type_traits>

#include "cpu/activation.h"
#include "cpu/conv2d.h"
#include "cpu/vector_io.h"

namespace imgrec {
namespace cpu {
namespace {

/// A matrix of any strides; copying one widens 16-bit elements on the way.
template <class S>
struct Matrix {
  const S* data;
  std::int64_t row_stride, column_stride;

  using T = Compute<S>;

  /// Columns [k, k + depth) of some rows, each at a distance of `pitch` from the one before.
  void copy_rows(T* to, std::int64_t pitch, std::int64_t row, std::int64_t rows, std::int64_t k,
                 std::int64_t depth) const {
    const S* from = data + row * row_stride + k * column_stride;
    if (row_stride == 1) {
      for (std::int64_t i = 0; i < depth; ++i)
        for (std::int64_t r = 0; r < rows; ++r) to[r * pitch + i] = widen(from[i * column_stride + r]);
    } else {
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t i = 0; i < depth; ++i) to[r * pitch + i] = widen(from[r * row_stride + i * column_stride]);
    }
  }

  void copy_columns(T* to, std::int64_t row, std::int64_t column, int count) const {
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
  GemmTiling<T> tiling(context, shape.m, shape.n, shape.k, shape.batch);
  // As even as can be: the micro-kernel takes any number of rows.
  if (shape.m > 0) tiling.tile_rows = (shape.m + tiling.row_tiles - 1) / tiling.row_tiles;
  return tiling;
}

/// Between copied rows of A: no power of two, or they would push each other out of the first-level cache.
template <class T>
constexpr std::int64_t copied_pitch = depth_block + lanes<T>;

/// What one thread needs: copied rows of A; a tile of C and the bias beside it, in the type that is computed in.
template <class T>
std::int64_t scratch_size(const GemmTiling<T>& tiling) {
  return tiling.tile_rows * copied_pitch<T> + (tiling.tile_rows + 1) * tiling.tile_cols;
}

template <class S>
void pack(const Context& context, const Array& packed, const Array& b, const MatmulShape& shape) {
  using T = Compute<S>;
  const GemmTiling<T> tiling = tiling_of<T>(context, shape);
  for (std::int64_t batch = 0; batch < shape.batch; ++batch) {
    const Matrix<S> matrix = matrix_of<S>(b, batch);
    pack_columns(
        context, packed.as<T>() + batch * tiling.packed_size(), tiling.n, tiling.k,
        [&](T* to, std::int64_t k, std::int64_t column, int count) { matrix.copy_columns(to, k, column, count); });
  }
}

/// Where the sums of a tile go, and what they start from: rows at a distance of `pitch`.
template <class T>
struct TileSums {
  T* to;
  std::int64_t pitch;
  const T* bias;  // null where there is none
  bool begun;     // they lie there already, and the bias with them
};

/// sums (rows, columns) = A B + bias, in blocks of depth. rows_of(k, depth) gives A's columns [k, k + depth), B is
/// packed.
template <class T, class RowsOf>
void multiply_panels(std::int64_t rows, std::int64_t columns, std::int64_t k, RowsOf&& rows_of, const T* packed,
                     const TileSums<T>& sums) {
  const std::int64_t blocks = (rows + micro_rows - 1) / micro_rows, block_rows = (rows + blocks - 1) / blocks;
  std::int64_t begin = 0;
  do {
    const Depth depth{.tap = 0, .taps = 1, .channel = 0, .channels = std::min(depth_block, k - begin)};
    const StridedRows<T> a = rows_of(begin, depth.channels);
    for (std::int64_t j = 0; j < columns; j += micro_cols<T>) {
      const T* b = packed + j * k + begin * micro_cols<T>;
      const bool wide = columns - j > lanes<T>;
      const auto last = static_cast<int>(std::min<std::int64_t>(columns - j - (wide ? lanes<T> : 0), lanes<T>));
      for (std::int64_t r = 0; r < rows; r += block_rows) {
        T* to = sums.to + r * sums.pitch + j;
        const bool begun = begin > 0 || sums.begun;
        const T* start = begun ? to : sums.bias ? sums.bias + j : no_bias<T>;
        multiply_rows<T>(static_cast<int>(std::min(block_rows, rows - r)), wide, depth,
                         {a.first + r * a.stride, a.stride, 0}, b,
                         {to, sums.pitch, start, begun ? sums.pitch : 0, last});
      }
    }
    begin += depth.channels;
  } while (begin < k);
}

/// Writes activation(sums) to rows of C; these may be the sums themselves.
template <class S>
void finish(S* c, std::int64_t c_pitch, const Compute<S>* sums, std::int64_t pitch, std::int64_t rows,
            std::int64_t columns, Activation activation) {
  for_activation(activation, [&](auto kind) {
    for (std::int64_t r = 0; r < rows; ++r)
      for_vectors<S>(0, columns, [&](std::int64_t i, auto count) {
        store_narrow(c + r * c_pitch + i, activate<Compute<S>>(load_wide(sums + r * pitch + i, count), kind()), count);
      });
  });
}

/// sums (rows, columns) = residual + bias, which may be null.
template <class S>
void begin_sums(Compute<S>* sums, std::int64_t pitch, const S* residual, std::int64_t residual_pitch, const S* bias,
                std::int64_t rows, std::int64_t columns) {
  for (std::int64_t r = 0; r < rows; ++r)
    for_vectors<S>(0, columns, [&](std::int64_t i, auto count) {
      const auto added = load_wide(residual + r * residual_pitch + i, count);
      store_narrow(sums + r * pitch + i, bias ? added + load_wide(bias + i, count) : added, count);
    });
}

/// What is added to the products.
template <class S>
struct Added {
  const S *bias, *residual;  // null where there is none; the latter is of c's shape
};

/// One tile of c = activation(a b + bias + residual).
template <class S>
void compute_tile(const GemmTiling<Compute<S>>& tiling, std::int64_t tile, S* c, const Matrix<S>& a,
                  const Compute<S>* packed, Added<S> added, Activation activation, Compute<S>* scratch) {
  using T = Compute<S>;
  const std::int64_t row = tile % tiling.row_tiles * tiling.tile_rows;
  const std::int64_t column = tile / tiling.row_tiles * tiling.tile_cols;
  const std::int64_t rows = std::min(tiling.tile_rows, tiling.m - row);
  const std::int64_t columns = std::min(tiling.tile_cols, tiling.n - column);
  T *copied = scratch, *sums = copied + tiling.tile_rows * copied_pitch<T>, *wide_bias = sums + rows * tiling.tile_cols;
  const auto copied_rows = [&](std::int64_t k, std::int64_t depth) {
    a.copy_rows(copied, copied_pitch<T>, row, rows, k, depth);
    return StridedRows<T>{copied, copied_pitch<T>, 0};
  };
  c += row * tiling.n + column;
  packed += column * tiling.k;
  const S* bias = added.bias ? added.bias + column : nullptr;
  const S* residual = added.residual ? added.residual + row * tiling.n + column : nullptr;
  if constexpr (std::is_same_v<S, T>) {
    const TileSums<T> target{c, tiling.n, bias, residual != nullptr};
    if (residual) begin_sums<S>(c, tiling.n, residual, tiling.n, bias, rows, columns);
    if (a.column_stride == 1)
      multiply_panels(
          rows, columns, tiling.k,
          [&](std::int64_t k, std::int64_t) {
            return StridedRows<T>{a.data + row * a.row_stride + k, a.row_stride, 0};
          },
          packed, target);
    else
      multiply_panels(rows, columns, tiling.k, copied_rows, packed, target);
    if (activation != Activation::none) finish<S>(c, tiling.n, c, tiling.n, rows, columns, activation);
  } else {
    if (residual)
      begin_sums<S>(sums, tiling.tile_cols, residual, tiling.n, bias, rows, columns);
    else if (bias)
      for (std::int64_t j = 0; j < columns; ++j) wide_bias[j] = widen(bias[j]);
    const TileSums<T> target{sums, tiling.tile_cols, bias ? wide_bias : nullptr, residual != nullptr};
    multiply_panels(rows, columns, tiling.k, copied_rows, packed, target);
    finish<S>(c, tiling.n, sums, tiling.tile_cols, rows, columns, activation);
  }
}

}  // namespace
}  // namespace cpu

Plan matmul_plan(const Context& context, const MatmulShape& shape, DType dtype) {
  Plan plan{.algorithm = "packed"};
  cpu::for_floating(dtype, [&](auto tag) {
    using T = cpu::Compute<decltype(tag)>;
    const auto tiling = cpu::tiling_of<T>(context, shape);
    constexpr auto element = static_cast<std::int64_t>(sizeof(T));
    plan.workspace_bytes = element * context.threads * cpu::scratch_size(tiling);
    plan.packed_bytes = element * shape.batch * tiling.packed_size();
  });
  return plan;
}

void matmul_pack(const Context& context, const Array& packed, const Array& b, const MatmulShape& shape) {
  cpu::for_floating(b.dtype, [&](auto tag) { cpu::pack<decltype(tag)>(context, packed, b, shape); });
}

void matmul(const Context& context, const Array& c, const Array& a, const Array&, const Array& packed,
            const Array& bias, const Array& residual, Activation activation, const Array& workspace) {
  cpu::for_floating(c.dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const auto tiling = cpu::tiling_of<T>(context, {c.shape[0], c.shape[1], c.shape[2], a.shape[2]});
    cpu::parallel_tasks(context, c.shape[0] * tiling.count(), [&](std::int64_t task, int worker) {
      const std::int64_t batch = task / tiling.count(), first = batch * tiling.m * tiling.n;
      const cpu::Added<S> added{bias.as<const S>(), residual ? residual.as<const S>() + first : nullptr};
      cpu::compute_tile<S>(tiling, task % tiling.count(), c.as<S>() + first, cpu::matrix_of<S>(a, batch),
                           packed.as<const T>() + batch * tiling.packed_size(), added, activation,
                           workspace.as<T>() + worker * cpu::scratch_size(tiling));
    });
  });
}

}  // namespace imgrec
