#include "cpu/recurrent.h"

namespace imgrec {
namespace cpu {
namespace {

/// Both weights as the products read them: columns of weight_ih by gates, of weight_hh by blocks of units.
template <class T>
struct PackedWeights {
  T *ih, *hh;

  PackedWeights(const Extent<T>& extent, int gates, Workspace& packed)
      : ih(packed.take<T>(gates * extent.width * extent.input)),
        hh(packed.take<T>(gates * extent.width * extent.width)) {}
};

/// The scratch memory of one call. The projections move to the reserve where there is one.
template <class T>
struct Memory {
  T *projections = nullptr, *gemm, *bias, *hidden_bias, *carry, *state;

  Memory(const Context& context, const Extent<T>& extent, int gates, bool training, Workspace& workspace) {
    const std::int64_t columns = gates * extent.width;
    const Schedule schedule(context, extent.batch, extent.width / micro_cols<T>);
    const GemmTiling<T> tiling(context, extent.rows, columns, extent.input);
    if (!training) projections = workspace.take<T>(extent.rows * columns);
    gemm = workspace.take<T>(context.threads * tiling.scratch_size());
    bias = workspace.take<T>(columns);
    hidden_bias = workspace.take<T>(extent.width);
    carry = workspace.take<T>(extent.batch * extent.width);
    state = workspace.take<T>(2 * schedule.panels * state_panel_size(extent.width));
  }
};

/// Packs the transposed weight (G H, depth) into panels of micro_cols units, zero for k in [depth, padded) and past H.
/// place(panel, gate, unit) says which gate a panel belongs to and at which unit it begins.
template <class T, class Place>
void pack_weight(const Context& context, T* packed, const Array& weight, std::int64_t panels, std::int64_t hidden,
                 std::int64_t padded, Place&& place) {
  const std::int64_t depth = weight.shape[1], slices = Schedule::divide(padded, depth_block);
  parallel_tasks(context, panels * slices, [&](std::int64_t task, int) {
    const std::int64_t panel = task / slices, begin = task % slices * depth_block;
    std::int64_t gate, unit;
    place(panel, gate, unit);
    const std::int64_t count = std::clamp<std::int64_t>(hidden - unit, 0, micro_cols<T>);
    T* to = packed + (panel * padded + begin) * micro_cols<T>;
    T block[micro_cols<T>][lanes<T>] = {};
    for (std::int64_t k = begin; k < std::min(padded, begin + depth_block); k += lanes<T>) {
      const std::int64_t given = std::clamp<std::int64_t>(depth - k, 0, lanes<T>);
      for (std::int64_t j = 0; j < count; ++j) {
        std::fill(block[j] + given, block[j] + lanes<T>, T(0));
        Elements<T>{weight}.load(block[j], (gate * hidden + unit + j) * depth + k, given);
      }
      const std::int64_t lines = std::min<std::int64_t>(lanes<T>, padded - k);
      for (std::int64_t i = 0; i < lines; ++i, to += micro_cols<T>)
        for (std::int64_t j = 0; j < micro_cols<T>; ++j) to[j] = block[j][i];
    }
  });
}

template <class T>
void pack_weights(const Context& context, const Array& packed, const Array& weight_ih, const Array& weight_hh,
                  const RecurrentShape& shape, RecurrentCell cell) {
  const CellLayout layout = layout_of(cell);
  const Extent<T> extent(shape);
  const std::int64_t blocks = extent.width / micro_cols<T>;
  Workspace memory(packed.data);
  const PackedWeights<T> weights(extent, layout.gates, memory);
  pack_weight<T>(context, weights.ih, weight_ih, layout.gates * blocks, extent.hidden, extent.input,
                 [&](std::int64_t panel, std::int64_t& gate, std::int64_t& unit) {
                   gate = (panel / blocks + layout.rotation) % layout.gates;
                   unit = panel % blocks * micro_cols<T>;
                 });
  pack_weight<T>(context, weights.hh, weight_hh, layout.gates * blocks, extent.hidden, extent.width,
                 [&](std::int64_t panel, std::int64_t& gate, std::int64_t& unit) {
                   gate = panel % layout.gates;
                   unit = panel / layout.gates * micro_cols<T>;
                 });
}

/// One step of one sample for a block of micro_cols units; passed by value, so that stores cannot change it. A pointer
/// is to its first unit; slots lie `width` apart, products micro_cols, and the vectors of a state as state_offset says.
template <class T>
struct Units {
  T* slots;
  std::int64_t width;
  bool keeps_slots;
  const T *product, *bias, *state;
  T *next_state, *carry, *h;
};

template <class T, class Cell>
void apply_cell(Units<T> units) {
  constexpr CellLayout layout = Cell::layout;
  for (int v = 0; v < micro_cols<T>; v += lanes<T>) {
    Vector<T> slot[layout.saved], sums[layout.gates], c = load(units.carry + v);
    for (int gate = 0; gate < layout.gates; ++gate) {
      slot[gate] = load(units.slots + gate * units.width + v);
      sums[gate] = load(units.product + gate * micro_cols<T> + v);
    }
    const std::int64_t place = state_offset<T>(0, v);
    const Vector<T> h = Cell::forward(slot, sums, load(units.bias + v), load(units.state + place), c);
    store(units.carry + v, c);
    store(units.next_state + place, h);
    store(units.h + v, h);
    if (units.keeps_slots)
      for (int i = 0; i < layout.saved; ++i) store(units.slots + i * units.width + v, slot[i]);
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
        apply_(for_cell<T>(in.cell, [](auto kind) { return &apply_cell<T, decltype(kind)>; })),
        extent_(shape_of(in)),
        order_(in),
        schedule_(context, extent_.batch, extent_.width / micro_cols<T>),
        weights_(extent_, layout_.gates, packed),
        memory_(context, extent_, layout_.gates, static_cast<bool>(reserve), workspace),
        training_(static_cast<bool>(reserve)),
        slots_kept_(training_ ? layout_.saved : layout_.gates),
        stride_(slots_kept_ * extent_.width),
        slots_(training_ ? reserve.as<T>() : memory_.projections) {}

  void run() {
    sum_biases();
    project_inputs();
    prepare_states();
    schedule_.run(context_, extent_.steps, [&](const Part& part, std::int64_t step) {
      if (step >= order_.longest(schedule_.sample(part.panel), schedule_.rows_of(part.panel))) return;
      for (std::int64_t block = part.first; block < part.last; ++block) advance(part.panel, block, step);
    });
  }

 private:
  /// Both biases go into the projections, but for gru's n: there bias_hh is multiplied by the reset gate.
  void sum_biases() {
    for (int slot = layout_.gates - 1; slot >= 0; --slot) {
      T* sum = memory_.bias + slot * extent_.width;
      const std::int64_t from = (slot + layout_.rotation) % layout_.gates * extent_.hidden;
      std::fill(sum, sum + extent_.width, T(0));
      std::fill(memory_.hidden_bias, memory_.hidden_bias + extent_.width, T(0));
      if (in_.bias_ih) Elements<T>{in_.bias_ih}.load(sum, from, extent_.hidden);
      if (in_.bias_hh) Elements<T>{in_.bias_hh}.load(memory_.hidden_bias, from, extent_.hidden);
      if (slot >= layout_.hidden_slot)
        for (std::int64_t unit = 0; unit < extent_.hidden; ++unit) sum[unit] += memory_.hidden_bias[unit];
    }
  }

  /// weight_ih x + bias for all steps of all samples, in one product.
  void project_inputs() {
    const std::int64_t columns = layout_.gates * extent_.width;
    const Elements<T> x{in_.x};
    gemm(
        context_, GemmTiling<T>(context_, extent_.rows, columns, extent_.input), weights_.ih, memory_.gemm,
        [&](T* panel, std::int64_t row, int rows, std::int64_t k, std::int64_t depth) {
          fill_rows(panel, rows, depth, [&](int r, T* line) { x.load(line, (row + r) * extent_.input + k, depth); });
        },
        [&](const T* tile, std::int64_t ld, std::int64_t row, std::int64_t rows, std::int64_t column,
            std::int64_t count) {
          for (std::int64_t r = 0; r < rows; ++r)
            for (std::int64_t j = 0; j < count; ++j)
              slots_[(row + r) * stride_ + column + j] = tile[r * ld + j] + memory_.bias[column + j];
        });
  }

  void prepare_states() {
    std::fill_n(memory_.state, 2 * schedule_.panels * state_panel_size(extent_.width), T(0));
    load_states(memory_.carry, in_.h_0, extent_);
    for (std::int64_t panel = 0; panel < schedule_.panels; ++panel)
      for (int r = 0; r < schedule_.rows_of(panel); ++r)
        for (std::int64_t unit = 0; unit < extent_.width; unit += lanes<T>)
          store(state(0, panel) + state_offset<T>(r, unit),
                load(memory_.carry + (schedule_.sample(panel) + r) * extent_.width + unit));
    load_states(memory_.carry, in_.c_0, extent_);
    for (std::int64_t row = 0; in_.lengths && row < extent_.rows; ++row)
      if (order_.step(row) < 0) Elements<T>{output_}.clear(row * extent_.hidden, extent_.hidden);
  }

  /// One step of one panel of samples for one block of hidden units: the product, then the gates while it is in L1.
  void advance(std::int64_t panel, std::int64_t block, std::int64_t step) {
    alignas(64) T tile[micro_rows * most_gates * micro_cols<T>];
    const std::int64_t ld = layout_.gates * micro_cols<T>;
    const int rows = schedule_.rows_of(panel);
    const std::int64_t unit = block * micro_cols<T>;
    for (std::int64_t sample = schedule_.sample(panel), end = sample + rows; sample < end; ++sample)
      if (step < order_.length(sample))
        prefetch(slots_ + order_.row(sample, step) * stride_ + unit, slots_kept_, extent_.width);
    state_product<T>(rows, layout_.gates, extent_.width, state(step, panel), weights_.hh + block * ld * extent_.width,
                     tile, ld);
    const std::int64_t count = std::min<std::int64_t>(micro_cols<T>, extent_.hidden - unit);
    for (int r = 0; r < rows; ++r) {
      const std::int64_t sample = schedule_.sample(panel) + r, length = order_.length(sample);
      if (step >= length) continue;
      const std::int64_t row = order_.row(sample, step);
      T* carry = memory_.carry + sample * extent_.width + unit;
      alignas(64) T h[micro_cols<T>];
      const std::int64_t place = state_offset<T>(r, unit);
      apply_({slots_ + row * stride_ + unit, extent_.width, training_, tile + r * ld, memory_.hidden_bias + unit,
              state(step, panel) + place, state(step + 1, panel) + place, carry, h});
      Elements<T>{output_}.store(h, row * extent_.hidden + unit, count);
      if (step < length - 1) continue;
      Elements<T>{h_n_}.store(h, sample * extent_.hidden + unit, count);
      if (c_n_) Elements<T>{c_n_}.store(carry, sample * extent_.hidden + unit, count);
    }
  }

  /// The panel's h before step `step`: steps read one half of the memory and write the other.
  T* state(std::int64_t step, std::int64_t panel) const {
    return memory_.state + (step % 2 * schedule_.panels + panel) * state_panel_size(extent_.width);
  }

  const Context& context_;
  const RecurrentInputs& in_;
  const Array &output_, &h_n_, &c_n_;
  const CellLayout layout_;
  void (*const apply_)(Units<T>);
  const Extent<T> extent_;
  const Order order_;
  const Schedule schedule_;
  const PackedWeights<T> weights_;
  const Memory<T> memory_;
  const bool training_;
  const int slots_kept_;
  const std::int64_t stride_;
  T* const slots_;  // (N T, slots_kept_, width)
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
    cpu::Workspace workspace;
    cpu::Memory<T>(context, extent, layout.gates, training, workspace);
    plan.workspace_bytes = workspace.used();
    cpu::Workspace packed;
    cpu::PackedWeights<T>(extent, layout.gates, packed);
    plan.packed_bytes = packed.used();
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
