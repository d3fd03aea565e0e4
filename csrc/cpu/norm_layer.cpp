#include <cmath>

#include "cpu/norm.h"
#include "cpu/parallel.h"
#include "cpu/row_chunks.h"
#include "cpu/row_reduce.h"
#include "ops/norm.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr std::int64_t task_elements = 1 << 12;  // of a forward pass: few, so that threads share rows as products do
constexpr int row_group = 4;  // rows that are worked on at once: while one waits for its sums, the next are read

/// Calls body(row, rows) for groups of rows, the last with fewer of them.
template <class Body>
void for_row_groups(std::int64_t begin, std::int64_t end, Body&& body) {
  for (; begin < end; begin += row_group) body(begin, static_cast<int>(std::min<std::int64_t>(row_group, end - begin)));
}

/// Calls body with no activation as a compile-time constant, and with any other as a number: relu is rare here.
template <class Body>
void for_none_or_any(Activation activation, Body&& body) {
  if (activation == Activation::none)
    body([] { return Activation::none; });
  else
    body([activation] { return activation; });
}

template <class S, class Kind>
struct LayerNorm {
  using T = Compute<S>;
  std::int64_t columns;
  const T *weight, *bias;  // null where there is none
  Kind activation;

  template <class Count>
  Vector<T> weight_at(std::int64_t i, Count count) const {
    return weight ? load_wide(weight + i, count) : broadcast(T(1));
  }

  /// y before its activation, from z = (x - mean) inverse: rounded alike in both directions.
  template <class Count>
  Vector<T> affine(Vector<T> z, std::int64_t i, Count count) const {
    const Vector<T> scale = weight_at(i, count), offset = bias ? load_wide(bias + i, count) : Vector<T>{};
    return z * scale + offset;
  }

  /// dy before the activation.
  template <class Count>
  Vector<T> gradient_at(const S* dy, Vector<T> z, std::int64_t i, Count count) const {
    return activate_norm_backward<T>(load_wide(dy + i, count), affine(z, i, count), activation());
  }

  void forward_rows(int rows, S* y, const S* x, T* mean, T* inverse_deviation, T eps) const {
    const auto length = static_cast<T>(columns);
    T rough[row_group], center[row_group], inverse[row_group];
    for (int row = 0; row < rows; ++row)
      rough[row] =
          row_sum<S>(columns, [&](std::int64_t i, auto count) { return load_wide(x + row * columns + i, count); }) /
          length;
    for (int row = 0; row < rows; ++row) {
      const auto [sum, squares] = two_row_sums<S>(columns, [&](std::int64_t i, auto count) {
        const Vector<T> deviation = load_wide(x + row * columns + i, count) - rough[row];
        return Vectors<T, 2>{deviation, deviation * deviation};
      });
      // What rounding took from the rough mean: without it a large mean would cost accuracy.
      const T shift = sum / length, variance = std::max(squares / length - shift * shift, T(0));
      mean[row] = center[row] = rough[row] + shift;
      inverse_deviation[row] = inverse[row] = T(1) / std::sqrt(variance + eps);
    }
    for (int row = 0; row < rows; ++row)
      for_vectors<S>(0, columns, [&](std::int64_t i, auto count) {
        const Vector<T> z = (load_wide(x + row * columns + i, count) - center[row]) * inverse[row];
        store_narrow(y + row * columns + i, activate_norm<T>(affine(z, i, count), activation()), count);
      });
  }

  /// dx = inverse (g - mean(g) - z mean(g z)) with g = dy weight, z = (x - mean) inverse; dy z joins dweight, dy dbias.
  /// dy stands for the gradient before the activation. dweight and dbias are read and written once for all rows.
  void backward_rows(int rows, S* dx, const S* dy, const S* x, const T* mean, const T* inverse, T* dweight,
                     T* dbias) const {
    T shift[row_group], slope[row_group];
    const auto z_at = [&](int row, std::int64_t i, auto count) {
      return (load_wide(x + row * columns + i, count) - mean[row]) * inverse[row];
    };
    for (int row = 0; row < rows; ++row) {
      const auto [sum, product] = two_row_sums<S>(columns, [&](std::int64_t i, auto count) {
        const Vector<T> z = z_at(row, i, count);
        const Vector<T> g = gradient_at(dy + row * columns, z, i, count) * weight_at(i, count);
        return Vectors<T, 2>{g, g * z};
      });
      shift[row] = sum / static_cast<T>(columns);
      slope[row] = product / static_cast<T>(columns);
    }
    for_vectors<S>(0, columns, [&](std::int64_t i, auto count) {
      Vector<T> weight_sum = load_wide(dweight + i, count), bias_sum = load_wide(dbias + i, count);
      const Vector<T> scale = weight_at(i, count);
      for (int row = 0; row < rows; ++row) {
        const Vector<T> z = z_at(row, i, count), gradient = gradient_at(dy + row * columns, z, i, count);
        store_narrow(dx + row * columns + i, (gradient * scale - shift[row] - z * slope[row]) * inverse[row], count);
        weight_sum += gradient * z;
        bias_sum += gradient;
      }
      store_narrow(dweight + i, weight_sum, count);
      store_narrow(dbias + i, bias_sum, count);
    });
  }
};

}  // namespace
}  // namespace cpu

void layer_norm_forward(const Context& context, const Array& y, const Array& mean, const Array& inverse_deviation,
                        const Array& x, const Array& weight, const Array& bias, double eps, Activation activation) {
  const std::int64_t rows = x.shape[0], columns = x.shape[1];
  const std::int64_t task_rows = std::max<std::int64_t>(1, cpu::task_elements / std::max<std::int64_t>(columns, 1));
  const auto run = [&](auto tag, auto kind) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const cpu::LayerNorm<S, decltype(kind)> norm{columns, weight.as<const T>(), bias.as<const T>(), kind};
    cpu::parallel_range(context, rows, task_rows, [&](std::int64_t begin, std::int64_t end) {
      cpu::for_row_groups(begin, end, [&](std::int64_t row, int count) {
        norm.forward_rows(count, y.as<S>() + row * columns, x.as<const S>() + row * columns, mean.as<T>() + row,
                          inverse_deviation.as<T>() + row, static_cast<T>(eps));
      });
    });
  };
  cpu::for_floating(x.dtype, [&](auto tag) { cpu::for_none_or_any(activation, [&](auto kind) { run(tag, kind); }); });
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
      T *dweight_sum = workspace.as<T>() + 2 * chunk * columns, *dbias_sum = dweight_sum + columns;
      std::fill(dweight_sum, dweight_sum + 2 * columns, T(0));
      const std::int64_t begin = chunks.begin(chunk);
      cpu::for_row_groups(begin, begin + chunks.size(chunk), [&](std::int64_t row, int rows) {
        norm.backward_rows(rows, dx.as<S>() + row * columns, dy.as<const S>() + row * columns,
                           x.as<const S>() + row * columns, mean.as<const T>() + row,
                           inverse_deviation.as<const T>() + row, dweight_sum, dbias_sum);
      });
    });
    const T* partials = workspace.as<const T>();
    cpu::add_chunks(context, chunks, partials, 2 * columns,
                    [&](std::int64_t c, double sum) { dweight.as<T>()[c] = static_cast<T>(sum); });
    cpu::add_chunks(context, chunks, partials + columns, 2 * columns,
                    [&](std::int64_t c, double sum) { dbias.as<T>()[c] = static_cast<T>(sum); });
  };
  cpu::for_floating(x.dtype, [&](auto tag) { cpu::for_none_or_any(activation, [&](auto kind) { run(tag, kind); }); });
}

}  // namespace imgrec
