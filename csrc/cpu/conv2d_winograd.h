// Convolution by Winograd's minimal filtering, for stride 1, filters of 3x3 or 5x5 and enough channels in each group:
// the mathematics are in conv2d_winograd_transforms.h. Everything is computed in float32; 16-bit types are widened as
// they are read. A dilated convolution is a plain one of every dilation-th pixel, so the pixels of a tile lie so far
// apart, and tiles of all phases cover the image.
#pragma once

#include <type_traits>

#include "cpu/conv2d.h"
#include "cpu/conv2d_winograd_transforms.h"
#include "cpu/dtypes.h"

namespace imgrec::cpu {

/// Whether these kernels can serve a convolution.
bool winograd_serves(const Conv2dShape& shape, DType dtype);
/// Whether they are to serve it: where asked for, and else where an estimate of the time, from the shape alone, is
/// shorter than that of the direct ones.
bool winograd_chosen(const Conv2dShape& shape, DType dtype, Conv2dPass pass);

/// Along an axis, output i is a sum over taps t of source[i + origin + t step]. `tiles` cover the outputs; those of a
/// tile lie `step` apart.
struct WinogradAxis {
  std::int64_t source, outputs, origin, step, tiles;

  /// The first output of a tile of `size`. Neighbouring tiles differ in phase.
  std::int64_t place(std::int64_t tile, std::int64_t size) const {
    const std::int64_t phases = std::min(step, outputs);
    return tile / phases * step * size + tile % phases;
  }
  /// How many outputs of a tile of `size` that begins at `first` there are.
  std::int64_t count(std::int64_t first, std::int64_t size) const {
    return std::clamp<std::int64_t>((outputs - first + step - 1) / step, 0, size);
  }
};

/// Tiles of output pixels, numbered by image, row and column of tiles.
struct WinogradTiles {
  std::int64_t batch;
  int taps;
  WinogradAxis height, width;

  WinogradTiles(const Conv2dShape& shape, Conv2dPass pass);
  std::int64_t count() const { return batch * height.tiles * width.tiles; }
  int outputs() const { return 7 - taps; }  // along an axis of a tile
};

/// Where a tile's outputs begin.
struct WinogradPlace {
  std::int64_t image, row, column;

  WinogradPlace(std::int64_t number, const WinogradTiles& tiles)
      : image(number / (tiles.height.tiles * tiles.width.tiles)),
        row(tiles.height.place(number / tiles.width.tiles % tiles.height.tiles, tiles.outputs())),
        column(tiles.width.place(number % tiles.width.tiles, tiles.outputs())) {}
};

/// Pointers to size x size pixels of a tile, the first of them at (top, left); to zeros for those outside the image.
template <int size, class S>
void find_pixels(const Array& images, const WinogradTiles& tiles, std::int64_t image, std::int64_t top,
                 std::int64_t left, const S* zeros, const S* (&pixels)[size * size]) {
  const std::int64_t height = images.shape[1], width = images.shape[2], channels = images.shape[3];
  const S* first = images.as<const S>() + image * height * width * channels;
  for (std::int64_t i = 0; i < size; ++i) {
    const std::int64_t row = top + i * tiles.height.step;
    const bool inside = row >= 0 && row < height;
    for (std::int64_t j = 0; j < size; ++j) {
      const std::int64_t column = left + j * tiles.width.step;
      pixels[i * size + j] =
          inside && column >= 0 && column < width ? first + (row * width + column) * channels : zeros;
    }
  }
}

/// Calls body(integral_constant) with the taps of a filter, 3 or 5.
template <class Body>
void for_taps(int taps, Body&& body) {
  if (taps == 3) return body(std::integral_constant<int, 3>{});
  body(std::integral_constant<int, 5>{});
}

/// Calls body(S{}) with a storage type that is computed in float32.
template <class Body>
void for_storage(DType dtype, Body&& body) {
  for_floating(dtype, [&](auto tag) {
    if constexpr (std::is_same_v<Compute<decltype(tag)>, float>) body(tag);
  });
}

/// Rows of channels, one for each tile of a block, at each of the 36 positions. No two positions of a tile meet in one
/// set of the first-level cache.
struct WinogradLayout {
  std::int64_t row_pitch, position_pitch;

  WinogradLayout(std::int64_t rows, std::int64_t channels);
  std::int64_t size() const;
};

/// Transforms 6x6 pixels of an image under each of the tiles [first, first + count): to[position][tile][channel].
void winograd_transform_source(const Array& image, const WinogradTiles& tiles, std::int64_t first, std::int64_t count,
                               float* to, const WinogradLayout& layout, const void* zeros);

/// The forward pass, and backward_input: a convolution of dy with the filters turned round.
class WinogradProduct {
 public:
  WinogradProduct(const Context& context, const Conv2dShape& shape, Conv2dPass pass, Workspace& workspace);
  void run(const Context& context, const Array& source, const Array& weight, const Destination& output) const;

 private:
  struct Block;
  bool many_tiles() const { return tiles_.count() > 256; }
  std::int64_t rows_of_a_task(const Context& context) const;
  void run_by_tiles(const Context& context, const Array& source, const Array& weight, const Destination& output) const;
  void run_by_columns(const Context& context, const Array& source, const Array& weight,
                      const Destination& output) const;
  template <int taps, class S>
  void transform_weights(const Array& weight, std::int64_t number, std::int64_t depth, float* to) const;
  void multiply(const Block& block, std::int64_t depth, const float* weights) const;
  float* weights_at(std::int64_t panel, std::int64_t depth) const;
  std::int64_t group_panels() const { return (columns_ + micro_cols<float> - 1) / micro_cols<float>; }
  std::int64_t panels() const { return groups_ * group_panels(); }
  std::int64_t group_of(std::int64_t number) const { return number / group_panels(); }
  std::int64_t column_of(std::int64_t number) const { return number % group_panels() * micro_cols<float>; }

  WinogradTiles tiles_;
  Conv2dPass pass_;
  std::int64_t groups_, depth_, columns_, rows_;  // depth and columns of a group
  WinogradLayout source_layout_, sums_layout_;
  void* zeros_;
  float *sources_, *weights_, *sums_;
};

/// The gradient of the weights.
class WinogradWeightGradient {
 public:
  WinogradWeightGradient(const Context& context, const Conv2dShape& shape, Workspace& workspace);
  void run(const Context& context, const Array& dweight, const Array& x, const Array& dy) const;

 private:
  struct Transformed {  // V and D
    float *source, *gradient;
  };

  void run_by_parts(const Context& context, const Array& dweight, const Array& x, const Array& dy) const;
  void run_by_blocks(const Context& context, const Array& dweight, const Array& x, const Array& dy) const;
  void transform(const Array& x, const Array& dy, std::int64_t first, std::int64_t count, const Transformed& to) const;
  void multiply(std::int64_t block, int position, std::int64_t count, bool first, const Transformed& from,
                float* sums) const;
  void write_block(const Array& dweight, std::int64_t block, const float* sums) const;
  template <int taps, class S>
  void write(const Array& dweight, std::int64_t block, const float* sums) const;

  std::int64_t blocks() const { return groups_ * panels_ * channel_blocks_; }
  std::int64_t block_size() const { return winograd::positions * block_pitch_; }

  WinogradTiles tiles_;
  std::int64_t groups_, channels_, columns_, panels_;  // channels, columns and panels of a group
  std::int64_t channel_blocks_, block_channels_;
  std::int64_t parts_, part_tiles_, chunk_;
  WinogradLayout source_layout_;
  std::int64_t gradient_pitch_, block_pitch_;
  void* zeros_;
  float *source_, *gradient_, *sums_;
};

}  // namespace imgrec::cpu
