#include <cmath>
#include <type_traits>

#include "cpu/activation.h"
#include "cpu/norm.h"
#include "cpu/parallel.h"
#include "cpu/vector_io.h"
#include "ops/norm.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr int block_vectors = 4;  // vectors of channels whose sums are held in registers
constexpr int chunk_sums = 3;     // numbers that a chunk leaves for each channel, at most
constexpr int coefficients = 4;   // numbers for each channel that the last pass reads

/// A block of neighbouring channels: `full` ones have block_vectors whole vectors, which the compiler then unrolls.
template <class S, bool full>
struct ChannelBlock {
  std::int64_t first;
  int count;

  int vectors() const { return full ? block_vectors : (count + wide_lanes<S> - 1) / wide_lanes<S>; }
  int lanes_of(int v) const { return full ? wide_lanes<S> : std::min(wide_lanes<S>, count - v * wide_lanes<S>); }
  std::int64_t channel(int v) const { return first + v * wide_lanes<S>; }
};

template <class S, class Body>
void for_channel_blocks(std::int64_t channels, Body&& body) {
  constexpr int width = block_vectors * wide_lanes<S>;
  std::int64_t first = 0;
  for (; first + width <= channels; first += width) body(ChannelBlock<S, true>{first, width});
  if (first < channels) body(ChannelBlock<S, false>{first, static_cast<int>(channels - first)});
}

/// For each channel of the block an approximate mean over some rows, and the sums of the deviations from it and of
/// their squares: two passes, the second in the cache.
template <class S, bool full>
void chunk_moments(const ChannelBlock<S, full>& block, const S* x, std::int64_t rows, std::int64_t channels,
                   Compute<S>* partials) {
  using T = Compute<S>;
  Vector<T> center[block_vectors] = {}, sum[block_vectors] = {}, square[block_vectors] = {};
  for (std::int64_t row = 0; row < rows; ++row)
    for (int v = 0; v < block.vectors(); ++v)
      center[v] += load_wide(x + row * channels + block.channel(v), block.lanes_of(v));
  for (int v = 0; v < block.vectors(); ++v) center[v] /= static_cast<T>(rows);
  for (std::int64_t row = 0; row < rows; ++row)
    for (int v = 0; v < block.vectors(); ++v) {
      const Vector<T> deviation = load_wide(x + row * channels + block.channel(v), block.lanes_of(v)) - center[v];
      sum[v] += deviation;
      square[v] += deviation * deviation;
    }
  for (int v = 0; v < block.vectors(); ++v) {
    T* to = partials + block.channel(v);
    store_narrow(to, center[v], block.lanes_of(v));
    store_narrow(to + channels, sum[v], block.lanes_of(v));
    store_narrow(to + 2 * channels, square[v], block.lanes_of(v));
  }
}

/// The forward pass before its activation: y = (x - mean) scale + offset.
template <class T>
struct Affine {
  const T *mean, *scale, *offset;
};

/// Sums of g and of g (x - mean) over some rows, where g is dy before the activation.
template <class S, bool full, class Kind>
void chunk_gradients(const ChannelBlock<S, full>& block, const S* dy, const S* x, std::int64_t rows,
                     std::int64_t channels, const Affine<Compute<S>>& affine, Kind activation, Compute<S>* sums,
                     Compute<S>* products) {
  using T = Compute<S>;
  Vector<T> center[block_vectors], scale[block_vectors], offset[block_vectors];
  Vector<T> sum[block_vectors] = {}, product[block_vectors] = {};
  for (int v = 0; v < block.vectors(); ++v) {
    center[v] = load_wide(affine.mean + block.channel(v), block.lanes_of(v));
    scale[v] = load_wide(affine.scale + block.channel(v), block.lanes_of(v));
    offset[v] = load_wide(affine.offset + block.channel(v), block.lanes_of(v));
  }
  for (std::int64_t row = 0; row < rows; ++row)
    for (int v = 0; v < block.vectors(); ++v) {
      const std::int64_t at = row * channels + block.channel(v);
      const Vector<T> deviation = load_wide(x + at, block.lanes_of(v)) - center[v];
      const Vector<T> gradient = activate_backward_at<T>(load_wide(dy + at, block.lanes_of(v)),
                                                         deviation * scale[v] + offset[v], activation());
      sum[v] += gradient;
      product[v] += gradient * deviation;
    }
  for (int v = 0; v < block.vectors(); ++v) {
    store_narrow(sums + block.channel(v), sum[v], block.lanes_of(v));
    store_narrow(products + block.channel(v), product[v], block.lanes_of(v));
  }
}

struct Moments {
  double mean, variance_sum;  // the sum of squared deviations
};

/// Joins the chunks' moments of one channel (Chan, Golub and LeVeque, 1979), always in the same order.
template <class T>
Moments join_moments(const RowChunks& chunks, const T* partials, std::int64_t channel) {
  Moments all = {0, 0};
  double rows = 0;
  for (std::int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    const T* part = partials + chunk_sums * chunk * chunks.columns + channel;
    const double sum = part[chunks.columns], square = part[2 * chunks.columns];
    const auto added = static_cast<double>(chunks.size(chunk));
    const double delta = part[0] + sum / added - all.mean, share = added / (rows + added);
    all.mean += delta * share;
    all.variance_sum += square - sum * sum / added + delta * delta * rows * share;
    rows += added;
  }
  return all;
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
  for (std::int64_t channel = 0; channel < channels; ++channel) {
    const Moments moments = join_moments(chunks, partials, channel);
    mean.as<T>()[channel] = static_cast<T>(moments.mean);
    inverse_deviation.as<T>()[channel] = static_cast<T>(1 / std::sqrt(moments.variance_sum / rows + options.eps));
    const auto move = [&](const Array& running, double value) {
      if (running)
        running.as<T>()[channel] =
            static_cast<T>((1 - options.momentum) * running.as<T>()[channel] + options.momentum * value);
    };
    move(running_mean, moments.mean);
    move(running_var, moments.variance_sum / (rows - 1));
  }
}

template <class S, class Kind>
void batch_forward(const Context& context, S* y, const S* x, const RowChunks& chunks, const Affine<Compute<S>>& affine,
                   Kind activation) {
  using T = Compute<S>;
  const auto [mean, scale, offset] = affine;
  const std::int64_t channels = chunks.columns;
  parallel_tasks(context, chunks.count, [&](std::int64_t chunk, int) {
    for (std::int64_t row = chunks.begin(chunk); row < chunks.begin(chunk) + chunks.size(chunk); ++row)
      for_vectors<S>(0, channels, [&](std::int64_t c, int count) {
        const Vector<T> deviation = load_wide(x + row * channels + c, count) - load_wide(mean + c, count);
        const Vector<T> value = deviation * load_wide(scale + c, count) + load_wide(offset + c, count);
        store_narrow(y + row * channels + c, activate<T>(value, activation()), count);
      });
  });
}

/// dx = scale g, and in training + slope (x - mean) + shift, where g is dy before the activation.
template <class S, bool training, class Kind>
void batch_backward(const Context& context, S* dx, const S* dy, const S* x, const RowChunks& chunks,
                    const Affine<Compute<S>>& affine, Kind activation, const Compute<S>* slope,
                    const Compute<S>* shift) {
  using T = Compute<S>;
  const auto [mean, scale, offset] = affine;
  const std::int64_t channels = chunks.columns;
  parallel_tasks(context, chunks.count, [&](std::int64_t chunk, int) {
    for (std::int64_t row = chunks.begin(chunk); row < chunks.begin(chunk) + chunks.size(chunk); ++row)
      for_vectors<S>(0, channels, [&](std::int64_t c, int count) {
        const std::int64_t at = row * channels + c;
        const Vector<T> deviation = load_wide(x + at, count) - load_wide(mean + c, count);
        const Vector<T> factor = load_wide(scale + c, count);
        const Vector<T> value = deviation * factor + load_wide(offset + c, count);
        Vector<T> gradient = activate_backward_at<T>(load_wide(dy + at, count), value, activation()) * factor;
        if constexpr (training) gradient += deviation * load_wide(slope + c, count) + load_wide(shift + c, count);
        store_narrow(dx + at, gradient, count);
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
    cpu::add_chunks(chunks, partials, 2 * channels, [&](std::int64_t c, double sum) {
      dbias.as<T>()[c] = static_cast<T>(sum);
      shift[c] = static_cast<T>(-scale[c] * sum * share);
    });
    cpu::add_chunks(chunks, partials + channels, 2 * channels, [&](std::int64_t c, double product) {
      dweight.as<T>()[c] = static_cast<T>(product * inverse[c]);
      slope[c] = static_cast<T>(-scale[c] * product * inverse[c] * inverse[c] * share);
    });
    if (training)
      cpu::batch_backward<S, true>(context, dx.as<S>(), dy.as<const S>(), x.as<const S>(), chunks, affine, kind, slope,
                                   shift);
    else
      cpu::batch_backward<S, false>(context, dx.as<S>(), dy.as<const S>(), x.as<const S>(), chunks, affine, kind, slope,
                                    shift);
  };
  cpu::for_floating(x.dtype,
                    [&](auto tag) { cpu::for_following_activation(activation, [&](auto kind) { run(tag, kind); }); });
}

}  // namespace imgrec
