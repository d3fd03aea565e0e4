// What the recurrent kernels do before their first step: all of it is moving elements, once a call, bound by memory.
//
//   lengths (N,)                     from the host's memory, 256 at a time as the parameter of a launch
//   packed (groups, columns, width)  from weight_hh (G H, H); a thread an element
//   state (2, N, width)              from h_0 (N, H)
//
// No shared memory. At most 36 registers on sm_80 (32 on sm_90a), no spills; measured share of the peer: not run on a
// GPU.
#include "cuda/recurrent/prepare.h"

#include "cuda/arch/pack.h"

namespace imgrec::cuda::recurrent {
namespace {

constexpr int lengths_at_once = 256;

/// Travels in the parameters of a launch, which are copied when it is issued: so nobody waits for the host's memory.
struct Lengths {
  int values[lengths_at_once];
};

__global__ void __launch_bounds__(lengths_at_once) write_lengths_kernel(int* to, Lengths lengths, int count) {
  if (static_cast<int>(threadIdx.x) < count) to[threadIdx.x] = lengths.values[threadIdx.x];
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    pack_weights_kernel(T* packed, const T* weight, Tiling tiling, std::int64_t hidden, int gates, bool transposed) {
  const std::int64_t size = static_cast<std::int64_t>(tiling.groups) * tiling.columns * tiling.width;
  const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < size; i += threads) {
    const std::int64_t k = i % tiling.width, place = i / tiling.width;
    const std::int64_t column = place % tiling.columns, group = place / tiling.columns;
    const std::int64_t unit = group * tiling.units + column % tiling.units, gate = column / tiling.units;
    const bool inside = unit < hidden && (transposed ? gate == 0 && k < gates * hidden : gate < gates && k < hidden);
    packed[i] = !inside ? T{} : transposed ? weight[k * hidden + unit] : weight[(gate * hidden + unit) * hidden + k];
  }
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    prepare_state_kernel(Compute<T>* state, unsigned* barrier, const T* h_0, std::int64_t batch, std::int64_t hidden,
                         int width) {
  const std::int64_t size = 2 * batch * width, threads = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (thread == 0) *barrier = 0;
  for (std::int64_t i = thread; i < size; i += threads) {
    const std::int64_t unit = i % width, sample = i / width;
    state[i] = h_0 && sample < batch && unit < hidden ? widen(h_0[sample * hidden + unit]) : Compute<T>(0);
  }
}

}  // namespace

Order prepare_order(const Context& context, int* lengths, const RecurrentInputs& in) {
  if (!in.lengths) return {nullptr, FastDivisor(in.x.shape[1]), in.reverse};
  const auto* from = in.lengths.as<const std::int64_t>();
  const std::int64_t batch = in.x.shape[0];
  for (std::int64_t first = 0; first < batch; first += lengths_at_once) {
    Lengths chunk{};
    const int count = static_cast<int>(std::min<std::int64_t>(lengths_at_once, batch - first));
    for (int i = 0; i < count; ++i) chunk.values[i] = static_cast<int>(from[first + i]);
    LAUNCH(write_lengths_kernel, context, {.blocks = 1, .threads = lengths_at_once}, lengths + first, chunk, count);
  }
  return {lengths, FastDivisor(in.x.shape[1]), in.reverse};
}

template <class T>
void pack_weights(const Context& context, T* packed, const T* weight, const Tiling& tiling, std::int64_t hidden,
                  int gates, bool transposed) {
  const std::int64_t size = static_cast<std::int64_t>(tiling.groups) * tiling.columns * tiling.width;
  LAUNCH((pack_weights_kernel<T>), context, elementwise_config<T>(context, size, block_threads), packed, weight, tiling,
         hidden, gates, transposed);
}

template <class T>
void prepare_state(const Context& context, Compute<T>* state, unsigned* barrier, const T* h_0, std::int64_t batch,
                   std::int64_t hidden, int width) {
  LAUNCH((prepare_state_kernel<T>), context, elementwise_config<T>(context, 2 * batch * width, block_threads), state,
         barrier, h_0, batch, hidden, width);
}

#define IMGREC_PREPARE(T)                                                                           \
  template void pack_weights(const Context&, T*, const T*, const Tiling&, std::int64_t, int, bool); \
  template void prepare_state(const Context&, Compute<T>*, unsigned*, const T*, std::int64_t, std::int64_t, int);
IMGREC_PREPARE(float)
IMGREC_PREPARE(double)
IMGREC_PREPARE(Float16)
IMGREC_PREPARE(BFloat16)
#undef IMGREC_PREPARE

}  // namespace imgrec::cuda::recurrent
