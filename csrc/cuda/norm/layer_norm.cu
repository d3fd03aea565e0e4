// Layer normalisation: each row with its own mean and deviation.
//
//   y = activation(z weight + bias), z = (x - mean) inverse_deviation, inverse_deviation = 1 / sqrt(variance + eps)
//   dx = inverse_deviation (g - mean of g - z mean of g z), means over the row
//   g = weight dy times the activation's derivative, at what it was applied to: that is worked out from x again
//
//   x, y, dx, dy (rows, columns); weight, bias, dweight, dbias (columns,); mean, inverse_deviation (rows,)
//
// A warp works on a row of up to 512 elements (128 of float64), a block of 256 threads on a longer one; what a thread
// has of the row stays in registers (cuda/rows.h) and is looked at four times: rough mean, its correction, squares of
// deviations, result. The gradients of weight and bias are sums along columns and have kernels of their own
// (gradients.h). Bound by memory while rows fit (4096 elements, 1024 of float64): forward moves 2 elements for each
// element, backward 3 and another 2 for dweight and dbias.
//
// At most 114 registers on sm_80 (148 on sm_90a), no spills; measured share of the peer: not run on a GPU.
#include "cuda/norm/gradients.h"
#include "cuda/rows.h"
#include "ops/norm.h"

namespace imgrec {
namespace cuda {
namespace {

/// What the activation is applied to, rounded alike in both directions. Weight and bias may be null.
template <class C>
__device__ __forceinline__ C affine(C z, const C* weight, const C* bias, std::int64_t i) {
  return z * (weight ? weight[i] : C(1)) + (bias ? bias[i] : C(0));
}

template <class T, int threads>
__global__ void __launch_bounds__(row_block_threads)
    layer_norm_forward_kernel(T* y, Compute<T>* mean, Compute<T>* inverse_deviation, const T* x,
                              const Compute<T>* weight, const Compute<T>* bias, std::int64_t rows, std::int64_t columns,
                              bool aligned, Compute<T> eps, Activation activation) {
  using C = Compute<T>;
  for_rows<threads>(rows, [&](std::int64_t row) {
    const RowReader<T, threads, 1> reader(columns, aligned, x + row * columns);
    const auto length = static_cast<C>(columns);
    const C rough = reader.sum([](std::int64_t, C value) { return value; }) / length;
    // The deviations' mean is what rounding took from the sum: without it a large mean would cost accuracy.
    const C center = rough + reader.sum([&](std::int64_t, C value) { return value - rough; }) / length;
    const C squares = reader.sum([&](std::int64_t, C value) { return (value - center) * (value - center); });
    const C inverse = C(1) / sqrt(squares / length + eps);
    reader.write(y + row * columns, [&](std::int64_t i, C value) {
      return activate(affine((value - center) * inverse, weight, bias, i), activation);
    });
    if (threadIdx.x % threads == 0) {
      mean[row] = center;
      inverse_deviation[row] = inverse;
    }
  });
}

template <class T, int threads>
__global__ void __launch_bounds__(row_block_threads)
    layer_norm_backward_kernel(T* dx, const T* dy, const T* x, const Compute<T>* weight, const Compute<T>* bias,
                               const Compute<T>* mean, const Compute<T>* inverse_deviation, std::int64_t rows,
                               std::int64_t columns, bool aligned, Activation activation) {
  using C = Compute<T>;
  for_rows<threads>(rows, [&](std::int64_t row) {
    const RowReader<T, threads, 2> reader(columns, aligned, dy + row * columns, x + row * columns);
    const C center = mean[row], inverse = inverse_deviation[row], length = static_cast<C>(columns);
    const auto weighted = [&](std::int64_t i, C gradient, C z) {
      const C before = activate_backward_at(gradient, affine(z, weight, bias, i), activation);
      return weight ? before * weight[i] : before;
    };
    const C shift = reader.sum([&](std::int64_t i, C gradient, C value) {
      return weighted(i, gradient, (value - center) * inverse);
    }) / length;
    const C slope = reader.sum([&](std::int64_t i, C gradient, C value) {
      const C z = (value - center) * inverse;
      return weighted(i, gradient, z) * z;
    }) / length;
    reader.write(dx + row * columns, [&](std::int64_t i, C gradient, C value) {
      const C z = (value - center) * inverse;
      return (weighted(i, gradient, z) - shift - z * slope) * inverse;
    });
  });
}

}  // namespace
}  // namespace cuda

void layer_norm_forward(const Context& context, const Array& y, const Array& mean, const Array& inverse_deviation,
                        const Array& x, const Array& weight, const Array& bias, double eps, Activation activation) {
  const std::int64_t rows = x.shape[0], columns = x.shape[1];
  if (rows == 0) return;
  cuda::for_floating(x.dtype, [&](auto type) {
    using T = decltype(type);
    using C = cuda::Compute<T>;
    const bool aligned = cuda::rows_aligned<T>(columns, x.data, y.data);
    cuda::for_row_threads<T>(context, rows, columns, [&](auto threads, const cuda::LaunchConfig& config) {
      LAUNCH((cuda::layer_norm_forward_kernel<T, threads>), context, config, y.as<T>(), mean.as<C>(),
             inverse_deviation.as<C>(), x.as<const T>(), weight.as<const C>(), bias.as<const C>(), rows, columns,
             aligned, eps, activation);
    });
  });
}

void layer_norm_backward(const Context& context, const Array& dx, const Array& dweight, const Array& dbias,
                         const Array& dy, const Array& x, const Array& weight, const Array& bias, const Array& mean,
                         const Array& inverse_deviation, Activation activation, const Array& workspace) {
  const std::int64_t rows = x.shape[0], columns = x.shape[1];
  if (columns == 0) return;
  cuda::for_floating(x.dtype, [&](auto type) {
    using T = decltype(type);
    using C = cuda::Compute<T>;
    cuda::norm_gradients<T, true>(context, dweight, dbias, dy, x, weight, bias, mean, inverse_deviation, activation,
                                  workspace);
    if (rows == 0) return;
    const bool aligned = cuda::rows_aligned<T>(columns, dx.data, dy.data, x.data);
    cuda::for_row_threads<T>(context, rows, columns, [&](auto threads, const cuda::LaunchConfig& config) {
      LAUNCH((cuda::layer_norm_backward_kernel<T, threads>), context, config, dx.as<T>(), dy.as<const T>(),
             x.as<const T>(), weight.as<const C>(), bias.as<const C>(), mean.as<const C>(),
             inverse_deviation.as<const C>(), rows, columns, aligned, activation);
    });
  });
}

}  // namespace imgrec
