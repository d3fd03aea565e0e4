#include <cmath>

#include "cpu/activation.h"
#include "cpu/norm.h"
#include "cpu/parallel.h"
#include "cpu/row_reduce.h"
#include "ops/norm.h"

namespace imgrec {
namespace cpu {
namespace {

template <class S, class Kind>
struct LayerNorm {
  using T = Compute<S>;
  std::int64_t columns;
  const T *weight, *bias;  // null where there is none
  Kind activation;

  Vector<T> weight_at(std::int64_t i, int count) const {
    return weight ? load_wide(weight + i, count) : broadcast(T(1));
  }

  /// y before its activation, from z = (x - mean) inverse: rounded alike in both directions.
  Vector<T> affine(Vector<T> z, std::int64_t i, int count) const {
    const Vector<T> scale = weight_at(i, count), offset = bias ? load_wide(bias + i, count) : Vector<T>{};
    return z * scale + offset;
  }

  /// dy before the activation.
  Vector<T> gradient_at(const S* dy, Vector<T> z, std::int64_t i, int count) const {
    return activate_backward_at<T>(load_wide(dy + i, count), affine(z, i, count), activation());
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
      const Vector<T> value = affine((load_wide(x + i, count) - center) * inverse, i, count);
      store_narrow(y + i, activate<T>(value, activation()), count);
    });
    mean = center;
    inverse_deviation = inverse;
  }

  /// dx = inverse (g - mean(g) - z mean(g z)) with g = dy weight, z = (x - mean) inverse; dy z joins dweight, dy dbias.
  /// dy stands for the gradient before the activation.
  void backward_row(S* dx, const S* dy, const S* x, T mean, T inverse, T* dweight, T* dbias) const {
    const auto length = static_cast<T>(columns);
    const auto z_at = [&](std::int64_t i, int count) { return (load_wide(x + i, count) - mean) * inverse; };
    const T sum = row_sum<S>(columns, [&](std::int64_t i, int count) {
      return gradient_at(dy, z_at(i, count), i, count) * weight_at(i, count);
    });
    const T product = row_sum<S>(columns, [&](std::int64_t i, int count) {
      const Vector<T> z = z_at(i, count);
      return gradient_at(dy, z, i, count) * weight_at(i, count) * z;
    });
    const T shift = sum / length, slope = product / length;
    for_vectors<S>(0, columns, [&](std::int64_t i, int count) {
      const Vector<T> z = z_at(i, count), gradient = gradient_at(dy, z, i, count);
      store_narrow(dx + i, (gradient * weight_at(i, count) - shift - z * slope) * inverse, count);
      store_narrow(dweight + i, load_wide(dweight + i, count) + gradient * z, count);
      store_narrow(dbias + i, load_wide(dbias + i, count) + gradient, count);
    });
  }
};

}  // namespace
}  // namespace cpu

void layer_norm_forward(const Context& context, const Array& y, const Array& mean, const Array& inverse_deviation,
                        const Array& x, const Array& weight, const Array& bias, double eps, Activation activation) {
  const cpu::RowChunks chunks(x.shape[0], x.shape[1]);
  const auto run = [&](auto tag, auto kind) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const cpu::LayerNorm<S, decltype(kind)> norm{chunks.columns, weight.as<const T>(), bias.as<const T>(), kind};
    cpu::parallel_range(context, chunks.rows, chunks.length, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row)
        norm.forward_row(y.as<S>() + row * norm.columns, x.as<const S>() + row * norm.columns, mean.as<T>()[row],
                         inverse_deviation.as<T>()[row], static_cast<T>(eps));
    });
  };
  cpu::for_floating(x.dtype,
                    [&](auto tag) { cpu::for_following_activation(activation, [&](auto kind) { run(tag, kind); }); });
}

void layer_norm_backward(const Context& context, const Array& dx, const Array& dweight, const Array& dbias,
                         const Array& dy, const Array& x, const Array& weight, const Array& bias, const Array& mean,
                         const Array& inverse_deviation, Activation activation, const Array& workspace) {
  const cpu::RowChunks chunks(x.shape[0], x.shape[1]);
  const auto run = [&](auto tag, auto kind) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const cpu::LayerNorm<S, decltype(kind)> norm{chunks.columns, weight.as<const T>(), bias.as<const T>(), kind};
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
  };
  cpu::for_floating(x.dtype,
                    [&](auto tag) { cpu::for_following_activation(activation, [&](auto kind) { run(tag, kind); }); });
}

}  // namespace imgrec
