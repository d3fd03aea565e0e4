#include <cmath>
#include <type_traits>

#include "cpu/channel_block.h"
#include "cpu/norm.h"
#include "cpu/parallel.h"
#include "cpu/row_chunks.h"
#include "ops/norm.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr int chunk_sums = 3;  // numbers that a chunk leaves for each channel, at most
constexpr std::int64_t rows_a_sum = 16;
constexpr int coefficients = 4;  // numbers for each channel that the last pass reads

/// The sums over some rows of the two vectors that term(v, at) gives. Sixteen rows are added up at a time, and then
/// their sums: a long chain of additions would lose more digits.
template <class S, class Block, class Term>
auto sum_rows(const Block& block, std::int64_t rows, std::int64_t channels, Term&& term) {
  using Sums = Vectors<Compute<S>, Block::size>;
  struct {
    Sums first = {}, second = {};
  } total;
  for (std::int64_t begin = 0; begin < rows; begin += rows_a_sum) {
    Sums first = {}, second = {};
    block.for_rows(begin, std::min(rows_a_sum, rows - begin), channels, [&](int v, std::int64_t at) {
      const Vectors<Compute<S>, 2> terms = term(v, at);
      first.at[v] += terms.at[0];
      second.at[v] += terms.at[1];
    });
    for (int v = 0; v < Block::size; ++v) {
      total.first.at[v] += first.at[v];
      total.second.at[v] += second.at[v];
    }
  }
  return total;
}

/// For each channel of the block an approximate mean over some rows, and the sums of the deviations from it and of
/// their squares. The mean is that of the first of k in n rows: it is at most sqrt(n / k) standard deviations from the
/// true one, so that the sum of squares has at most n / k + 1 times what is wanted of it, and loses four bits at worst.
template <class S, class Block>
void chunk_moments(const Block& block, const S* x, std::int64_t rows, std::int64_t channels, Compute<S>* partials) {
  using T = Compute<S>;
  const std::int64_t first_rows = (rows + 15) / 16;
  Vectors<T, Block::size> center = {};
  block.for_rows(0, first_rows, channels,
                 [&](int v, std::int64_t at) { center.at[v] += load_wide(x + at, block.lanes_of()); });
  for (auto& vector : center.at) vector /= static_cast<T>(first_rows);
  const auto sums = sum_rows<S>(block, rows, channels, [&](int v, std::int64_t at) {
    const Vector<T> deviation = load_wide(x + at, block.lanes_of()) - center.at[v];
    return Vectors<T, 2>{deviation, deviation * deviation};
  });
  block.write(partials, center);
  block.write(partials + channels, sums.first);
  block.write(partials + 2 * channels, sums.second);
}

/// The forward pass before its activation: y = (x - mean) scale + offset.
template <class T>
struct Affine {
  const T *mean, *scale, *offset;
};

/// Sums of g and of g (x - mean) over some rows, where g is dy before the activation.
template <class S, class Block, class Kind>
void chunk_gradients(const Block& block, const S* dy, const S* x, std::int64_t rows, std::int64_t channels,
                     const Affine<Compute<S>>& affine, Kind activation, Compute<S>* sums, Compute<S>* products) {
  using T = Compute<S>;
  const auto mean = block.read(affine.mean), scale = block.read(affine.scale), offset = block.read(affine.offset);
  const auto found = sum_rows<S>(block, rows, channels, [&](int v, std::int64_t at) {
    const Vector<T> deviation = load_wide(x + at, block.lanes_of()) - mean.at[v];
    const Vector<T> gradient = activate_norm_backward<T>(load_wide(dy + at, block.lanes_of()),
                                                         deviation * scale.at[v] + offset.at[v], activation());
    return Vectors<T, 2>{gradient, gradient * deviation};
  });
  block.write(sums, found.first);
  block.write(products, found.second);
}

struct Moments {
  double mean, variance_sum;  // the sum of squared deviations
};

/// Joins the chunks' moments (Chan, Golub and LeVeque, 1979), always in the same order, and calls store(channel,
/// Moments).
template <class T, class Store>
void join_moments(const Context& context, const RowChunks& chunks, const T* partials, Store&& store) {
  for_column_blocks(context, chunks, [&](std::int64_t first, int count) {
    double mean[column_block] = {}, variance_sum[column_block] = {}, rows = 0;
    for (std::int64_t chunk = 0; chunk < chunks.count; ++chunk) {
      const T* centers = partials + chunk_sums * chunk * chunks.columns + first;
      const T *sums = centers + chunks.columns, *squares = sums + chunks.columns;
      const auto added = static_cast<double>(chunks.size(chunk));
      const double inverse = 1 / added, share = added / (rows + added), weight = rows * share;
      for (int c = 0; c < count; ++c) {
        const double sum = sums[c], delta = centers[c] + sum * inverse - mean[c];
        mean[c] += delta * share;
        variance_sum[c] += squares[c] - sum * sum * inverse + delta * delta * weight;
      }
      rows += added;
    }
    for (int c = 0; c < count; ++c) store(first + c, Moments{mean[c], variance_sum[c]});
  });
}

/// Fills mean and inverse_deviation, and moves the running statistics.
template <class S>
void take_statistics(const Context& context, const RowChunks& chunks, const S* x, const Array& mean,
                     const Array& inverse_deviation, const Array& running_mean, const Array& running_var,
                     const BatchNormOptions& options, Compute<S>* partials) {
  using T = Compute<S>;
  const std::int64_t channels = chunks.columns;
  parallel_tasks(context, chunks.count, [&](std::int64_t chunk, int) {
    for_channel_blocks<S>(channels, [&](const auto& block) {
      chunk_moments(block, x + chunks.begin(chunk) * channels, chunks.size(chunk), channels,
                    partials + chunk_sums * chunk * channels);
    });
  });
  const auto rows = static_cast<double>(chunks.rows);
  join_moments(context, chunks, partials, [&](std::int64_t channel, Moments moments) {
    mean.as<T>()[channel] = static_cast<T>(moments.mean);
    inverse_deviation.as<T>()[channel] = static_cast<T>(1 / std::sqrt(moments.variance_sum / rows + options.eps));
    const auto move = [&](const Array& running, double value) {
      if (running)
        running.as<T>()[channel] =
            static_cast<T>((1 - options.momentum) * running.as<T>()[channel] + options.momentum * value);
    };
    move(running_mean, moments.mean);
    move(running_var, moments.variance_sum / (rows - 1));
  });
}

template <class S, class Kind>
void batch_forward(const Context& context, S* y, const S* x, const RowChunks& chunks, const Affine<Compute<S>>& affine,
                   Kind activation) {
  using T = Compute<S>;
  const std::int64_t channels = chunks.columns;
  parallel_tasks(context, chunks.count, [&](std::int64_t chunk, int) {
    for_channel_blocks<S>(channels, [&](const auto& block) {
      const auto mean = block.read(affine.mean), scale = block.read(affine.scale), offset = block.read(affine.offset);
      block.for_rows(chunks.begin(chunk), chunks.size(chunk), channels, [&](int v, std::int64_t at) {
        const Vector<T> deviation = load_wide(x + at, block.lanes_of()) - mean.at[v];
        const Vector<T> value = activate_norm<T>(deviation * scale.at[v] + offset.at[v], activation());
        store_narrow(y + at, value, block.lanes_of());
      });
    });
  });
}

/// dx = scale g + slope (x - mean) + shift, where g is dy before the activation.
template <class S, class Kind>
void batch_backward(const Context& context, S* dx, const S* dy, const S* x, const RowChunks& chunks,
                    const Affine<Compute<S>>& affine, Kind activation, const Compute<S>* slopes,
                    const Compute<S>* shifts) {
  using T = Compute<S>;
  const std::int64_t channels = chunks.columns;
  parallel_tasks(context, chunks.count, [&](std::int64_t chunk, int) {
    for_channel_blocks<S>(channels, [&](const auto& block) {
      const auto mean = block.read(affine.mean), scale = block.read(affine.scale), offset = block.read(affine.offset);
      const auto slope = block.read(slopes), shift = block.read(shifts);
      block.for_rows(chunks.begin(chunk), chunks.size(chunk), channels, [&](int v, std::int64_t at) {
        const Vector<T> deviation = load_wide(x + at, block.lanes_of()) - mean.at[v];
        const Vector<T> gradient = activate_norm_backward<T>(load_wide(dy + at, block.lanes_of()),
                                                             deviation * scale.at[v] + offset.at[v], activation());
        store_narrow(dx + at, gradient * scale.at[v] + (deviation * slope.at[v] + shift.at[v]), block.lanes_of());
      });
    });
  });
}

}  // namespace
}  // namespace cpu

Plan norm_plan(const Context&, std::int64_t rows, std::int64_t columns, DType dtype) {
  const cpu::RowChunks chunks(rows, columns);
  const std::int64_t item = dtype == DType::float64 ? 8 : 4;
  return {.algorithm = "chunked",
          .workspace_bytes = (cpu::chunk_sums * chunks.count + cpu::coefficients) * columns * item};
}

void batch_norm_forward(const Context& context, const Array& y, const Array& mean, const Array& inverse_deviation,
                        const Array& running_mean, const Array& running_var, const Array& x, const Array& weight,
                        const Array& bias, const BatchNormOptions& options, Activation activation,
                        const Array& workspace) {
  const cpu::RowChunks chunks(x.shape[0], x.shape[1]);
  const std::int64_t channels = chunks.columns;
  cpu::for_floating(x.dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    T *center = mean.as<T>(), *inverse = inverse_deviation.as<T>();
    T *scale = workspace.as<T>(), *offset = scale + channels;
    if (options.training)
      cpu::take_statistics(context, chunks, x.as<const S>(), mean, inverse_deviation, running_mean, running_var,
                           options, scale + cpu::coefficients * channels);
    for (std::int64_t c = 0; c < channels; ++c) {
      if (!options.training) {
        center[c] = running_mean.as<T>()[c];
        inverse[c] = T(1) / std::sqrt(running_var.as<T>()[c] + static_cast<T>(options.eps));
      }
      scale[c] = weight ? inverse[c] * weight.as<T>()[c] : inverse[c];
      offset[c] = bias ? bias.as<T>()[c] : T(0);
    }
    cpu::for_following_activation(activation, [&](auto kind) {
      cpu::batch_forward(context, y.as<S>(), x.as<const S>(), chunks, {center, scale, offset}, kind);
    });
  });
}

void batch_norm_backward(const Context& context, const Array& dx, const Array& dweight, const Array& dbias,
                         const Array& dy, const Array& x, const Array& weight, const Array& bias, const Array& mean,
                         const Array& inverse_deviation, bool training, Activation activation, const Array& workspace) {
  const cpu::RowChunks chunks(x.shape[0], x.shape[1]);
  const std::int64_t channels = chunks.columns;
  const auto run = [&](auto tag, auto kind) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const T *center = mean.as<const T>(), *inverse = inverse_deviation.as<const T>();
    T *scale = workspace.as<T>(), *offset = scale + channels, *slope = offset + channels, *shift = slope + channels;
    T* partials = scale + cpu::coefficients * channels;
    for (std::int64_t c = 0; c < channels; ++c) {
      scale[c] = weight ? inverse[c] * weight.as<T>()[c] : inverse[c];
      offset[c] = bias ? bias.as<T>()[c] : T(0);
    }
    const cpu::Affine<T> affine{center, scale, offset};
    cpu::parallel_tasks(context, chunks.count, [&](std::int64_t chunk, int) {
      T* sums = partials + 2 * chunk * channels;
      const std::int64_t from = chunks.begin(chunk) * channels;
      cpu::for_channel_blocks<S>(channels, [&](const auto& block) {
        cpu::chunk_gradients(block, dy.as<const S>() + from, x.as<const S>() + from, chunks.size(chunk), channels,
                             affine, kind, sums, sums + channels);
      });
    });
    const double share = 1 / static_cast<double>(chunks.rows);
    cpu::add_chunks(context, chunks, partials, 2 * channels, [&](std::int64_t c, double sum) {
      dbias.as<T>()[c] = static_cast<T>(sum);
      shift[c] = training ? static_cast<T>(-scale[c] * sum * share) : T(0);
    });
    cpu::add_chunks(context, chunks, partials + channels, 2 * channels, [&](std::int64_t c, double product) {
      dweight.as<T>()[c] = static_cast<T>(product * inverse[c]);
      slope[c] = training ? static_cast<T>(-scale[c] * product * inverse[c] * inverse[c] * share) : T(0);
    });
    cpu::batch_backward(context, dx.as<S>(), dy.as<const S>(), x.as<const S>(), chunks, affine, kind, slope, shift);
  };
  cpu::for_floating(x.dtype,
                    [&](auto tag) { cpu::for_following_activation(activation, [&](auto kind) { run(tag, kind); }); });
}

}  // namespace imgrec
