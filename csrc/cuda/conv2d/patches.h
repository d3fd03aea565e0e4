// Where the products of a convolution find their operands. All three read patches of an image: along each axis, output
// i reads its tap t at position i step + origin + t advance, or a zero where that lies outside.
//
//   product           image   output (i, j)                      taps                          channels of a tap
//   forward           x       pixel of y                         all of the filter             of x
//   backward_weight   x       pixel of y, the depth here         all of the filter             of x
//   backward_input    dy      pixel of x of one stride phase     those that this phase meets   of y (phases.h)
//
// An element's place is the sum of a part that the output has and a part that the tap has, so that a kernel computes
// each once for many elements; positions are 32-bit, offsets 64-bit.
#pragma once

#include "cuda/gemm/product.h"
#include "ops/conv2d.h"

namespace imgrec::cuda {

struct PatchAxis {
  int source, step, origin, advance;
  FastDivisor outputs, taps;

  __device__ __forceinline__ int output(std::int64_t index) const { return static_cast<int>(index) * step + origin; }
  __device__ __forceinline__ int tap(std::int64_t index) const { return static_cast<int>(index) * advance; }
};

/// Patches of channels-last images. The depth of a product numbers (tap row, tap column, channel of the group).
struct Patches {
  struct Place {
    std::int64_t offset;
    int row, column;
  };
  PatchAxis height, width;
  std::int64_t channels;  // of a pixel, of all groups
  FastDivisor group_channels;

  __device__ __forceinline__ Place place(std::int64_t image, int row, int column) const {
    return {((image * height.source + row) * width.source + column) * channels, row, column};
  }
  __device__ __forceinline__ Place output(std::int64_t index) const {
    const auto column = width.outputs.divide(index), row = height.outputs.divide(column.quotient);
    return place(row.quotient, height.output(row.remainder), width.output(column.remainder));
  }
  __device__ __forceinline__ Place tap(std::int64_t k) const {
    const auto channel = group_channels.divide(k), column = width.taps.divide(channel.quotient);
    Place tap = place(0, height.tap(column.quotient), width.tap(column.remainder));
    tap.offset += channel.remainder;
    return tap;
  }
  /// Null outside of the image.
  template <class T>
  __device__ __forceinline__ const T* find(const T* image, const Place& output, const Place& tap) const {
    const bool inside = static_cast<unsigned>(output.row + tap.row) < static_cast<unsigned>(height.source) &&
                        static_cast<unsigned>(output.column + tap.column) < static_cast<unsigned>(width.source);
    return inside ? image + (output.offset + tap.offset) : nullptr;
  }
};

/// The lines of a product are outputs of patches, its depth are taps.
template <class T>
struct PatchRows {
  static constexpr bool depth_contiguous = true;
  const T* data;
  const Patches& patches;

  __device__ Patches::Place line(std::int64_t index) const { return patches.output(index); }
  __device__ Patches::Place depth(std::int64_t k) const { return patches.tap(k); }
  __device__ const T* find(const Patches::Place& output, const Patches::Place& tap) const {
    return patches.find(data, output, tap);
  }
  __device__ Compute<T> load(const Patches::Place& output, const Patches::Place& tap) const {
    const T* from = find(output, tap);
    return from ? widen(*from) : Compute<T>(0);
  }
};

/// The lines of a product are taps of patches, its depth are outputs.
template <class T>
struct PatchColumns {
  static constexpr bool depth_contiguous = false;
  const T* data;
  const Patches& patches;

  __device__ Patches::Place line(std::int64_t index) const { return patches.tap(index); }
  __device__ Patches::Place depth(std::int64_t k) const { return patches.output(k); }
  __device__ const T* find(const Patches::Place& tap, const Patches::Place& output) const {
    return patches.find(data, output, tap);
  }
  __device__ Compute<T> load(const Patches::Place& tap, const Patches::Place& output) const {
    const T* from = find(tap, output);
    return from ? widen(*from) : Compute<T>(0);
  }
};

inline PatchAxis forward_axis(const Conv2dAxis& axis) {
  // A stride or dilation that does not fit is never taken: there is one output, or one tap.
  return {static_cast<int>(axis.input),    static_cast<int>(axis.stride), static_cast<int>(-axis.padding_before),
          static_cast<int>(axis.dilation), FastDivisor(axis.output()),    FastDivisor(axis.kernel)};
}

/// The patches of x, for forward and backward_weight.
inline Patches input_patches(const Conv2dShape& shape) {
  return {forward_axis(shape.height), forward_axis(shape.width), shape.in_channels,
          FastDivisor(std::max<std::int64_t>(shape.group_in(), 1))};
}

}  // namespace imgrec::cuda
