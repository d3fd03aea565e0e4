// The backward pass of rnn, lstm and gru; the mathematics by unit is in recurrent/cells.h.
//
//   saved (N T, saved, H)             the reserve: the gates' activations, and c (lstm) or h (gru)
//   slots (N T, gradients, H)         gradients of the gates before their activations, in the storage type
//   packed (groups, columns, width)   the columns of weight_hh (G H, H), a part for each group of hidden units
//   state (2, N, width)               the gradients that weight_hh sees, by gate and unit: a step reads in one half
//                                     those of the step after it and writes its own to the other
//
// 1. From the last step to the first, dh = state times weight_hh, then the gates' gradients. "persistent" and
//    "stepwise" are what they are in forward.cu, with one column instead of G a unit and the depth G H instead of H:
//    one cooperative launch with one grid barrier a step, or a launch a step. One round more leads to h_0 and c_0.
// 2. dx, dweight_ih and dweight_hh are one product each over all N T rows (products.h).
// 3. The biases' gradients are sums of columns; a thread adds every eighth row, eight threads of a column in order.
//
// Tile: tiling.h chooses; 256 threads. Registers: 124 float32, 106 16-bit, 140 float64, no spills (sm_80, sm_90a).
// Shared memory: what the weights take, up to the limit; slices shrink until a tile fits 99 KB.
// Measured share of the peer: not run on a GPU.
#include "cpu/workspace.h"
#include "cuda/arch/grid.h"
#include "cuda/recurrent/prepare.h"
#include "cuda/recurrent/products.h"
#include "cuda/recurrent/state_product.h"

namespace imgrec {
namespace cuda {
namespace {

using namespace recurrent;

template <class T>
struct BackwardArguments {
  RecurrentCell cell;
  Tiling tiling;
  Order order;
  std::int64_t batch, hidden;
  const T* packed;
  const Compute<T>* saved;
  T* slots;
  Compute<T>*state, *carry;
  const T *first, *doutput, *dh_n, *dc_n;  // or null; first: c_0 (lstm) or h_0 (gru)
  T *dh_0, *dc_0;                          // or null
  unsigned* barrier;
};

/// The gradients of the initial states, for one unit of one sample.
template <class T>
__device__ __forceinline__ void finish_unit(const BackwardArguments<T>& all, std::int64_t place, Compute<T> dh,
                                            Compute<T> carry) {
  if (all.dc_0) all.dc_0[place] = narrow<T>(carry);
  if (all.dh_0) all.dh_0[place] = narrow<T>(all.cell == RecurrentCell::gru ? dh + carry : dh);
}

/// What one unit of one sample reads for one step, whatever the other units do.
template <class Number>
struct StepInputs {
  Number slots[most_saved], previous, given;  // activations; c (lstm) or h (gru) before the step; dh but from weight_hh
};

template <class T>
__device__ __forceinline__ void fetch_inputs(StepInputs<Compute<T>>& inputs, const BackwardArguments<T>& all,
                                             std::int64_t sample, std::int64_t unit, std::int64_t step) {
  const std::int64_t length = all.order.length(sample), place = sample * all.hidden + unit;
  if (step < 0 || step >= length) return;
  const std::int64_t row = all.order.row(sample, step, length);
  const int saved = layout_of(all.cell).saved;
#pragma unroll
  for (int slot = 0; slot < most_saved; ++slot)
    if (slot < saved) inputs.slots[slot] = all.saved[(row * saved + slot) * all.hidden + unit];
  inputs.previous = all.first ? widen(all.first[place]) : Compute<T>(0);
  if (step > 0) {
    const std::int64_t before = all.order.reverse ? row + 1 : row - 1;
    inputs.previous = all.saved[(before * saved + saved - 1) * all.hidden + unit];
  }
  inputs.given = all.doutput ? widen(all.doutput[row * all.hidden + unit]) : Compute<T>(0);
  if (step == length - 1 && all.dh_n) inputs.given += widen(all.dh_n[place]);
}

/// One unit of one sample in one step; `dh` is what came through weight_hh, next_state (N, width) what the step before
/// will read.
template <class T>
__device__ __forceinline__ void retreat_unit(const BackwardArguments<T>& all, std::int64_t sample, std::int64_t unit,
                                             std::int64_t step, const StepInputs<Compute<T>>& inputs, Compute<T> dh,
                                             Compute<T>* next_state, Compute<T>& carry) {
  const CellLayout layout = layout_of(all.cell);
  const std::int64_t length = all.order.length(sample);
  std::int64_t row = sample * all.order.steps.divisor + step;
  Compute<T> gradients[most_gates] = {};  // zeros are left past the sample's length
  if (step < length) {
    row = all.order.row(sample, step, length);
    if (step == length - 1) dh = 0;
    differentiate_cell(all.cell, gradients, inputs.slots, inputs.given + dh, inputs.previous, carry);
#pragma unroll
    for (int gate = 0; gate < most_gates; ++gate)
      if (gate < layout.gates)
        next_state[sample * all.tiling.width + gate * all.hidden + unit] =
            hidden_slot(all.cell, gate) == gate ? gradients[gate] : gradients[3];
  }
#pragma unroll
  for (int slot = 0; slot < most_gates; ++slot)
    if (slot < layout.gradients)
      all.slots[(row * layout.gradients + slot) * all.hidden + unit] = narrow<T>(gradients[slot]);
}

/// The block's units of a tile's samples in one round.
template <class T>
__device__ __forceinline__ void retreat_units(const BackwardArguments<T>& all, StateProduct<T>& product,
                                              const Share& share, int tile, std::int64_t round, Compute<T>* carry) {
  const Tiling& tiling = all.tiling;
  const std::int64_t step = all.order.steps.divisor - 1 - round, first_sample = share.first_sample + tile;
  const int rows = min(tiling.rows, share.samples - tile);
  Compute<T>* const next_state = all.state + (round + 1) % 2 * all.batch * tiling.width;
  int i = threadIdx.x, row = i / share.units, column = i % share.units;
  StepInputs<Compute<T>> inputs;
  const auto fetch = [&] {
    if (i < rows * share.units) fetch_inputs(inputs, all, first_sample + row, share.first_unit + column, step);
  };
  fetch();  // arrives during the product; those of further units after it
  product.compute(all.state + (round % 2 * all.batch + first_sample) * tiling.width, rows);
  while (i < rows * share.units) {
    const std::int64_t sample = first_sample + row, unit = share.first_unit + column;
    const std::int64_t place = sample * all.hidden + unit;
    Compute<T>& kept = carry[(tile + row) * tiling.units + column];
    Compute<T> now = round > 0 ? kept : all.dc_n ? widen(all.dc_n[place]) : Compute<T>(0);
    if (step < 0)
      finish_unit(all, place, product.sum(row, column), now);
    else
      retreat_unit(all, sample, unit, step, inputs, product.sum(row, column), next_state, now);
    kept = now;
    i += block_threads, row = i / share.units, column = i % share.units;
    fetch();
  }
}

/// Round r undoes step T - 1 - r of the forward pass; step -1 stands for the initial states.
template <class T>
__global__ void __launch_bounds__(block_threads, 1)  // one block fills a multiprocessor's shared memory
    backward_kernel(BackwardArguments<T> all, std::int64_t first_round, std::int64_t last_round) {
  DYN_SHARED(unsigned char, memory);
  const Tiling& tiling = all.tiling;
  StateProduct<T> product(tiling, all.packed, memory);
  const Share share(tiling, all.batch, all.hidden);
  Compute<T>* const carry = tiling.carry_on_chip
                                ? product.carry()
                                : all.carry + static_cast<std::int64_t>(blockIdx.x) * tiling.carry_elements();
  for (std::int64_t round = first_round; round < last_round; ++round) {
    for (int tile = 0; tile < share.samples; tile += tiling.rows) {
      retreat_units(all, product, share, tile, round, carry);
      __syncthreads();  // before the sums are written again
    }
    if (round + 1 < last_round && tiling.groups > 1) grid_barrier(all.barrier);
  }
}

constexpr int sum_columns = 32, sum_rows = 8;

/// dbias_ih, dbias_hh (G H): the columns of slots (rows, stride), summed.
template <class T>
__global__ void __launch_bounds__(sum_columns* sum_rows)
    bias_gradients_kernel(T* dbias_ih, T* dbias_hh, const T* slots, std::int64_t rows, std::int64_t stride,
                          std::int64_t hidden, RecurrentCell cell) {
  SHARED(Compute<T>, partial, [sum_rows][sum_columns]);
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * sum_columns + threadIdx.x;
  Compute<T> sum(0);
  if (column < stride)
    for (std::int64_t row = threadIdx.y; row < rows; row += sum_rows) sum += widen(slots[row * stride + column]);
  partial[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= stride) return;
  for (int i = 1; i < sum_rows; ++i) sum += partial[i][threadIdx.x];
  const CellLayout layout = layout_of(cell);
  if (dbias_ih && column < layout.gates * hidden) dbias_ih[column] = narrow<T>(sum);
  for (int gate = 0; dbias_hh && gate < layout.gates; ++gate)
    if (column / hidden == hidden_slot(cell, gate)) dbias_hh[gate * hidden + column % hidden] = narrow<T>(sum);
}

template <class T>
Tiling backward_tiling(const Context& context, const RecurrentShape& shape, const CellLayout& layout) {
  return tiling_of<T>(context, {shape.batch, shape.hidden, 1, static_cast<int>(layout.gates * shape.hidden)});
}

/// The scratch memory of one call.
template <class T>
struct BackwardMemory {
  using Number = Compute<T>;
  T *slots, *packed;
  Number *state, *carry, *partial;
  int* lengths;
  unsigned* barrier;

  BackwardMemory(const RecurrentShape& shape, const CellLayout& layout, const Tiling& tiling,
                 cpu::Workspace& workspace) {
    const std::int64_t rows = shape.batch * shape.steps, columns = layout.gates * shape.hidden;
    slots = workspace.take<T>(rows * layout.gradients * shape.hidden);
    state = workspace.take<Number>(2 * shape.batch * tiling.width);
    carry = workspace.take<Number>(tiling.carry_on_chip ? 0 : tiling.blocks() * tiling.carry_elements());
    std::int64_t scratch = 0;
    for (const std::int64_t width : {shape.input, shape.hidden}) {
      if (width == 0) continue;
      const DepthSplit split = weight_split(columns, width, rows);
      if (split.parts > 1) scratch = std::max(scratch, split.parts * columns * width);
    }
    partial = workspace.take<Number>(scratch);
    packed = workspace.take<T>(static_cast<std::int64_t>(tiling.groups) * tiling.columns * tiling.width);
    lengths = workspace.take<int>(shape.batch);
    barrier = workspace.take<unsigned>(1);
  }
};

/// All that the steps leave behind in slots, on its way to the gradients.
template <class T>
class Gradients {
 public:
  using Number = Compute<T>;

  Gradients(const Context& context, const RecurrentInputs& in, const Order& order, const T* slots, Number* partial)
      : context_(context), in_(in), order_(order), slots_(slots), partial_(partial), shape_(shape_of(in)) {}

  void input(const Array& to) const {
    product<T>(context_, MatrixSource<T, true>{slots_, stride(), 1},
               MatrixSource<T, false>{in_.weight_ih.as<const T>(), 1, shape_.input},
               {.rows = rows(), .columns = shape_.input, .last = columns()}, {.parts = 1, .part_depth = columns()},
               GradientEpilogue<T>{to.as<T>(), nullptr, 0, shape_.input},
               come_in_packs(shape_.input, shape_.hidden, in_.weight_ih));
  }

  void weight_ih(const Array& to) const {
    weight(to, {slots_, stride(), columns(), shape_.hidden},
           {in_.x.as<const T>(), nullptr, shape_.input, order_, false},
           come_in_packs(shape_.input, shape_.hidden, in_.x));
  }

  void weight_hh(const Array& to, const Array& output) const {
    const std::int64_t skip_from = in_.cell == RecurrentCell::gru ? 2 * shape_.hidden : columns();
    weight(to, {slots_, stride(), skip_from, shape_.hidden},
           {output.as<const T>(), in_.h_0.as<const T>(), shape_.hidden, order_, true},
           come_in_packs(shape_.hidden, shape_.hidden, output, in_.h_0));
  }

  void biases(const Array& ih, const Array& hh) const {
    const dim3 threads(sum_columns, sum_rows);
    const unsigned blocks = static_cast<unsigned>(divide_up<std::int64_t>(stride(), sum_columns));
    LAUNCH((bias_gradients_kernel<T>), context_, {.blocks = blocks, .threads = threads}, ih.as<T>(), hh.as<T>(), slots_,
           rows(), stride(), shape_.hidden, in_.cell);
  }

 private:
  std::int64_t rows() const { return shape_.batch * shape_.steps; }
  std::int64_t columns() const { return layout_of(in_.cell).gates * shape_.hidden; }
  std::int64_t stride() const { return layout_of(in_.cell).gradients * shape_.hidden; }

  void weight(const Array& to, const GateGradients<T>& gates, const StepRows<T>& inputs, bool in_packs) const {
    if (inputs.width == 0) return;
    const DepthSplit split = weight_split(columns(), inputs.width, rows());
    Number* const partial = split.parts > 1 ? partial_ : nullptr;
    product<T>(context_, gates, inputs, {.rows = columns(), .columns = inputs.width, .last = rows()}, split,
               GradientEpilogue<T>{to.as<T>(), partial, to.size(), inputs.width}, in_packs);
    if (partial) sum_parts(context_, to.as<T>(), partial, to.size(), split.parts);
  }

  const Context& context_;
  const RecurrentInputs& in_;
  const Order& order_;
  const T* slots_;
  Number* partial_;
  RecurrentShape shape_;
};

template <class T>
void backward(const Context& context, const RecurrentGradients& gradients, const Array& doutput, const Array& dh_n,
              const Array& dc_n, const RecurrentInputs& in, const Array& output, const Array& reserve,
              const Array& workspace) {
  const RecurrentShape shape = shape_of(in);
  const CellLayout layout = layout_of(in.cell);
  const Tiling tiling = backward_tiling<T>(context, shape, layout);
  cpu::Workspace cutter(workspace.data);
  const BackwardMemory<T> memory(shape, layout, tiling, cutter);
  const Order order = prepare_order(context, memory.lengths, in);
  if (shape.batch > 0) {
    pack_weights(context, memory.packed, in.weight_hh.as<const T>(), tiling, shape.hidden, layout.gates, true);
    prepare_state<T>(context, memory.state, memory.barrier, nullptr, shape.batch, shape.hidden, tiling.width);
    const BackwardArguments<T> all{
        .cell = in.cell,
        .tiling = tiling,
        .order = order,
        .batch = shape.batch,
        .hidden = shape.hidden,
        .packed = memory.packed,
        .saved = reserve.as<const Compute<T>>(),
        .slots = memory.slots,
        .state = memory.state,
        .carry = memory.carry,
        .first = in.cell == RecurrentCell::lstm ? in.c_0.as<const T>() : in.h_0.as<const T>(),
        .doutput = doutput.as<const T>(),
        .dh_n = dh_n.as<const T>(),
        .dc_n = dc_n.as<const T>(),
        .dh_0 = gradients.h_0.as<T>(),
        .dc_0 = gradients.c_0.as<T>(),
        .barrier = memory.barrier};
    const bool to_initial_states = gradients.h_0 || gradients.c_0;
    ALLOW_SHARED((backward_kernel<T>), static_cast<int>(context.max_shared_bytes));
    launch_steps<T>(tiling, shape.steps + to_initial_states,
                    [&](const LaunchConfig& config, std::int64_t first, std::int64_t last) {
                      LAUNCH((backward_kernel<T>), context, config, all, first, last);
                    });
  }
  const Gradients<T> rest(context, in, order, memory.slots, memory.partial);
  if (gradients.x) rest.input(gradients.x);
  if (gradients.weight_ih) rest.weight_ih(gradients.weight_ih);
  if (gradients.weight_hh) rest.weight_hh(gradients.weight_hh, output);
  if (gradients.bias_ih || gradients.bias_hh) rest.biases(gradients.bias_ih, gradients.bias_hh);
}

}  // namespace
}  // namespace cuda

Plan recurrent_backward_plan(const Context& context, const RecurrentShape& shape, DType dtype, RecurrentCell cell) {
  Plan plan{.algorithm = "persistent"};
  cuda::for_floating(dtype, [&](auto type) {
    using T = decltype(type);
    const cuda::recurrent::CellLayout layout = cuda::recurrent::layout_of(cell);
    const cuda::recurrent::Tiling tiling = cuda::backward_tiling<T>(context, shape, layout);
    cpu::Workspace workspace;
    cuda::BackwardMemory<T>(shape, layout, tiling, workspace);
    if (!tiling.resident) plan.algorithm = "stepwise";
    plan.workspace_bytes = workspace.used();
    plan.reserve_bytes =
        shape.batch * shape.steps * layout.saved * shape.hidden * static_cast<std::int64_t>(sizeof(cuda::Compute<T>));
  });
  return plan;
}

void recurrent_backward(const Context& context, const RecurrentGradients& gradients, const Array& doutput,
                        const Array& dh_n, const Array& dc_n, const RecurrentInputs& inputs, const Array& output,
                        const Array& reserve, const Array& workspace) {
  cuda::for_floating(inputs.x.dtype, [&](auto type) {
    cuda::backward<decltype(type)>(context, gradients, doutput, dh_n, dc_n, inputs, output, reserve, workspace);
  });
}

}  // namespace imgrec
