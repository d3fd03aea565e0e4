// Batch normalisation: each column with its own mean and deviation, and the way there and back along whole columns.
//
//   y = activation(z weight + bias), z = (x - mean) inverse_deviation, inverse_deviation = 1 / sqrt(variance + eps)
//   dx = scale (g - mean of g - z mean of g z) in training, scale g otherwise; scale = inverse_deviation weight
//   g = dy times the activation's derivative, at what it was applied to: that is worked out from x again
//
//   x, y, dx, dy (rows, columns); all others (columns,)
//
// Forward in training is three kernels: statistics.h takes the moments of chunks of rows and joins them, the last
// kernel writes y. Backward has dweight and dbias first (gradients.h), from which dx follows. In the kernels here a
// thread keeps what belongs to its columns in registers while it goes down the rows. Bound by memory: forward moves 3
// elements for each element (2 in evaluation), backward 5 (4).
//
// At most 144 registers on sm_80 (148 on sm_90a), no spills; measured share of the peer: not run on a GPU.
#include "cuda/norm/gradients.h"
#include "cuda/norm/statistics.h"
#include "ops/norm.h"

namespace imgrec {
namespace cuda {
namespace {

/// mean and inverse_deviation from the running statistics.
template <class C>
__global__ void __launch_bounds__(tile_threads)
    running_statistics_kernel(C* mean, C* inverse_deviation, const C* running_mean, const C* running_var,
                              std::int64_t columns, C eps) {
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * tile_threads + threadIdx.x;
  if (column >= columns) return;
  mean[column] = running_mean[column];
  inverse_deviation[column] = C(1) / sqrt(running_var[column] + eps);
}

template <class T>
__global__ void __launch_bounds__(tile_threads)
    batch_norm_forward_kernel(T* y, const T* x, const Compute<T>* mean, const Compute<T>* inverse_deviation,
                              const Compute<T>* weight, const Compute<T>* bias, Activation activation,
                              ColumnTiling tiling, bool aligned) {
  using C = Compute<T>;
  constexpr int width = pack_width<T>;
  const TilePlace place(tiling);
  const auto center = load_parameters<T, width>(mean, place, C(0));
  const auto factor = load_parameters<T, width>(weight, place, C(1));
  const auto shift = load_parameters<T, width>(bias, place, C(0));
  auto scale = load_parameters<T, width>(inverse_deviation, place, C(0));
#pragma unroll
  for (int k = 0; k < width; ++k) scale.values[k] *= factor.values[k];
  for (std::int64_t row = place.row; row < place.end && place.count > 0; row += tiling.down) {
    const std::int64_t at = row * tiling.columns + place.column;
    auto run = load_run<T, width>(x + at, place.count, aligned);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const C result = (widen(run.values[k]) - center.values[k]) * scale.values[k] + shift.values[k];
      run.values[k] = narrow<T>(activate_following(result, activation));
    }
    store_run(y + at, run, place.count, aligned);
  }
}

/// In evaluation dweight and dbias are not looked at, for the statistics do not depend on x; neither is x where no
/// activation follows.
template <class T, bool training>
__global__ void __launch_bounds__(tile_threads)
    batch_norm_backward_kernel(T* dx, const T* dy, const T* x, const Compute<T>* weight, const Compute<T>* bias,
                               const Compute<T>* mean, const Compute<T>* inverse_deviation, const Compute<T>* dweight,
                               const Compute<T>* dbias, Activation activation, ColumnTiling tiling, bool aligned) {
  using C = Compute<T>;
  constexpr int width = pack_width<T>;
  const TilePlace place(tiling);
  const C share = C(1) / static_cast<C>(tiling.rows);
  const auto center = load_parameters<T, width>(mean, place, C(0));
  const auto inverse = load_parameters<T, width>(inverse_deviation, place, C(0));
  const auto offset = load_parameters<T, width>(bias, place, C(0));
  auto scale = load_parameters<T, width>(weight, place, C(1));
  auto slope = load_parameters<T, width>(dweight, place, C(0)), shift = load_parameters<T, width>(dbias, place, C(0));
#pragma unroll
  for (int k = 0; k < width; ++k) {
    scale.values[k] *= inverse.values[k];
    slope.values[k] *= -scale.values[k] * inverse.values[k] * share;
    shift.values[k] *= -scale.values[k] * share;
  }
  for (std::int64_t row = place.row; row < place.end && place.count > 0; row += tiling.down) {
    const std::int64_t at = row * tiling.columns + place.column;
    auto run = load_run<T, width>(dy + at, place.count, aligned);
    const auto inputs = training || activation != Activation::none ? load_run<T, width>(x + at, place.count, aligned)
                                                                   : Pack<T, width>{};
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const C deviation = widen(inputs.values[k]) - center.values[k];
      const C result = deviation * scale.values[k] + offset.values[k];
      C gradient = activate_backward_at(static_cast<C>(widen(run.values[k])), result, activation) * scale.values[k];
      if (training) gradient += deviation * slope.values[k] + shift.values[k];
      run.values[k] = narrow<T>(gradient);
    }
    store_run(dx + at, run, place.count, aligned);
  }
}

}  // namespace
}  // namespace cuda

Plan norm_plan(const Context&, std::int64_t rows, std::int64_t columns, DType dtype) {
  const std::int64_t item = dtype == DType::float64 ? 8 : 4;
  const cuda::ColumnTiling tiling = cuda::column_tiling(rows, columns, dtype);
  return {.algorithm = "chunked", .workspace_bytes = cuda::moment_numbers * tiling.chunks * columns * item};
}

void batch_norm_forward(const Context& context, const Array& y, const Array& mean, const Array& inverse_deviation,
                        const Array& running_mean, const Array& running_var, const Array& x, const Array& weight,
                        const Array& bias, const BatchNormOptions& options, Activation activation,
                        const Array& workspace) {
  const cuda::ColumnTiling tiling = cuda::column_tiling(x.shape[0], x.shape[1], x.dtype);
  if (tiling.columns == 0) return;
  cuda::for_floating(x.dtype, [&](auto type) {
    using T = decltype(type);
    using C = cuda::Compute<T>;
    if (options.training) {
      cuda::take_statistics<T>(context, mean, inverse_deviation, running_mean, running_var, x, options, workspace);
    } else {
      const auto blocks = static_cast<unsigned>((tiling.columns + cuda::tile_threads - 1) / cuda::tile_threads);
      LAUNCH((cuda::running_statistics_kernel<C>), context, {.blocks = blocks, .threads = cuda::tile_threads},
             mean.as<C>(), inverse_deviation.as<C>(), running_mean.as<const C>(), running_var.as<const C>(),
             tiling.columns, options.eps);
    }
    if (tiling.rows == 0) return;
    const bool aligned = tiling.run > 1 && cuda::aligned_for_packs(x.data, y.data);
    LAUNCH((cuda::batch_norm_forward_kernel<T>), context, tiling.config(), y.as<T>(), x.as<const T>(),
           mean.as<const C>(), inverse_deviation.as<const C>(), weight.as<const C>(), bias.as<const C>(), activation,
           tiling, aligned);
  });
}

void batch_norm_backward(const Context& context, const Array& dx, const Array& dweight, const Array& dbias,
                         const Array& dy, const Array& x, const Array& weight, const Array& bias, const Array& mean,
                         const Array& inverse_deviation, bool training, Activation activation, const Array& workspace) {
  const cuda::ColumnTiling tiling = cuda::column_tiling(x.shape[0], x.shape[1], x.dtype);
  if (tiling.columns == 0) return;
  cuda::for_floating(x.dtype, [&](auto type) {
    using T = decltype(type);
    using C = cuda::Compute<T>;
    cuda::norm_gradients<T, false>(context, dweight, dbias, dy, x, weight, bias, mean, inverse_deviation, activation,
                                   workspace);
    if (tiling.rows == 0) return;
    const bool aligned = tiling.run > 1 && cuda::aligned_for_packs(dx.data, dy.data, x.data);
    const auto write = [&](auto* kernel) {
      LAUNCH(kernel, context, tiling.config(), dx.as<T>(), dy.as<const T>(), x.as<const T>(), weight.as<const C>(),
             bias.as<const C>(), mean.as<const C>(), inverse_deviation.as<const C>(), dweight.as<const C>(),
             dbias.as<const C>(), activation, tiling, aligned);
    };
    if (training)
      write(cuda::batch_norm_backward_kernel<T, true>);
    else
      write(cuda::batch_norm_backward_kernel<T, false>);
  });
}

}  // namespace imgrec
