// The implicit matrix product of patches and weights, behind the forward and the backward_input pass.
//
// The blocking is gemm.h's, but A is not packed: the micro-kernel reads the channels of a block of up to `micro_rows`
// neighbouring pixels where they lie. Where patches are pixels, or the padding has been written out, they lie at a
// constant distance; elsewhere there is one pointer for each pixel and tap. Sums are written from registers to the
// image they belong to, where that has the right type and order, or else to a tile. A row of C is a sum over taps, then
// channels, in one fixed order.
#include <array>

#include "cpu/conv2d.h"

namespace imgrec::cpu {
namespace {

/// Asks for the lines that will be written: they come while the product is computed.
template <class T, int R, int V>
inline void fetch(const Sums<T>& sums) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) __builtin_prefetch(sums.to + r * sums.ld + v * lanes<T>, 1);
}

template <class T, int R, int V>
inline void finish(const Vector<T> (&values)[R][V], int rows, const Sums<T>& sums) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    if (r >= rows) return;
    T* to = sums.to + r * sums.ld;
    const T* start = sums.start + r * sums.start_ld;
    if constexpr (V == 2) store(to, load(start) + values[r][0]);
    constexpr int last = (V - 1) * lanes<T>;
    store_first(to + last, load_first(start + last, sums.last) + values[r][V - 1], sums.last);
  }
}

/// Adds A B, where `pointers` [tap][micro_rows] point at the rows of A, the last of which may not count, and B has V
/// vectors of columns worth computing. What the pointers `ahead` point at is asked for meanwhile.
template <class T, int V>
void pointer_kernel(const Depth& depth, const T* const* pointers, std::int64_t ahead, int count, const T* b,
                    const Sums<T>& sums) {
  constexpr std::int64_t line = 64 / sizeof(T);
  fetch<T, micro_rows, V>(sums);
  Vector<T> values[micro_rows][V] = {};
  pointers += depth.tap * micro_rows;
  for (std::int64_t tap = 0; tap < depth.taps; ++tap, pointers += micro_rows) {
    const T* rows[micro_rows];
#pragma GCC unroll 16
    for (int r = 0; r < micro_rows; ++r) rows[r] = pointers[r] + depth.channel;
    for (std::int64_t c = 0; c < depth.channels;) {
      if (ahead > 0)
#pragma GCC unroll 16
        for (int r = 0; r < micro_rows; ++r) __builtin_prefetch(pointers[ahead + r] + depth.channel + c, 0, 2);
      for (const std::int64_t end = std::min(c + line, depth.channels); c < end; ++c, b += micro_cols<T>) {
        Vector<T> columns[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) columns[v] = load(b + v * lanes<T>);
#pragma GCC unroll 16
        for (int r = 0; r < micro_rows; ++r)
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) values[r][v] += rows[r][c] * columns[v];
      }
    }
  }
  finish<T, micro_rows, V>(values, count, sums);
}

/// The same for R rows of A that lie rows.stride elements apart, and their taps rows.tap_stride.
template <class T, int R, int V>
void strided_kernel(const Depth& depth, const StridedRows<T>& rows, const T* b, const Sums<T>& sums) {
  const std::int64_t stride = rows.stride, tap_stride = rows.tap_stride;
  const T* a = rows.first;
  constexpr int bases = (R + 2) / 3;  // one base address serves three rows, the stride its index: few registers
  fetch<T, R, V>(sums);
  Vector<T> values[R][V] = {};
  a += depth.tap * tap_stride + depth.channel;
  for (std::int64_t tap = 0; tap < depth.taps; ++tap, a += tap_stride) {
    const T* base[bases];
#pragma GCC unroll 5
    for (int i = 0; i < bases; ++i) base[i] = a + 3 * i * stride;
    for (std::int64_t c = 0; c < depth.channels; ++c, b += micro_cols<T>) {
      Vector<T> columns[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) columns[v] = load(b + v * lanes<T>);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) values[r][v] += base[r / 3][r % 3 * stride] * columns[v];
#pragma GCC unroll 5
      for (int i = 0; i < bases; ++i) ++base[i];
    }
  }
  finish<T, R, V>(values, R, sums);
}

/// strided_kernel for 1 ... micro_rows rows.
template <class T, int V>
constexpr auto strided_kernels = []<int... r>(std::integer_sequence<int, r...>) {
  return std::array{strided_kernel<T, r + 1, V>...};
}(std::make_integer_sequence<int, micro_rows>{});

/// Up to micro_rows neighbouring output pixels, for one call of a micro-kernel.
template <class T>
struct Block {
  std::int64_t pixel;
  int rows;
  const T* first;            // the first of their patches, where these lie at a constant distance
  const T* const* pointers;  // elsewhere
};

/// Patches at a constant distance within each output row; rows are cut into equal blocks.
template <class T>
class StridedPatches {
 public:
  explicit StridedPatches(const Patches<T>& patches) : patches_(joined(patches)) {
    const std::int64_t width = patches_.width.outputs;
    row_blocks_ = (width + micro_rows - 1) / micro_rows;
    size_ = (width + row_blocks_ - 1) / row_blocks_;
    row_blocks_ = (width + size_ - 1) / size_;
  }

  std::int64_t blocks() const { return patches_.batch * patches_.height.outputs * row_blocks_; }

  Block<T> block(std::int64_t number, std::int64_t channel) const {
    const Axis &height = patches_.height, &width = patches_.width;
    const std::int64_t row = number / row_blocks_, column = number % row_blocks_ * size_;
    const T* from = patches_.row(row / height.outputs, height.position(row % height.outputs, 0));
    return {row * width.outputs + column, static_cast<int>(std::min(size_, width.outputs - column)),
            from + width.position(column, 0) * patches_.pixel_stride + channel, nullptr};
  }

  std::int64_t stride() const { return patches_.width.step * patches_.pixel_stride; }
  std::int64_t tap_stride() const { return patches_.height.advance * patches_.row_stride; }

 private:
  /// Patches that are all pixels of all images, one after the other, become those of a single row.
  static Patches<T> joined(Patches<T> patches) {
    Axis &height = patches.height, &width = patches.width;
    const bool pixels = height.taps == 1 && height.step == 1 && width.step == 1 && height.outputs == height.source &&
                        width.outputs == width.source;
    if (!pixels) return patches;
    const std::int64_t count = patches.outputs();
    height = {1, 1, 1, 0, 1, 1};
    width = {count, count, 1, 0, 1, 1};
    patches.batch = 1;
    return patches;
  }

  Patches<T> patches_;
  std::int64_t row_blocks_, size_;
};

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

}  // namespace

template <class T>
void multiply_rows(int rows, bool wide, const Depth& depth, const StridedRows<T>& a, const T* b, const Sums<T>& sums) {
  (wide ? strided_kernels<T, 2> : strided_kernels<T, 1>)[rows - 1](depth, a, b, sums);
}

namespace {

constexpr std::int64_t largest_tile_blocks = 8, largest_tile_rows = largest_tile_blocks * micro_rows;
template <class T>
constexpr std::int64_t largest_tile_columns(std::int64_t columns) {
  return std::min<std::int64_t>(round_up(columns, micro_cols<T>), 16 * micro_cols<T>);
}

/// Some blocks of pixels times some columns of the weights.
template <class T>
struct Tile {
  const Patches<T>& patches;
  const Output<T>& output;
  const StridedPatches<T>* strided;  // null where the patches are behind pointers
  std::int64_t column, columns;      // output channels
  T* values;                         // [largest_tile_rows][ld], where sums cannot be written in place
  std::int64_t ld;
  std::int64_t count = 0;
  Block<T> blocks[largest_tile_blocks] = {};

  Sums<T> sums(std::int64_t number, std::int64_t c, bool first) const {
    const bool in_place = output.in_place();
    T* to = in_place ? output.place(blocks[number].pixel, column + c) : values + number * micro_rows * ld + c;
    const std::int64_t to_ld = in_place ? output.channels : ld, left = columns - c;
    const int last = static_cast<int>(left > lanes<T> ? std::min<std::int64_t>(left - lanes<T>, lanes<T>) : left);
    if (!first) return {to, to_ld, to, to_ld, last};
    return {to, to_ld, output.bias ? output.bias + column + c : no_bias<T>, 0, last};
  }

  void add(const Depth& depth, std::int64_t number, std::int64_t c, const T* b, const Sums<T>& sums) const {
    const Block<T>& block = blocks[number];
    const bool wide = columns - c > lanes<T>;
    if (strided)
      multiply_rows<T>(block.rows, wide, depth, {block.first, strided->stride(), strided->tap_stride()}, b, sums);
    else
      (wide ? pointer_kernel<T, 2> : pointer_kernel<T, 1>)(depth, block.pointers, ahead(number, c), block.rows, b,
                                                           sums);
  }

  /// Where the next block's pointers are, if its pixels are to be asked for: the first panel of columns is the first to
  /// read them, and the hardware expects contiguous ones, but no strides and no groups.
  std::int64_t ahead(std::int64_t number, std::int64_t c) const {
    const bool contiguous = patches.width.step * patches.pixel_stride == patches.run;
    return c > 0 || number + 1 == count || contiguous ? 0 : micro_rows * patches.taps();
  }

  /// Blocks of depth outermost, so that a panel of B stays in the first-level cache over the rows.
  void multiply(const T* packed) const {
    const std::int64_t taps = patches.taps(), run = patches.run;
    const std::int64_t block_taps = std::max<std::int64_t>(1, depth_block / std::max<std::int64_t>(run, 1));
    Depth depth = {};
    do {
      depth.taps = std::min(block_taps, taps - depth.tap);
      depth.channel = 0;
      do {
        depth.channels = std::min(run - depth.channel, depth_block);
        for (std::int64_t c = 0; c < columns; c += micro_cols<T>) {
          const T* b = packed + c * patches.depth() + (depth.tap * run + depth.channel) * micro_cols<T>;
          for (std::int64_t i = 0; i < count; ++i) add(depth, i, c, b, sums(i, c, depth.tap + depth.channel == 0));
        }
      } while ((depth.channel += depth.channels) < run);
    } while ((depth.tap += depth.taps) < taps);
  }

  /// The same with vectors along the depth; weights [column][depth].
  void multiply_narrow(const T* weights) const {
    for (std::int64_t i = 0; i < count; ++i)
      multiply_along_depth(blocks[i].pointers, blocks[i].rows, patches.taps(), patches.run, weights, columns,
                           sums(i, 0, true));
  }

  void write() const {
    for (std::int64_t i = 0; i < count; ++i) {
      const auto& [pixel, rows, first, pointers] = blocks[i];
      if (output.in_place())
        output.activate(pixel, rows, column, columns);
      else
        output.write(values + i * micro_rows * ld, ld, pixel, rows, column, columns, patches);
    }
  }
};

}  // namespace

template <class T>
PatchScratch<T>::PatchScratch(const Context& context, std::int64_t columns, std::int64_t taps, Workspace& workspace)
    : tiles(workspace.take<T>(context.threads * largest_tile_rows * largest_tile_columns<T>(columns))),
      pointers(workspace.take<const T*>(context.threads * largest_tile_rows * taps)) {}

template <class T>
void multiply_patches(const Context& context, const PatchProduct<T>& product, const PatchScratch<T>& scratch,
                      const Output<T>& output) {
  const Patches<T>& patches = product.patches;
  const std::int64_t pixels = patches.outputs(), taps = patches.taps();
  if (pixels == 0) return;
  const StridedPatches<T> strided(patches);
  const bool is_strided = !product.along_depth && patches.width.taps == 1 && taps > 0 && patches.inside();
  const std::int64_t blocks = is_strided ? strided.blocks() : (pixels + micro_rows - 1) / micro_rows;
  const GemmTiling<T> tiling(context, blocks * micro_rows, product.columns, patches.depth(), product.groups);
  parallel_tasks(context, product.groups * tiling.count(), [&](std::int64_t task, int worker) {
    const std::int64_t group = task / tiling.count(), number = task % tiling.count();
    const std::int64_t first = number % tiling.row_tiles * (tiling.tile_rows / micro_rows);
    const std::int64_t column = number / tiling.row_tiles * tiling.tile_cols;
    Tile<T> tile{patches,
                 output,
                 is_strided ? &strided : nullptr,
                 group * product.columns + column,
                 std::min(tiling.tile_cols, tiling.n - column),
                 scratch.tiles + worker * largest_tile_rows * largest_tile_columns<T>(product.columns),
                 tiling.tile_cols,
                 std::min(tiling.tile_rows / micro_rows, blocks - first)};
    const T** pointers = scratch.pointers + worker * largest_tile_rows * taps;
    const std::int64_t pixel = first * micro_rows;
    if (!is_strided)
      find_patches(patches, pixel, std::min(tile.count * micro_rows, pixels - pixel), group * patches.run, pointers);
    for (std::int64_t i = 0; i < tile.count; ++i)
      tile.blocks[i] =
          is_strided ? strided.block(first + i, group * patches.run)
                     : Block<T>{pixel + i * micro_rows,
                                static_cast<int>(std::min<std::int64_t>(micro_rows, pixels - pixel - i * micro_rows)),
                                nullptr, pointers + i * micro_rows * taps};
    if (product.along_depth)
      tile.multiply_narrow(product.packed + tile.column * patches.depth());
    else
      tile.multiply(product.packed + group * tiling.packed_size() + column * patches.depth());
    tile.write();
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
  template void multiply_rows(int, bool, const Depth&, const StridedRows<T>&, const T*, const Sums<T>&);            \
  template struct PatchScratch<T>;                                                                                  \
  template void multiply_patches(const Context&, const PatchProduct<T>&, const PatchScratch<T>&, const Output<T>&); \
  template void pack_forward_weights(const Context&, T*, const T*, const Conv2dShape&);                             \
  template void pack_backward_weights(const Context&, T*, const T*, const Conv2dShape&, const PhaseAxis&,           \
                                      const PhaseAxis&);
IMGREC_INSTANTIATE(float)
IMGREC_INSTANTIATE(double)
#undef IMGREC_INSTANTIATE

}  // namespace imgrec::cpu
