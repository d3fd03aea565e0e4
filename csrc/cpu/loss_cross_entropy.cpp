#include <cmath>

#include "cpu/parallel.h"
#include "cpu/row_reduce.h"
#include "cpu/vector_math.h"
#include "ops/loss.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr std::int64_t task_elements = 1 << 14;

std::int64_t rows_a_task(std::int64_t classes) { return std::int64_t{1} + task_elements / (classes > 0 ? classes : 1); }

enum class Target { valid, ignored, invalid };

template <class S>
struct CrossEntropy {
  using T = Compute<S>;

  const S* logits;
  const std::int64_t* targets;
  const T* weight;  // null where every class weighs 1
  std::int64_t classes, ignore_index;
  T hard, smooth;     // the shares of the target's own term and of every class's term
  T all_weights = 0;  // the sum of all classes' weights

  CrossEntropy(const Array& logits, const Array& targets, const Array& weight, const CrossEntropyOptions& options)
      : logits(logits.as<const S>()),
        targets(targets.as<const std::int64_t>()),
        weight(weight.as<const T>()),
        classes(logits.shape[1]),
        ignore_index(options.ignore_index),
        hard(static_cast<T>(1 - options.label_smoothing)),
        smooth(static_cast<T>(options.label_smoothing / static_cast<double>(classes))) {
    for (std::int64_t c = 0; c < classes; ++c) all_weights += weight_of(c);
  }

  T weight_of(std::int64_t c) const { return weight ? weight[c] : T(1); }

  Vector<T> weights_at(std::int64_t c, auto count) const {
    return weight ? load_wide(weight + c, count) : broadcast(T(1));
  }

  Target kind(std::int64_t row) const {
    const std::int64_t target = targets[row];
    if (target == ignore_index) return Target::ignored;
    return target >= 0 && target < classes ? Target::valid : Target::invalid;
  }

  void forward_row(std::int64_t row, T& loss, T& log_sum_exp) const {
    const S* x = logits + row * classes;
    const T greatest = row_max(x, classes);
    const T sum =
        row_sum<S>(classes, [&](std::int64_t c, auto count) { return exp(load_wide(x + c, count) - greatest); });
    log_sum_exp = greatest + std::log(sum);
    const Target target = kind(row);
    if (target != Target::valid) {
      loss = target == Target::ignored ? T(0) : std::numeric_limits<T>::quiet_NaN();
      return;
    }
    loss = hard * weight_of(targets[row]) * (log_sum_exp - widen(x[targets[row]]));
    if (smooth != T(0))
      loss += smooth * row_sum<S>(classes, [&](std::int64_t c, auto count) {
                return weights_at(c, count) * (log_sum_exp - load_wide(x + c, count));
              });
  }

  /// dlogits = g (p (hard w[target] + smooth sum of w) - smooth w), and - g hard w[target] at the target.
  void backward_row(std::int64_t row, S* dlogits, T gradient, T log_sum_exp) const {
    S* to = dlogits + row * classes;
    if (kind(row) != Target::valid) {
      std::fill(to, to + classes, narrow<S>(T(0)));
      return;
    }
    const S* x = logits + row * classes;
    const T own = hard * weight_of(targets[row]), total = gradient * (own + smooth * all_weights);
    const T spread = gradient * smooth;
    for_vectors<S>(0, classes, [&](std::int64_t c, auto count) {
      Vector<T> d = exp(load_wide(x + c, count) - log_sum_exp) * total;
      if (spread != T(0)) d -= weights_at(c, count) * spread;
      store_narrow(to + c, d, count);
    });
    // Anew for this one element: what is stored has been rounded to S.
    const std::int64_t target = targets[row];
    const T probability = std::exp(widen(x[target]) - log_sum_exp);
    to[target] = narrow<S>(probability * total - weight_of(target) * spread - gradient * own);
  }

  /// The sum of all losses and of the weights that they carry; the first invalid row, or -1.
  void add_up(std::int64_t rows, const T* losses, double& sum, double& weights, std::int64_t& first_invalid) const {
    sum = weights = 0;
    first_invalid = -1;
    for (std::int64_t row = 0; row < rows; ++row) {
      sum += losses[row];
      const Target target = kind(row);
      if (target == Target::valid)
        weights += weight_of(targets[row]);
      else if (target == Target::invalid && first_invalid < 0)
        first_invalid = row;
    }
  }
};

}  // namespace
}  // namespace cpu

Plan cross_entropy_plan(const Context&, std::int64_t rows, DType dtype, Reduction reduction) {
  const std::int64_t item = dtype == DType::float64 ? 8 : 4;
  return {.algorithm = "fused", .workspace_bytes = reduction == Reduction::none ? 0 : rows * item};
}

void cross_entropy_forward(const Context& context, const Array& loss, const Array& log_sum_exp, const Array& normalizer,
                           const Array& first_invalid, const Array& logits, const Array& targets, const Array& weight,
                           const CrossEntropyOptions& options, const Array& workspace) {
  cpu::for_floating(logits.dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const cpu::CrossEntropy<S> entropy(logits, targets, weight, options);
    const std::int64_t rows = logits.shape[0];
    T* losses = options.reduction == Reduction::none ? loss.as<T>() : workspace.as<T>();
    cpu::parallel_range(context, rows, cpu::rows_a_task(entropy.classes), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) entropy.forward_row(row, losses[row], log_sum_exp.as<T>()[row]);
    });
    double sum, weights;
    entropy.add_up(rows, losses, sum, weights, *first_invalid.as<std::int64_t>());
    const double divisor = options.reduction == Reduction::mean ? weights : 1;
    *normalizer.as<T>() = static_cast<T>(divisor);
    if (options.reduction != Reduction::none) *loss.as<T>() = static_cast<T>(sum / divisor);
  });
}

void cross_entropy_backward(const Context& context, const Array& dlogits, const Array& dloss, const Array& logits,
                            const Array& log_sum_exp, const Array& normalizer, const Array& targets,
                            const Array& weight, const CrossEntropyOptions& options) {
  cpu::for_floating(logits.dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const cpu::CrossEntropy<S> entropy(logits, targets, weight, options);
    const T *gradients = dloss.as<const T>(), divisor = *normalizer.as<const T>();
    const bool each = options.reduction == Reduction::none;
    const std::int64_t grain = cpu::rows_a_task(entropy.classes);
    cpu::parallel_range(context, logits.shape[0], grain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row)
        entropy.backward_row(row, dlogits.as<S>(), gradients[each ? row : 0] / divisor, log_sum_exp.as<const T>()[row]);
    });
  });
}

}  // namespace imgrec
