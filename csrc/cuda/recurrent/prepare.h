// What both passes do before their first step.
#pragma once

#include "cuda/recurrent/cells.h"
#include "cuda/recurrent/tiling.h"

namespace imgrec::cuda::recurrent {

inline RecurrentShape shape_of(const RecurrentInputs& in) {
  return {in.x.shape[0], in.x.shape[1], in.x.shape[2], in.weight_hh.shape[1]};
}

/// The order of the steps; `lengths` (N,) is filled where the samples' lengths differ.
Order prepare_order(const Context& context, int* lengths, const RecurrentInputs& in);

/// packed (groups, columns, width) = the rows (or, transposed, the columns) of `weight` (G H, H) that a block
/// multiplies with, by gate and unit; zero where the tiling is larger than the weight.
template <class T>
void pack_weights(const Context& context, T* packed, const T* weight, const Tiling& tiling, std::int64_t hidden,
                  int gates, bool transposed);

/// Both halves of state (2, N, width): the first is h_0, padded by zeros, where that is given, all else is zero.
/// Prepares the grid barrier too.
template <class T>
void prepare_state(const Context& context, Compute<T>* state, unsigned* barrier, const T* h_0, std::int64_t batch,
                   std::int64_t hidden, int width);

/// Calls launch(config, first, last) for all steps at once where the weights are resident, else for each step.
template <class T, class Launch>
void launch_steps(const Tiling& tiling, std::int64_t steps, Launch&& launch) {
  const LaunchConfig config{.blocks = static_cast<unsigned>(tiling.blocks()),
                            .threads = block_threads,
                            .shared_bytes = tiling.shared_bytes<T>(),
                            .cooperative = tiling.resident};
  const std::int64_t together = tiling.resident ? steps : 1;
  for (std::int64_t step = 0; step < steps; step += together) launch(config, step, step + together);
}

}  // namespace imgrec::cuda::recurrent
