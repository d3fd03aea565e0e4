// Cross entropy of logits and class numbers.
//
//   l_r = (1 - s) w_t (z_r - x_rt) + s / classes sum over c of w_c (z_r - x_rc), z_r = log of sum over c of exp(x_rc)
//   dx_rc = g_r (exp(x_rc - z_r) ((1 - s) w_t + s / classes sum of w) - s / classes w_c - [c = t] (1 - s) w_t)
//
//   x, dx (rows, classes); targets t (rows,); weight w, none or (classes,); losses l, z (rows,); s the label smoothing
//
// A warp works on a row of up to 512 classes (128 of float64), a block of 256 threads on a longer one; what a thread
// has of the row stays in registers (cuda/rows.h). Two small kernels then add up losses and weights and look for the
// first target that is no class: chunks of 8192 rows, then the chunks, in float64 and in an order that the number of
// rows decides. Bound by memory while rows fit (4096 classes, 1024 of float64): forward reads the logits once, backward
// reads and writes as much. Shared memory: the sums of a block.
//
// At most 57 registers on sm_80 (64 on sm_90a), no spills; measured share of the peer: not run on a GPU.
#include "cuda/chunk_sum.h"
#include "cuda/rows.h"
#include "ops/loss.h"

namespace imgrec {
namespace cuda {
namespace {

enum class Target { valid, ignored, invalid };

/// What forward and backward need to know of all rows.
template <class T>
struct CrossEntropy {
  using C = Compute<T>;

  const T* logits;
  const std::int64_t* targets;
  const C* weight;  // null where every class weighs 1
  std::int64_t rows, classes, ignore_index;
  C hard, smooth;  // the shares of the target's own term and of every class's term

  CrossEntropy(const Array& logits, const Array& targets, const Array& weight, const CrossEntropyOptions& options)
      : logits(logits.as<const T>()),
        targets(targets.as<const std::int64_t>()),
        weight(weight.as<const C>()),
        rows(logits.shape[0]),
        classes(logits.shape[1]),
        ignore_index(options.ignore_index),
        hard(static_cast<C>(1 - options.label_smoothing)),
        smooth(static_cast<C>(options.label_smoothing / static_cast<double>(classes))) {}

  __device__ __forceinline__ C weight_of(std::int64_t c) const { return weight ? weight[c] : C(1); }

  __device__ __forceinline__ Target kind(std::int64_t row) const {
    const std::int64_t target = targets[row];
    if (target == ignore_index) return Target::ignored;
    return target >= 0 && target < classes ? Target::valid : Target::invalid;
  }
};

template <class T, int threads>
__global__ void __launch_bounds__(row_block_threads)
    cross_entropy_forward_kernel(Compute<T>* losses, Compute<T>* log_sum_exp, const CrossEntropy<T> entropy,
                                 bool aligned) {
  using C = Compute<T>;
  for_rows<threads>(entropy.rows, [&](std::int64_t row) {
    const T* x = entropy.logits + row * entropy.classes;
    const RowReader<T, threads, 1> reader(entropy.classes, aligned, x);
    const C greatest = reader.max();
    const C logarithm = greatest + log(reader.sum([&](std::int64_t, C value) { return exp(value - greatest); }));
    C spread = 0;
    if (entropy.smooth != C(0))
      spread = reader.sum([&](std::int64_t c, C value) { return entropy.weight_of(c) * (logarithm - value); });
    if (threadIdx.x % threads != 0) return;
    log_sum_exp[row] = logarithm;
    const Target kind = entropy.kind(row);
    const std::int64_t target = entropy.targets[row];
    if (kind == Target::valid)
      losses[row] = entropy.hard * entropy.weight_of(target) * (logarithm - widen(x[target])) + entropy.smooth * spread;
    else
      losses[row] = kind == Target::ignored ? C(0) : C(NAN);
  });
}

template <class T, int threads>
__global__ void __launch_bounds__(row_block_threads)
    cross_entropy_backward_kernel(T* dlogits, const Compute<T>* dloss, bool dloss_by_row, const Compute<T>* log_sum_exp,
                                  const Compute<T>* normalizer, const CrossEntropy<T> entropy, bool aligned) {
  using C = Compute<T>;
  const std::int64_t classes = entropy.classes;
  C all_weights = static_cast<C>(classes);
  if (entropy.weight && entropy.smooth != C(0)) {
    C part = 0;
    for (std::int64_t c = threadIdx.x % threads; c < classes; c += threads) part += entropy.weight[c];
    all_weights = row_sum<threads>(part);
  }
  for_rows<threads>(entropy.rows, [&](std::int64_t row) {
    const RowReader<T, threads, 1, 1> reader(classes, aligned, entropy.logits + row * classes);  // looks once
    const bool valid = entropy.kind(row) == Target::valid;
    const std::int64_t target = entropy.targets[row];
    const C gradient = dloss[dloss_by_row ? row : 0] / *normalizer, logarithm = log_sum_exp[row];
    const C own = valid ? entropy.hard * entropy.weight_of(target) : C(0);
    const C total = gradient * (own + entropy.smooth * all_weights), spread = gradient * entropy.smooth;
    reader.write(dlogits + row * classes, [&](std::int64_t c, C value) {
      if (!valid) return C(0);
      const C d = exp(value - logarithm) * total - (spread != C(0) ? entropy.weight_of(c) * spread : C(0));
      return c == target ? d - gradient * own : d;
    });
  });
}

/// What the chunks of rows leave in the workspace.
template <class C>
struct ChunkSums {
  double *losses, *weights;
  std::int64_t* first_invalid;
  C* row_losses;  // of all rows, where they are not the result themselves

  ChunkSums(const Array& workspace, std::int64_t rows)
      : losses(workspace.as<double>()),
        weights(losses + chunk_count(rows)),
        first_invalid(reinterpret_cast<std::int64_t*>(weights + chunk_count(rows))),
        row_losses(reinterpret_cast<C*>(first_invalid + chunk_count(rows))) {}
};

constexpr std::int64_t no_row = INT64_MAX;

/// The three results of a block, for every thread.
struct LossSums {
  double loss = 0, weight = 0;
  std::int64_t first_invalid = no_row;

  __device__ __forceinline__ void note_invalid(std::int64_t row) {
    if (row < first_invalid) first_invalid = row;
  }
  __device__ __forceinline__ void join_block() {
    loss = block_sum(loss);
    weight = block_sum(weight);
    first_invalid = block_reduce(first_invalid, [](std::int64_t a, std::int64_t b) { return b < a ? b : a; }, no_row);
  }
};

template <class T>
__global__ void __launch_bounds__(chunk_threads)
    add_losses_kernel(const ChunkSums<Compute<T>> sums, const Compute<T>* losses, const CrossEntropy<T> entropy) {
  LossSums mine;
  for_chunk_runs<1>(blockIdx.x * chunk_elements, entropy.rows, [&](std::int64_t row, int) {
    const Target kind = entropy.kind(row);
    mine.loss += losses[row];
    if (kind == Target::valid) mine.weight += entropy.weight_of(entropy.targets[row]);
    if (kind == Target::invalid) mine.note_invalid(row);
  });
  mine.join_block();
  if (threadIdx.x > 0) return;
  sums.losses[blockIdx.x] = mine.loss;
  sums.weights[blockIdx.x] = mine.weight;
  sums.first_invalid[blockIdx.x] = mine.first_invalid;
}

/// One block. `loss` is null where rows keep theirs.
template <class C>
__global__ void __launch_bounds__(chunk_threads)
    join_losses_kernel(C* loss, C* normalizer, std::int64_t* first_invalid, const ChunkSums<C> sums,
                       std::int64_t chunks, bool mean) {
  LossSums mine;
  for (std::int64_t chunk = threadIdx.x; chunk < chunks; chunk += chunk_threads) {
    mine.loss += sums.losses[chunk];
    mine.weight += sums.weights[chunk];
    mine.note_invalid(sums.first_invalid[chunk]);
  }
  mine.join_block();
  if (threadIdx.x > 0) return;
  const double divisor = mean ? mine.weight : 1;
  *normalizer = static_cast<C>(divisor);
  *first_invalid = mine.first_invalid == no_row ? -1 : mine.first_invalid;
  if (loss) *loss = static_cast<C>(mine.loss / divisor);
}

}  // namespace
}  // namespace cuda

Plan cross_entropy_plan(const Context&, std::int64_t rows, DType dtype, Reduction reduction) {
  const std::int64_t item = dtype == DType::float64 ? 8 : 4, sums = 3 * 8 * cuda::chunk_count(rows);
  return {.algorithm = "fused", .workspace_bytes = sums + (reduction == Reduction::none ? 0 : rows * item)};
}

void cross_entropy_forward(const Context& context, const Array& loss, const Array& log_sum_exp, const Array& normalizer,
                           const Array& first_invalid, const Array& logits, const Array& targets, const Array& weight,
                           const CrossEntropyOptions& options, const Array& workspace) {
  cuda::for_floating(logits.dtype, [&](auto type) {
    using T = decltype(type);
    using C = cuda::Compute<T>;
    const cuda::CrossEntropy<T> entropy(logits, targets, weight, options);
    const cuda::ChunkSums<C> sums(workspace, entropy.rows);
    const bool each = options.reduction == Reduction::none;
    C* losses = each ? loss.as<C>() : sums.row_losses;
    if (entropy.rows > 0) {
      const bool aligned = cuda::rows_aligned<T>(entropy.classes, logits.data);
      cuda::for_row_threads<T>(context, entropy.rows, entropy.classes,
                               [&](auto threads, const cuda::LaunchConfig& config) {
                                 LAUNCH((cuda::cross_entropy_forward_kernel<T, threads>), context, config, losses,
                                        log_sum_exp.as<C>(), entropy, aligned);
                               });
      LAUNCH((cuda::add_losses_kernel<T>), context, cuda::chunk_config(entropy.rows), sums, losses, entropy);
    }
    LAUNCH((cuda::join_losses_kernel<C>), context, {.blocks = 1, .threads = cuda::chunk_threads},
           each ? nullptr : loss.as<C>(), normalizer.as<C>(), first_invalid.as<std::int64_t>(), sums,
           cuda::chunk_count(entropy.rows), options.reduction == Reduction::mean);
  });
}

void cross_entropy_backward(const Context& context, const Array& dlogits, const Array& dloss, const Array& logits,
                            const Array& log_sum_exp, const Array& normalizer, const Array& targets,
                            const Array& weight, const CrossEntropyOptions& options) {
  cuda::for_floating(logits.dtype, [&](auto type) {
    using T = decltype(type);
    using C = cuda::Compute<T>;
    const cuda::CrossEntropy<T> entropy(logits, targets, weight, options);
    if (entropy.rows == 0) return;
    const bool aligned = cuda::rows_aligned<T>(entropy.classes, logits.data, dlogits.data);
    const bool each = options.reduction == Reduction::none;
    cuda::for_row_threads<T>(
        context, entropy.rows, entropy.classes, [&](auto threads, const cuda::LaunchConfig& config) {
          LAUNCH((cuda::cross_entropy_backward_kernel<T, threads>), context, config, dlogits.as<T>(),
                 dloss.as<const C>(), each, log_sum_exp.as<const C>(), normalizer.as<const C>(), entropy, aligned);
        });
  });
}

}  // namespace imgrec
