// The stride's phases, into which backward_input falls: inputs of equal phase, (i + padding) mod stride, meet the same
// taps, and no others. Each phase is a product of its own, without zeros between the pixels of dy and with one writer
// for each element of dx. All of them, for all groups, are tiles of one launch.
#pragma once

#include <numeric>

#include "cuda/conv2d/patches.h"

namespace imgrec::cuda {

/// How many of first, first + step, ... lie below size, for every first below step: one of two numbers.
struct StridedCount {
  std::int64_t longer;  // so many of the firsts have the higher number
  FastDivisor most, fewer;

  StridedCount(std::int64_t size, std::int64_t step)
      : longer((size - 1) % step + 1),
        most((size - 1) / step + 1),
        fewer(std::max<std::int64_t>((size - 1) / step, 1)) {}

  __device__ const FastDivisor& from(std::int64_t first) const { return first < longer ? most : fewer; }
};

/// One axis of backward_input, whose patches depend on the phase.
struct PhasedAxis {
  Conv2dAxis axis;
  std::int64_t output, tap_step;
  FastDivisor phases;
  StridedCount inputs, taps;

  explicit PhasedAxis(const Conv2dAxis& axis)
      : axis(axis),
        output(axis.output()),
        tap_step(axis.stride / std::gcd(axis.stride, axis.dilation)),
        phases(std::min(axis.stride, axis.input)),
        inputs(axis.input, axis.stride),
        taps(axis.kernel, tap_step) {}

  struct Phase {
    PatchAxis patches;
    std::int64_t first_tap, tap_count;
  };

  /// Input phase + i stride met tap t at output (input + padding - t dilation) / stride where that is whole: for t in
  /// one residue class modulo tap_step, or for none.
  __device__ Phase phase(std::int64_t phase) const {
    const std::int64_t candidates = tap_step < axis.kernel ? tap_step : axis.kernel;
    std::int64_t first = 0, position = phase + axis.padding_before;
    while (first < candidates && position % axis.stride != 0) {
      ++first;
      position -= axis.dilation;
    }
    const FastDivisor& tap_count = taps.from(first);
    const auto origin = static_cast<int>(position / axis.stride);
    const auto advance = static_cast<int>(-(axis.dilation / (axis.stride / tap_step)));
    return {{static_cast<int>(output), 1, origin, advance, inputs.from(phase), tap_count},
            first,
            first < candidates ? tap_count.divisor : 0};
  }
};

/// All of backward_input, as kernels are given it.
struct PhasedInput {
  PhasedAxis height, width;
  std::int64_t batch, in_channels, group_in, out_channels;
  FastDivisor group_out;

  explicit PhasedInput(const Conv2dShape& shape)
      : height(shape.height),
        width(shape.width),
        batch(shape.batch),
        in_channels(shape.in_channels),
        group_in(shape.group_in()),
        out_channels(shape.out_channels),
        group_out(std::max<std::int64_t>(shape.group_out(), 1)) {}

  template <class Tile>
  TileGrid grid(const Conv2dShape& shape) const {
    const std::int64_t inputs = batch * height.inputs.most.divisor * width.inputs.most.divisor;
    return TileGrid::covering<Tile>(inputs, group_in, shape.groups * height.phases.divisor * width.phases.divisor);
  }
};

/// One phase for one group: rows (its inputs) times columns (its channels), over the taps that it meets.
struct PhaseProduct {
  std::int64_t group, row, column;       // row and column are the phase's
  std::int64_t first_row, first_column;  // of its taps
  Patches patches;
  std::int64_t inputs, depth;

  __device__ static PhaseProduct of(const PhasedInput& all, std::int64_t z) {
    const auto column = all.width.phases.divide(z), row = all.height.phases.divide(column.quotient);
    const PhasedAxis::Phase height = all.height.phase(row.remainder), width = all.width.phase(column.remainder);
    return {row.quotient,
            row.remainder,
            column.remainder,
            height.first_tap,
            width.first_tap,
            {height.patches, width.patches, all.out_channels, all.group_out},
            all.batch * height.patches.outputs.divisor * width.patches.outputs.divisor,
            height.tap_count * width.tap_count * all.group_out.divisor};
  }

  /// Where the weights of depth k begin: those of one tap and output channel, for all input channels.
  __device__ __forceinline__ std::int64_t weights(const PhasedInput& all, std::int64_t k) const {
    const auto o = all.group_out.divide(k), tap = patches.width.taps.divide(o.quotient);
    const std::int64_t tap_row = first_row + tap.quotient * all.height.tap_step;
    const std::int64_t tap_column = first_column + tap.remainder * all.width.tap_step;
    const std::int64_t filter = group * all.group_out.divisor + o.remainder;
    return ((filter * all.height.axis.kernel + tap_row) * all.width.axis.kernel + tap_column) * all.group_in;
  }

  /// The pixel of dx that input m of the phase is.
  __device__ __forceinline__ std::int64_t pixel(const PhasedInput& all, std::int64_t m) const {
    const auto j = patches.width.outputs.divide(m), i = patches.height.outputs.divide(j.quotient);
    const std::int64_t to_row = row + i.remainder * all.height.axis.stride;
    const std::int64_t to_column = column + j.remainder * all.width.axis.stride;
    return (i.quotient * all.height.axis.input + to_row) * all.width.axis.input + to_column;
  }
};

}  // namespace imgrec::cuda
