// The gradients of weight and bias, which batch and layer normalisation have in common.
//
//   dweight_c = sum over rows of g_rc z_rc      dbias_c = sum over rows of g_rc      z = (x - mean) inverse_deviation
//
//   g = dy where no activation follows, otherwise dy times its derivative at z weight + bias
//   dy, x (rows, columns); weight, bias (columns,) or absent; mean, inverse_deviation (columns,), or (rows,) where each
//   row has its own partials (chunks, 2, columns): dweight's and dbias's part of each chunk of rows, added up in
//   float64 by chunk
//
// Bound by memory: 2 elements read for each element. Shared memory: 2 sums for each column of each thread, 16 KB at
// most.
#pragma once

#include "cuda/activation.h"
#include "cuda/norm/columns.h"

namespace imgrec::cuda {
namespace {

template <class T, bool by_row>
__global__ void __launch_bounds__(tile_threads)
    norm_gradients_kernel(Compute<T>* partials, const T* dy, const T* x, const Compute<T>* weight,
                          const Compute<T>* bias, const Compute<T>* mean, const Compute<T>* inverse_deviation,
                          Activation activation, ColumnTiling tiling, bool aligned) {
  using C = Compute<T>;
  constexpr int width = pack_width<T>;
  SHARED(C, products, [width][tile_threads]);
  SHARED(C, sums, [width][tile_threads]);
  const TilePlace place(tiling);
  const auto centers = load_parameters<T, width>(by_row ? nullptr : mean, place, C(0));
  const auto inverses = load_parameters<T, width>(by_row ? nullptr : inverse_deviation, place, C(0));
  const auto offsets = load_parameters<T, width>(bias, place, C(0));
  auto scales = load_parameters<T, width>(weight, place, C(1));
#pragma unroll
  for (int k = 0; k < width && !by_row; ++k) scales.values[k] *= inverses.values[k];
  C product[width] = {}, sum[width] = {};
  for (std::int64_t row = place.row; row < place.end && place.count > 0; row += tiling.down) {
    const std::int64_t at = row * tiling.columns + place.column;
    const auto gradients = load_run<T, width>(dy + at, place.count, aligned);
    const auto inputs = load_run<T, width>(x + at, place.count, aligned);
    const C row_center = by_row ? mean[row] : C(0), row_inverse = by_row ? inverse_deviation[row] : C(0);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const C deviation = widen(inputs.values[k]) - (by_row ? row_center : centers.values[k]);
      const C z = deviation * (by_row ? row_inverse : inverses.values[k]);
      const C result = (by_row ? z : deviation) * scales.values[k] + offsets.values[k];
      const C gradient = activate_backward_at(static_cast<C>(widen(gradients.values[k])), result, activation);
      product[k] += gradient * z;
      sum[k] += gradient;
    }
  }
#pragma unroll
  for (int k = 0; k < width; ++k) {
    products[k][threadIdx.x] = product[k];
    sums[k][threadIdx.x] = sum[k];
  }
  fold_tile(tiling, place, [&](int upper, int lower) {
#pragma unroll
    for (int k = 0; k < width; ++k) {
      products[k][upper] += products[k][lower];
      sums[k][upper] += sums[k][lower];
    }
  });
  C* to = partials + 2 * blockIdx.y * tiling.columns + place.column;
  for (int k = 0; k < place.count && place.y == 0; ++k) {
    to[k] = products[k][threadIdx.x];
    to[tiling.columns + k] = sums[k][threadIdx.x];
  }
}

template <class C>
__global__ void __launch_bounds__(tile_threads)
    join_norm_gradients_kernel(C* dweight, C* dbias, const C* partials, ColumnTiling tiling) {
  SHARED(double, products, [join_slices][join_columns]);
  SHARED(double, sums, [join_slices][join_columns]);
  const auto [x, slice, column] = join_place();
  double product = 0, sum = 0;
  for (std::int64_t chunk = slice; chunk < tiling.chunks && column < tiling.columns; chunk += join_slices) {
    product += partials[2 * chunk * tiling.columns + column];
    sum += partials[(2 * chunk + 1) * tiling.columns + column];
  }
  products[slice][x] = product;
  sums[slice][x] = sum;
  __syncthreads();
  if (slice > 0 || column >= tiling.columns) return;
  for (int other = 1; other < join_slices; ++other) {
    product += products[other][x];
    sum += sums[other][x];
  }
  dweight[column] = static_cast<C>(product);
  dbias[column] = static_cast<C>(sum);
}

}  // namespace

/// Both kernels; there are columns, and perhaps no rows.
template <class T, bool by_row>
void norm_gradients(const Context& context, const Array& dweight, const Array& dbias, const Array& dy, const Array& x,
                    const Array& weight, const Array& bias, const Array& mean, const Array& inverse_deviation,
                    Activation activation, const Array& workspace) {
  using C = Compute<T>;
  const ColumnTiling tiling = column_tiling(x.shape[0], x.shape[1], x.dtype);
  const bool aligned = tiling.run > 1 && aligned_for_packs(dy.data, x.data);
  if (tiling.chunks > 0)
    LAUNCH((norm_gradients_kernel<T, by_row>), context, tiling.config(), workspace.as<C>(), dy.as<const T>(),
           x.as<const T>(), weight.as<const C>(), bias.as<const C>(), mean.as<const C>(),
           inverse_deviation.as<const C>(), activation, tiling, aligned);
  LAUNCH((join_norm_gradients_kernel<C>), context, join_config(tiling), dweight.as<C>(), dbias.as<C>(),
         workspace.as<const C>(), tiling);
}

}  // namespace imgrec::cuda
