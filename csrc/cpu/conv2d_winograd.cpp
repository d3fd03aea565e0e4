// The forward pass and backward_input by Winograd's minimal filtering.
//
//     V[36][tile][c] = B^T x B     U[36][c][o] = G w G^T     M[36][tile][o] = V U, 36 products     y = A^T M A
//
// A block of tiles goes through all of it while its V and M are in the second-level cache. Columns come in panels of
// two vectors, depth in blocks of 128, so that what a micro-kernel reads of U stays in the first-level cache over the
// block's rows of tiles.
//   - Many tiles: a task is a block of 28 tiles, U is transformed once, before.
//   - Few tiles (images of 14x14 and less, with many channels): U would be larger than the caches, and 4 times the
//     weights. All tiles' V is made first; then a task is a panel of columns, which transforms its blocks of U itself
//     and uses them at once. Fewer panels than threads are cut by tiles as well: to transform U twice takes less than
//     to read it from another core's cache.
// Either way a sum runs over blocks of depth in their order.
#include "cpu/conv2d_winograd.h"

#include "cpu/activation.h"
#include "cpu/conv2d_winograd_panel.h"
#include "cpu/vector_io.h"

namespace imgrec::cpu {

using namespace winograd;

namespace {

constexpr std::int64_t panel = micro_cols<float>;
constexpr std::int64_t winograd_depth = 128;
// Of transformed weights: an odd number of the cache's lines, so that the positions fall into different sets.
constexpr std::int64_t weights_pitch = winograd_depth * panel + 16;

WinogradAxis axis_of(const Conv2dAxis& axis, Conv2dPass pass) {
  const std::int64_t step = axis.dilation, size = (7 - axis.kernel) * step;
  const auto tiles = [&](std::int64_t count) { return (count + size - 1) / size * std::min(step, count); };
  if (pass == Conv2dPass::backward_input)
    return {axis.output(), axis.input, axis.padding_before - (axis.kernel - 1) * step, step, tiles(axis.input)};
  return {axis.input, axis.output(), -axis.padding_before, step, tiles(axis.output())};
}

/// Some filters, [tap][depth][column]: a vector of columns at a vector of depths.
template <int taps>
using Filters = Vector<float>[taps * taps][lanes<float>];

/// Reads `count` depths of `columns` columns of a weight's group. Forward a filter's columns are its output channels:
/// they are far apart in memory, so rows of taps are read along the depth and transposed. Backwards they are its input
/// channels, and the taps are turned round.
template <int taps, class S>
void read_filters(const Array& weight, Conv2dPass pass, std::int64_t depth, int count, std::int64_t column, int columns,
                  Filters<taps>& filters) {
  constexpr int all = taps * taps;
  const std::int64_t channels = weight.shape[3];
  if (pass == Conv2dPass::backward_input) {
    const S* from = weight.as<const S>() + depth * all * channels + column;
    for (int d = 0; d < count; ++d)
      for (int tap = 0; tap < all; ++tap, from += channels) filters[all - 1 - tap][d] = load_wide(from, columns);
    return;
  }
  const S* from = weight.as<const S>() + column * all * channels + depth;
  for (int c = 0; c < lanes<float>; ++c)
    for (int tap = 0; tap < all; ++tap, from += channels)
      filters[tap][c] = c < columns ? load_wide(from, count) : Vector<float>{};
  for (int tap = 0; tap < all; ++tap) transpose<float>(filters[tap]);
}

/// One kernel for the rarer activations, whose code is large.
[[gnu::noinline]] void activate_all(Vector<float>* values, int count, Activation activation) {
  for (int i = 0; i < count; ++i) values[i] = activate<float>(values[i], activation);
}

}  // namespace

WinogradTiles::WinogradTiles(const Conv2dShape& shape, Conv2dPass pass)
    : batch(shape.batch),
      taps(static_cast<int>(shape.height.kernel)),
      height(axis_of(shape.height, pass)),
      width(axis_of(shape.width, pass)) {}

WinogradLayout::WinogradLayout(std::int64_t rows, std::int64_t channels)
    : row_pitch(channels), position_pitch(rows * channels) {
  constexpr std::int64_t line = 16;  // elements of a line of the cache
  if (position_pitch / line % 2 == 0) position_pitch += line;
}

std::int64_t WinogradLayout::size() const { return positions * position_pitch; }

void winograd_transform_source(const Array& image, const WinogradTiles& tiles, std::int64_t first, std::int64_t count,
                               float* to, const WinogradLayout& layout, const void* zeros) {
  const std::int64_t channels = image.shape[3];
  for_storage(image.dtype, [&](auto tag) {
    using S = decltype(tag);
    for (std::int64_t tile = first; tile < first + count; ++tile, to += layout.row_pitch) {
      const S* pixels[positions];
      const WinogradPlace place(tile, tiles);
      find_pixels<points>(image, tiles, place.image, place.row + tiles.height.origin, place.column + tiles.width.origin,
                          static_cast<const S*>(zeros), pixels);
      const auto transform = [&](std::int64_t c) {
        transform_square<points, points>(
            Interpolate{}, [&](int i, int j) { return load_wide(pixels[i * points + j] + c); },
            [&](int i, int j, Vector<float> v) { store(to + (i * points + j) * layout.position_pitch + c, v); });
      };
      // There are at least as many channels as a vector holds: the last one may overlap the one before.
      for (std::int64_t c = 0; c < channels; c += lanes<float>) transform(std::min(c, channels - lanes<float>));
    }
  });
}

/// A block of tiles and a panel of a group's columns.
struct WinogradProduct::Block {
  std::int64_t first, count, group, column;
  const float* source;
  float* sums;

  template <int taps, class S>
  void write(const WinogradProduct& product, const Destination& output) const;
};

namespace {

/// Writes what of a tile lies inside the image.
template <int size, class S>
void store_tile(S* to, const WinogradTiles& tiles, const WinogradPlace& place, std::int64_t channels,
                std::int64_t channel, int count, const Vector<float> (&values)[size * size]) {
  const WinogradAxis &height = tiles.height, &width = tiles.width;
  const std::int64_t rows = height.count(place.row, size), columns = width.count(place.column, size);
  const std::int64_t row_step = height.step * width.outputs * channels, column_step = width.step * channels;
  to += ((place.image * height.outputs + place.row) * width.outputs + place.column) * channels + channel;
  for (std::int64_t i = 0; i < rows; ++i, to += row_step)
    for (std::int64_t j = 0; j < columns; ++j) store_narrow(to + j * column_step, values[i * size + j], count);
}

}  // namespace

template <int taps, class S>
void WinogradProduct::Block::write(const WinogradProduct& product, const Destination& output) const {
  constexpr int size = tile_outputs<taps>;
  const std::int64_t channels = product.groups_ * product.columns_, end = std::min(product.columns_, column + panel);
  for (std::int64_t c = column; c < end; c += lanes<float>) {
    const int some = static_cast<int>(std::min<std::int64_t>(lanes<float>, end - c));
    const std::int64_t channel = group * product.columns_ + c;
    const Vector<float> bias = output.bias ? load_wide(output.bias.as<const S>() + channel, some) : Vector<float>{};
    for (std::int64_t tile = 0; tile < count; ++tile) {
      const float* from = sums + tile * panel + (c - column);
      const WinogradPlace place(first + tile, product.tiles_);
      Vector<float> values[size * size];
      transform_square<points, size>(
          Collect{}, [&](int i, int j) { return load(from + (i * points + j) * product.sums_layout_.position_pitch); },
          [&](int i, int j, Vector<float> v) { values[i * size + j] = v + bias; });
      if (output.pre_activation)
        store_tile<size>(output.pre_activation.as<S>(), product.tiles_, place, channels, channel, some, values);
      if (output.activation != Activation::none) activate_all(values, size * size, output.activation);
      store_tile<size>(output.result.as<S>(), product.tiles_, place, channels, channel, some, values);
    }
  }
}

WinogradProduct::WinogradProduct(const Context& context, const Conv2dShape& shape, Conv2dPass pass,
                                 Workspace& workspace)
    : tiles_(shape, pass),
      pass_(pass),
      groups_(shape.groups),
      depth_(pass == Conv2dPass::forward ? shape.group_in() : shape.group_out()),
      columns_(pass == Conv2dPass::forward ? shape.group_out() : shape.group_in()),
      rows_(rows_of_a_task(context)),
      source_layout_(many_tiles() ? rows_ : tiles_.count(), round_up(groups_ * depth_, 16) + 16),
      sums_layout_(rows_, panel) {
  zeros_ = workspace.take<float>(groups_ * depth_);
  sources_ = workspace.take<float>(many_tiles() ? context.threads * source_layout_.size() : source_layout_.size());
  const std::int64_t depth_blocks = (depth_ + winograd_depth - 1) / winograd_depth;
  weights_ =
      workspace.take<float>((many_tiles() ? panels() * depth_blocks : context.threads) * positions * weights_pitch);
  sums_ = workspace.take<float>(context.threads * sums_layout_.size());
}

std::int64_t WinogradProduct::rows_of_a_task(const Context& context) const {
  if (many_tiles()) return 2 * micro_rows;
  constexpr std::int64_t least = 4, most = 128;
  const std::int64_t cuts = std::max<std::int64_t>(context.threads / std::max<std::int64_t>(panels(), 1), 1);
  return std::clamp((tiles_.count() + cuts - 1) / cuts, std::min(least, tiles_.count()), most);
}

float* WinogradProduct::weights_at(std::int64_t number, std::int64_t depth) const {
  const std::int64_t depth_blocks = (depth_ + winograd_depth - 1) / winograd_depth;
  return weights_ + (number * depth_blocks + depth / winograd_depth) * positions * weights_pitch;
}

/// The filters of a panel of columns at a block of depth, transformed: [36][depth][column].
template <int taps, class S>
void WinogradProduct::transform_weights(const Array& weight, std::int64_t number, std::int64_t depth, float* to) const {
  constexpr int width = lanes<float>;
  const std::int64_t column = column_of(number), group = group_of(number);
  // Groups follow each other in the weight's filters, which are columns forward and depths backwards.
  const std::int64_t first_column = pass_ == Conv2dPass::forward ? group * columns_ : 0;
  const std::int64_t first_depth = pass_ == Conv2dPass::forward ? 0 : group * depth_;
  const std::int64_t end = std::min(depth_, depth + winograd_depth);
  for (std::int64_t k = depth; k < end; k += width)
    for (std::int64_t c = column; c < std::min(columns_, column + panel); c += width) {
      const int count = static_cast<int>(std::min<std::int64_t>(width, end - k));
      const int columns = static_cast<int>(std::min<std::int64_t>(width, columns_ - c));
      Filters<taps> filters;
      read_filters<taps, S>(weight, pass_, first_depth + k, count, first_column + c, columns, filters);
      float* square = to + (k - depth) * panel + (c - column);
      for (int d = 0; d < count; ++d, square += panel)
        transform_square<taps, points>(
            EvaluateScaled{}, [&](int i, int j) { return filters[i * taps + j][d]; },
            [&](int i, int j, Vector<float> v) { store(square + (i * points + j) * weights_pitch, v); });
    }
}

/// Adds the products of one block of depth to the sums of the block.
void WinogradProduct::multiply(const Block& block, std::int64_t depth, const float* weights) const {
  const std::int64_t steps = (block.count + micro_rows - 1) / micro_rows, step = (block.count + steps - 1) / steps;
  for (int p = 0; p < positions; ++p) {
    const float* a = block.source + p * source_layout_.position_pitch + block.group * depth_ + depth;
    float* sums = block.sums + p * sums_layout_.position_pitch;
    for (std::int64_t row = 0; row < block.count; row += step)
      panel_kernel<Operand::plain>(std::min(step, block.count - row), columns_ - block.column)(
          std::min(winograd_depth, depth_ - depth), a + row * source_layout_.row_pitch, source_layout_.row_pitch,
          weights + p * weights_pitch, sums + row * panel, depth == 0);
  }
}

void WinogradProduct::run(const Context& context, const Array& source, const Array& weight,
                          const Destination& output) const {
  std::fill_n(static_cast<float*>(zeros_), groups_ * depth_, 0.0F);
  many_tiles() ? run_by_tiles(context, source, weight, output) : run_by_columns(context, source, weight, output);
}

void WinogradProduct::run_by_tiles(const Context& context, const Array& source, const Array& weight,
                                   const Destination& output) const {
  const std::int64_t depth_blocks = (depth_ + winograd_depth - 1) / winograd_depth;
  for_storage(source.dtype, [&](auto tag) {
    using S = decltype(tag);
    for_taps(tiles_.taps, [&](auto taps) {
      parallel_tasks(context, panels() * depth_blocks, [&](std::int64_t task, int) {
        const std::int64_t number = task / depth_blocks, depth = task % depth_blocks * winograd_depth;
        transform_weights<taps, S>(weight, number, depth, weights_at(number, depth));
      });
      parallel_tasks(context, (tiles_.count() + rows_ - 1) / rows_, [&](std::int64_t task, int worker) {
        float* transformed = sources_ + worker * source_layout_.size();
        Block block{task * rows_,
                    std::min(rows_, tiles_.count() - task * rows_),
                    0,
                    0,
                    transformed,
                    sums_ + worker * sums_layout_.size()};
        winograd_transform_source(source, tiles_, block.first, block.count, transformed, source_layout_, zeros_);
        for (std::int64_t number = 0; number < panels(); ++number) {
          block.group = group_of(number);
          block.column = column_of(number);
          for (std::int64_t depth = 0; depth < depth_; depth += winograd_depth)
            multiply(block, depth, weights_at(number, depth));
          block.write<taps, S>(*this, output);
        }
      });
    });
  });
}

void WinogradProduct::run_by_columns(const Context& context, const Array& source, const Array& weight,
                                     const Destination& output) const {
  for_storage(source.dtype, [&](auto tag) {
    using S = decltype(tag);
    for_taps(tiles_.taps, [&](auto taps) {
      parallel_range(context, tiles_.count(), 4, [&](std::int64_t begin, std::int64_t end) {
        winograd_transform_source(source, tiles_, begin, end - begin, sources_ + begin * source_layout_.row_pitch,
                                  source_layout_, zeros_);
      });
      parallel_tasks(context, panels() * ((tiles_.count() + rows_ - 1) / rows_), [&](std::int64_t task, int worker) {
        const std::int64_t first = task / panels() * rows_, number = task % panels();
        const Block block{first,
                          std::min(rows_, tiles_.count() - first),
                          group_of(number),
                          column_of(number),
                          sources_ + first * source_layout_.row_pitch,
                          sums_ + worker * sums_layout_.size()};
        float* weights = weights_ + worker * positions * weights_pitch;
        for (std::int64_t depth = 0; depth < depth_; depth += winograd_depth) {
          transform_weights<taps, S>(weight, number, depth, weights);
          multiply(block, depth, weights);
        }
        block.write<taps, S>(*this, output);
      });
    });
  });
}

bool winograd_serves(const Conv2dShape& shape, DType dtype) {
  const auto fits = [&](const Conv2dAxis& axis) { return axis.stride == 1 && axis.kernel == shape.height.kernel; };
  const bool square = fits(shape.height) && fits(shape.width);
  return square && (shape.height.kernel == 3 || shape.height.kernel == 5) && dtype != DType::float64 &&
         std::min(shape.group_in(), shape.group_out()) >= 16;
}

bool winograd_chosen(const Conv2dShape& shape, DType dtype, Conv2dPass pass) {
  if (shape.algorithm != Conv2dAlgorithm::automatic) return shape.algorithm == Conv2dAlgorithm::winograd;
  if (!winograd_serves(shape, dtype)) return false;
  const WinogradTiles tiles(shape, pass);
  // Of fewer pixels than that, the weights are all that counts, and conv2d_few.h reads them but once.
  constexpr std::int64_t fewest_outputs = 33;
  if (shape.outputs() < fewest_outputs) return false;
  // A sum over few pixels has small errors when it is summed directly: those of the transforms would pass 3 times them.
  const std::int64_t fewest = tiles.taps == 3 ? 8 : 96;
  if (pass == Conv2dPass::backward_weight && tiles.count() < fewest) return false;
  const auto channels = static_cast<double>(shape.in_channels + shape.out_channels);
  const auto pairs = static_cast<double>(shape.in_channels * shape.group_out());
  const auto outputs = static_cast<double>(tiles.batch * tiles.height.outputs * tiles.width.outputs);
  const auto taps = static_cast<double>(shape.height.kernel * shape.width.kernel);
  // Everything in multiply-adds of the direct kernels: the products' own, what a tile's channel and a filter take,
  // transformed and moved through the caches, and what a second round of tasks does.
  constexpr double product_cost = 0.85, channel_cost = 275, round_cost = 3e5;
  const double filter_cost = tiles.taps == 3 ? 160 : 280;
  const double fast =
      static_cast<double>(tiles.count()) * (product_cost * positions * pairs + channel_cost * channels) +
      filter_cost * pairs + round_cost;
  return 1.125 * fast < outputs * taps * pairs;
}

}  // namespace imgrec::cpu
