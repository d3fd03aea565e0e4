// The implicit matrix product of patches and weights, behind the forward and the backward_input pass.
//
// The blocking is gemm.h's, but A is not packed: the micro-kernel reads the channels of `micro_rows` pixels where they
// lie, through one pointer for each pixel and tap. A row of C is a sum over taps, then channels, in one fixed order.
#include "cpu/conv2d.h"

namespace imgrec::cpu {
namespace {

/// tile (+)= A B for `taps` taps of `channels` channels each; B has V vectors of columns worth computing.
template <class T, int V>
void patch_kernel(std::int64_t taps, std::int64_t first_channel, std::int64_t channels, const T* const* pointers,
                  const T* b, T* tile, std::int64_t ld, bool first) {
  Vector<T> sums[micro_rows][V] = {};
  for (std::int64_t tap = 0; tap < taps; ++tap, pointers += micro_rows) {
    const T* rows[micro_rows];
#pragma GCC unroll 16
    for (int r = 0; r < micro_rows; ++r) rows[r] = pointers[r] + first_channel;
    for (std::int64_t c = 0; c < channels; ++c, b += micro_cols<T>) {
      Vector<T> columns[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) columns[v] = load(b + v * lanes<T>);
#pragma GCC unroll 16
      for (int r = 0; r < micro_rows; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sums[r][v] += rows[r][c] * columns[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < micro_rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      T* to = tile + r * ld + v * lanes<T>;
      store(to, first ? sums[r][v] : load(to) + sums[r][v]);
    }
}

/// Writes one tap's pointers for neighbouring pixels of an output row: number `first` of the tile and those after it.
template <class T>
void point_at_tap(const T** pointers, std::int64_t taps, std::int64_t first, std::int64_t count, const T* row,
                  std::int64_t x, std::int64_t pixel_stride, const Axis& width, const T* zeros) {
  std::int64_t lane = first % micro_rows;
  const T** to = pointers + first / micro_rows * micro_rows * taps + lane;
  for (std::int64_t j = 0; j < count; ++j, x += width.step) {
    *to = width.inside(x) ? row + x * pixel_stride : zeros;
    ++to;
    if (++lane == micro_rows) lane = 0, to += micro_rows * (taps - 1);
  }
}

/// Writes the pointers of `rows` pixels from number `first` on: [block of micro_rows pixels][tap][pixel].
template <class T>
void find_patches(const Patches<T>& patches, std::int64_t first, std::int64_t rows, std::int64_t offset,
                  const T** pointers) {
  const Axis &height = patches.height, &width = patches.width;
  const std::int64_t taps = patches.taps();
  for (std::int64_t done = 0, count; done < rows; done += count) {
    const Pixel pixel(first + done, height, width);
    count = std::min(rows - done, width.outputs - pixel.column);
    const T** to = pointers;
    for (std::int64_t h = 0; h < height.taps; ++h) {
      const std::int64_t y = height.position(pixel.row, h);
      const bool inside = height.inside(y);
      const T* row = inside ? patches.row(pixel.image, y) + offset : patches.zeros;
      for (std::int64_t w = 0; w < width.taps; ++w, to += micro_rows)
        point_at_tap(to, taps, done, count, row, width.position(pixel.column, w), inside ? patches.pixel_stride : 0,
                     width, patches.zeros);
    }
  }
  // What is left of the last block is computed, but never stored.
  for (std::int64_t r = rows; r < round_up(rows, micro_rows); ++r)
    for (std::int64_t tap = 0; tap < taps; ++tap)
      pointers[rows / micro_rows * micro_rows * taps + tap * micro_rows + r % micro_rows] = patches.zeros;
}

/// The sums of one tile: blocks of depth outermost, so that a panel of B stays in the first-level cache over its rows.
template <class T>
void multiply_tile(const Patches<T>& patches, const T* packed, std::int64_t rows, std::int64_t columns,
                   const T* const* pointers, T* tile, std::int64_t ld) {
  const std::int64_t taps = patches.taps(), depth = patches.depth(), run = patches.run;
  if (depth == 0) return std::fill(tile, tile + rows * ld, T(0));
  const std::int64_t block_taps = std::max<std::int64_t>(1, depth_block / run);
  const std::int64_t block_channels = std::min(run, depth_block);
  for (std::int64_t tap = 0; tap < taps; tap += block_taps)
    for (std::int64_t channel = 0; channel < run; channel += block_channels) {
      const std::int64_t some_taps = std::min(block_taps, taps - tap);
      const std::int64_t some_channels = std::min(block_channels, run - channel);
      for (std::int64_t c = 0; c < columns; c += micro_cols<T>) {
        const T* b = packed + c * depth + (tap * run + channel) * micro_cols<T>;
        const auto kernel = columns - c > lanes<T> ? patch_kernel<T, 2> : patch_kernel<T, 1>;
        for (std::int64_t r = 0; r < rows; r += micro_rows)
          kernel(some_taps, channel, some_channels, pointers + r * taps + tap * micro_rows, b, tile + r * ld + c, ld,
                 tap + channel == 0);
      }
    }
}

constexpr std::int64_t largest_tile_rows = 8 * micro_rows;
template <class T>
constexpr std::int64_t largest_tile_columns(std::int64_t columns) {
  return std::min<std::int64_t>(round_up(columns, micro_cols<T>), 16 * micro_cols<T>);
}

}  // namespace

template <class T>
PatchScratch<T>::PatchScratch(const Context& context, std::int64_t columns, std::int64_t taps, Workspace& workspace)
    : tiles(workspace.take<T>(context.threads * largest_tile_rows * largest_tile_columns<T>(columns))),
      pointers(workspace.take<const T*>(context.threads * largest_tile_rows * taps)) {}

template <class T>
void multiply_patches(const Context& context, const PatchProduct<T>& product, const PatchScratch<T>& scratch,
                      const Output<T>& output) {
  const Patches<T>& patches = product.patches;
  const GemmTiling<T> tiling(context, patches.outputs(), product.columns, patches.depth(), product.groups);
  parallel_tasks(context, product.groups * tiling.count(), [&](std::int64_t task, int worker) {
    const std::int64_t group = task / tiling.count(), tile = task % tiling.count();
    const std::int64_t row = tile % tiling.row_tiles * tiling.tile_rows;
    const std::int64_t column = tile / tiling.row_tiles * tiling.tile_cols;
    const std::int64_t rows = std::min(tiling.tile_rows, tiling.m - row);
    const std::int64_t columns = std::min(tiling.tile_cols, tiling.n - column);
    T* sums = scratch.tiles + worker * largest_tile_rows * largest_tile_columns<T>(product.columns);
    const T** pointers = scratch.pointers + worker * largest_tile_rows * patches.taps();
    find_patches(patches, row, rows, group * patches.run, pointers);
    const T* packed = product.packed + group * tiling.packed_size() + column * patches.depth();
    multiply_tile(patches, packed, rows, columns, pointers, sums, tiling.tile_cols);
    output.write(sums, tiling.tile_cols, row, rows, group * product.columns + column, columns, patches);
  });
}

template <class T>
void pack_forward_weights(const Context& context, T* packed, const T* weight, const Conv2dShape& shape) {
  const std::int64_t depth = shape.height.kernel * shape.width.kernel * shape.group_in(), columns = shape.group_out();
  const std::int64_t size = round_up(columns, micro_cols<T>) * depth;
  for (std::int64_t group = 0; group < shape.groups; ++group) {
    const T* from = weight + group * columns * depth;
    pack_transposed_columns(context, packed + group * size, from, columns, depth);
  }
}

template <class T>
void pack_backward_weights(const Context& context, T* packed, const T* weight, const Conv2dShape& shape,
                           const PhaseAxis& height, const PhaseAxis& width) {
  const std::int64_t channels = shape.group_out(), columns = shape.group_in();
  const std::int64_t depth = height.axis.taps * width.axis.taps * channels;
  const std::int64_t size = round_up(columns, micro_cols<T>) * depth;
  for (std::int64_t group = 0; group < shape.groups; ++group)
    pack_columns(
        context, packed + group * size, columns, depth, [&](T* to, std::int64_t k, std::int64_t column, int count) {
          const std::int64_t tap = k / channels, out = group * channels + k % channels;
          const std::int64_t h = height.first_tap + tap / width.axis.taps * height.tap_step;
          const std::int64_t w = width.first_tap + tap % width.axis.taps * width.tap_step;
          const T* from = weight + ((out * shape.height.kernel + h) * shape.width.kernel + w) * columns + column;
          if (count == micro_cols<T>)
            std::copy_n(from, micro_cols<T>, to);
          else
            std::copy_n(from, count, to);
        });
}

#define IMGREC_INSTANTIATE(T)                                                                                       \
  template struct PatchScratch<T>;                                                                                  \
  template void multiply_patches(const Context&, const PatchProduct<T>&, const PatchScratch<T>&, const Output<T>&); \
  template void pack_forward_weights(const Context&, T*, const T*, const Conv2dShape&);                             \
  template void pack_backward_weights(const Context&, T*, const T*, const Conv2dShape&, const PhaseAxis&,           \
                                      const PhaseAxis&);
IMGREC_INSTANTIATE(float)
IMGREC_INSTANTIATE(double)
#undef IMGREC_INSTANTIATE

}  // namespace imgrec::cpu
