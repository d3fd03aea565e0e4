// Binary cross entropy from logits, and the mean squared error.
//
//   binary cross entropy   l_i = w_i ((1 - t_i) log(1 + exp(x_i)) + p_i t_i log(1 + exp(-x_i))), p the positive weight
//   squared error          l_i = (x_i - t_i)^2
//
//   x, t, dx, dt (size,); w, p, none or (size,) in the type of losses; loss, dloss (size,), or (1,) for sum and mean
//
// A thread takes packs of 16 bytes, and what else belongs to their elements. A sum is taken by chunks of 8192 elements
// (cuda/chunk_sum.h): in a pack in the type of losses, beyond in float64. Bound by memory: every array once. Shared
// memory: the sums of a block.
//
// At most 60 registers on sm_80 (60 on sm_90a), no spills; measured share of the peer: not run on a GPU.
#include "cuda/chunk_sum.h"
#include "ops/loss.h"

namespace imgrec {
namespace cuda {
namespace {

constexpr int block_threads = 256;

/// log(1 + exp(x)) and log(1 + exp(-x)), and their derivatives: everything follows from e = exp(-|x|), which cannot
/// overflow. sigmoid(x) and sigmoid(-x) are computed apart: 1 - sigmoid(x) would lose the accuracy of small values.
template <class C>
struct Logistic {
  C positive_loss, negative_loss;    // of a target of 1 and of 0
  C probability, other_probability;  // sigmoid(x) and sigmoid(-x)

  __device__ __forceinline__ explicit Logistic(C x) {
    const C e = exp(x < C(0) ? x : -x), tail = log1p(e), greater = C(1) / (e + C(1)), smaller = e * greater;
    positive_loss = (x < C(0) ? -x : C(0)) + tail;
    negative_loss = (x > C(0) ? x : C(0)) + tail;
    probability = x < C(0) ? smaller : greater;
    other_probability = x < C(0) ? greater : smaller;
  }
};

template <class T>
struct BinaryCrossEntropy {
  using C = Compute<T>;
  static constexpr int width = pack_width<T>;

  const T *logits, *targets;
  const C *weight, *pos_weight;  // null where they are 1

  bool aligned() const { return aligned_for_packs(logits, targets, weight, pos_weight); }

  /// Calls body(k, logit, target, weight of the negative term, of the positive term) for `count` elements from i on.
  template <class Body>
  __device__ __forceinline__ void for_elements(std::int64_t i, int count, bool aligned, Body&& body) const {
    const auto x = load_run<T, width>(logits + i, count, aligned), t = load_run<T, width>(targets + i, count, aligned);
    const auto w = weight ? load_run<C, width>(weight + i, count, aligned) : Pack<C, width>{};
    const auto p = pos_weight ? load_run<C, width>(pos_weight + i, count, aligned) : Pack<C, width>{};
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const C negative = weight ? w.values[k] : C(1), positive = pos_weight ? negative * p.values[k] : negative;
      if (k < count) body(k, widen(x.values[k]), widen(t.values[k]), negative, positive);
    }
  }

  /// Calls body(k, loss).
  template <class Body>
  __device__ __forceinline__ void for_losses(std::int64_t i, int count, bool aligned, Body&& body) const {
    for_elements(i, count, aligned, [&](int k, C x, C target, C negative, C positive) {
      const Logistic<C> logistic(x);
      body(k, negative * (C(1) - target) * logistic.negative_loss + positive * target * logistic.positive_loss);
    });
  }
};

template <class T>
struct SquaredError {
  using C = Compute<T>;
  static constexpr int width = pack_width<T>;

  const T *input, *target;

  bool aligned() const { return aligned_for_packs(input, target); }

  template <class Body>
  __device__ __forceinline__ void for_losses(std::int64_t i, int count, bool aligned, Body&& body) const {
    const auto x = load_run<T, width>(input + i, count, aligned), t = load_run<T, width>(target + i, count, aligned);
#pragma unroll
    for (int k = 0; k < width; ++k) {
      const C difference = widen(x.values[k]) - widen(t.values[k]);
      if (k < count) body(k, difference * difference);
    }
  }
};

/// Calls body(i, count) for runs that cover [0, size) over all threads of the grid.
template <int width, class Body>
__device__ __forceinline__ void for_grid_runs(std::int64_t size, Body&& body) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x * width;
  for (std::int64_t i = thread * width; i < size; i += step)
    body(i, static_cast<int>(size - i < width ? size - i : width));
}

template <class Loss, class C>
__global__ void __launch_bounds__(block_threads)
    losses_kernel(C* losses, const Loss loss, std::int64_t size, bool aligned) {
  constexpr int width = Loss::width;
  for_grid_runs<width>(size, [&](std::int64_t i, int count) {
    Pack<C, width> run{};
    loss.for_losses(i, count, aligned, [&](int k, C value) { run.values[k] = value; });
    store_run(losses + i, run, count, aligned);
  });
}

template <class Loss>
__global__ void __launch_bounds__(chunk_threads)
    loss_sums_kernel(double* sums, const Loss loss, std::int64_t size, bool aligned) {
  using C = typename Loss::C;
  double sum = 0;
  for_chunk_runs<Loss::width>(blockIdx.x * chunk_elements, size, [&](std::int64_t i, int count) {
    C part = 0;
    loss.for_losses(i, count, aligned, [&](int, C value) { part += value; });
    sum += part;
  });
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

/// The gradient that reaches each element's loss.
template <class C>
struct ElementGradient {
  const C* values;
  C scale;  // of values[0], unless each element has its own
  bool each;

  ElementGradient(const Array& dloss, std::int64_t size, Reduction reduction)
      : values(dloss.as<const C>()),
        scale(reduction == Reduction::mean ? static_cast<C>(1.0 / static_cast<double>(size)) : C(1)),
        each(reduction == Reduction::none) {}

  template <int width>
  __device__ __forceinline__ Pack<C, width> load(std::int64_t i, int count, bool aligned) const {
    if (each) return load_run<C, width>(values + i, count, aligned);
    Pack<C, width> run;
#pragma unroll
    for (int k = 0; k < width; ++k) run.values[k] = values[0] * scale;
    return run;
  }
};

/// dlogits or dtargets may be null.
template <class T>
__global__ void __launch_bounds__(block_threads)
    binary_cross_entropy_backward_kernel(T* dlogits, T* dtargets, const BinaryCrossEntropy<T> loss,
                                         const ElementGradient<Compute<T>> gradient, std::int64_t size, bool aligned) {
  using C = Compute<T>;
  constexpr int width = pack_width<T>;
  for_grid_runs<width>(size, [&](std::int64_t i, int count) {
    const auto g = gradient.template load<width>(i, count, aligned);
    Pack<T, width> dx{}, dt{};
    loss.for_elements(i, count, aligned, [&](int k, C x, C target, C negative, C positive) {
      const Logistic<C> logistic(x);
      dx.values[k] = narrow<T>(g.values[k] * (negative * (C(1) - target) * logistic.probability -
                                              positive * target * logistic.other_probability));
      dt.values[k] = narrow<T>(g.values[k] * (positive * logistic.positive_loss - negative * logistic.negative_loss));
    });
    if (dlogits) store_run(dlogits + i, dx, count, aligned);
    if (dtargets) store_run(dtargets + i, dt, count, aligned);
  });
}

template <class T>
__global__ void __launch_bounds__(block_threads)
    squared_error_backward_kernel(T* dinput, const T* input, const T* target,
                                  const ElementGradient<Compute<T>> gradient, std::int64_t size, bool aligned) {
  constexpr int width = pack_width<T>;
  for_grid_runs<width>(size, [&](std::int64_t i, int count) {
    const auto g = gradient.template load<width>(i, count, aligned);
    auto x = load_run<T, width>(input + i, count, aligned);
    const auto t = load_run<T, width>(target + i, count, aligned);
#pragma unroll
    for (int k = 0; k < width; ++k)
      x.values[k] = narrow<T>(Compute<T>(2) * g.values[k] * (widen(x.values[k]) - widen(t.values[k])));
    store_run(dinput + i, x, count, aligned);
  });
}

/// Writes each element's loss, or the sum or mean of all.
template <class T, class Loss>
void reduce_losses(const Context& context, const Array& loss, const Loss& term, std::int64_t size, Reduction reduction,
                   const Array& workspace) {
  using C = Compute<T>;
  if (reduction == Reduction::none) {
    LAUNCH((losses_kernel<Loss, C>), context, elementwise_config<T>(context, size, block_threads), loss.as<C>(), term,
           size, term.aligned() && aligned_for_packs(loss.data));
    return;
  }
  auto* sums = workspace.as<double>();
  if (size > 0) LAUNCH((loss_sums_kernel<Loss>), context, chunk_config(size), sums, term, size, term.aligned());
  join_chunks(context, loss.as<C>(), sums, chunk_count(size),
              reduction == Reduction::mean ? static_cast<double>(size) : 1.0);
}

template <class T>
BinaryCrossEntropy<T> binary_cross_entropy(const Array& logits, const Array& targets, const Array& weight,
                                           const Array& pos_weight) {
  using C = Compute<T>;
  return {logits.as<const T>(), targets.as<const T>(), weight.as<const C>(), pos_weight.as<const C>()};
}

}  // namespace
}  // namespace cuda

Plan elementwise_loss_plan(const Context&, std::int64_t size, Reduction reduction) {
  const std::int64_t chunks = reduction == Reduction::none ? 0 : cuda::chunk_count(size);
  return {.algorithm = "fused", .workspace_bytes = chunks * static_cast<std::int64_t>(sizeof(double))};
}

void binary_cross_entropy_with_logits_forward(const Context& context, const Array& loss, const Array& logits,
                                              const Array& targets, const Array& weight, const Array& pos_weight,
                                              Reduction reduction, const Array& workspace) {
  cuda::for_floating(logits.dtype, [&](auto type) {
    using T = decltype(type);
    cuda::reduce_losses<T>(context, loss, cuda::binary_cross_entropy<T>(logits, targets, weight, pos_weight),
                           logits.size(), reduction, workspace);
  });
}

void binary_cross_entropy_with_logits_backward(const Context& context, const Array& dlogits, const Array& dtargets,
                                               const Array& dloss, const Array& logits, const Array& targets,
                                               const Array& weight, const Array& pos_weight, Reduction reduction) {
  cuda::for_floating(logits.dtype, [&](auto type) {
    using T = decltype(type);
    const auto term = cuda::binary_cross_entropy<T>(logits, targets, weight, pos_weight);
    const cuda::ElementGradient<cuda::Compute<T>> gradient(dloss, logits.size(), reduction);
    const bool aligned = term.aligned() && cuda::aligned_for_packs(dlogits.data, dtargets.data) &&
                         (!gradient.each || cuda::aligned_for_packs(dloss.data));
    LAUNCH((cuda::binary_cross_entropy_backward_kernel<T>), context,
           cuda::elementwise_config<T>(context, logits.size(), cuda::block_threads), dlogits.as<T>(), dtargets.as<T>(),
           term, gradient, logits.size(), aligned);
  });
}

void mse_loss_forward(const Context& context, const Array& loss, const Array& input, const Array& target,
                      Reduction reduction, const Array& workspace) {
  cuda::for_floating(input.dtype, [&](auto type) {
    using T = decltype(type);
    const cuda::SquaredError<T> term{input.as<const T>(), target.as<const T>()};
    cuda::reduce_losses<T>(context, loss, term, input.size(), reduction, workspace);
  });
}

void mse_loss_backward(const Context& context, const Array& dinput, const Array& dloss, const Array& input,
                       const Array& target, Reduction reduction) {
  cuda::for_floating(input.dtype, [&](auto type) {
    using T = decltype(type);
    const cuda::ElementGradient<cuda::Compute<T>> gradient(dloss, input.size(), reduction);
    const bool aligned = cuda::aligned_for_packs(dinput.data, input.data, target.data) &&
                         (!gradient.each || cuda::aligned_for_packs(dloss.data));
    LAUNCH((cuda::squared_error_backward_kernel<T>), context,
           cuda::elementwise_config<T>(context, input.size(), cuda::block_threads), dinput.as<T>(), input.as<const T>(),
           target.as<const T>(), gradient, input.size(), aligned);
  });
}

}  // namespace imgrec
