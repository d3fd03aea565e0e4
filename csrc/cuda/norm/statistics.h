// Means and variances of columns, from deviations and never from sums of squares.
//
// All numbers are seen as deviations from a reference, the first row of their chunk, so that a large mean costs no
// digits. A thread takes 8 rows at a time into registers: their mean, then the squares of the deviations from it. Such
// moments (count, mean, squares) are joined by
//
//   mean = mean_a + (mean_b - mean_a) n_b / n      squares = squares_a + squares_b + (mean_b - mean_a)^2 n_a n_b / n
//
// (Chan, Golub and LeVeque, 1979): in a thread, over the threads of a tile by halves, then over the chunks in float64.
//
//   x (rows, columns); partials (chunks, 3, columns): reference, mean's distance from it, squares
//
// Bound by memory: x is read once. Shared memory: 2 numbers for each column of each thread, 16 KB at most.
#pragma once

#include "cuda/norm/columns.h"
#include "ops/norm.h"

namespace imgrec::cuda {

constexpr int moment_numbers = 3;  // that a chunk leaves for each column

namespace {

constexpr int batch_rows = 8;

template <class C>
struct Moments {
  C count, mean, squares;

  __device__ __forceinline__ void join(const Moments& other) {
    if (other.count == C(0)) return;
    const C all = count + other.count, share = other.count / all, distance = other.mean - mean;
    mean += distance * share;
    squares += other.squares + distance * distance * count * share;
    count = all;
  }
};

template <class T>
__global__ void __launch_bounds__(tile_threads)
    column_moments_kernel(Compute<T>* partials, const T* x, ColumnTiling tiling, bool aligned) {
  using C = Compute<T>;
  constexpr int width = pack_width<T>;
  SHARED(C, counts, [tile_threads]);
  SHARED(C, means, [width][tile_threads]);
  SHARED(C, squares, [width][tile_threads]);
  const TilePlace place(tiling);
  const T* reference = x + tiling.begin(blockIdx.y) * tiling.columns + place.column;
  const auto first = load_run<T, width>(reference, place.count, aligned);
  Moments<C> moments[width] = {};
  const std::int64_t step = static_cast<std::int64_t>(batch_rows) * tiling.down;
  for (std::int64_t row = place.row; row < place.end && place.count > 0; row += step) {
    Pack<T, width> batch[batch_rows];
    const std::int64_t left = (place.end - row + tiling.down - 1) / tiling.down;
    const int count = left < batch_rows ? static_cast<int>(left) : batch_rows;
#pragma unroll
    for (int j = 0; j < batch_rows; ++j)
      if (j < count)
        batch[j] =
            load_run<T, width>(x + (row + j * tiling.down) * tiling.columns + place.column, place.count, aligned);
    const C share = C(1) / static_cast<C>(count);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      C sum = 0, drift = 0, square = 0;
      const C origin = widen(first.values[k]);
#pragma unroll
      for (int j = 0; j < batch_rows; ++j)
        if (j < count) sum += widen(batch[j].values[k]) - origin;
      const C rough = sum * share;
#pragma unroll
      for (int j = 0; j < batch_rows; ++j) {
        const C deviation = widen(batch[j].values[k]) - origin - rough;
        if (j >= count) continue;
        drift += deviation;
        square += deviation * deviation;
      }
      moments[k].join({static_cast<C>(count), rough + drift * share, square - drift * drift * share});
    }
  }
  counts[threadIdx.x] = moments[0].count;
#pragma unroll
  for (int k = 0; k < width; ++k) {
    means[k][threadIdx.x] = moments[k].mean;
    squares[k][threadIdx.x] = moments[k].squares;
  }
  fold_tile(tiling, place, [&](int upper, int lower) {
    C count = 0;
    for (int k = 0; k < width; ++k) {
      Moments<C> joined{counts[upper], means[k][upper], squares[k][upper]};
      joined.join({counts[lower], means[k][lower], squares[k][lower]});
      count = joined.count;
      means[k][upper] = joined.mean;
      squares[k][upper] = joined.squares;
    }
    counts[upper] = count;
  });
  C* to = partials + moment_numbers * blockIdx.y * tiling.columns + place.column;
  for (int k = 0; k < place.count && place.y == 0; ++k) {
    to[k] = widen(reference[k]);
    to[tiling.columns + k] = means[k][threadIdx.x];
    to[2 * tiling.columns + k] = squares[k][threadIdx.x];
  }
}

/// The running statistics may be absent.
template <class C>
__global__ void __launch_bounds__(tile_threads)
    join_moments_kernel(C* mean, C* inverse_deviation, C* running_mean, C* running_var, const C* partials,
                        ColumnTiling tiling, double momentum, double eps) {
  SHARED(double, moments, [3][join_slices][join_columns]);
  const auto [x, slice, column] = join_place();
  Moments<double> all = {};
  for (std::int64_t chunk = slice; chunk < tiling.chunks && column < tiling.columns; chunk += join_slices) {
    const C* part = partials + moment_numbers * chunk * tiling.columns + column;
    all.join({static_cast<double>(tiling.size(chunk)), static_cast<double>(part[0]) + part[tiling.columns],
              static_cast<double>(part[2 * tiling.columns])});
  }
  moments[0][slice][x] = all.count;
  moments[1][slice][x] = all.mean;
  moments[2][slice][x] = all.squares;
  __syncthreads();
  if (slice > 0 || column >= tiling.columns) return;
  for (int other = 1; other < join_slices; ++other)
    all.join({moments[0][other][x], moments[1][other][x], moments[2][other][x]});
  mean[column] = static_cast<C>(all.mean);
  inverse_deviation[column] = static_cast<C>(1 / sqrt(all.squares / all.count + eps));
  const auto move = [&](C* running, double value) {
    if (running) running[column] = static_cast<C>((1 - momentum) * running[column] + momentum * value);
  };
  move(running_mean, all.mean);
  move(running_var, all.squares / (all.count - 1));
}

}  // namespace

/// Both kernels; x has columns and two rows or more.
template <class T>
void take_statistics(const Context& context, const Array& mean, const Array& inverse_deviation,
                     const Array& running_mean, const Array& running_var, const Array& x,
                     const BatchNormOptions& options, const Array& workspace) {
  using C = Compute<T>;
  const ColumnTiling tiling = column_tiling(x.shape[0], x.shape[1], x.dtype);
  const bool aligned = tiling.run > 1 && aligned_for_packs(x.data);
  LAUNCH((column_moments_kernel<T>), context, tiling.config(), workspace.as<C>(), x.as<const T>(), tiling, aligned);
  LAUNCH((join_moments_kernel<C>), context, join_config(tiling), mean.as<C>(), inverse_deviation.as<C>(),
         running_mean.as<C>(), running_var.as<C>(), workspace.as<const C>(), tiling, options.momentum, options.eps);
}

}  // namespace imgrec::cuda
