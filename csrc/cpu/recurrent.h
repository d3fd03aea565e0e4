// What the forward and the backward pass of the recurrent family share: how the arrays of any storage type are read and
// written, and how memory is laid out.
#pragma once

#include "cpu/recurrent_cells.h"
#include "cpu/recurrent_kernel.h"
#include "cpu/recurrent_schedule.h"
#include "cpu/storage.h"

namespace imgrec::cpu {

/// Runs of an array's elements, widened on the way in and rounded on the way out.
template <class T>
struct Elements {
  const Array& array;

  void load(T* to, std::int64_t offset, std::int64_t count) const {
    widen_all(to, array.data, array.dtype, offset, count);
  }

  void store(const T* from, std::int64_t offset, std::int64_t count) const {
    narrow_all(array.data, array.dtype, offset, from, count);
  }

  void clear(std::int64_t offset, std::int64_t count) const {
    const auto item = static_cast<std::size_t>(size_of(array.dtype));
    std::memset(array.as<char>() + static_cast<std::size_t>(offset) * item, 0, static_cast<std::size_t>(count) * item);
  }
};

/// The layer's sizes; a slot is as wide as the hidden state rounded up to whole panels, so that every vector is whole.
template <class T>
struct Extent : RecurrentShape {
  std::int64_t width, rows;

  explicit Extent(const RecurrentShape& shape)
      : RecurrentShape(shape), width(round_up(shape.hidden, micro_cols<T>)), rows(shape.batch * shape.steps) {}
};

/// What takes the cell through one step of a panel; Step holds pointers to numbers of type T.
template <class Step>
using CellFunction = void (*)(const Step&);

/// select(S{}, Cell{}), the function for a storage type that is computed in T and for a cell.
template <class T, class Step, class Select>
CellFunction<Step> cell_function(RecurrentCell cell, DType dtype, Select&& select) {
  CellFunction<Step> function = nullptr;
  for_floating(dtype, [&](auto storage) {
    if constexpr (std::is_same_v<Compute<decltype(storage)>, T>)
      function = for_cell<T>(cell, [&](auto kind) -> CellFunction<Step> { return select(storage, kind); });
  });
  return function;
}

/// What is kept of all steps for the backward pass.
template <class T>
std::int64_t reserve_bytes(const Extent<T>& extent, const CellLayout& layout) {
  return extent.rows * layout.saved * extent.width * static_cast<std::int64_t>(sizeof(T));
}

inline RecurrentShape shape_of(const RecurrentInputs& in) {
  return {in.x.shape[0], in.x.shape[1], in.x.shape[2], in.weight_hh.shape[1]};
}

/// to (N, width) = array (N, H), or zeros where it is absent; zero beyond H.
template <class T>
void load_states(T* to, const Array& array, const Extent<T>& extent) {
  for (std::int64_t sample = 0; sample < extent.batch; ++sample, to += extent.width) {
    if (array) Elements<T>{array}.load(to, sample * extent.hidden, extent.hidden);
    std::fill(to + (array ? extent.hidden : 0), to + extent.width, T(0));
  }
}

/// Row r of a state panel = `depth` elements of an array, zero to the end of the last vector.
template <class T>
void load_row(T* panel, int r, const Elements<T>& from, std::int64_t offset, std::int64_t depth) {
  alignas(64) T line[depth_block];
  for (std::int64_t begin = 0; begin < depth; begin += depth_block) {
    const std::int64_t count = std::min(depth_block, depth - begin);
    from.load(line, offset + begin, count);
    std::fill(line + count, line + round_up(count, lanes<T>), T(0));
    for (std::int64_t k = 0; k < count; k += lanes<T>) store(panel + state_offset<T>(r, begin + k), load(line + k));
  }
}

}  // namespace imgrec::cpu
