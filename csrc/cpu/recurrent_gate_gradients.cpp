#include "cpu/recurrent_gate_gradients.h"

#include <array>

namespace imgrec::cpu {

template <class T>
void pack_gates(const Context& context, T* packed, const Array& weight, const Extent<T>& extent, int gates,
                int rotation) {
  const std::int64_t columns = weight.shape[1], depth = gates * extent.width;
  parallel_range(context, depth, 64, [&](std::int64_t begin, std::int64_t end) {
    T line[depth_block];  // rows are read from end to end: the processor then asks for them ahead of time
    for (std::int64_t k = begin; k < std::min(end, depth); ++k) {
      const std::int64_t gate = (k / extent.width + rotation) % gates, unit = k % extent.width;
      for (std::int64_t first = 0; first < columns; first += depth_block) {
        const std::int64_t count = unit < extent.hidden ? std::min(depth_block, columns - first) : 0;
        Elements<T>{weight}.load(line, (gate * extent.hidden + unit) * columns + first, count);
        const std::int64_t end_column = std::min(depth_block, round_up(columns - first, micro_cols<T>));
        std::fill(line + count, line + end_column, T(0));
        for (std::int64_t c = 0; c < end_column; c += micro_cols<T>)
          std::copy_n(line + c, micro_cols<T>, packed + (first + c) * depth + k * micro_cols<T>);
      }
    }
  });
}

/// One of the two that the weights are multiplied with, the gradient of its weight, and how its columns are cut.
template <class T>
struct GateGradients<T>::Operand {
  const T* const* rows;
  const Array& gradient;
  const OuterBlocks& blocks;
};

/// What one task computes of the weights' gradients: blocks [first, last) of the columns of x, then of h, times `units`
/// units of the gates from `unit` on.
template <class T>
struct GateGradients<T>::Tile {
  std::array<Operand, 2> operands;
  std::int64_t of_inputs;  // how many blocks x has
  std::int64_t first, last, unit, units, ld;
  T* sums;
};

template <class T>
GateGradients<T>::GateGradients(const Context& context, const Extent<T>& extent, const CellLayout& layout, DType dtype,
                                Workspace& workspace)
    : context_(context),
      extent_(extent),
      layout_(layout),
      widens_(size_of(dtype) != sizeof(T)),
      input_blocks_(extent.input),
      hidden_blocks_(extent.hidden) {
  const std::int64_t depth = layout.gates * extent.width;
  scratch_size_ = micro_rows * micro_cols<T>;
  for (const std::int64_t blocks :
       {input_blocks_.count, hidden_blocks_.count, input_blocks_.count + hidden_blocks_.count}) {
    const GemmTiling<T> tiling(context, blocks * micro_rows, depth, extent.rows);
    scratch_size_ = std::max(scratch_size_, tiling.tile_rows * tiling.tile_cols);
  }
  scratch_ = workspace.take<T>(context.threads * scratch_size_);
  slots_ = workspace.take<T>(extent.rows * layout.gradients * extent.width);
  packed_ = workspace.take<T>(round_up(extent.input, micro_cols<T>) * depth);
  sums_ = workspace.take<T>(layout.gradients * extent.width);
  zeros_ = workspace.take<T>(std::max(extent.input, extent.hidden));
  if (widens_) wide_ = workspace.take<T>(extent.rows * (extent.input + extent.hidden));
  inputs_ = workspace.take<const T*>(extent.rows);
  states_ = workspace.take<const T*>(extent.rows);
}

template <class T>
void GateGradients<T>::finish(const RecurrentGradients& gradients, const RecurrentInputs& in,
                              const Array& output) const {
  if (gradients.x) input_gradient(gradients.x, in.weight_ih);
  if (gradients.weight_ih || gradients.weight_hh) find_rows(in, output);
  if (layout_.hidden_slot == 0) {
    weight_gradients(gradients.weight_ih, gradients.weight_hh, 0, 0);
  } else {
    weight_gradients(gradients.weight_ih, {}, 0, layout_.rotation);
    weight_gradients({}, gradients.weight_hh, layout_.hidden_slot, 0);
  }
  if (gradients.bias_ih || gradients.bias_hh) bias_gradients(gradients);
}

/// How many places a thread multiplies at once: as many as stay in the L2 cache.
template <class T>
std::int64_t GateGradients<T>::places_together() const {
  constexpr std::int64_t elements = (1 << 18) / static_cast<std::int64_t>(sizeof(T));
  const std::int64_t panel = std::max<std::int64_t>(1, state_panel_size<T>(layout_.gates * extent_.width));
  return micro_rows * std::clamp<std::int64_t>(elements / panel, 1, 8);
}

/// dx = gradients of the gates times weight_ih.
template <class T>
void GateGradients<T>::input_gradient(const Array& dx, const Array& weight_ih) const {
  pack_gates(context_, packed_, weight_ih, extent_, layout_.gates, layout_.rotation);
  parallel_range(context_, extent_.rows, places_together(), [&](std::int64_t begin, std::int64_t end) {
    alignas(64) T tile[micro_rows * micro_cols<T>];
    for (std::int64_t column = 0; column < extent_.input; column += micro_cols<T>)
      for (std::int64_t place = begin; place < end; place += micro_rows)
        multiply_places(dx, place, static_cast<int>(std::min<std::int64_t>(micro_rows, end - place)), column, tile);
  });
}

/// dx at `count` places from `place` on, columns [column, column + micro_cols).
template <class T>
void GateGradients<T>::multiply_places(const Array& dx, std::int64_t place, int count, std::int64_t column,
                                       T* tile) const {
  T* to[micro_rows];
  for (int r = 0; r < micro_rows; ++r) to[r] = tile + r * micro_cols<T>;
  const std::int64_t depth = layout_.gates * extent_.width;
  state_product<T>(count, 1, depth, at(place, 0), stride(), packed_ + column * depth, nullptr, to, 0);
  for (int r = 0; r < count; ++r) {
    const std::int64_t sample = (place + r) % extent_.batch, time = (place + r) / extent_.batch;
    Elements<T>{dx}.store(to[r], (sample * extent_.steps + time) * extent_.input + column,
                          std::min<std::int64_t>(micro_cols<T>, extent_.input - column));
  }
}

/// Where the rows of x and of the h before lie; zeros past a sample's length, for what stands there, NaN or not, has no
/// part in the sums, and before the first step where there is no h_0.
template <class T>
void GateGradients<T>::find_rows(const RecurrentInputs& in, const Array& output) const {
  std::fill_n(zeros_, std::max(extent_.input, extent_.hidden), T(0));
  const Order order(in);
  parallel_range(context_, extent_.rows, depth_block, [&](std::int64_t begin, std::int64_t end) {
    const auto find = [&](const Array& array, std::int64_t offset, std::int64_t count, std::int64_t to) -> const T* {
      if (!widens_) return array.as<const T>() + offset;
      Elements<T>{array}.load(wide_ + to, offset, count);
      return wide_ + to;
    };
    for (std::int64_t place = begin; place < std::min(end, extent_.rows); ++place) {
      const std::int64_t sample = place % extent_.batch, time = place / extent_.batch, step = order.step(sample, time);
      const std::int64_t wide = place * (extent_.input + extent_.hidden);
      inputs_[place] = states_[place] = zeros_;
      if (step >= 0) inputs_[place] = find(in.x, (sample * extent_.steps + time) * extent_.input, extent_.input, wide);
      if (step > 0)
        states_[place] =
            find(output, order.row(sample, step - 1) * extent_.hidden, extent_.hidden, wide + extent_.input);
      else if (step == 0 && in.h_0)
        states_[place] = find(in.h_0, sample * extent_.hidden, extent_.hidden, wide + extent_.input);
    }
  });
}

/// The gradients of both weights, or of that which is not absent, transposed: x and h side by side, transposed, times
/// the gates' gradients from `first_slot` on.
template <class T>
void GateGradients<T>::weight_gradients(const Array& weight_ih, const Array& weight_hh, int first_slot,
                                        int rotation) const {
  const std::int64_t of_inputs = weight_ih ? input_blocks_.count : 0;
  const std::int64_t blocks = of_inputs + (weight_hh ? hidden_blocks_.count : 0);
  if (blocks == 0) return;
  const GemmTiling<T> tiling(context_, blocks * micro_rows, layout_.gates * extent_.width, extent_.rows);
  parallel_tasks(context_, tiling.count(), [&](std::int64_t number, int worker) {
    const std::int64_t first = number % tiling.row_tiles * (tiling.tile_rows / micro_rows);
    const std::int64_t last = std::min(blocks, first + tiling.tile_rows / micro_rows);
    const std::int64_t unit = number / tiling.row_tiles * tiling.tile_cols;
    const Tile tile{{Operand{inputs_, weight_ih, input_blocks_}, Operand{states_, weight_hh, hidden_blocks_}},
                    of_inputs,
                    first,
                    last,
                    unit,
                    std::min(tiling.tile_cols, tiling.n - unit),
                    tiling.tile_cols,
                    scratch_ + worker * scratch_size_};
    sum_tile(tile, first_slot * extent_.width);
    const std::int64_t middle = std::clamp(of_inputs, first, last);
    if (first < middle) write_blocks(tile, 0, first, middle, rotation);
    if (middle < last) write_blocks(tile, 1, middle, last, rotation);
  });
}

/// The sums of a tile, in blocks of places; the gates' units are counted from `first_unit` on. What the next panel of
/// units and the next block of places will read is asked for meanwhile: it comes from far away, in pieces too short for
/// the processor to see them coming.
template <class T>
void GateGradients<T>::sum_tile(const Tile& tile, std::int64_t first_unit) const {
  const std::int64_t panels = tile.units / micro_cols<T>, places_ahead = (depth_block + panels - 1) / panels;
  if (extent_.rows == 0) std::fill_n(tile.sums, scratch_size_, T(0));
  for (std::int64_t place = 0; place < extent_.rows; place += depth_block) {
    const std::int64_t depth = std::min(depth_block, extent_.rows - place), next_place = place + depth;
    for (std::int64_t panel = 0; panel < panels; ++panel) {
      const T* const gates = at(place, first_unit + tile.unit + panel * micro_cols<T>);
      const T* const next = panel + 1 < panels ? gates + stride() : at(next_place, first_unit + tile.unit);
      const std::int64_t step = micro_cols<T> / (tile.last - tile.first);
      const std::int64_t begin_ahead = next_place + panel * places_ahead;
      const std::int64_t end_ahead = std::min(begin_ahead + places_ahead, extent_.rows);
      for (std::int64_t block = tile.first; block < tile.last; ++block) {
        const bool of_states = block >= tile.of_inputs;
        const Operand& operand = tile.operands[of_states];
        const std::int64_t in_operand = of_states ? block - tile.of_inputs : block;
        const std::int64_t offset = operand.blocks.offset(in_operand);
        for (std::int64_t k = begin_ahead; k < end_ahead; ++k) prefetch(operand.rows[k] + offset, 1);
        add_outer_products<T>(operand.blocks.size(in_operand), true, depth, operand.rows + place, offset, gates,
                              micro_cols<T>,
                              tile.sums + (block - tile.first) * micro_rows * tile.ld + panel * micro_cols<T>, tile.ld,
                              place == 0, {next + (block - tile.first) * step * depth, step});
      }
    }
  }
}

/// Writes the sums of blocks [first, last), all of the columns of one operand, to the gradient of its weight.
template <class T>
void GateGradients<T>::write_blocks(const Tile& tile, int number, std::int64_t first, std::int64_t last,
                                    int rotation) const {
  const Operand& operand = tile.operands[number];
  const OuterBlocks& blocks = operand.blocks;
  for_floating(operand.gradient.dtype, [&](auto tag) {
    using S = decltype(tag);
    if constexpr (std::is_same_v<Compute<S>, T>)
      for (std::int64_t panel = 0; panel < tile.units; panel += micro_cols<T>) {
        const std::int64_t gate = ((tile.unit + panel) / extent_.width + rotation) % layout_.gates;
        const std::int64_t row = (tile.unit + panel) % extent_.width;
        S* to = operand.gradient.template as<S>() + (gate * extent_.hidden + row) * blocks.columns;
        const T* sums = tile.sums + panel;
        for (std::int64_t block = first; block < last; ++block) {
          const std::int64_t in_operand = block - number * tile.of_inputs;
          store_transposed(to + blocks.offset(in_operand), blocks.columns,
                           sums + (block - tile.first) * micro_rows * tile.ld, tile.ld, blocks.size(in_operand),
                           std::min<std::int64_t>(micro_cols<T>, extent_.hidden - row));
        }
      }
  });
}

/// The gates' gradients summed over all places, in their order.
template <class T>
void GateGradients<T>::bias_gradients(const RecurrentGradients& gradients) const {
  parallel_range(context_, layout_.gradients * extent_.width, micro_cols<T>, [&](std::int64_t begin, std::int64_t) {
    Vector<T> low{}, high{};
    for (std::int64_t place = 0; place < extent_.rows; ++place) {
      low += load(at(place, begin));
      high += load(at(place, begin) + lanes<T>);
    }
    store(sums_ + begin, low);
    store(sums_ + begin + lanes<T>, high);
  });
  for (std::int64_t slot = 0; slot < layout_.gates; ++slot) {
    const std::int64_t gate = (slot + layout_.rotation) % layout_.gates;
    const T* ih = sums_ + slot * extent_.width;
    const T* hh = sums_ + (slot + layout_.hidden_slot) * extent_.width;
    if (gradients.bias_ih) Elements<T>{gradients.bias_ih}.store(ih, gate * extent_.hidden, extent_.hidden);
    if (gradients.bias_hh) Elements<T>{gradients.bias_hh}.store(hh, slot * extent_.hidden, extent_.hidden);
  }
}

#define IMGREC_INSTANTIATE(T)      \
  template class GateGradients<T>; \
  template void pack_gates(const Context&, T*, const Array&, const Extent<T>&, int, int);
IMGREC_INSTANTIATE(float)
IMGREC_INSTANTIATE(double)
#undef IMGREC_INSTANTIATE

}  // namespace imgrec::cpu
