#include "cpu/recurrent_backward_cell.h"
#include "cpu/recurrent_gate_gradients.h"

namespace imgrec {
namespace cpu {
namespace {

/// The scratch memory of the time loop.
template <class T>
struct Memory {
  T *packed_hh, *first, *dh_n, *carry, *state;

  Memory(const Context& context, const Extent<T>& extent, const CellLayout& layout, Workspace& workspace) {
    const std::int64_t depth = layout.gates * extent.width;
    const Schedule schedule(context, extent.batch, extent.width / micro_cols<T>);
    packed_hh = workspace.take<T>(depth * extent.width);
    first = workspace.take<T>(extent.batch * extent.width);
    dh_n = workspace.take<T>(extent.batch * extent.width);
    carry = workspace.take<T>(extent.batch * extent.width);
    state = workspace.take<T>(2 * schedule.panels * state_panel_size<T>(depth));
  }
};

template <class T>
class Backward {
 public:
  Backward(const Context& context, const RecurrentGradients& gradients, const Array& doutput, const Array& dh_n,
           const Array& dc_n, const RecurrentInputs& in, const Array& output, const Array& reserve,
           Workspace& workspace)
      : context_(context),
        gradients_(gradients),
        doutput_(doutput),
        in_(in),
        output_(output),
        layout_(layout_of(in.cell)),
        gates_(layout_.gates),
        differentiate_(cell_function<T, BackwardStep<T>>(
            in.cell, in.x.dtype, []<class S, class Cell>(S, Cell) { return &differentiate_cell<S, Cell>; })),
        extent_(shape_of(in)),
        order_(in),
        schedule_(context, extent_.batch, extent_.width / micro_cols<T>),
        memory_(context, extent_, layout_, workspace),
        slots_(context, extent_, layout_, in.x.dtype, workspace),
        saved_(reserve.as<const T>()) {
    load_states(memory_.first, in.cell == RecurrentCell::lstm ? in.c_0 : in.h_0, extent_);
    load_states(memory_.dh_n, dh_n, extent_);
    load_states(memory_.carry, dc_n, extent_);
  }

  void run() {
    prepare();
    const std::int64_t together = blocks_together();
    // Step s undoes step T - 1 - s of the forward pass; one more brings the gradients to the initial states.
    schedule_.run(context_, extent_.steps + 1, [&](const Part& part, std::int64_t s, int) {
      for (std::int64_t block = part.first_block; block < part.last_block; block += together)
        for (std::int64_t panel = part.first_panel; panel < part.last_panel; ++panel)
          retreat(panel, block, std::min(part.last_block, block + together), extent_.steps - 1 - s);
    });
    slots_.finish(gradients_, in_, output_);
  }

 private:
  void prepare() {
    pack_gates(context_, memory_.packed_hh, in_.weight_hh, extent_, layout_.gates, 0);
    std::fill_n(memory_.state, 2 * schedule_.panels * state_panel_size<T>(gates_ * extent_.width), T(0));
    for (std::int64_t place = 0; in_.lengths && place < extent_.rows; ++place)
      for (std::int64_t unit = 0;
           order_.step(place % extent_.batch, place / extent_.batch) < 0 && unit < layout_.gradients * extent_.width;
           unit += micro_cols<T>)
        std::fill_n(slots_.at(place, unit), micro_cols<T>, T(0));
  }

  static constexpr std::int64_t most_blocks_together = 4;

  /// Few rows take several blocks at once, as state_product wants it; many rows one, for its step's memory to come in
  /// time.
  std::int64_t blocks_together() const { return schedule_.panel_rows >= micro_rows / 2 ? 1 : most_blocks_together; }

  /// One step of one panel of samples for blocks [first, last): dh from the gates of the step after, then these gates.
  void retreat(std::int64_t panel, std::int64_t first, std::int64_t last, std::int64_t step) {
    alignas(64) T tile[micro_rows * most_blocks_together * micro_cols<T>];
    T* dh[micro_rows];
    for (int r = 0; r < micro_rows; ++r) dh[r] = tile + r * most_blocks_together * micro_cols<T>;
    const int rows = schedule_.rows_of(panel);
    const std::int64_t sample = schedule_.sample(panel), longest = order_.longest(sample, rows);
    if (step >= longest) return;
    BackwardStep<T> cells[most_blocks_together];
    for (std::int64_t block = first; step >= 0 && block < last; ++block) {
      cells[block - first] = cell_of(panel, block, step, dh, (block - first) * micro_cols<T>);
      prefetch_cell(cells[block - first], layout_, static_cast<int>(size_of(in_.x.dtype)));
    }
    const std::int64_t depth = gates_ * extent_.width;
    if (step + 1 < longest)
      state_product<T>(rows, static_cast<int>(last - first), depth, state(step + 1, panel), state_stride<T>,
                       memory_.packed_hh + depth * first * micro_cols<T>, nullptr, dh, 0);
    for (std::int64_t block = first; block < last; ++block) {
      const std::int64_t column = (block - first) * micro_cols<T>;
      for (int r = 0; step < 0 && r < rows; ++r) finish(sample + r, block * micro_cols<T>, dh[r] + column);
      if (step >= 0) differentiate_(cells[block - first]);
    }
  }

  const T* saved(std::int64_t place, std::int64_t block, int slot) const {
    return saved_ + ((place * schedule_.blocks + block) * layout_.saved + slot) * micro_cols<T>;
  }

  /// The step of one panel and block; `dh` is where what comes through weight_hh will be, from `column` on.
  BackwardStep<T> cell_of(std::int64_t panel, std::int64_t block, std::int64_t step, T* const* dh,
                          std::int64_t column) const {
    const std::int64_t unit = block * micro_cols<T>;
    BackwardStep<T> cell{.rows = schedule_.rows_of(panel),
                         .units = static_cast<int>(std::min<std::int64_t>(micro_cols<T>, extent_.hidden - unit)),
                         .width = extent_.width,
                         .slot_size = extent_.width / micro_cols<T> * slots_.stride(),
                         .next_state = state(step, panel) + state_offset<T>(0, unit)};
    for (int r = 0; r < cell.rows; ++r) {
      const std::int64_t sample = schedule_.sample(panel) + r, length = order_.length(sample);
      if (step >= length) continue;
      const std::int64_t row = order_.row(sample, step), place = order_.place(sample, step);
      const std::int64_t state = sample * extent_.width + unit;
      cell.last[r] = step == length - 1;
      cell.dh[r] = cell.last[r] ? memory_.dh_n + state : dh[r] + column;
      cell.saved[r] = saved(place, block, 0);
      cell.previous[r] = memory_.first + state;
      if (step > 0) cell.previous[r] = saved(order_.place(sample, step - 1), block, layout_.saved - 1);
      if (doutput_) cell.doutput[r] = doutput_.as<char>() + (row * extent_.hidden + unit) * size_of(doutput_.dtype);
      cell.slots[r] = slots_.at(place, unit);
      cell.carry[r] = memory_.carry + state;
    }
    return cell;
  }

  /// The gradients of the initial states.
  void finish(std::int64_t sample, std::int64_t unit, T* dh) {
    const T* carry = memory_.carry + sample * extent_.width + unit;
    const std::int64_t place = sample * extent_.hidden + unit;
    const std::int64_t count = std::min<std::int64_t>(micro_cols<T>, extent_.hidden - unit);
    if (gradients_.c_0) Elements<T>{gradients_.c_0}.store(carry, place, count);
    for (std::int64_t i = 0; layout_.adds_carry && i < count; ++i) dh[i] += carry[i];
    if (gradients_.h_0) Elements<T>{gradients_.h_0}.store(dh, place, count);
  }

  /// The gates' gradients of step `step`: steps read one half of the memory and write the other.
  T* state(std::int64_t step, std::int64_t panel) const {
    return memory_.state + (step % 2 * schedule_.panels + panel) * state_panel_size<T>(gates_ * extent_.width);
  }

  const Context& context_;
  const RecurrentGradients& gradients_;
  const Array& doutput_;
  const RecurrentInputs& in_;
  const Array& output_;
  const CellLayout layout_;
  const std::int64_t gates_;
  const CellFunction<BackwardStep<T>> differentiate_;
  const Extent<T> extent_;
  const Order order_;
  const Schedule schedule_;
  const Memory<T> memory_;
  const GateGradients<T> slots_;
  const T* const saved_;  // (T N, blocks, layout_.saved, micro_cols)
};

}  // namespace
}  // namespace cpu

Plan recurrent_backward_plan(const Context& context, const RecurrentShape& shape, DType dtype, RecurrentCell cell) {
  Plan plan{.algorithm = "packed"};
  const cpu::CellLayout layout = cpu::layout_of(cell);
  cpu::for_compute(dtype, [&](auto tag) {
    using T = decltype(tag);
    const cpu::Extent<T> extent(shape);
    cpu::Workspace workspace;
    cpu::Memory<T>(context, extent, layout, workspace);
    cpu::GateGradients<T>(context, extent, layout, dtype, workspace);
    plan.workspace_bytes = workspace.used();
    plan.reserve_bytes = cpu::reserve_bytes(extent, layout);
  });
  return plan;
}

void recurrent_backward(const Context& context, const RecurrentGradients& gradients, const Array& doutput,
                        const Array& dh_n, const Array& dc_n, const RecurrentInputs& inputs, const Array& output,
                        const Array& reserve, const Array& workspace) {
  cpu::for_compute(inputs.x.dtype, [&](auto tag) {
    cpu::Workspace memory(workspace.data);
    cpu::Backward<decltype(tag)>(context, gradients, doutput, dh_n, dc_n, inputs, output, reserve, memory).run();
  });
}

}  // namespace imgrec
