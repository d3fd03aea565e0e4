// softmax and log_softmax along rows, and their gradients.
//
//   softmax      y_i = exp(x_i - max x) / sum_j exp(x_j - max x)      dx_i = y_i (dy_i - sum_j dy_j y_j)
//   log_softmax  y_i = x_i - max x - log sum_j exp(x_j - max x)       dx_i = dy_i - exp(y_i) sum_j dy_j
//
//   x, y, dx, dy (rows, length)
//
// A warp works on a row of up to 512 elements (128 of float64), a block of 256 threads on a longer one. What a thread
// has of the row stays in registers (cuda/rows.h) and is looked at three times: maximum, sum, result. exp is computed
// twice, since what 16 bits would keep of it has lost its digits before the division. Bound by memory: forward moves 2,
// backward 3 elements for each element, while rows fit (4096 elements, 1024 of float64).
// Shared memory: at most 512 bytes, for the sums of a block.
//
// At most 92 registers on sm_80 (101 on sm_90a), no spills; measured share of the peer: not run on a GPU.
#include "ops/softmax.h"

#include "cuda/rows.h"

namespace imgrec {
namespace cuda {
namespace {

template <class T, int threads>
__global__ void __launch_bounds__(row_block_threads)
    softmax_forward_kernel(T* y, const T* x, std::int64_t rows, std::int64_t length, bool aligned, Softmax kind) {
  using C = Compute<T>;
  for_rows<threads>(rows, [&](std::int64_t row) {
    const RowReader<T, threads, 1> reader(length, aligned, x + row * length);
    const C greatest = reader.max();
    const C total = reader.sum([&](std::int64_t, C value) { return exp(value - greatest); });
    const C inverse = C(1) / total, logarithm = log(total);
    reader.write(y + row * length, [&](std::int64_t, C value) {
      return kind == Softmax::plain ? exp(value - greatest) * inverse : value - greatest - logarithm;
    });
  });
}

template <class T, int threads>
__global__ void __launch_bounds__(row_block_threads)
    softmax_backward_kernel(T* dx, const T* dy, const T* y, std::int64_t rows, std::int64_t length, bool aligned,
                            Softmax kind) {
  using C = Compute<T>;
  for_rows<threads>(rows, [&](std::int64_t row) {
    const RowReader<T, threads, 2> reader(length, aligned, dy + row * length, y + row * length);
    const C sum = reader.sum(
        [&](std::int64_t, C gradient, C result) { return kind == Softmax::plain ? gradient * result : gradient; });
    reader.write(dx + row * length, [&](std::int64_t, C gradient, C result) {
      return kind == Softmax::plain ? result * (gradient - sum) : gradient - exp(result) * sum;
    });
  });
}

}  // namespace
}  // namespace cuda

void softmax_forward(const Context& context, const Array& y, const Array& x, Softmax kind) {
  if (x.size() == 0) return;
  const std::int64_t length = x.shape[x.ndim - 1], rows = x.size() / length;
  cuda::for_floating(x.dtype, [&](auto type) {
    using T = decltype(type);
    const bool aligned = cuda::rows_aligned<T>(length, x.data, y.data);
    cuda::for_row_threads<T>(context, rows, length, [&](auto threads, const cuda::LaunchConfig& config) {
      LAUNCH((cuda::softmax_forward_kernel<T, threads>), context, config, y.as<T>(), x.as<const T>(), rows, length,
             aligned, kind);
    });
  });
}

void softmax_backward(const Context& context, const Array& dx, const Array& dy, const Array& y, Softmax kind) {
  if (y.size() == 0) return;
  const std::int64_t length = y.shape[y.ndim - 1], rows = y.size() / length;
  cuda::for_floating(y.dtype, [&](auto type) {
    using T = decltype(type);
    const bool aligned = cuda::rows_aligned<T>(length, dx.data, dy.data, y.data);
    cuda::for_row_threads<T>(context, rows, length, [&](auto threads, const cuda::LaunchConfig& config) {
      LAUNCH((cuda::softmax_backward_kernel<T, threads>), context, config, dx.as<T>(), dy.as<const T>(),
             y.as<const T>(), rows, length, aligned, kind);
    });
  });
}

}  // namespace imgrec
