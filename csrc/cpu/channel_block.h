// Channels in blocks of some vectors, so that what belongs to a channel stays in registers while rows or pixels pass
// by.
#pragma once

#include <algorithm>

#include "cpu/vector_io.h"

namespace imgrec::cpu {

/// A block of neighbouring channels: some whole vectors, or one with as many lanes as are left.
template <class S, int vectors>
struct ChannelBlock {
  std::int64_t first;
  int last_lanes;

  static constexpr int size = vectors;
  int lanes_of() const { return vectors > 1 ? wide_lanes<S> : last_lanes; }
  std::int64_t channel(int v) const { return first + v * wide_lanes<S>; }

  /// The numbers of the block's channels, from an array with one for each channel.
  Vectors<Compute<S>, vectors> read(const Compute<S>* numbers) const {
    Vectors<Compute<S>, vectors> block;
    for (int v = 0; v < vectors; ++v) block.at[v] = load_wide(numbers + channel(v), lanes_of());
    return block;
  }
  void write(Compute<S>* numbers, const Vectors<Compute<S>, vectors>& block) const {
    for (int v = 0; v < vectors; ++v) store_narrow(numbers + channel(v), block.at[v], lanes_of());
  }

  /// Calls body(v, at) for the vectors of some rows: v in the block, `at` in the array.
  template <class Body>
  void for_rows(std::int64_t begin, std::int64_t count, std::int64_t channels, Body&& body) const {
    for (std::int64_t row = begin; row < begin + count; ++row)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) body(v, row * channels + channel(v));
  }
};

/// Calls body with blocks that cover all channels.
template <class S, class Body>
void for_channel_blocks(std::int64_t channels, Body&& body) {
  constexpr int width = wide_lanes<S>;
  std::int64_t first = 0;
  for (; first + 4 * width <= channels; first += 4 * width) body(ChannelBlock<S, 4>{first, width});
  for (; first + 2 * width <= channels; first += 2 * width) body(ChannelBlock<S, 2>{first, width});
  for (; first < channels; first += width)
    body(ChannelBlock<S, 1>{first, static_cast<int>(std::min<std::int64_t>(width, channels - first))});
}

}  // namespace imgrec::cpu
