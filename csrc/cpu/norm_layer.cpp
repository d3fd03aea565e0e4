#include <cmath>

#include "cpu/norm.h"
#include "cpu/parallel.h"
#include "cpu/row_reduce.h"
#include "ops/norm.h"

namespace imgrec {
namespace cpu {
namespace {

template <class S>
struct LayerNorm {
  using T = Compute<S>;
  std::int64_t columns;
  const T *weight, *bias;  // null where there is none

  Vector<T> weight_at(std::int64_t i, int count) const {
    return weight ? load_wide(weight + i, count) : broadcast(T(1));
  }

  void forward_row(S* y, const S* x, T& mean, T& inverse_deviation, T eps) const {
    const auto length = static_cast<T>(columns);
    const T rough = row_sum<S>(columns, [&](std::int64_t i, int count) { return load_wide(x + i, count); }) / length;
    // The deviations' mean is what rounding took from the sum: without it a large mean would cost accuracy.
    const T center = rough + row_sum<S>(columns, [&](std::int64_t i, int count) {
                               return load_wide(x + i, count) - rough;
                             }) / length;
    const T squares = row_sum<S>(columns, [&](std::int64_t i, int count) {
      const Vector<T> deviation = load_wide(x + i, count) - center;
      return deviation * deviation;
    });
    const T inverse = T(1) / std::sqrt(squares / length + eps);
    for_vectors<S>(0, columns, [&](std::int64_t i, int count) {
      Vector<T> value = (load_wide(x + i, count) - center) * inverse * weight_at(i, count);
      if (bias) value += load_wide(bias + i, count);
      store_narrow(y + i, value, count);
    });
    mean = center;
    inverse_deviation = inverse;
  }

  /// dx = inverse (g - mean(g) - z mean(g z)) with g = dy weight, z = (x - mean) inverse; dy z joins dweight, dy dbias.
  void backward_row(S* dx, const S* dy, const S* x, T mean, T inverse, T* dweight, T* dbias) const {
    const auto length = static_cast<T>(columns);
    const T sum =
        row_sum<S>(columns, [&](std::int64_t i, int count) { return load_wide(dy + i, count) * weight_at(i, count); });
    const T product = row_sum<S>(columns, [&](std::int64_t i, int count) {
      return load_wide(dy + i, count) * weight_at(i, count) * ((load_wide(x + i, count) - mean) * inverse);
    });
    const T shift = sum / length, slope = product / length;
    for_vectors<S>(0, columns, [&](std::int64_t i, int count) {
      const Vector<T> gradient = load_wide(dy + i, count), z = (load_wide(x + i, count) - mean) * inverse;
      store_narrow(dx + i, (gradient * weight_at(i, count) - shift - z * slope) * inverse, count);
      store_narrow(dweight + i, load_wide(dweight + i, count) + gradient * z, count);
      store_narrow(dbias + i, load_wide(dbias + i, count) + gradient, count);
    });
  }
};

}  // namespace
}  // namespace cpu

void layer_norm_forward(const Context& context, const Array& y, const Array& mean, const Array& inverse_deviation,
                        const Array& x, const Array& weight, const Array& bias, double eps) {
  const cpu::RowChunks chunks(x.shape[0], x.shape[1]);
  cpu::for_floating(x.dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const cpu::LayerNorm<S> norm{chunks.columns, weight.as<const T>(), bias.as<const T>()};
    cpu::parallel_range(context, chunks.rows, chunks.length, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row)
        norm.forward_row(y.as<S>() + row * norm.columns, x.as<const S>() + row * norm.columns, mean.as<T>()[row],
                         inverse_deviation.as<T>()[row], static_cast<T>(eps));
    });
  });
}

void layer_norm_backward(const Context& context, const Array& dx, const Array& dweight, const Array& dbias,
                         const Array& dy, const Array& x, const Array& weight, const Array& mean,
                         const Array& inverse_deviation, const Array& workspace) {
  const cpu::RowChunks chunks(x.shape[0], x.shape[1]);
  cpu::for_floating(x.dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const cpu::LayerNorm<S> norm{chunks.columns, weight.as<const T>(), nullptr};
    const std::int64_t columns = chunks.columns;
    cpu::parallel_tasks(context, chunks.count, [&](std::int64_t chunk, int) {
      T* sums = workspace.as<T>() + 2 * chunk * columns;
      std::fill(sums, sums + 2 * columns, T(0));
      for (std::int64_t row = chunks.begin(chunk); row < chunks.begin(chunk) + chunks.size(chunk); ++row)
        norm.backward_row(dx.as<S>() + row * columns, dy.as<const S>() + row * columns, x.as<const S>() + row * columns,
                          mean.as<const T>()[row], inverse_deviation.as<const T>()[row], sums, sums + columns);
    });
    const T* partials = workspace.as<const T>();
    cpu::add_chunks(chunks, partials, 2 * columns,
                    [&](std::int64_t c, double sum) { dweight.as<T>()[c] = static_cast<T>(sum); });
    cpu::add_chunks(chunks, partials + columns, 2 * columns,
                    [&](std::int64_t c, double sum) { dbias.as<T>()[c] = static_cast<T>(sum); });
  });
}

}  // namespace imgrec
