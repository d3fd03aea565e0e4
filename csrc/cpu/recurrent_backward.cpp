#include "cpu/recurrent_backward_cell.h"

namespace imgrec {
namespace cpu {
namespace {

/// The scratch memory of one call. `packed` serves one product after the other. `slots` are the gates' gradients of all
/// steps, laid out [slot][block][row of (N T)][micro_cols]: as gemm packs the second operand, so the weights' gradients
/// read them as they are.
template <class T>
struct Memory {
  T *slots, *packed, *packed_hh, *scratch, *sums, *first, *dh_n, *carry, *state;
  std::int64_t scratch_size;  // of a thread

  Memory(const Context& context, const Extent<T>& extent, const CellLayout& layout, Workspace& workspace) {
    const std::int64_t depth = layout.gates * extent.width;
    const Schedule schedule(context, extent.batch, extent.width / micro_cols<T>);
    packed = workspace.take<T>(std::max(round_up(extent.input + extent.hidden, micro_rows) * extent.rows,
                                        round_up(extent.input, micro_cols<T>) * depth));
    scratch_size = rows_together(depth) / micro_rows * state_panel_size<T>(depth);
    for (const std::int64_t columns : {extent.input, extent.hidden, extent.input + extent.hidden})
      scratch_size = std::max(scratch_size, GemmTiling<T>(context, columns, depth, extent.rows).scratch_size());
    scratch = workspace.take<T>(context.threads * scratch_size);
    slots = workspace.take<T>(extent.rows * layout.gradients * extent.width);
    packed_hh = workspace.take<T>(depth * extent.width);
    sums = workspace.take<T>(layout.gradients * extent.width);
    first = workspace.take<T>(extent.batch * extent.width);
    dh_n = workspace.take<T>(extent.batch * extent.width);
    carry = workspace.take<T>(extent.batch * extent.width);
    state = workspace.take<T>(2 * schedule.panels * state_panel_size<T>(depth));
  }

  /// How many rows of gradients, `depth` wide, a thread multiplies at once: as many as stay in the L2 cache.
  static std::int64_t rows_together(std::int64_t depth) {
    constexpr std::int64_t elements = (1 << 18) / static_cast<std::int64_t>(sizeof(T));
    return micro_rows * std::clamp<std::int64_t>(elements / state_panel_size<T>(depth), 1, 8);
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
    if (gradients_.x) input_gradient();
    if (layout_.hidden_slot == 0) {
      weight_gradients(gradients_.weight_ih, gradients_.weight_hh, 0, 0);
    } else {
      weight_gradients(gradients_.weight_ih, {}, 0, layout_.rotation);
      weight_gradients({}, gradients_.weight_hh, layout_.hidden_slot, 0);
    }
    if (gradients_.bias_ih || gradients_.bias_hh) bias_gradients();
  }

 private:
  void prepare() {
    const Elements<T> weight{in_.weight_hh};
    pack_columns(context_, memory_.packed_hh, extent_.hidden, gates_ * extent_.width,
                 [&](T* to, std::int64_t k, std::int64_t column, int count) {
                   load_weight_row(to, weight, k / extent_.width, k % extent_.width, extent_.hidden, column, count);
                 });
    std::fill_n(memory_.state, 2 * schedule_.panels * state_panel_size<T>(gates_ * extent_.width), T(0));
    for (std::int64_t row = 0; in_.lengths && row < extent_.rows; ++row)
      for (std::int64_t unit = 0; order_.step(row) < 0 && unit < layout_.gradients * extent_.width;
           unit += micro_cols<T>)
        std::fill_n(slots(row, unit), micro_cols<T>, T(0));
  }

  /// Elements [column, column + count) of a weight's row for one gate and unit; zeros where the unit is padding.
  void load_weight_row(T* to, const Elements<T>& weight, std::int64_t gate, std::int64_t unit, std::int64_t columns,
                       std::int64_t column, std::int64_t count) const {
    if (unit < extent_.hidden)
      weight.load(to, (gate * extent_.hidden + unit) * columns + column, count);
    else
      std::fill_n(to, count, T(0));
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
      state_product<T>(rows, static_cast<int>(last - first), depth, state(step + 1, panel),
                       memory_.packed_hh + depth * first * micro_cols<T>, nullptr, dh, 0);
    for (std::int64_t block = first; block < last; ++block) {
      const std::int64_t column = (block - first) * micro_cols<T>;
      for (int r = 0; step < 0 && r < rows; ++r) finish(sample + r, block * micro_cols<T>, dh[r] + column);
      if (step >= 0) differentiate_(cells[block - first]);
    }
  }

  /// The gradients of micro_cols units of one row; units are counted through all slots.
  T* slots(std::int64_t row, std::int64_t unit) const {
    return memory_.slots + unit * extent_.rows + row * micro_cols<T>;
  }

  const T* saved(std::int64_t row, std::int64_t block, int slot) const {
    return saved_ + ((row * schedule_.blocks + block) * layout_.saved + slot) * micro_cols<T>;
  }

  /// The step of one panel and block; `dh` is where what comes through weight_hh will be, from `column` on.
  BackwardStep<T> cell_of(std::int64_t panel, std::int64_t block, std::int64_t step, T* const* dh,
                          std::int64_t column) const {
    const std::int64_t unit = block * micro_cols<T>;
    BackwardStep<T> cell{.rows = schedule_.rows_of(panel),
                         .units = static_cast<int>(std::min<std::int64_t>(micro_cols<T>, extent_.hidden - unit)),
                         .width = extent_.width,
                         .slot_size = extent_.width * extent_.rows,
                         .next_state = state(step, panel) + state_offset<T>(0, unit)};
    for (int r = 0; r < cell.rows; ++r) {
      const std::int64_t sample = schedule_.sample(panel) + r, length = order_.length(sample);
      if (step >= length) continue;
      const std::int64_t row = order_.row(sample, step), place = sample * extent_.width + unit;
      cell.last[r] = step == length - 1;
      cell.dh[r] = cell.last[r] ? memory_.dh_n + place : dh[r] + column;
      cell.saved[r] = saved(row, block, 0);
      cell.previous[r] = memory_.first + place;
      if (step > 0) cell.previous[r] = saved(order_.row(sample, step - 1), block, layout_.saved - 1);
      if (doutput_) cell.doutput[r] = doutput_.as<char>() + (row * extent_.hidden + unit) * size_of(doutput_.dtype);
      cell.slots[r] = slots(row, unit);
      cell.carry[r] = memory_.carry + place;
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

  /// dx = gradients of the gates times weight_ih.
  void input_gradient() {
    const std::int64_t depth = gates_ * extent_.width, together = Memory<T>::rows_together(depth);
    const Elements<T> weight{in_.weight_ih};
    pack_columns(context_, memory_.packed, extent_.input, depth,
                 [&](T* to, std::int64_t k, std::int64_t column, int count) {
                   const std::int64_t gate = (k / extent_.width + layout_.rotation) % gates_;
                   load_weight_row(to, weight, gate, k % extent_.width, extent_.input, column, count);
                 });
    parallel_tasks(context_, Schedule::divide(extent_.rows, together), [&](std::int64_t task, int worker) {
      T* const panels = memory_.scratch + worker * memory_.scratch_size;
      const std::int64_t first = task * together, count = std::min(together, extent_.rows - first);
      for (std::int64_t k = 0; k < depth; k += micro_cols<T>)
        for (std::int64_t i = 0; i < count; ++i) {
          const T* from = slots(first + i, k);
          T* to = panels + i / micro_rows * state_panel_size<T>(depth) + state_offset<T>(i % micro_rows, k);
          store(to, load(from));
          store(to + state_offset<T>(0, lanes<T>), load(from + lanes<T>));
        }
      for (std::int64_t column = 0; column < extent_.input; column += micro_cols<T>)
        for (std::int64_t i = 0; i < count; i += micro_rows)
          multiply_input_gradient(panels + i / micro_rows * state_panel_size<T>(depth), first + i,
                                  static_cast<int>(std::min<std::int64_t>(micro_rows, count - i)), column);
    });
  }

  /// `rows` rows of dx from `row` on, columns [column, column + micro_cols).
  void multiply_input_gradient(const T* panel, std::int64_t row, int rows, std::int64_t column) {
    alignas(64) T tile[micro_rows * micro_cols<T>];
    T* to[micro_rows];
    for (int r = 0; r < micro_rows; ++r) to[r] = tile + r * micro_cols<T>;
    const std::int64_t depth = gates_ * extent_.width;
    state_product<T>(rows, 1, depth, panel, memory_.packed + column * depth, nullptr, to, 0);
    for (int r = 0; r < rows; ++r)
      Elements<T>{gradients_.x}.store(to[r], (row + r) * extent_.input + column,
                                      std::min<std::int64_t>(micro_cols<T>, extent_.input - column));
  }

  /// The gradients of both weights, or of that which is not absent, in one product, transposed: what the weights were
  /// multiplied with, x and h side by side, transposed, times the gates' gradients from `first_slot` on.
  void weight_gradients(const Array& weight_ih, const Array& weight_hh, int first_slot, int rotation) {
    const std::int64_t inputs = weight_ih ? extent_.input : 0, columns = inputs + (weight_hh ? extent_.hidden : 0);
    if (columns == 0) return;
    const GemmTiling<T> tiling(context_, columns, gates_ * extent_.width, extent_.rows);
    pack_rows(columns, [&](T* to, std::int64_t row, std::int64_t column, std::int64_t count) {
      const std::int64_t here = std::clamp<std::int64_t>(inputs - column, 0, count);
      if (here > 0) load_input(to, row, column, here);
      if (here < count) load_previous_h(to + here, row, column + here - inputs, count - here);
    });
    gemm(
        context_, tiling, slots(0, first_slot * extent_.width), memory_.scratch,
        [&](T* panel, std::int64_t column, int, std::int64_t k, std::int64_t depth) {
          std::copy_n(memory_.packed + column * extent_.rows + k * micro_rows, depth * micro_rows, panel);
        },
        [&](const T* tile, std::int64_t ld, std::int64_t column, std::int64_t count, std::int64_t unit,
            std::int64_t units) {
          for (std::int64_t first = 0; first < units; first += lanes<T>) {
            alignas(64) T lines[lanes<T>][round_up(8 * micro_rows, lanes<T>)];
            transpose_columns(lines, tile + first, ld, count);
            for (std::int64_t i = 0; i < lanes<T>; ++i) {
              const std::int64_t slot = (unit + first + i) / extent_.width, row = (unit + first + i) % extent_.width;
              if (row >= extent_.hidden) break;
              const std::int64_t to = (slot + rotation) % gates_ * extent_.hidden + row;
              const std::int64_t here = std::clamp<std::int64_t>(inputs - column, 0, count);
              if (here > 0) Elements<T>{weight_ih}.store(lines[i], to * inputs + column, here);
              if (here < count)
                Elements<T>{weight_hh}.store(lines[i] + here, to * extent_.hidden + column + here - inputs,
                                             count - here);
            }
          }
        });
  }

  /// lines[i][r] = tile[r * ld + i] for a vector of columns and r < rows: squares are transposed in registers.
  template <std::size_t size>
  static void transpose_columns(T (&lines)[lanes<T>][size], const T* tile, std::int64_t ld, std::int64_t rows) {
    for (std::int64_t r = 0; r < rows; r += lanes<T>) {
      Vector<T> square[lanes<T>];
      for (int i = 0; i < lanes<T>; ++i) square[i] = r + i < rows ? load(tile + (r + i) * ld) : Vector<T>{};
      transpose<T>(square);
      for (int i = 0; i < lanes<T>; ++i) store(lines[i] + r, square[i]);
    }
  }

  /// Transposes all rows of (N T, columns) for gemm as its first operand, [column / micro_rows][row][micro_rows], whole
  /// lines at a time.
  template <class Load>
  void pack_rows(std::int64_t columns, Load&& load_line) {
    constexpr std::int64_t line_size = depth_block / micro_rows * micro_rows;
    parallel_tasks(context_, Schedule::divide(extent_.rows, depth_block), [&](std::int64_t slice, int) {
      T line[line_size];
      for (std::int64_t first = 0; first < columns; first += line_size) {
        const std::int64_t count = std::min(line_size, columns - first);
        std::fill(line + count, line + round_up(count, micro_rows), T(0));
        const std::int64_t end = std::min(extent_.rows, (slice + 1) * depth_block);
        for (std::int64_t row = slice * depth_block; row < end; ++row) {
          load_line(line, row, first, count);
          for (std::int64_t i = 0; i < count; i += micro_rows)
            std::memcpy(memory_.packed + (first + i) * extent_.rows + row * micro_rows, line + i,
                        sizeof(T) * micro_rows);
        }
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
    parallel_range(context_, layout_.gradients * extent_.width, micro_cols<T>, [&](std::int64_t begin, std::int64_t) {
      Vector<T> low{}, high{};
      for (std::int64_t row = 0; row < extent_.rows; ++row) {
        low += load(slots(row, begin));
        high += load(slots(row, begin) + lanes<T>);
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
