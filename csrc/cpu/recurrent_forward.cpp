#include "cpu/recurrent.h"
#include "cpu/vector_io.h"

namespace imgrec {
namespace cpu {
namespace {

/// Both weights transposed, as the products read them: [block of micro_cols units][gate][k][unit]. weight_ih's gates
/// come in the order of the slots.
template <class T>
struct PackedWeights {
  T *ih, *hh;

  PackedWeights(const Extent<T>& extent, int gates, Workspace& packed)
      : ih(packed.take<T>(gates * extent.width * extent.input)),
        hh(packed.take<T>(gates * extent.width * extent.hidden)) {}
};

/// Squares of lanes x lanes elements are transposed in registers; what lies past the last unit is zero.
template <class S>
void pack_weight(const Context& context, Compute<S>* packed, const Array& weight, std::int64_t hidden,
                 const CellLayout& layout, int rotation) {
  using T = Compute<S>;
  const std::int64_t depth = weight.shape[1], slices = std::max<std::int64_t>(1, Schedule::divide(depth, depth_block));
  const std::int64_t panels = Schedule::divide(hidden, micro_cols<T>) * layout.gates;
  parallel_tasks(context, panels * slices, [&](std::int64_t task, int) {
    const std::int64_t panel = task / slices, begin = task % slices * depth_block;
    const std::int64_t gate = (panel + rotation) % layout.gates, unit = panel / layout.gates * micro_cols<T>;
    for (std::int64_t k = begin; k < std::min(depth, begin + depth_block); k += lanes<T>) {
      const int given = static_cast<int>(std::min<std::int64_t>(lanes<T>, depth - k));
      for (std::int64_t half = 0; half < micro_cols<T>; half += lanes<T>) {
        Vector<T> square[lanes<T>];
        for (std::int64_t i = 0, j = unit + half; i < lanes<T>; ++i, ++j) {
          const S* from = weight.as<const S>() + (gate * hidden + j) * depth + k;
          square[i] = j < hidden ? load_wide(from, given) : Vector<T>{};
        }
        transpose<T>(square);
        T* to = packed + (panel * depth + k) * micro_cols<T> + half;
        for (int i = 0; i < given; ++i) store(to + i * micro_cols<T>, square[i]);
      }
    }
  });
}

template <class T>
void pack_weights(const Context& context, const Array& packed, const Array& weight_ih, const Array& weight_hh,
                  const RecurrentShape& shape, RecurrentCell cell) {
  const CellLayout layout = layout_of(cell);
  Workspace memory(packed.data);
  const PackedWeights<T> weights(Extent<T>(shape), layout.gates, memory);
  for_floating(weight_hh.dtype, [&](auto tag) {
    using S = decltype(tag);
    if constexpr (std::is_same_v<Compute<S>, T>) {
      pack_weight<S>(context, weights.ih, weight_ih, shape.hidden, layout, layout.rotation);
      pack_weight<S>(context, weights.hh, weight_hh, shape.hidden, layout, 0);
    }
  });
}

/// The scratch memory of one call. The projections move to the reserve where there is one. A thread's own arrays stand
/// one behind the other; those that follow the samples are shared.
template <class T>
struct Memory {
  T *projections = nullptr, *inputs, *bias, *hidden_bias, *carry, *state;
  T** rows;
  std::int64_t chunk_rows;  // of a thread

  Memory(const Context& context, const Extent<T>& extent, const Schedule& schedule, int gates, bool training,
         Workspace& workspace) {
    const std::int64_t columns = gates * extent.width;
    chunk_rows = schedule.task_rows * schedule.chunk(extent.steps);
    if (!training) projections = workspace.take<T>(context.threads * chunk_rows * columns);
    inputs = workspace.take<T>(context.threads * inputs_size(extent));
    bias = workspace.take<T>(columns);
    hidden_bias = workspace.take<T>(columns);
    carry = workspace.take<T>(extent.batch * extent.width);
    state = workspace.take<T>(2 * schedule.panels * state_panel_size<T>(extent.width));
    rows = workspace.take<T*>(context.threads * chunk_rows);
  }

  /// Elements of a thread's panels of x.
  std::int64_t inputs_size(const Extent<T>& extent) const {
    return Schedule::divide(chunk_rows, micro_rows) * state_panel_size<T>(extent.input);
  }
};

/// One step of a panel of samples for a block of micro_cols units. A pointer is to the block's first unit; that to a
/// sample's slots is null where the sample takes no part in the step.
template <class T>
struct CellStep {
  int rows, units;  // units: how many the block has
  bool keeps_slots;
  const T* state;  // panels, as state_offset says
  T* next_state;
  const T* products[micro_rows] = {};  // [gate][unit]
  T* slots[micro_rows] = {};           // [slot][unit]
  T* carry[micro_rows] = {};
  void* output[micro_rows] = {};
};

template <class S, class Cell>
void apply_cell(const CellStep<Compute<S>>& step) {
  using T = Compute<S>;
  constexpr CellLayout layout = Cell::layout;
  for (int r = 0; r < step.rows; ++r) {
    if (!step.slots[r]) continue;
    for (int v = 0; v < micro_cols<T>; v += lanes<T>) {
      T* const from = step.slots[r] + v;
      Vector<T> slot[layout.saved], product[layout.gates], carry = load(step.carry[r] + v);
      for (int gate = 0; gate < layout.gates; ++gate) {
        slot[gate] = load(from + gate * micro_cols<T>);
        product[gate] = load(step.products[r] + gate * micro_cols<T> + v);
      }
      const std::int64_t place = state_offset<T>(r, v);
      const Vector<T> h = Cell::forward(slot, product, load(step.state + place), carry);
      store(step.carry[r] + v, carry);
      store(step.next_state + place, h);
      if (v < step.units) store_narrow(static_cast<S*>(step.output[r]) + v, h, std::min(lanes<T>, step.units - v));
      for (int i = 0; step.keeps_slots && i < layout.saved; ++i) store(from + i * micro_cols<T>, slot[i]);
    }
  }
}

template <class T>
class Forward {
 public:
  Forward(const Context& context, const Array& output, const Array& h_n, const Array& c_n, const Array& reserve,
          const RecurrentInputs& in, Workspace& packed, Workspace& workspace)
      : context_(context),
        in_(in),
        output_(output),
        h_n_(h_n),
        c_n_(c_n),
        layout_(layout_of(in.cell)),
        apply_(cell_function<T, CellStep<T>>(in.cell, in.x.dtype,
                                             []<class S, class Cell>(S, Cell) { return &apply_cell<S, Cell>; })),
        extent_(shape_of(in)),
        order_(in),
        schedule_(context, extent_.batch, extent_.width / micro_cols<T>),
        weights_(extent_, layout_.gates, packed),
        memory_(context, extent_, schedule_, layout_.gates, static_cast<bool>(reserve), workspace),
        reserve_(reserve.as<T>()),
        chunk_(schedule_.chunk(extent_.steps)),
        slots_kept_(reserve ? layout_.saved : layout_.gates) {}

  void run() {
    sum_biases();
    prepare_states();
    schedule_.run(context_, extent_.steps, [&](const Part& part, std::int64_t step, int worker) {
      if (step % chunk_ == 0) project_inputs(part, step, worker);
      for (std::int64_t block = part.first_block; block < part.last_block; ++block)
        for (std::int64_t panel = part.first_panel; panel < part.last_panel; ++panel)
          advance(panel, block, step, worker);
    });
  }

 private:
  /// Both biases go into the projections, but for gru's n: there bias_hh is multiplied by the reset gate.
  void sum_biases() {
    std::fill_n(memory_.bias, layout_.gates * extent_.width, T(0));
    std::fill_n(memory_.hidden_bias, layout_.gates * extent_.width, T(0));
    for (std::int64_t panel = 0; panel < schedule_.blocks * layout_.gates; ++panel) {
      const std::int64_t unit = panel / layout_.gates * micro_cols<T>, block = panel / layout_.gates * layout_.gates;
      const std::int64_t count = std::min<std::int64_t>(micro_cols<T>, extent_.hidden - unit);
      const std::int64_t slot = panel % layout_.gates, gate = (slot + layout_.rotation) % layout_.gates;
      T* sum = memory_.bias + panel * micro_cols<T>;
      T* hidden = memory_.hidden_bias + (block + gate) * micro_cols<T>;
      if (in_.bias_ih) Elements<T>{in_.bias_ih}.load(sum, gate * extent_.hidden + unit, count);
      if (in_.bias_hh) Elements<T>{in_.bias_hh}.load(hidden, gate * extent_.hidden + unit, count);
      if (slot < layout_.hidden_slot) continue;
      for (std::int64_t i = 0; i < count; ++i) sum[i] += std::exchange(hidden[i], T(0));
    }
  }

  void prepare_states() {
    std::fill_n(memory_.state, 2 * schedule_.panels * state_panel_size<T>(extent_.width), T(0));
    load_states(memory_.carry, in_.c_0, extent_);
    for (std::int64_t panel = 0; in_.h_0 && panel < schedule_.panels; ++panel)
      for (int r = 0; r < schedule_.rows_of(panel); ++r)
        load_row(state(0, panel), r, Elements<T>{in_.h_0}, (schedule_.sample(panel) + r) * extent_.hidden,
                 extent_.hidden);
    for (std::int64_t row = 0; in_.lengths && row < extent_.rows; ++row)
      if (order_.step(row / extent_.steps, row % extent_.steps) < 0)
        Elements<T>{output_}.clear(row * extent_.hidden, extent_.hidden);
  }

  /// weight_ih x + bias for the steps [step, step + chunk_) of a part.
  void project_inputs(const Part& part, std::int64_t step, int worker) {
    T* const inputs = memory_.inputs + worker * memory_.inputs_size(extent_);
    T** const rows = memory_.rows + worker * memory_.chunk_rows;
    std::int64_t count = 0;
    for (std::int64_t s = step; s < std::min(step + chunk_, extent_.steps); ++s)
      for (std::int64_t panel = part.first_panel; panel < part.last_panel; ++panel)
        for (int r = 0; r < schedule_.rows_of(panel); ++r) {
          const std::int64_t sample = schedule_.sample(panel) + r;
          if (s >= order_.length(sample)) continue;
          rows[count] = slots(panel, r, s, worker);
          load_row(inputs + count / micro_rows * state_panel_size<T>(extent_.input),
                   static_cast<int>(count % micro_rows), Elements<T>{in_.x}, order_.row(sample, s) * extent_.input,
                   extent_.input);
          ++count;
        }
    const std::int64_t columns = layout_.gates * micro_cols<T>;  // of a block; its matrix serves all rows
    for (std::int64_t block = part.first_block; block < part.last_block; ++block)
      for (std::int64_t first = 0; first < count; first += micro_rows) {
        const int some = static_cast<int>(std::min<std::int64_t>(micro_rows, count - first));
        const std::int64_t column = block * slots_kept_ * micro_cols<T>;
        for (int r = 0; r < some; ++r)
          prefetch(rows[first + r] + column, columns * static_cast<std::int64_t>(sizeof(T)));
        state_product<T>(some, layout_.gates, extent_.input,
                         inputs + first / micro_rows * state_panel_size<T>(extent_.input), state_stride<T>,
                         weights_.ih + block * columns * extent_.input, memory_.bias + block * columns, rows + first,
                         column);
      }
  }

  /// One step of one panel of samples for one block of hidden units: the product, which hides the way of the rest from
  /// memory, then the gates while it is in L1.
  void advance(std::int64_t panel, std::int64_t block, std::int64_t step, int worker) {
    alignas(64) T tile[micro_rows * most_gates * micro_cols<T>];
    T* products[micro_rows];
    for (int r = 0; r < micro_rows; ++r) products[r] = tile + r * most_gates * micro_cols<T>;
    const int rows = schedule_.rows_of(panel);
    const std::int64_t sample = schedule_.sample(panel), unit = block * micro_cols<T>;
    if (step >= order_.longest(sample, rows)) return;
    CellStep<T> cell{.rows = rows,
                     .units = static_cast<int>(std::min<std::int64_t>(micro_cols<T>, extent_.hidden - unit)),
                     .keeps_slots = reserve_ != nullptr,
                     .state = state(step, panel) + state_offset<T>(0, unit),
                     .next_state = state(step + 1, panel) + state_offset<T>(0, unit)};
    for (int r = 0; r < rows; ++r) {
      cell.products[r] = products[r];
      cell.carry[r] = memory_.carry + (sample + r) * extent_.width + unit;
      if (step >= order_.length(sample + r)) continue;
      cell.slots[r] = slots(panel, r, step, worker) + block * slots_kept_ * micro_cols<T>;
      const std::int64_t element = order_.row(sample + r, step) * extent_.hidden + unit;
      cell.output[r] = output_.as<char>() + element * size_of(output_.dtype);
      prefetch(cell.slots[r], slots_kept_ * micro_cols<T> * static_cast<std::int64_t>(sizeof(T)));
      prefetch(cell.output[r], micro_cols<T> * size_of(output_.dtype));
    }
    const std::int64_t columns = layout_.gates * micro_cols<T>;
    const std::int64_t depth = step == 0 && !in_.h_0 ? 0 : extent_.hidden;  // zeros need no product
    state_product<T>(rows, layout_.gates, depth, state(step, panel), state_stride<T>,
                     weights_.hh + block * columns * extent_.hidden, memory_.hidden_bias + block * columns, products,
                     0);
    apply_(cell);
    for (int r = 0; r < rows; ++r)
      if (step == order_.length(sample + r) - 1) finish(sample + r, unit, cell.next_state + state_offset<T>(r, 0));
  }

  /// The states of one sample and block after its last step.
  void finish(std::int64_t sample, std::int64_t unit, const T* state) {
    for (std::int64_t v = unit; v < std::min(unit + micro_cols<T>, extent_.hidden); v += lanes<T>) {
      const std::int64_t count = std::min<std::int64_t>(lanes<T>, extent_.hidden - v), to = sample * extent_.hidden + v;
      Elements<T>{h_n_}.store(state + state_offset<T>(0, v - unit), to, count);
      if (c_n_) Elements<T>{c_n_}.store(memory_.carry + sample * extent_.width + v, to, count);
    }
  }

  /// The slots of a sample's step, [block][slot][unit]: in the reserve, or in the memory of a thread for one chunk.
  T* slots(std::int64_t panel, int r, std::int64_t step, int worker) const {
    const std::int64_t sample = schedule_.sample(panel) + r, stride = slots_kept_ * extent_.width;
    if (reserve_) return reserve_ + order_.place(sample, step) * stride;
    const std::int64_t first = schedule_.by_rows ? worker * memory_.chunk_rows : 0;
    return memory_.projections + (first + step % chunk_ * schedule_.task_rows + sample % schedule_.task_rows) * stride;
  }

  /// The panel's h before step `step`: steps read one half of the memory and write the other.
  T* state(std::int64_t step, std::int64_t panel) const {
    return memory_.state + (step % 2 * schedule_.panels + panel) * state_panel_size<T>(extent_.width);
  }

  const Context& context_;
  const RecurrentInputs& in_;
  const Array &output_, &h_n_, &c_n_;
  const CellLayout layout_;
  const CellFunction<CellStep<T>> apply_;
  const Extent<T> extent_;
  const Order order_;
  const Schedule schedule_;
  const PackedWeights<T> weights_;
  const Memory<T> memory_;
  T* const reserve_;  // (T N, blocks, layout_.saved, micro_cols), or null
  const std::int64_t chunk_;
  const int slots_kept_;
};

}  // namespace
}  // namespace cpu

Plan recurrent_forward_plan(const Context& context, const RecurrentShape& shape, DType dtype, RecurrentCell cell,
                            bool training) {
  Plan plan{.algorithm = "packed"};
  const cpu::CellLayout layout = cpu::layout_of(cell);
  cpu::for_compute(dtype, [&](auto tag) {
    using T = decltype(tag);
    const cpu::Extent<T> extent(shape);
    const cpu::Schedule schedule(context, extent.batch, extent.width / cpu::micro_cols<T>);
    cpu::Workspace packed, workspace;
    const cpu::PackedWeights<T> weights(extent, layout.gates, packed);
    const cpu::Memory<T> memory(context, extent, schedule, layout.gates, training, workspace);
    plan.packed_bytes = packed.used();
    plan.workspace_bytes = workspace.used();
    if (training) plan.reserve_bytes = cpu::reserve_bytes(extent, layout);
  });
  return plan;
}

void recurrent_pack(const Context& context, const Array& packed, const Array& weight_ih, const Array& weight_hh,
                    const RecurrentShape& shape, RecurrentCell cell) {
  cpu::for_compute(weight_hh.dtype, [&](auto tag) {
    cpu::pack_weights<decltype(tag)>(context, packed, weight_ih, weight_hh, shape, cell);
  });
}

void recurrent_forward(const Context& context, const Array& output, const Array& h_n, const Array& c_n,
                       const Array& reserve, const RecurrentInputs& inputs, const Array& packed,
                       const Array& workspace) {
  cpu::for_compute(inputs.x.dtype, [&](auto tag) {
    cpu::Workspace packed_memory(packed.data), memory(workspace.data);
    cpu::Forward<decltype(tag)>(context, output, h_n, c_n, reserve, inputs, packed_memory, memory).run();
  });
}

}  // namespace imgrec
