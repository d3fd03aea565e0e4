// One step of the backward pass for a panel of samples and a block of hidden units.
#pragma once

#include "cpu/recurrent.h"
#include "cpu/vector_io.h"

namespace imgrec::cpu {

/// One step of a panel of samples for a block of micro_cols units. A pointer is to the block's first unit; that to a
/// sample's saved slots is null where the sample takes no part in the step.
template <class T>
struct BackwardStep {
  int rows, units;                  // units: how many the block has
  std::int64_t width, slot_size;    // how far the gates of next_state and the slots lie apart
  T* next_state;                    // a panel, as state_offset says
  const T* saved[micro_rows] = {};  // [slot][unit]
  const T *previous[micro_rows] = {}, *dh[micro_rows] = {};
  const void* doutput[micro_rows] = {};  // null for zeros
  T *slots[micro_rows] = {}, *carry[micro_rows] = {};
  bool last[micro_rows] = {};
};

template <class S, class Cell>
void differentiate_cell(const BackwardStep<Compute<S>>& step) {
  using T = Compute<S>;
  constexpr CellLayout layout = Cell::layout;
  for (int r = 0; r < step.rows; ++r) {
    if (!step.saved[r]) continue;
    for (int v = 0; v < micro_cols<T>; v += lanes<T>) {
      Vector<T> slot[layout.saved], gradient[layout.gradients], carry = load(step.carry[r] + v);
      for (int i = 0; i < layout.saved; ++i) slot[i] = load(step.saved[r] + i * micro_cols<T> + v);
      Vector<T> dh = load(step.dh[r] + v);
      if (step.doutput[r] && v < step.units)
        dh += load_wide(static_cast<const S*>(step.doutput[r]) + v, std::min(lanes<T>, step.units - v));
      if (layout.adds_carry && !step.last[r]) dh += carry;
      Cell::backward(gradient, slot, dh, load(step.previous[r] + v), carry);
      store(step.carry[r] + v, carry);
      for (int i = 0; i < layout.gradients; ++i) store(step.slots[r] + i * step.slot_size + v, gradient[i]);
      for (int i = 0; i < layout.gates; ++i)
        store(step.next_state + state_offset<T>(r, i * step.width + v), gradient[layout.hidden_slot + i]);
    }
  }
}

/// Asks for what the step reads and writes: it lies far apart in memory, and the product that comes first hides the
/// way.
template <class T>
[[gnu::always_inline]] inline void prefetch_cell(const BackwardStep<T>& step, const CellLayout& layout, int item) {
  constexpr int line = micro_cols<T> * static_cast<int>(sizeof(T));
  for (int r = 0; r < step.rows; ++r) {
    if (!step.saved[r]) continue;
    prefetch(step.saved[r], layout.saved * line);
    prefetch(step.previous[r], line);
    if (step.doutput[r]) prefetch(step.doutput[r], micro_cols<T> * item);
    for (int i = 0; i < layout.gradients; ++i) prefetch(step.slots[r] + i * step.slot_size, line);
  }
}

}  // namespace imgrec::cpu
