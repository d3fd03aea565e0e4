// The gradient of the weights by Winograd's minimal filtering, the transpose of the forward transform:
//
//     V[36][tile][c] = B^T x B    D[36][tile][o] = A dy A^T    S[36][c][o] = V^T D, 36 products    dw = G^T S G
//
// A block of S has up to 64 input channels and a panel of output channels.
//   - Many tiles and few channels: tiles are cut into up to 16 parts. A task transforms and multiplies its part, 32
//     tiles at a time, whose V and D stay in the second-level cache; the parts' S are added in a tree.
//   - Else: all threads first make V and D of up to 160 tiles, then a task is a block with all its positions. Where
//     these are all tiles, S, which is 4 times as large as the weights, never leaves the second-level cache.
// Either way an element is summed over 32 tiles at a time, in an order that the shape gives.
#include "cpu/conv2d_winograd.h"
#include "cpu/conv2d_winograd_panel.h"
#include "cpu/conv2d_winograd_transforms.h"
#include "cpu/vector_io.h"

namespace imgrec::cpu {

using namespace winograd;

namespace {

constexpr std::int64_t panel = micro_cols<float>;
constexpr std::int64_t sum_tiles = 32;  // short sums are added to the whole: they lose fewer digits
constexpr std::int64_t chunk_tiles = 160;

/// Where D[position][group][panel of columns][tile][column] has its panels and positions.
struct GradientLayout {
  std::int64_t groups, panels, panel_pitch, position_pitch;
};

/// Transforms dy under the tiles [first, first + count).
template <int taps, class S>
void transform_gradient(const Array& dy, const WinogradTiles& tiles, std::int64_t first, std::int64_t count, float* to,
                        const GradientLayout& layout, const S* zeros) {
  constexpr int size = tile_outputs<taps>;
  const std::int64_t columns = dy.shape[3] / layout.groups;
  for (std::int64_t tile = first; tile < first + count; ++tile, to += panel) {
    const WinogradPlace place(tile, tiles);
    const S* pixels[size * size];
    find_pixels<size>(dy, tiles, place.image, place.row, place.column, zeros, pixels);
    const auto transform = [&](std::int64_t group, std::int64_t c, int some) {
      float* vector = to + (group * layout.panels + c / panel) * layout.panel_pitch + c % panel;
      transform_square<size, points>(
          Evaluate{}, [&](int i, int j) { return load_wide(pixels[i * size + j] + group * columns + c, some); },
          [&](int i, int j, Vector<float> v) { store(vector + (i * points + j) * layout.position_pitch, v); });
    };
    for (std::int64_t group = 0; group < layout.groups; ++group) {
      std::int64_t c = 0;
      for (; c + lanes<float> <= columns; c += lanes<float>) transform(group, c, lanes<float>);
      if (c < columns) transform(group, c, static_cast<int>(columns - c));
    }
  }
}

}  // namespace

WinogradWeightGradient::WinogradWeightGradient(const Context& context, const Conv2dShape& shape, Workspace& workspace)
    : tiles_(shape, Conv2dPass::backward_weight),
      groups_(shape.groups),
      channels_(shape.group_in()),
      columns_(shape.group_out()),
      panels_((columns_ + panel - 1) / panel),
      channel_blocks_((channels_ + 63) / 64),
      block_channels_(round_up((channels_ + channel_blocks_ - 1) / channel_blocks_, 16)),
      parts_(tiles_.count() > chunk_tiles && groups_ * channels_ * columns_ <= 8192
                 ? std::min<std::int64_t>(16, tiles_.count() / 48)
                 : 1),
      part_tiles_((tiles_.count() + parts_ - 1) / parts_),
      chunk_(parts_ > 1 ? sum_tiles : std::min(part_tiles_, chunk_tiles)),
      source_layout_(chunk_, round_up(groups_ * channels_, 16) + 16),
      gradient_pitch_(groups_ * panels_ * chunk_ * panel + 16),
      block_pitch_(block_channels_ * panel + 16) {
  zeros_ = workspace.take<float>(groups_ * std::max(channels_, columns_));
  const std::int64_t transformed = parts_ > 1 ? context.threads : 1;
  const std::int64_t sums = chunk_ < tiles_.count() ? parts_ * blocks() : context.threads;
  source_ = workspace.take<float>(transformed * source_layout_.size());
  gradient_ = workspace.take<float>(transformed * positions * gradient_pitch_);
  sums_ = workspace.take<float>(sums * block_size());
}

/// Transforms the tiles [first, first + count) to those from number `to` on of V and D.
void WinogradWeightGradient::transform(const Array& x, const Array& dy, std::int64_t first, std::int64_t count,
                                       const Transformed& to) const {
  winograd_transform_source(x, tiles_, first, count, to.source, source_layout_, zeros_);
  for_storage(dy.dtype, [&](auto tag) {
    using S = decltype(tag);
    for_taps(tiles_.taps, [&](auto taps) {
      transform_gradient<taps>(dy, tiles_, first, count, to.gradient,
                               {groups_, panels_, chunk_ * panel, gradient_pitch_}, static_cast<const S*>(zeros_));
    });
  });
}

/// Adds the products of `count` tiles to the sums of a block.
void WinogradWeightGradient::multiply(std::int64_t block, int position, std::int64_t count, bool first,
                                      const Transformed& from, float* sums) const {
  const std::int64_t number = block / channel_blocks_, group = number / panels_;
  const std::int64_t channel = block % channel_blocks_ * block_channels_;
  const std::int64_t channels = std::min(block_channels_, channels_ - channel);
  const std::int64_t steps = (channels + micro_rows - 1) / micro_rows, step = (channels + steps - 1) / steps;
  const float* x = from.source + position * source_layout_.position_pitch + group * channels_ + channel;
  const float* dy = from.gradient + position * gradient_pitch_ + number * chunk_ * panel;
  for (std::int64_t tile = 0; tile < count; tile += sum_tiles)
    for (std::int64_t c = 0; c < channels; c += step)
      panel_kernel<Operand::transposed>(std::min(step, channels - c), columns_ - number % panels_ * panel)(
          std::min(sum_tiles, count - tile), x + tile * source_layout_.row_pitch + c, source_layout_.row_pitch,
          dy + tile * panel, sums + position * block_pitch_ + c * panel, first && tile == 0);
}

template <int taps, class S>
void WinogradWeightGradient::write(const Array& dweight, std::int64_t block, const float* sums) const {
  constexpr int width = lanes<float>;
  const std::int64_t channel = block % channel_blocks_ * block_channels_, number = block / channel_blocks_;
  const std::int64_t group = number / panels_, first = number % panels_ * panel;
  const std::int64_t end = std::min(block_channels_, channels_ - channel);
  for (std::int64_t c = 0; c < end; c += width)
    for (std::int64_t column = first; column < std::min(columns_, first + panel); column += width) {
      const int some = static_cast<int>(std::min<std::int64_t>(width, end - c));
      Vector<float> filters[taps * taps][width] = {};
      for (int d = 0; d < some; ++d) {
        const float* from = sums + (c + d) * panel + (column - first);
        transform_square<points, taps>(
            CollectScaled{}, [&](int i, int j) { return load(from + (i * points + j) * block_pitch_); },
            [&](int i, int j, Vector<float> v) { filters[i * taps + j][d] = v; });
      }
      for (int tap = 0; tap < taps * taps; ++tap) {
        transpose<float>(filters[tap]);
        for (std::int64_t k = 0; k < std::min<std::int64_t>(width, columns_ - column); ++k)
          store_narrow(
              dweight.as<S>() + ((group * columns_ + column + k) * taps * taps + tap) * channels_ + channel + c,
              filters[tap][k], some);
      }
    }
}

void WinogradWeightGradient::write_block(const Array& dweight, std::int64_t block, const float* sums) const {
  for_storage(dweight.dtype, [&](auto tag) {
    for_taps(tiles_.taps, [&](auto taps) { write<taps, decltype(tag)>(dweight, block, sums); });
  });
}

void WinogradWeightGradient::run(const Context& context, const Array& dweight, const Array& x, const Array& dy) const {
  std::fill_n(static_cast<float*>(zeros_), groups_ * std::max(channels_, columns_), 0.0F);
  parts_ > 1 ? run_by_parts(context, dweight, x, dy) : run_by_blocks(context, dweight, x, dy);
}

void WinogradWeightGradient::run_by_parts(const Context& context, const Array& dweight, const Array& x,
                                          const Array& dy) const {
  const std::int64_t part_size = blocks() * block_size(), parts = (tiles_.count() + part_tiles_ - 1) / part_tiles_;
  parallel_tasks(context, parts, [&](std::int64_t part, int worker) {
    const Transformed transformed{source_ + worker * source_layout_.size(),
                                  gradient_ + worker * positions * gradient_pitch_};
    const std::int64_t begin = part * part_tiles_, end = std::min(tiles_.count(), begin + part_tiles_);
    for (std::int64_t first = begin; first < end; first += chunk_) {
      const std::int64_t count = std::min(chunk_, end - first);
      transform(x, dy, first, count, transformed);
      for (int position = 0; position < positions; ++position)
        for (std::int64_t block = 0; block < blocks(); ++block)
          multiply(block, position, count, first == begin, transformed,
                   sums_ + part * part_size + block * block_size());
    }
  });
  parallel_tasks(context, blocks(), [&](std::int64_t block, int) {
    combine_chunks(sums_, parts, part_size, block * block_size(), (block + 1) * block_size());
    write_block(dweight, block, sums_ + block * block_size());
  });
}

void WinogradWeightGradient::run_by_blocks(const Context& context, const Array& dweight, const Array& x,
                                           const Array& dy) const {
  const bool at_once = chunk_ == tiles_.count();
  for (std::int64_t first = 0; first < tiles_.count(); first += chunk_) {
    const std::int64_t count = std::min(chunk_, tiles_.count() - first);
    parallel_range(context, count, 4, [&](std::int64_t begin, std::int64_t end) {
      transform(x, dy, first + begin, end - begin,
                {source_ + begin * source_layout_.row_pitch, gradient_ + begin * panel});
    });
    parallel_tasks(context, blocks(), [&](std::int64_t block, int worker) {
      float* sums = sums_ + (at_once ? worker : block) * block_size();
      for (int position = 0; position < positions; ++position)
        multiply(block, position, count, first == 0, {source_, gradient_}, sums);
      if (first + count == tiles_.count()) write_block(dweight, block, sums);
    });
  }
}

}  // namespace imgrec::cpu
