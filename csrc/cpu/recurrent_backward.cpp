#include "cpu/recurrent.h"

namespace imgrec {
namespace cpu {
namespace {

/// The scratch memory of one call. `packed` serves one product after the other.
template <class T>
struct Memory {
  T *slots, *packed, *packed_hh, *gemm, *sums, *first, *dh_n, *carry, *state;

  Memory(const Context& context, const Extent<T>& extent, const CellLayout& layout, Workspace& workspace) {
    const std::int64_t depth = layout.gates * extent.width;
    const Schedule schedule(context, extent.batch, extent.width / micro_cols<T>);
    const GemmTiling<T> tilings[] = {{context, extent.rows, extent.input, depth},
                                     {context, depth, extent.input, extent.rows},
                                     {context, depth, extent.hidden, extent.rows}};
    std::int64_t packed_size = 0, scratch_size = 0;
    for (const GemmTiling<T>& tiling : tilings) {
      packed_size = std::max(packed_size, tiling.packed_size());
      scratch_size = std::max(scratch_size, tiling.scratch_size());
    }
    slots = workspace.take<T>(extent.rows * layout.gradients * extent.width);
    packed = workspace.take<T>(packed_size);
    packed_hh = workspace.take<T>(depth * extent.width);
    gemm = workspace.take<T>(context.threads * scratch_size);
    sums = workspace.take<T>(layout.gradients * extent.width);
    first = workspace.take<T>(extent.batch * extent.width);
    dh_n = workspace.take<T>(extent.batch * extent.width);
    carry = workspace.take<T>(extent.batch * extent.width);
    state = workspace.take<T>(2 * schedule.panels * state_panel_size(depth));
  }
};

/// One step of one sample for a block of micro_cols units; passed by value, so that stores cannot change it. A pointer
/// is to its first unit; slots lie `width` apart, the gates of `next_state` too, each a column of micro_rows rows.
template <class T>
struct Units {
  const T *saved, *previous, *dh, *doutput;
  T *slots, *next_state, *carry;
  std::int64_t width;
  bool last;
};

template <class T, class Cell>
void differentiate_cell(Units<T> units) {
  constexpr CellLayout layout = Cell::layout;
  for (int v = 0; v < micro_cols<T>; v += lanes<T>) {
    Vector<T> slot[layout.saved], gradient[layout.gradients], carry = load(units.carry + v);
    for (int i = 0; i < layout.saved; ++i) slot[i] = load(units.saved + i * units.width + v);
    Vector<T> dh = load(units.dh + v) + load(units.doutput + v);
    if (layout.adds_carry && !units.last) dh += carry;
    Cell::backward(gradient, slot, dh, load(units.previous + v), carry);
    store(units.carry + v, carry);
    for (int i = 0; i < layout.gradients; ++i) store(units.slots + i * units.width + v, gradient[i]);
    for (int i = 0; i < layout.gates; ++i)
      store(units.next_state + (i * units.width + v) * micro_rows, gradient[layout.hidden_slot + i]);
  }
}

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
        differentiate_(for_cell<T>(in.cell, [](auto kind) { return &differentiate_cell<T, decltype(kind)>; })),
        extent_(shape_of(in)),
        order_(in),
        schedule_(context, extent_.batch, extent_.width / micro_cols<T>),
        memory_(context, extent_, layout_, workspace),
        saved_(reserve.as<const T>()) {
    load_states(memory_.first, in.cell == RecurrentCell::lstm ? in.c_0 : in.h_0, extent_);
    load_states(memory_.dh_n, dh_n, extent_);
    load_states(memory_.carry, dc_n, extent_);
  }

  void run() {
    prepare();
    // Step s undoes step T - 1 - s of the forward pass; one more brings the gradients to the initial states.
    schedule_.run(context_, extent_.steps + 1, [&](const Part& part, std::int64_t s) {
      const std::int64_t step = extent_.steps - 1 - s;
      if (step >= order_.longest(schedule_.sample(part.panel), schedule_.rows_of(part.panel))) return;
      for (std::int64_t block = part.first; block < part.last; ++block) retreat(part.panel, block, step);
    });
    if (gradients_.x) input_gradient();
    if (gradients_.weight_ih)
      weight_gradient(gradients_.weight_ih, 0, layout_.rotation,
                      [&](T* to, std::int64_t row, std::int64_t column, std::int64_t count) {
                        load_input(to, row, column, count);
                      });
    if (gradients_.weight_hh)
      weight_gradient(gradients_.weight_hh, layout_.hidden_slot, 0,
                      [&](T* to, std::int64_t row, std::int64_t column, std::int64_t count) {
                        load_previous_h(to, row, column, count);
                      });
    if (gradients_.bias_ih || gradients_.bias_hh) bias_gradients();
  }

 private:
  void prepare() {
    const Elements<T> weight{in_.weight_hh};
    pack_columns(context_, memory_.packed_hh, extent_.hidden, gates_ * extent_.width,
                 [&](T* to, std::int64_t k, std::int64_t column, int count) {
                   load_weight_row(to, weight, k / extent_.width, k % extent_.width, extent_.hidden, column, count);
                 });
    std::fill_n(memory_.state, 2 * schedule_.panels * state_panel_size(gates_ * extent_.width), T(0));
    const std::int64_t stride = layout_.gradients * extent_.width;
    for (std::int64_t row = 0; in_.lengths && row < extent_.rows; ++row)
      if (order_.step(row) < 0) std::fill_n(memory_.slots + row * stride, stride, T(0));
  }

  /// Elements [column, column + count) of a weight's row for one gate and unit; zeros where the unit is padding.
  void load_weight_row(T* to, const Elements<T>& weight, std::int64_t gate, std::int64_t unit, std::int64_t columns,
                       std::int64_t column, std::int64_t count) const {
    if (unit < extent_.hidden)
      weight.load(to, (gate * extent_.hidden + unit) * columns + column, count);
    else
      std::fill_n(to, count, T(0));
  }

  /// One step of one panel of samples for one block of units: dh from the gates of the step after, then these gates.
  void retreat(std::int64_t panel, std::int64_t block, std::int64_t step) {
    alignas(64) T tile[micro_rows * micro_cols<T>];
    const int rows = schedule_.rows_of(panel);
    const std::int64_t sample = schedule_.sample(panel), unit = block * micro_cols<T>;
    for (int r = 0; r < rows; ++r)
      if (step >= 0 && step < order_.length(sample + r))
        prefetch(saved_ + order_.row(sample + r, step) * layout_.saved * extent_.width + unit, layout_.saved,
                 extent_.width);
    if (step + 1 < order_.longest(sample, rows))
      state_product<T>(rows, 1, gates_ * extent_.width, state(step + 1, panel),
                       memory_.packed_hh + gates_ * extent_.width * unit, tile, micro_cols<T>);
    for (int r = 0; r < rows; ++r) {
      T* dh = tile + r * micro_cols<T>;
      if (step < 0)
        finish(sample + r, unit, dh);
      else if (step < order_.length(sample + r))
        differentiate(sample + r, unit, step, dh, state(step, panel) + state_offset<T>(r, unit));
    }
  }

  /// The gates' gradients of one sample and block; `dh` is what came through weight_hh, `to` the sample's next state.
  void differentiate(std::int64_t sample, std::int64_t unit, std::int64_t step, T* dh, T* to) {
    const std::int64_t row = order_.row(sample, step), place = sample * extent_.width + unit;
    alignas(64) T given[micro_cols<T>] = {};
    if (doutput_)
      Elements<T>{doutput_}.load(given, row * extent_.hidden + unit,
                                 std::min<std::int64_t>(micro_cols<T>, extent_.hidden - unit));
    const bool last = step == order_.length(sample) - 1;
    if (last) std::copy_n(memory_.dh_n + place, micro_cols<T>, dh);
    const T* previous = memory_.first + place;
    if (step > 0)
      previous = saved_ + (order_.row(sample, step - 1) * layout_.saved + layout_.saved - 1) * extent_.width + unit;
    const T* saved = saved_ + row * layout_.saved * extent_.width + unit;
    T* slots = memory_.slots + row * layout_.gradients * extent_.width + unit;
    differentiate_({saved, previous, dh, given, slots, to, memory_.carry + place, extent_.width, last});
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

  /// dx = gradients of the gates times weight_ih.
  void input_gradient() {
    const GemmTiling<T> tiling(context_, extent_.rows, extent_.input, gates_ * extent_.width);
    const Elements<T> weight{in_.weight_ih}, dx{gradients_.x};
    pack_columns(context_, memory_.packed, tiling.n, tiling.k,
                 [&](T* to, std::int64_t k, std::int64_t column, int count) {
                   const std::int64_t gate = (k / extent_.width + layout_.rotation) % gates_;
                   load_weight_row(to, weight, gate, k % extent_.width, extent_.input, column, count);
                 });
    const T* slots = memory_.slots;
    const std::int64_t stride = layout_.gradients * extent_.width;
    gemm(
        context_, tiling, memory_.packed, memory_.gemm,
        [&](T* panel, std::int64_t row, int rows, std::int64_t k, std::int64_t depth) {
          for (int r = 0; r < rows; ++r)
            for (std::int64_t i = 0; i < depth; ++i) panel[i * micro_rows + r] = slots[(row + r) * stride + k + i];
        },
        [&](const T* tile, std::int64_t ld, std::int64_t row, std::int64_t rows, std::int64_t column,
            std::int64_t count) {
          for (std::int64_t r = 0; r < rows; ++r) dx.store(tile + r * ld, (row + r) * extent_.input + column, count);
        });
  }

  /// to = weight's gradient: the gates' gradients, from `first_slot` on, transposed, times what they were multiplied
  /// with. load(to, row, column, count) gives that for one row of (N T).
  template <class Load>
  void weight_gradient(const Array& to, int first_slot, int rotation, Load&& load) {
    const GemmTiling<T> tiling(context_, gates_ * extent_.width, to.shape[1], extent_.rows);
    pack_columns(context_, memory_.packed, tiling.n, tiling.k, load);
    const T* slots = memory_.slots + first_slot * extent_.width;
    const std::int64_t stride = layout_.gradients * extent_.width;
    gemm(
        context_, tiling, memory_.packed, memory_.gemm,
        [&](T* panel, std::int64_t row, int rows, std::int64_t k, std::int64_t depth) {
          const T* from = slots + k * stride + row;
          if (rows == micro_rows)  // runs of a length that the compiler knows
            for (std::int64_t i = 0; i < depth; ++i)
              std::memcpy(panel + i * micro_rows, from + i * stride, sizeof(T) * micro_rows);
          else
            for (std::int64_t i = 0; i < depth; ++i) std::copy_n(from + i * stride, rows, panel + i * micro_rows);
        },
        [&](const T* tile, std::int64_t ld, std::int64_t row, std::int64_t rows, std::int64_t column,
            std::int64_t count) {
          for (std::int64_t r = 0; r < rows; ++r) {
            const std::int64_t gate = ((row + r) / extent_.width + rotation) % gates_, unit = (row + r) % extent_.width;
            if (unit < extent_.hidden)
              Elements<T>{to}.store(tile + r * ld, (gate * extent_.hidden + unit) * tiling.n + column, count);
          }
        });
  }

  /// x, or zeros past the sample's length: what stands there, NaN or not, has no part in the sums.
  void load_input(T* to, std::int64_t row, std::int64_t column, std::int64_t count) const {
    if (order_.step(row) < 0)
      std::fill_n(to, count, T(0));
    else
      Elements<T>{in_.x}.load(to, row * extent_.input + column, count);
  }

  /// h of the step before.
  void load_previous_h(T* to, std::int64_t row, std::int64_t column, std::int64_t count) const {
    const std::int64_t step = order_.step(row), sample = row / extent_.steps;
    if (step > 0)
      Elements<T>{output_}.load(to, order_.row(sample, step - 1) * extent_.hidden + column, count);
    else if (step == 0 && in_.h_0)
      Elements<T>{in_.h_0}.load(to, sample * extent_.hidden + column, count);
    else
      std::fill_n(to, count, T(0));
  }

  /// The gates' gradients summed over all rows, in the order of the rows.
  void bias_gradients() {
    const std::int64_t stride = layout_.gradients * extent_.width;
    parallel_range(context_, stride, micro_cols<T>, [&](std::int64_t begin, std::int64_t) {
      Vector<T> low{}, high{};
      for (std::int64_t row = 0; row < extent_.rows; ++row) {
        low += load(memory_.slots + row * stride + begin);
        high += load(memory_.slots + row * stride + begin + lanes<T>);
      }
      store(memory_.sums + begin, low);
      store(memory_.sums + begin + lanes<T>, high);
    });
    for (std::int64_t slot = 0; slot < gates_; ++slot) {
      const std::int64_t gate = (slot + layout_.rotation) % gates_;
      const T* ih = memory_.sums + slot * extent_.width;
      const T* hh = memory_.sums + (slot + layout_.hidden_slot) * extent_.width;
      if (gradients_.bias_ih) Elements<T>{gradients_.bias_ih}.store(ih, gate * extent_.hidden, extent_.hidden);
      if (gradients_.bias_hh) Elements<T>{gradients_.bias_hh}.store(hh, slot * extent_.hidden, extent_.hidden);
    }
  }

  /// The gates' gradients of step `step`: steps read one half of the memory and write the other.
  T* state(std::int64_t step, std::int64_t panel) const {
    return memory_.state + (step % 2 * schedule_.panels + panel) * state_panel_size(gates_ * extent_.width);
  }

  const Context& context_;
  const RecurrentGradients& gradients_;
  const Array& doutput_;
  const RecurrentInputs& in_;
  const Array& output_;
  const CellLayout layout_;
  const std::int64_t gates_;
  void (*const differentiate_)(Units<T>);
  const Extent<T> extent_;
  const Order order_;
  const Schedule schedule_;
  const Memory<T> memory_;
  const T* const saved_;  // (N T, layout_.saved, width)
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
