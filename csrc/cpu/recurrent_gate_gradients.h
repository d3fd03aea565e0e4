// What the backward pass computes once the time loop has found the gradients of all gates: the gradients of x, of the
// weights and of the biases.
#pragma once

#include "cpu/outer_product.h"
#include "cpu/recurrent.h"

namespace imgrec::cpu {

/// The gradients of the gates of all steps, laid out [slot][block][place][micro_cols]. The products read them as
/// they are, as the first operand in blocks of columns and as the second in packed panels.
template <class T>
class GateGradients {
 public:
  GateGradients(const Context& context, const Extent<T>& extent, const CellLayout& layout, DType dtype,
                Workspace& workspace);

  /// The gradients of micro_cols units at one place; units are counted through all slots.
  T* at(std::int64_t place, std::int64_t unit) const { return slots_ + unit * extent_.rows + place * micro_cols<T>; }

  /// How far those of the next micro_cols units lie.
  std::int64_t stride() const { return extent_.rows * micro_cols<T>; }

  /// Writes all gradients asked for but those of the initial states.
  void finish(const RecurrentGradients& gradients, const RecurrentInputs& in, const Array& output) const;

 private:
  struct Operand;
  struct Tile;
  std::int64_t places_together() const;
  void input_gradient(const Array& dx, const Array& weight_ih) const;
  void multiply_places(const Array& dx, std::int64_t place, int count, std::int64_t column, T* tile) const;
  void find_rows(const RecurrentInputs& in, const Array& output) const;
  void weight_gradients(const Array& weight_ih, const Array& weight_hh, int first_slot, int rotation) const;
  void sum_tile(const Tile& tile, std::int64_t first_unit) const;
  void write_blocks(const Tile& tile, int number, std::int64_t first, std::int64_t last, int rotation) const;
  void bias_gradients(const RecurrentGradients& gradients) const;

  const Context& context_;
  const Extent<T>& extent_;
  const CellLayout layout_;
  const bool widens_;  // x and h, which are of a type that is not computed in
  const OuterBlocks input_blocks_, hidden_blocks_;
  std::int64_t scratch_size_;  // of a thread
  T *slots_, *packed_, *scratch_, *sums_, *zeros_, *wide_ = nullptr;
  const T **inputs_, **states_;  // of each place: x, and h of the step before
};

/// packed = weight (G H, columns) as the second operand of a product with gates, in the order of the slots, each
/// `width` units wide.
template <class T>
void pack_gates(const Context& context, T* packed, const Array& weight, const Extent<T>& extent, int gates,
                int rotation);

}  // namespace imgrec::cpu
