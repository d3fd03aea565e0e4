// The forward pass of rnn, lstm and gru; the mathematics is ops/recurrent.h's, by unit in recurrent/cells.h.
//
//   slots (N T, saved, H)             input projections, then the gates' activations: the reserve; without one
//                                     (N T, G, H) scratch
//   packed (groups, columns, width)   weight_hh, a part for each group of hidden units
//   state (2, N, width)               h in the compute type: a step reads one half and writes the other
//
// 1. All input projections are one product (products.h).
// 2. "persistent": one cooperative launch. A block owns some hidden units with all their gates for some samples; its
//    part of weight_hh stays in shared memory through all steps, its c (lstm) or h (gru) too. A step reads its samples'
//    states, which other blocks wrote, multiplies (state_product.h), applies the gates to the sums, a thread a unit of
//    a sample, and ends with one grid barrier; with a __syncthreads where one block owns all units. "stepwise", where
//    the weights do not fit on the chip: the same kernel, launched for each step; weights stream.
//
// Tile: tiling.h chooses; 256 threads. Registers: 128 float32, 112 16-bit, 147 float64, no spills (sm_80, sm_90a).
// Shared memory: what the weights take, up to the limit; slices shrink until a tile fits 99 KB.
// Bound by latency: a step is one barrier, one round trip to the L2 cache and the product.
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
struct ForwardArguments {
  RecurrentCell cell;
  Tiling tiling;
  Order order;
  std::int64_t batch, hidden;
  Compute<T>* slots;
  std::int64_t slot_stride;
  bool training;                                // whether activations are kept
  const T *packed, *first_carry, *hidden_bias;  // or null: c_0 (lstm) or h_0 (gru), gru's bias_hn
  Compute<T>*state, *carry;
  T *output, *h_n, *c_n;
  unsigned* barrier;
};

/// Reads the input projections of one unit of one sample for one step.
template <class T>
__device__ __forceinline__ void fetch_projections(Compute<T> (&slots)[most_saved], const ForwardArguments<T>& all,
                                                  std::int64_t sample, std::int64_t unit, std::int64_t step) {
  const std::int64_t length = all.order.length(sample);
  if (step >= length) return;
  const Compute<T>* const from = all.slots + all.order.row(sample, step, length) * all.slot_stride + unit;
  const int gates = layout_of(all.cell).gates;
#pragma unroll
  for (int gate = 0; gate < most_gates; ++gate)
    if (gate < gates) slots[gate] = from[gate * all.hidden];
}

/// One unit of one sample in one step, from its projections and the sums of its products.
template <class T>
__device__ __forceinline__ void advance_unit(const ForwardArguments<T>& all, const StateProduct<T>& product, int row,
                                             int column, std::int64_t sample, std::int64_t unit, std::int64_t step,
                                             Compute<T> (&slots)[most_saved], Compute<T>& kept) {
  using Number = Compute<T>;
  const CellLayout layout = layout_of(all.cell);
  const std::int64_t length = all.order.length(sample), place = sample * all.hidden + unit;
  if (step >= length) {
    all.output[(sample * all.order.steps.divisor + step) * all.hidden + unit] = narrow<T>(Number(0));
    return;
  }
  const std::int64_t at = all.order.row(sample, step, length);
  Number products[most_gates];
#pragma unroll
  for (int gate = 0; gate < most_gates; ++gate)
    if (gate < layout.gates) products[gate] = product.sum(row, gate * all.tiling.units + column);
  Number carry = step > 0 ? kept : all.first_carry ? widen(all.first_carry[place]) : Number(0);
  const Number bias = all.hidden_bias ? widen(all.hidden_bias[unit]) : Number(0);
  const Number h = advance_cell(all.cell, slots, products, bias, carry);
  kept = carry;
  const std::int64_t half = (step + 1) % 2 * all.batch;
  all.state[(half + sample) * all.tiling.width + unit] = h;
  all.output[at * all.hidden + unit] = narrow<T>(h);
  if (all.training)
#pragma unroll
    for (int slot = 0; slot < most_saved; ++slot)
      if (slot < layout.saved) all.slots[at * all.slot_stride + slot * all.hidden + unit] = slots[slot];
  if (step < length - 1) return;
  all.h_n[place] = narrow<T>(h);
  if (all.c_n) all.c_n[place] = narrow<T>(carry);
}

/// The block's units of a tile's samples in one step.
template <class T>
__device__ __forceinline__ void advance_units(const ForwardArguments<T>& all, StateProduct<T>& product,
                                              const Share& share, int tile, std::int64_t step, Compute<T>* carry) {
  const Tiling& tiling = all.tiling;
  const std::int64_t first_sample = share.first_sample + tile;
  const int rows = min(tiling.rows, share.samples - tile);
  int i = threadIdx.x, row = i / share.units, column = i % share.units;
  Compute<T> slots[most_saved];
  const auto fetch = [&] {
    if (i < rows * share.units) fetch_projections(slots, all, first_sample + row, share.first_unit + column, step);
  };
  fetch();  // arrives during the product; those of further units after it
  product.compute(all.state + (step % 2 * all.batch + first_sample) * tiling.width, rows);
  while (i < rows * share.units) {
    advance_unit(all, product, row, column, first_sample + row, share.first_unit + column, step, slots,
                 carry[(tile + row) * tiling.units + column]);
    i += block_threads, row = i / share.units, column = i % share.units;
    fetch();
  }
}

template <class T>
__global__ void __launch_bounds__(block_threads, 1)  // one block fills a multiprocessor's shared memory
    forward_kernel(ForwardArguments<T> all, std::int64_t first_step, std::int64_t last_step) {
  DYN_SHARED(unsigned char, memory);
  const Tiling& tiling = all.tiling;
  StateProduct<T> product(tiling, all.packed, memory);
  const Share share(tiling, all.batch, all.hidden);
  Compute<T>* const carry = tiling.carry_on_chip
                                ? product.carry()
                                : all.carry + static_cast<std::int64_t>(blockIdx.x) * tiling.carry_elements();
  for (std::int64_t step = first_step; step < last_step; ++step) {
    for (int tile = 0; tile < share.samples; tile += tiling.rows) {
      advance_units(all, product, share, tile, step, carry);
      __syncthreads();  // before the sums are written again
    }
    if (step + 1 < last_step && tiling.groups > 1) grid_barrier(all.barrier);
  }
}

/// The scratch memory of one call. The slots move to the reserve where there is one.
template <class T>
struct ForwardMemory {
  using Number = Compute<T>;
  Number *slots = nullptr, *state, *carry;
  T* packed;
  int* lengths;
  unsigned* barrier;

  ForwardMemory(const RecurrentShape& shape, const CellLayout& layout, const Tiling& tiling, bool training,
                cpu::Workspace& workspace) {
    if (!training) slots = workspace.take<Number>(shape.batch * shape.steps * layout.gates * shape.hidden);
    state = workspace.take<Number>(2 * shape.batch * tiling.width);
    carry = workspace.take<Number>(tiling.carry_on_chip ? 0 : tiling.blocks() * tiling.carry_elements());
    packed = workspace.take<T>(static_cast<std::int64_t>(tiling.groups) * tiling.columns * tiling.width);
    lengths = workspace.take<int>(shape.batch);
    barrier = workspace.take<unsigned>(1);
  }
};

template <class T>
Tiling forward_tiling(const Context& context, const RecurrentShape& shape, const CellLayout& layout) {
  return tiling_of<T>(context, {shape.batch, shape.hidden, layout.gates, static_cast<int>(shape.hidden)});
}

template <class T>
void project_inputs(const Context& context, Compute<T>* slots, std::int64_t stride, const RecurrentInputs& in) {
  const RecurrentShape shape = shape_of(in);
  const std::int64_t columns = layout_of(in.cell).gates * shape.hidden;
  const ProjectionEpilogue<T> epilogue{slots, stride, in.cell == RecurrentCell::gru ? 2 * shape.hidden : columns,
                                       in.bias_ih.as<const T>(), in.bias_hh.as<const T>()};
  product<T>(context, MatrixSource<T, true>{in.x.as<const T>(), shape.input, 1},
             MatrixSource<T, true>{in.weight_ih.as<const T>(), shape.input, 1},
             {.rows = shape.batch * shape.steps, .columns = columns, .last = shape.input},
             {.parts = 1, .part_depth = shape.input}, epilogue,
             come_in_packs(shape.input, shape.hidden, in.x, in.weight_ih));
}

template <class T>
void forward(const Context& context, const Array& output, const Array& h_n, const Array& c_n, const Array& reserve,
             const RecurrentInputs& in, const Array& workspace) {
  const RecurrentShape shape = shape_of(in);
  if (shape.batch == 0) return;
  const CellLayout layout = layout_of(in.cell);
  const Tiling tiling = forward_tiling<T>(context, shape, layout);
  cpu::Workspace cutter(workspace.data);
  const bool training = static_cast<bool>(reserve), is_gru = in.cell == RecurrentCell::gru;
  const ForwardMemory<T> memory(shape, layout, tiling, training, cutter);
  Compute<T>* const slots = training ? reserve.as<Compute<T>>() : memory.slots;
  const std::int64_t stride = (training ? layout.saved : layout.gates) * shape.hidden;
  const Order order = prepare_order(context, memory.lengths, in);
  const T *h_0 = in.h_0.as<const T>(), *bias_hh = in.bias_hh.as<const T>();
  project_inputs<T>(context, slots, stride, in);
  pack_weights(context, memory.packed, in.weight_hh.as<const T>(), tiling, shape.hidden, layout.gates, false);
  prepare_state(context, memory.state, memory.barrier, h_0, shape.batch, shape.hidden, tiling.width);
  const ForwardArguments<T> all{.cell = in.cell,
                                .tiling = tiling,
                                .order = order,
                                .batch = shape.batch,
                                .hidden = shape.hidden,
                                .slots = slots,
                                .slot_stride = stride,
                                .training = training,
                                .packed = memory.packed,
                                .first_carry = is_gru ? h_0 : in.c_0.as<const T>(),
                                .hidden_bias = is_gru && bias_hh ? bias_hh + 2 * shape.hidden : nullptr,
                                .state = memory.state,
                                .carry = memory.carry,
                                .output = output.as<T>(),
                                .h_n = h_n.as<T>(),
                                .c_n = c_n.as<T>(),
                                .barrier = memory.barrier};
  ALLOW_SHARED((forward_kernel<T>), static_cast<int>(context.max_shared_bytes));
  launch_steps<T>(tiling, shape.steps, [&](const LaunchConfig& config, std::int64_t first, std::int64_t last) {
    LAUNCH((forward_kernel<T>), context, config, all, first, last);
  });
}

}  // namespace
}  // namespace cuda

Plan recurrent_forward_plan(const Context& context, const RecurrentShape& shape, DType dtype, RecurrentCell cell,
                            bool training) {
  Plan plan{.algorithm = "persistent"};
  cuda::for_floating(dtype, [&](auto type) {
    using T = decltype(type);
    const cuda::recurrent::CellLayout layout = cuda::recurrent::layout_of(cell);
    const cuda::recurrent::Tiling tiling = cuda::forward_tiling<T>(context, shape, layout);
    cpu::Workspace workspace;
    cuda::ForwardMemory<T>(shape, layout, tiling, training, workspace);
    if (!tiling.resident) plan.algorithm = "stepwise";
    plan.workspace_bytes = workspace.used();
    if (training)
      plan.reserve_bytes =
          shape.batch * shape.steps * layout.saved * shape.hidden * static_cast<std::int64_t>(sizeof(cuda::Compute<T>));
  });
  return plan;
}

/// No plan asks for packed weights.
void recurrent_pack(const Context&, const Array&, const Array&, const Array&, const RecurrentShape&, RecurrentCell) {}

void recurrent_forward(const Context& context, const Array& output, const Array& h_n, const Array& c_n,
                       const Array& reserve, const RecurrentInputs& inputs, const Array&, const Array& workspace) {
  cuda::for_floating(inputs.x.dtype, [&](auto type) {
    cuda::forward<decltype(type)>(context, output, h_n, c_n, reserve, inputs, workspace);
  });
}

}  // namespace imgrec
