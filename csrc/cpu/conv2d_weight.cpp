// The gradients that are sums over all pixels: of the weights, a matrix product whose long dimension is the pixels, and
// of the bias.
//
// Pixels are cut into chunks that are summed on their own. Within one, a block of dy is packed into panels of columns,
// and the micro-kernel adds outer products of dy with `block_rows` channels of x, read where they lie through one
// pointer a pixel. Where the channels of a tap are no multiple of block_rows the last block overlaps the one before it.
#include "cpu/conv2d.h"
#include "cpu/vector_io.h"

namespace imgrec::cpu {

Chunks::Chunks(std::int64_t total, std::int64_t shortest, std::int64_t most) : total(total) {
  length = std::max<std::int64_t>({shortest, (total + most - 1) / std::max<std::int64_t>(most, 1), 1});
  count = std::max<std::int64_t>(1, (total + length - 1) / length);
}

namespace {

/// tile (+)= sum over `depth` pixels of x[pixel][offset...] times dy[pixel][columns...], `rows` by V vectors.
template <class T, int rows, int V>
void outer_kernel(std::int64_t depth, const T* const* pixels, std::int64_t offset, const T* dy, T* tile,
                  std::int64_t ld, bool first) {
  Vector<T> sums[rows][V] = {};
  for (std::int64_t k = 0; k < depth; ++k, dy += micro_cols<T>) {
    const T* x = pixels[k] + offset;
    Vector<T> columns[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) columns[v] = load(dy + v * lanes<T>);
#pragma GCC unroll 16
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sums[r][v] += x[r] * columns[v];
  }
#pragma GCC unroll 16
  for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      T* to = tile + r * ld + v * lanes<T>;
      store(to, first ? sums[r][v] : load(to) + sums[r][v]);
    }
}

/// The rows of a micro-kernel that waste least on a run: each block costs its rows and about two more.
std::int64_t rows_for(std::int64_t run) {
  std::int64_t best = 1, least = 3 * run;
  for (const std::int64_t rows : {2, 4, vector_registers == 32 ? 8 : 4, micro_rows}) {
    const std::int64_t cost = (run + rows - 1) / rows * (rows + 2);
    if (rows <= run && cost <= least) best = rows, least = cost;
  }
  return best;
}

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
                                  Workspace& workspace)
    : groups_(shape.groups),
      columns_(shape.group_out()),
      width_(round_up(columns_, micro_cols<T>)),
      run_(patches.run),
      taps_(patches.taps()),
      block_rows_(rows_for(run_)),
      run_blocks_((run_ + block_rows_ - 1) / block_rows_),
      blocks_(taps_ * run_blocks_),
      chunks_(0, 1, 1) {
  size_ = groups_ * blocks_ * block_rows_ * width_;
  const std::int64_t most = std::clamp<std::int64_t>(partial_limit / std::max<std::int64_t>(size_, 1), 1, 32);
  chunks_ = Chunks(patches.outputs(), 1024, most);
  parts_ = std::clamp<std::int64_t>(16 / (chunks_.count * groups_), 1, std::max<std::int64_t>(blocks_, 1));
  pixel_block_ = std::clamp<std::int64_t>((std::int64_t{1} << 16) / std::max<std::int64_t>(width_, 1), 32, depth_block);
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
template <int rows>
void WeightGradient<T>::sum_chunk(const Patches<T>& patches, const Array& dy, const Task& task) const {
  const std::int64_t begin = task.chunk * chunks_.length, end = std::min(chunks_.total, begin + chunks_.length);
  for (std::int64_t first = begin; first < end; first += pixel_block_) {
    const std::int64_t count = std::min(pixel_block_, end - first);
    pack_pixels(task.packed, dy, first, count, task.group);
    for (std::int64_t block = task.first_block; block < task.last_block; ++block) {
      const std::int64_t tap = block / run_blocks_;
      if (block == task.first_block || block % run_blocks_ == 0)
        point_at_tap(patches, tap, task.group * run_, first, count, task.pointers);
      const std::int64_t offset = std::min(block % run_blocks_ * rows, run_ - rows);
      T* tile = task.sums + block * rows * width_;
      for (std::int64_t column = 0; column < columns_; column += micro_cols<T>) {
        const auto kernel = columns_ - column > lanes<T> ? outer_kernel<T, rows, 2> : outer_kernel<T, rows, 1>;
        kernel(count, task.pointers, offset, task.packed + column * count, tile + column, width_, first == begin);
      }
    }
  }
}

template <class T>
void WeightGradient<T>::write_block(const Array& dweight, std::int64_t group, std::int64_t block) const {
  const std::int64_t elements = block_rows_ * width_, begin = (group * blocks_ + block) * elements;
  combine_chunks(partial_, chunks_.count, size_, begin, begin + elements);
  const T* sums = partial_ + begin;
  const std::int64_t offset = std::min(block % run_blocks_ * block_rows_, run_ - block_rows_);
  const std::int64_t fresh = block % run_blocks_ * block_rows_ - offset;  // rows that the block before has written
  const std::int64_t depth = taps_ * run_, first = block / run_blocks_ * run_ + offset;
  for_floating(dweight.dtype, [&](auto tag) {
    using S = decltype(tag);
    if constexpr (std::is_same_v<Compute<S>, T>)
      for (std::int64_t column = 0; column < columns_; ++column) {
        S* to = dweight.as<S>() + (group * columns_ + column) * depth + first;
        for (std::int64_t r = fresh; r < block_rows_; ++r) to[r] = narrow<S>(sums[r * width_ + column]);
      }
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
    if (block_rows_ == micro_rows) return sum_chunk<micro_rows>(patches, dy, task);
    if (block_rows_ == 8) return sum_chunk<8>(patches, dy, task);
    if (block_rows_ == 4) return sum_chunk<4>(patches, dy, task);
    if (block_rows_ == 2) return sum_chunk<2>(patches, dy, task);
    sum_chunk<1>(patches, dy, task);
  });
  parallel_tasks(context, groups_ * blocks_,
                 [&](std::int64_t task, int) { write_block(dweight, task / blocks_, task % blocks_); });
}

template <class T>
BiasGradient<T>::BiasGradient(const Conv2dShape& shape, Workspace& workspace)
    : channels_(shape.out_channels),
      chunks_(shape.batch * shape.height.output() * shape.width.output(), 256, 64),
      partial_(workspace.take<T>(chunks_.count * round_up(channels_, lanes<T>))) {}

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
          for_vectors<S>(0, channels_, [&](std::int64_t c, int count) {
            Vector<T> some{};  // short sums first: they lose fewer digits
            for (std::int64_t pixel = first; pixel < std::min(end, first + 64); ++pixel)
              some += load_wide(dy.as<const S>() + pixel * channels_ + c, count);
            store(sums + c, load(sums + c) + some);
          });
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
