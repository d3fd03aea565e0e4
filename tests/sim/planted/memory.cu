#include <cstdlib>

#include "planted.h"

namespace imgrec::cuda {

template <bool Right>
__global__ void static_overflow(float* out) {
  SHARED(float, tile, [32]);
  tile[threadIdx.x + (Right ? 0 : 1)] = 1.0f;  // HERE static_shared_overflow
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

template <bool Right>
__global__ void dynamic_overflow(float* out) {
  DYN_SHARED(float, tile);
  tile[threadIdx.x + (Right ? 0 : 1)] = 1.0f;  // HERE dynamic_shared_overflow
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

template <bool Right>
__global__ void global_overflow(float* out) {
  out[threadIdx.x + (Right ? 0 : 1)] = 1.0f;  // HERE global_overflow
}

template <bool Right>
__global__ void negative_index(float* out, const float* in) {
  const int left = static_cast<int>(threadIdx.x) - 1;
  out[threadIdx.x] = Right && left < 0 ? 0.0f : in[left];  // HERE negative_index
}

template <bool Right>
__global__ void wide_load(float* out, const float* in) {
  const float4 four = *reinterpret_cast<const float4*>(in + (Right ? 4 : 1));  // HERE misaligned_load
  if (threadIdx.x == 0) out[0] = four.x;
}

template <bool Right>
__global__ void shared_never_written(float* out) {
  SHARED(float, tile, [32]);
  if (Right || threadIdx.x != 7) tile[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];  // HERE uninitialised_shared
}

template <bool Right>
__global__ void global_never_written(float* out) {
  if (Right || threadIdx.x != 7) out[threadIdx.x] = 1.0f;
  out[32 + threadIdx.x] = out[threadIdx.x];  // HERE uninitialised_global
}

template <bool Right>
__global__ void input_written(float* out, float* in) {
  (Right ? out : in)[threadIdx.x] = 1.0f;  // HERE write_to_input
}

template <bool Right>
__global__ void host_pointer(float* out, const float* somewhere) {
  out[threadIdx.x] = Right ? 0.0f : somewhere[threadIdx.x];  // HERE host_pointer
}

}  // namespace imgrec::cuda

using namespace imgrec;
using namespace imgrec::cuda;
using imgrec::planted::Operation;

#define PAIR(name, kernel, shared, outputs, inputs, ...)                                                     \
  CASE(name) {                                                                                               \
    Operation op(outputs, inputs);                                                                           \
    LAUNCH((kernel<false>), op.context, (LaunchConfig{.threads = 32, .shared_bytes = shared}), __VA_ARGS__); \
  }                                                                                                          \
  CASE(name##_corrected) {                                                                                   \
    Operation op(outputs, inputs);                                                                           \
    LAUNCH((kernel<true>), op.context, (LaunchConfig{.threads = 32, .shared_bytes = shared}), __VA_ARGS__);  \
  }

PAIR(static_shared_overflow, static_overflow, 0, 32, 32, op.output)
PAIR(dynamic_shared_overflow, dynamic_overflow, 128, 32, 32, op.output)
PAIR(global_overflow, global_overflow, 0, 32, 32, op.output)
PAIR(negative_index, negative_index, 0, 32, 32, op.output, op.input)
PAIR(misaligned_load, wide_load, 0, 32, 32, op.output, op.input)
PAIR(uninitialised_shared, shared_never_written, 0, 32, 32, op.output)
PAIR(write_to_input, input_written, 0, 32, 32, op.output, op.input)
PAIR(host_pointer, host_pointer, 0, 32, 32, op.output, static_cast<const float*>(std::calloc(32, sizeof(float))))

template <bool Right>
static void run_on_fresh_memory() {
  Operation op;
  std::fill_n(reinterpret_cast<std::uint16_t*>(op.output), 128, memory_poison);
  LAUNCH((global_never_written<Right>), op.context, (LaunchConfig{.threads = 32}), op.output);
}
CASE(uninitialised_global) { run_on_fresh_memory<false>(); }
CASE(uninitialised_global_corrected) { run_on_fresh_memory<true>(); }
