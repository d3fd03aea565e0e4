// Connectionist temporal classification, forward and backward; the mathematics is in ops/ctc.h.
//
//   log_probs, dlog_probs (N, T, C)   targets (N, S)   alpha (N, T, 2 S + 1)   loss, dloss (N,)
//
// A block works on a sample, its threads on the states of a step, up to 256 at a time; steps follow one another. A
// step's row is shifted until its greatest is zero and the shifts are added up in float64, so that logarithms stay
// where float32 has its digits. Rows pass from step to step through global memory (alpha itself, and two rows of beta
// in the workspace), which the first-level cache holds; so no number of targets is too large for a block.
//
// A class that stands for several states gets their sum without atomics: the first state of each class follows a chain
// through the others, and blank's states, every second one, are summed by the whole block. Bound by latency: some 5
// barriers a step forward and 12 backward; a batch keeps as many multiprocessors at work as it has samples.
//
// Shared memory: the sums of a block. At most 56 registers on sm_80 (76 on sm_90a), no spills; measured share of the
// peer: not run on a GPU.
#include "ops/ctc.h"

#include "cuda/arch/numbers.h"
#include "cuda/arch/warp.h"

namespace imgrec {
namespace cuda {
namespace {

constexpr unsigned max_threads = 256;

unsigned threads_for(const CtcShape& shape) {
  const auto wanted = static_cast<unsigned>(std::min<std::int64_t>(shape.states(), max_threads));
  return (wanted + 31) / 32 * 32;
}

/// What a kernel is given of all samples.
template <class T>
struct Ctc {
  using C = Compute<T>;

  const T* log_probs;
  const std::int64_t *targets, *input_lengths, *target_lengths;
  CtcShape shape;
  std::int64_t pitch;  // states of a step

  Ctc(const Array& log_probs, const Array& targets, const Array& input_lengths, const Array& target_lengths,
      const CtcShape& shape)
      : log_probs(log_probs.as<const T>()),
        targets(targets.as<const std::int64_t>()),
        input_lengths(input_lengths.as<const std::int64_t>()),
        target_lengths(target_lengths.as<const std::int64_t>()),
        shape(shape),
        pitch(shape.states()) {}
};

/// One sample of them.
template <class T>
struct Sample {
  using C = Compute<T>;

  const T* log_probs;
  const std::int64_t* targets;
  std::int64_t steps, labels, blank, classes;

  __device__ __forceinline__ Sample(const Ctc<T>& all, std::int64_t n)
      : log_probs(all.log_probs + n * all.shape.steps * all.shape.classes),
        targets(all.targets + n * all.shape.targets),
        steps(all.input_lengths[n]),
        labels(all.target_lengths[n]),
        blank(all.shape.blank),
        classes(all.shape.classes) {}

  __device__ __forceinline__ std::int64_t states() const { return 2 * labels + 1; }

  __device__ __forceinline__ bool lengths_valid(const CtcShape& shape) const {
    return steps >= 0 && steps <= shape.steps && labels >= 0 && labels <= shape.targets;
  }
  __device__ __forceinline__ bool target_valid(std::int64_t i) const {
    return targets[i] >= 0 && targets[i] < classes && targets[i] != blank;
  }

  __device__ __forceinline__ C emission(std::int64_t step, std::int64_t state) const {
    return widen(log_probs[step * classes + (state % 2 == 0 ? blank : targets[state / 2])]);
  }
  /// Whether a path may come to the state from the one two before.
  __device__ __forceinline__ bool skips(std::int64_t state) const {
    return state % 2 == 1 && state >= 3 && targets[state / 2] != targets[state / 2 - 1];
  }
};

/// log(exp(a) + exp(b) + exp(c)); -infinity where all three are.
template <class C>
__device__ __forceinline__ C log_add(C a, C b, C c) {
  const C greatest = fmax(fmax(a, b), c), base = greatest == C(-INFINITY) ? C(0) : greatest;
  return base + log(exp(a - base) + exp(b - base) + exp(c - base));
}

/// Shifts a row that the block's threads have just written, each its own states, until its greatest is zero.
template <class C>
__device__ __forceinline__ C shift_row(C* row, std::int64_t states) {
  C greatest = C(-INFINITY);
  for (std::int64_t s = threadIdx.x; s < states; s += blockDim.x) greatest = fmax(greatest, row[s]);
  greatest = block_max(greatest);
  if (greatest != C(-INFINITY))
    for (std::int64_t s = threadIdx.x; s < states; s += blockDim.x) row[s] -= greatest;
  __syncthreads();
  return greatest;
}

template <class T>
__device__ __forceinline__ bool valid_sample(const Sample<T>& sample, const CtcShape& shape) {
  if (!sample.lengths_valid(shape)) return false;
  int invalid = 0;
  for (std::int64_t i = threadIdx.x; i < sample.labels; i += blockDim.x) invalid |= !sample.target_valid(i);
  return block_reduce(invalid, [](int a, int b) { return a | b; }, 0) == 0;
}

template <class T>
__global__ void __launch_bounds__(max_threads, 1) ctc_forward_kernel(Compute<T>* loss, Compute<T>* alpha, Ctc<T> all) {
  using C = Compute<T>;
  const std::int64_t n = blockIdx.x, pitch = all.pitch;
  const Sample<T> sample(all, n);
  if (!valid_sample(sample, all.shape)) {
    if (threadIdx.x == 0) loss[n] = C(NAN);
    return;
  }
  const std::int64_t states = sample.states();
  C* row = alpha + n * all.shape.steps * pitch;
  double total = 0;
  for (std::int64_t step = 0; step < sample.steps; ++step, row += pitch) {
    const C* before = row - pitch;
    for (std::int64_t s = threadIdx.x; s < states; s += blockDim.x) {
      C sum = s < 2 ? C(0) : C(-INFINITY);
      if (step > 0)
        sum = log_add(before[s], s >= 1 ? before[s - 1] : C(-INFINITY), sample.skips(s) ? before[s - 2] : C(-INFINITY));
      row[s] = sum + sample.emission(step, s);
    }
    total += shift_row(row, states);
  }
  if (threadIdx.x > 0) return;
  if (sample.steps == 0) {
    loss[n] = sample.labels == 0 ? C(0) : C(INFINITY);
    return;
  }
  const C* last = row - pitch + states - 1;
  loss[n] = static_cast<C>(-(total + log_add(last[0], sample.labels == 0 ? C(-INFINITY) : last[-1], C(-INFINITY))));
}

/// One block.
template <class T>
__global__ void __launch_bounds__(max_threads) find_invalid_kernel(std::int64_t* first_invalid, Ctc<T> all) {
  std::int64_t first = INT64_MAX;
  for (std::int64_t n = threadIdx.x; n < all.shape.batch; n += blockDim.x) {
    const Sample<T> sample(all, n);
    bool valid = sample.lengths_valid(all.shape);
    for (std::int64_t i = 0; valid && i < sample.labels; ++i) valid = sample.target_valid(i);
    if (!valid && n < first) first = n;
  }
  first = block_reduce(first, [](std::int64_t a, std::int64_t b) { return b < a ? b : a; }, std::int64_t{INT64_MAX});
  if (threadIdx.x == 0) *first_invalid = first == INT64_MAX ? -1 : first;
}

/// A sample's part of the workspace.
template <class C>
struct CtcScratch {
  C *row, *next, *posterior;  // (2 S + 1,) each
  std::int64_t* chain;        // (S,): the next target of the same class, or S; negative (less one) where it is not
                              // the class's first

  __host__ __device__ __forceinline__ static std::int64_t row_bytes(std::int64_t states) {
    return (3 * states * static_cast<std::int64_t>(sizeof(C)) + 15) / 16 * 16;
  }
  __host__ __device__ __forceinline__ static std::int64_t bytes(std::int64_t states) {
    return row_bytes(states) + (states / 2 * 8 + 15) / 16 * 16;
  }
  __device__ __forceinline__ CtcScratch(unsigned char* memory, std::int64_t states)
      : row(reinterpret_cast<C*>(memory)),
        next(row + states),
        posterior(next + states),
        chain(reinterpret_cast<std::int64_t*>(memory + row_bytes(states))) {}
};

template <class T>
__device__ __forceinline__ void link_targets(const Sample<T>& sample, std::int64_t* chain) {
  for (std::int64_t i = threadIdx.x; i < sample.labels; i += blockDim.x) {
    std::int64_t next = i + 1, before = i - 1;
    while (next < sample.labels && sample.targets[next] != sample.targets[i]) ++next;
    while (before >= 0 && sample.targets[before] != sample.targets[i]) --before;
    chain[i] = before >= 0 ? -next - 1 : next;
  }
}

/// posterior = how probable each state is at this step, given the targets.
template <class C>
__device__ __forceinline__ void find_posteriors(C* posterior, const C* alpha, const C* beta, std::int64_t states) {
  for (std::int64_t s = threadIdx.x; s < states; s += blockDim.x) posterior[s] = alpha[s] + beta[s];
  shift_row(posterior, states);
  C sum = 0;
  for (std::int64_t s = threadIdx.x; s < states; s += blockDim.x) sum += exp(posterior[s]);
  sum = block_sum(sum);
  for (std::int64_t s = threadIdx.x; s < states; s += blockDim.x) posterior[s] = exp(posterior[s]) / sum;
  __syncthreads();
}

/// One step's gradients, from its posteriors.
template <class T>
__device__ __forceinline__ void write_step(const Sample<T>& sample, T* dlog_probs, Compute<T> dloss,
                                           const Compute<T>* posterior, const std::int64_t* chain) {
  using C = Compute<T>;
  C blank = 0;
  for (std::int64_t i = threadIdx.x; i <= sample.labels; i += blockDim.x) blank += posterior[2 * i];
  blank = block_sum(blank);
  for (std::int64_t k = threadIdx.x; k < sample.classes; k += blockDim.x)
    dlog_probs[k] = narrow<T>(k == sample.blank ? -dloss * blank : C(0));
  __syncthreads();
  for (std::int64_t i = threadIdx.x; i < sample.labels; i += blockDim.x) {
    if (chain[i] < 0) continue;
    C sum = posterior[2 * i + 1];
    for (std::int64_t j = chain[i]; j < sample.labels; j = -chain[j] - 1) sum += posterior[2 * j + 1];
    dlog_probs[sample.targets[i]] = narrow<T>(-dloss * sum);
  }
  __syncthreads();
}

/// From beta of a step to that of the one before; `next` receives it.
template <class T>
__device__ __forceinline__ void step_back(const Sample<T>& sample, std::int64_t step, Compute<T>* row,
                                          Compute<T>* next) {
  using C = Compute<T>;
  const std::int64_t states = sample.states();
  for (std::int64_t s = threadIdx.x; s < states; s += blockDim.x) row[s] += sample.emission(step, s);
  __syncthreads();
  for (std::int64_t s = threadIdx.x; s < states; s += blockDim.x)
    next[s] = log_add(row[s], s + 1 < states ? row[s + 1] : C(-INFINITY),
                      s + 2 < states && sample.skips(s + 2) ? row[s + 2] : C(-INFINITY));
  shift_row(next, states);
}

template <class T>
__global__ void __launch_bounds__(max_threads, 1)
    ctc_backward_kernel(T* dlog_probs, const Compute<T>* dloss, const Compute<T>* loss, const Compute<T>* alpha,
                        Ctc<T> all, bool zero_infinity, unsigned char* workspace) {
  using C = Compute<T>;
  const std::int64_t n = blockIdx.x, classes = all.shape.classes;
  const Sample<T> sample(all, n);
  const C value = loss[n];
  const bool finite = fabs(value) < C(INFINITY);
  T* to = dlog_probs + n * all.shape.steps * classes;
  const T fill = narrow<T>(finite || (zero_infinity && value == value) ? C(0) : C(NAN));
  const std::int64_t used = finite ? sample.steps : 0;
  for (std::int64_t i = used * classes + threadIdx.x; i < all.shape.steps * classes; i += blockDim.x) to[i] = fill;
  if (used == 0) return;
  const std::int64_t states = sample.states();
  CtcScratch<C> scratch(workspace + n * CtcScratch<C>::bytes(all.pitch), all.pitch);
  for (std::int64_t s = threadIdx.x; s < states; s += blockDim.x) scratch.row[s] = s + 2 < states ? C(-INFINITY) : C(0);
  link_targets(sample, scratch.chain);
  __syncthreads();
  for (std::int64_t step = used - 1; step >= 0; --step) {
    find_posteriors(scratch.posterior, alpha + (n * all.shape.steps + step) * all.pitch, scratch.row, states);
    write_step(sample, to + step * classes, dloss[n], scratch.posterior, scratch.chain);
    if (step == 0) return;
    step_back(sample, step, scratch.row, scratch.next);
    C* const free_row = scratch.row;
    scratch.row = scratch.next;
    scratch.next = free_row;
  }
}

}  // namespace
}  // namespace cuda

Plan ctc_plan(const Context&, const CtcShape& shape, DType dtype) {
  const std::int64_t each = dtype == DType::float64 ? cuda::CtcScratch<double>::bytes(shape.states())
                                                    : cuda::CtcScratch<float>::bytes(shape.states());
  return {.algorithm = "log space", .workspace_bytes = shape.batch * each};
}

void ctc_forward(const Context& context, const Array& loss, const Array& alpha, const Array& first_invalid,
                 const Array& log_probs, const Array& targets, const Array& input_lengths, const Array& target_lengths,
                 const CtcShape& shape, const Array&) {
  cuda::for_floating(log_probs.dtype, [&](auto type) {
    using T = decltype(type);
    using C = cuda::Compute<T>;
    const cuda::Ctc<T> all(log_probs, targets, input_lengths, target_lengths, shape);
    if (shape.batch > 0)
      LAUNCH((cuda::ctc_forward_kernel<T>), context,
             {.blocks = static_cast<unsigned>(shape.batch), .threads = cuda::threads_for(shape)}, loss.as<C>(),
             alpha.as<C>(), all);
    LAUNCH((cuda::find_invalid_kernel<T>), context, {.blocks = 1, .threads = cuda::max_threads},
           first_invalid.as<std::int64_t>(), all);
  });
}

void ctc_backward(const Context& context, const Array& dlog_probs, const Array& dloss, const Array& loss,
                  const Array& alpha, const Array& log_probs, const Array& targets, const Array& input_lengths,
                  const Array& target_lengths, const CtcShape& shape, bool zero_infinity, const Array& workspace) {
  if (dlog_probs.size() == 0) return;
  cuda::for_floating(log_probs.dtype, [&](auto type) {
    using T = decltype(type);
    using C = cuda::Compute<T>;
    LAUNCH((cuda::ctc_backward_kernel<T>), context,
           {.blocks = static_cast<unsigned>(shape.batch), .threads = cuda::threads_for(shape)}, dlog_probs.as<T>(),
           dloss.as<const C>(), loss.as<const C>(), alpha.as<const C>(),
           cuda::Ctc<T>(log_probs, targets, input_lengths, target_lengths, shape), zero_infinity,
           workspace.as<unsigned char>());
  });
}

}  // namespace imgrec
