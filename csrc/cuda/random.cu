// Random numbers and dropout: Philox4x32-10 by counter, bit for bit what every other device draws (ops/philox.h).
//
//   state (2,) int64 = [seed, offset], read by every thread: a launch that is replayed finds new numbers there
//
// A thread draws one counter's four words at a time: four uniform float32 numbers or dropout decisions, or two float64
// or normal numbers. Uniform draws and dropout are bound by memory, normal ones by their float64 series. No shared
// memory.
//
// At most 40 registers on sm_80 (40 on sm_90a), no spills; measured share of the peer: not run on a GPU.
#include "ops/random.h"

#include "cuda/arch/pack.h"
#include "ops/philox.h"

namespace imgrec {
namespace cuda {
namespace {

constexpr int block_threads = 256;

/// a b + c, rounded twice on every device.
__device__ __forceinline__ float multiply_add(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(__fmul_rn(a, b), c);
#else
  return a * b + c;
#endif
}
__device__ __forceinline__ double multiply_add(double a, double b, double c) {
  return IMGREC_ADD(IMGREC_MULTIPLY(a, b), c);
}

/// Calls generate(words, first, count) for the elements first ... first + count - 1 of the draw that a counter makes.
template <int per_counter, class Generate>
__device__ __forceinline__ void draw(std::int64_t size, const std::int64_t* state, Generate&& generate) {
  const auto seed = static_cast<std::uint64_t>(state[0]), offset = static_cast<std::uint64_t>(state[1]);
  std::int64_t counter = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; counter * per_counter < size; counter += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
    const std::int64_t first = counter * per_counter, left = size - first;
    generate(philox(seed, offset, static_cast<std::uint64_t>(counter)), first,
             left < per_counter ? static_cast<int>(left) : per_counter);
  }
}

__global__ void __launch_bounds__(block_threads)
    random_bits_kernel(std::int64_t* out, std::int64_t counters, const std::int64_t* state, std::uint64_t first) {
  const auto seed = static_cast<std::uint64_t>(state[0]), offset = static_cast<std::uint64_t>(state[1]);
  std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i < counters; i += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
    const PhiloxWords words = philox(seed, offset, first + static_cast<std::uint64_t>(i));
    for (int j = 0; j < 4; ++j) out[4 * i + j] = words.word[j];
  }
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    random_uniform_kernel(T* out, std::int64_t size, const std::int64_t* state, T low, T range, bool aligned) {
  constexpr int width = pack_width<T>;
  draw<width>(size, state, [&](const PhiloxWords& words, std::int64_t first, int count) {
    Pack<T, width> values;
#pragma unroll
    for (int i = 0; i < width; ++i) {
      if constexpr (width == 4)
        values.values[i] = multiply_add(range, uniform_float(words.word[i]), low);
      else
        values.values[i] = multiply_add(range, uniform_double(words.word[2 * i], words.word[2 * i + 1]), low);
    }
    store_run(out + first, values, count, aligned);
  });
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    random_normal_kernel(T* out, std::int64_t size, const std::int64_t* state, double mean, double deviation,
                         bool aligned) {
  draw<2>(size, state, [&](const PhiloxWords& words, std::int64_t first, int count) {
    const NormalPair pair = normal_pair(words);
    const Pack<T, 2> values = {{static_cast<T>(multiply_add(deviation, pair.first, mean)),
                                static_cast<T>(multiply_add(deviation, pair.second, mean))}};
    store_run(out + first, values, count, aligned);
  });
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    dropout_kernel(T* y, const T* x, std::int64_t size, const std::int64_t* state, float probability, Compute<T> scale,
                   bool aligned) {
  draw<4>(size, state, [&](const PhiloxWords& words, std::int64_t first, int count) {
    auto run = load_run<T, 4>(x + first, count, aligned);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool keep = uniform_float(words.word[i]) >= probability;
      run.values[i] = narrow<T>(keep ? widen(run.values[i]) * scale : Compute<T>(0));
    }
    store_run(y + first, run, count, aligned);
  });
}

/// Calls body(T{}) for the two types that are drawn.
template <class Body>
void for_drawn(const Array& out, Body&& body) {
  if (out.dtype == DType::float64)
    body(double{});
  else
    body(float{});
}

}  // namespace
}  // namespace cuda

void random_bits(const Context& context, const Array& out, const Array& state, std::uint64_t first) {
  const std::int64_t counters = out.shape[0];
  LAUNCH(cuda::random_bits_kernel, context,
         cuda::elementwise_config<std::int64_t>(context, counters, cuda::block_threads, 1), out.as<std::int64_t>(),
         counters, state.as<const std::int64_t>(), first);
}

void random_uniform(const Context& context, const Array& out, const Array& state, double low, double high) {
  cuda::for_drawn(out, [&](auto type) {
    using T = decltype(type);
    LAUNCH((cuda::random_uniform_kernel<T>), context,
           cuda::elementwise_config<T>(context, out.size(), cuda::block_threads), out.as<T>(), out.size(),
           state.as<const std::int64_t>(), low, high - low, cuda::aligned_for_packs(out.data));
  });
}

void random_normal(const Context& context, const Array& out, const Array& state, double mean, double deviation) {
  cuda::for_drawn(out, [&](auto type) {
    using T = decltype(type);
    LAUNCH((cuda::random_normal_kernel<T>), context,
           cuda::elementwise_config<T>(context, out.size(), cuda::block_threads, 2), out.as<T>(), out.size(),
           state.as<const std::int64_t>(), mean, deviation, cuda::aligned_for_packs(out.data));
  });
}

void dropout(const Context& context, const Array& y, const Array& x, const Array& state, double probability) {
  cuda::for_floating(x.dtype, [&](auto type) {
    using T = decltype(type);
    LAUNCH((cuda::dropout_kernel<T>), context, cuda::elementwise_config<T>(context, x.size(), cuda::block_threads, 4),
           y.as<T>(), x.as<const T>(), x.size(), state.as<const std::int64_t>(), probability,
           probability < 1 ? 1 / (1 - probability) : 0.0, cuda::aligned_for_packs(y.data, x.data));
  });
}

}  // namespace imgrec
