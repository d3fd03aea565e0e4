// The gradients that are sums over all pixels: of the weights, a matrix product whose long dimension is the pixels, and
// of the bias.
//
// Pixels are cut into chunks that are summed on their own. Within one, a block of dy is packed into panels of columns,
// or read in place where its rows are short and whole vectors, and multiplied with blocks of channels of x, which are
// read where they lie (outer_product.h).
#include "cpu/conv2d.h"
#include "cpu/vector_io.h"

namespace imgrec::cpu {

Chunks::Chunks(std::int64_t total, std::int64_t shortest, std::int64_t most) : total(total) {
  length = std::max<std::int64_t>({shortest, (total + most - 1) / std::max<std::int64_t>(most, 1), 1});
  count = std::max<std::int64_t>(1, (total + length - 1) / length);
}

namespace {

/// Writes the pointers of output pixels [first, first + count) at one tap, output row by output row.
template <class T>
void point_at_tap(const Patches<T>& patches, std::int64_t tap, std::int64_t channel, std::int64_t first,
                  std::int64_t count, const T** pointers) {
  const Axis &height = patches.height, &width = patches.width;
  for (std::int64_t done = 0, some; done < count; done += some) {
    const Pixel pixel(first + done, height, width);
    some = std::min(count - done, width.outputs - pixel.column);
    const std::int64_t y = height.position(pixel.row, tap / width.taps);
    std::int64_t x = width.position(pixel.column, tap % width.taps);
    const bool inside = height.inside(y);
    const T* row = inside ? patches.row(pixel.image, y) + channel : patches.zeros;
    const std::int64_t stride = inside ? patches.pixel_stride : 0;
    for (std::int64_t j = 0; j < some; ++j, x += width.step)
      pointers[done + j] = width.inside(x) ? row + x * stride : patches.zeros;
  }
}

constexpr std::int64_t partial_limit = std::int64_t{1} << 23;  // elements of all partial sums together

}  // namespace

/// A part of the blocks of one group, over one chunk of pixels.
template <class T>
struct WeightGradient<T>::Task {
  std::int64_t group, chunk, first_block, last_block;
  T *sums, *packed;
  const T** pointers;
};

template <class T>
WeightGradient<T>::WeightGradient(const Context& context, const Patches<T>& patches, const Conv2dShape& shape,
                                  DType dtype, Workspace& workspace)
    : groups_(shape.groups),
      columns_(shape.group_out()),
      width_(round_up(columns_, micro_cols<T>)),
      run_(patches.run),
      taps_(patches.taps()),
      blocks_(taps_ * run_.count),
      reads_in_place_(size_of(dtype) == sizeof(T) && columns_ % lanes<T> == 0 &&
                      shape.out_channels <= 2 * micro_cols<T>),
      chunks_(0, 1, 1) {
  size_ = groups_ * taps_ * run_.columns * width_;
  const std::int64_t most = std::clamp<std::int64_t>(partial_limit / std::max<std::int64_t>(size_, 1), 1, 32);
  chunks_ = Chunks(patches.outputs(), 1024, most);
  parts_ = std::clamp<std::int64_t>(16 / (chunks_.count * groups_), 1, std::max<std::int64_t>(blocks_, 1));
  pixel_block_ = std::clamp<std::int64_t>((std::int64_t{1} << 16) / std::max<std::int64_t>(width_, 1), 32, 128);
  partial_ = workspace.take<T>(chunks_.count * size_);
  packed_ = workspace.take<T>(context.threads * pixel_block_ * width_);
  pointers_ = workspace.take<const T*>(context.threads * pixel_block_);
}

template <class T>
void WeightGradient<T>::pack_pixels(T* packed, const Array& dy, std::int64_t first, std::int64_t count,
                                    std::int64_t group) const {
  const std::int64_t channels = groups_ * columns_;
  for_floating(dy.dtype, [&](auto tag) {
    using S = decltype(tag);
    if constexpr (std::is_same_v<Compute<S>, T>) {
      for (std::int64_t column = 0; column < columns_; column += micro_cols<T>) {
        const S* from = dy.as<const S>() + first * channels + group * columns_ + column;
        const int left = static_cast<int>(std::min<std::int64_t>(micro_cols<T>, columns_ - column));
        const int low = std::min(left, lanes<T>), high = left - low;
        for (std::int64_t k = 0; k < count; ++k, from += channels, packed += micro_cols<T>) {
          store(packed, load_wide(from, low));
          store(packed + lanes<T>, load_wide(from + low, high));
        }
      }
    }
  });
}

template <class T>
void WeightGradient<T>::sum_chunk(const Patches<T>& patches, const Array& dy, const Task& task) const {
  const std::int64_t begin = task.chunk * chunks_.length, end = std::min(chunks_.total, begin + chunks_.length);
  const std::int64_t channels = groups_ * columns_;
  for (std::int64_t first = begin; first < end; first += pixel_block_) {
    const std::int64_t count = std::min(pixel_block_, end - first);
    const T* in_place = dy.as<const T>() + first * channels + task.group * columns_;
    if (!reads_in_place_) pack_pixels(task.packed, dy, first, count, task.group);
    for (std::int64_t block = task.first_block; block < task.last_block; ++block) {
      const std::int64_t tap = block / run_.count;
      if (block == task.first_block || block % run_.count == 0)
        point_at_tap(patches, tap, task.group * run_.columns, first, count, task.pointers);
      const std::int64_t offset = run_.offset(block % run_.count);
      T* tile = task.sums + (tap * run_.columns + offset) * width_;
      for (std::int64_t column = 0; column < columns_; column += micro_cols<T>)
        add_outer_products<T>(run_.size(block % run_.count), columns_ - column > lanes<T>, count, task.pointers, offset,
                              reads_in_place_ ? in_place + column : task.packed + column * count,
                              reads_in_place_ ? channels : micro_cols<T>, tile + column, width_, first == begin,
                              {tile, 0});
    }
  }
}

/// Transposes a block's sums into the rows of dweight.
template <class T>
void WeightGradient<T>::write_block(const Array& dweight, std::int64_t group, std::int64_t block) const {
  const std::int64_t depth = taps_ * run_.columns, rows = run_.size(block % run_.count);
  const std::int64_t first = block / run_.count * run_.columns + run_.offset(block % run_.count);
  const std::int64_t begin = (group * depth + first) * width_;
  combine_chunks(partial_, chunks_.count, size_, begin, begin + rows * width_);
  for_floating(dweight.dtype, [&](auto tag) {
    using S = decltype(tag);
    if constexpr (std::is_same_v<Compute<S>, T>)
      store_transposed(dweight.as<S>() + group * columns_ * depth + first, depth, partial_ + begin, width_, rows,
                       columns_);
  });
}

template <class T>
void WeightGradient<T>::run(const Context& context, const Array& dweight, const Patches<T>& patches,
                            const Array& dy) const {
  const std::int64_t part_blocks = (blocks_ + parts_ - 1) / parts_;
  parallel_tasks(context, groups_ * chunks_.count * parts_, [&](std::int64_t number, int worker) {
    const std::int64_t part = number % parts_, chunk = number / parts_ % chunks_.count;
    const std::int64_t group = number / parts_ / chunks_.count, first_block = part * part_blocks;
    const Task task{group,
                    chunk,
                    first_block,
                    std::min(blocks_, first_block + part_blocks),
                    partial_ + chunk * size_ + group * (size_ / groups_),
                    packed_ + worker * pixel_block_ * width_,
                    pointers_ + worker * pixel_block_};
    sum_chunk(patches, dy, task);
  });
  parallel_tasks(context, groups_ * blocks_,
                 [&](std::int64_t task, int) { write_block(dweight, task / blocks_, task % blocks_); });
}

template <class T>
BiasGradient<T>::BiasGradient(const Conv2dShape& shape, Workspace& workspace)
    : channels_(shape.out_channels),
      chunks_(shape.batch * shape.height.output() * shape.width.output(), 256, 64),
      partial_(workspace.take<T>(chunks_.count * round_up(channels_, lanes<T>))) {}

namespace {

/// Adds `pixels` pixels to the sums of their channels, four vectors at a time. Short sums lose fewer digits.
template <class S, class T>
void sum_pixels(const S* dy, std::int64_t pixels, std::int64_t channels, T* sums) {
  std::int64_t c = 0;
  for (; c + 4 * lanes<T> <= channels; c += 4 * lanes<T>) {
    Vector<T> some[4] = {};
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) some[v] += load_wide(dy + pixel * channels + c + v * lanes<T>);
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) store(sums + c + v * lanes<T>, load(sums + c + v * lanes<T>) + some[v]);
  }
  for_vectors<S>(c, channels, [&](std::int64_t i, int count) {
    Vector<T> some{};
    for (std::int64_t pixel = 0; pixel < pixels; ++pixel) some += load_wide(dy + pixel * channels + i, count);
    store(sums + i, load(sums + i) + some);
  });
}

}  // namespace

template <class T>
void BiasGradient<T>::run(const Context& context, const Array& dbias, const Array& dy) const {
  const std::int64_t size = round_up(channels_, lanes<T>);
  parallel_tasks(context, chunks_.count, [&](std::int64_t chunk, int) {
    T* sums = partial_ + chunk * size;
    std::fill(sums, sums + size, T(0));
    const std::int64_t begin = chunk * chunks_.length, end = std::min(chunks_.total, begin + chunks_.length);
    for_floating(dy.dtype, [&](auto tag) {
      using S = decltype(tag);
      if constexpr (std::is_same_v<Compute<S>, T>)
        for (std::int64_t first = begin; first < end; first += 64)
          sum_pixels(dy.as<const S>() + first * channels_, std::min<std::int64_t>(64, end - first), channels_, sums);
    });
  });
  combine_chunks(partial_, chunks_.count, size, 0, size);
  narrow_all(dbias.data, dbias.dtype, 0, partial_, channels_);
}

template class WeightGradient<float>;
template class WeightGradient<double>;
template class BiasGradient<float>;
template class BiasGradient<double>;

}  // namespace imgrec::cpu
