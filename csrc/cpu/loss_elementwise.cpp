#include "cpu/parallel.h"
#include "cpu/row_reduce.h"
#include "cpu/vector_math.h"
#include "ops/loss.h"

namespace imgrec {
namespace cpu {
namespace {

constexpr std::int64_t grain = 1 << 14;  // elements a task, which leaves one sum in the workspace

/// Writes term(i, count) to `loss`, or the sum or mean of all of it.
template <class S, class Term>
void reduce_elements(const Context& context, const Array& loss, std::int64_t size, Reduction reduction,
                     const Array& workspace, Term&& term) {
  using T = Compute<S>;
  if (reduction == Reduction::none)
    return parallel_range(context, size, grain, [&](std::int64_t begin, std::int64_t end) {
      for_vectors<S>(begin, end,
                     [&](std::int64_t i, auto count) { store_narrow(loss.as<T>() + i, term(i, count), count); });
    });
  auto* sums = workspace.as<double>();
  parallel_range(context, size, grain, [&](std::int64_t begin, std::int64_t end) {
    sums[begin / grain] = row_sum<S>(end - begin, [&](std::int64_t i, auto count) { return term(begin + i, count); });
  });
  double total = 0;
  for (std::int64_t chunk = 0; chunk * grain < size; ++chunk) total += sums[chunk];
  *loss.as<T>() = static_cast<T>(reduction == Reduction::mean ? total / static_cast<double>(size) : total);
}

/// The gradient that reaches each element's loss.
template <class T>
struct ElementGradient {
  const T* values;
  T scale;  // of values[0], unless each element has its own
  bool each;

  ElementGradient(const Array& dloss, std::int64_t size, Reduction reduction)
      : values(dloss.as<const T>()),
        scale(reduction == Reduction::mean ? static_cast<T>(1.0 / static_cast<double>(size)) : T(1)),
        each(reduction == Reduction::none) {}

  Vector<T> at(std::int64_t i, auto count) const {
    return each ? load_wide(values + i, count) : broadcast(values[0] * scale);
  }
};

template <class S>
struct BinaryCrossEntropy {
  using T = Compute<S>;
  using V = Vector<T>;

  const S *logits, *targets;
  const T *weight, *pos_weight;  // null where they are 1

  /// Some elements, e = exp(-|x|), from which all else follows without overflow, and the weights of both terms.
  struct Terms {
    V x, target, e, negative_weight, positive_weight;
  };

  Terms terms(std::int64_t i, auto count) const {
    const V x = load_wide(logits + i, count), w = weight ? load_wide(weight + i, count) : broadcast(T(1));
    return {.x = x,
            .target = load_wide(targets + i, count),
            .e = exp(x < V{} ? x : -x),
            .negative_weight = w,
            .positive_weight = pos_weight ? w * load_wide(pos_weight + i, count) : w};
  }

  /// log(1 + e) after Kahan: the quotient makes up for what rounding took from 1 + e.
  static V log_one_more(V e) {
    const V sum = e + T(1);
    return sum == broadcast(T(1)) ? e : log(sum) * e / (sum - T(1));
  }

  V loss(const Terms& t) const {
    const V tail = log_one_more(t.e);
    return t.negative_weight * (T(1) - t.target) * (maximum(t.x, V{}) + tail) +
           t.positive_weight * t.target * (maximum(-t.x, V{}) + tail);
  }

  /// With sigmoid(x) and sigmoid(-x) by themselves: 1 - sigmoid(x) would lose the accuracy of small values.
  V logit_gradient(const Terms& t) const {
    const V greater = T(1) / (t.e + T(1)), smaller = t.e * greater;
    return t.negative_weight * (T(1) - t.target) * (t.x < V{} ? smaller : greater) -
           t.positive_weight * t.target * (t.x < V{} ? greater : smaller);
  }

  V target_gradient(const Terms& t) const {
    const V tail = log_one_more(t.e);
    return t.positive_weight * (maximum(-t.x, V{}) + tail) - t.negative_weight * (maximum(t.x, V{}) + tail);
  }
};

template <class S>
BinaryCrossEntropy<S> binary_cross_entropy(const Array& logits, const Array& targets, const Array& weight,
                                           const Array& pos_weight) {
  using T = Compute<S>;
  return {logits.as<const S>(), targets.as<const S>(), weight.as<const T>(), pos_weight.as<const T>()};
}

}  // namespace
}  // namespace cpu

Plan elementwise_loss_plan(const Context&, std::int64_t size, Reduction reduction) {
  const std::int64_t chunks = reduction == Reduction::none ? 0 : (size + cpu::grain - 1) / cpu::grain;
  return {.algorithm = "fused", .workspace_bytes = chunks * static_cast<std::int64_t>(sizeof(double))};
}

void binary_cross_entropy_with_logits_forward(const Context& context, const Array& loss, const Array& logits,
                                              const Array& targets, const Array& weight, const Array& pos_weight,
                                              Reduction reduction, const Array& workspace) {
  cpu::for_floating(logits.dtype, [&](auto tag) {
    using S = decltype(tag);
    const auto entropy = cpu::binary_cross_entropy<S>(logits, targets, weight, pos_weight);
    cpu::reduce_elements<S>(context, loss, logits.size(), reduction, workspace,
                            [&](std::int64_t i, auto count) { return entropy.loss(entropy.terms(i, count)); });
  });
}

void binary_cross_entropy_with_logits_backward(const Context& context, const Array& dlogits, const Array& dtargets,
                                               const Array& dloss, const Array& logits, const Array& targets,
                                               const Array& weight, const Array& pos_weight, Reduction reduction) {
  cpu::for_floating(logits.dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const auto entropy = cpu::binary_cross_entropy<S>(logits, targets, weight, pos_weight);
    const cpu::ElementGradient<T> gradient(dloss, logits.size(), reduction);
    cpu::parallel_range(context, logits.size(), cpu::grain, [&](std::int64_t begin, std::int64_t end) {
      cpu::for_vectors<S>(begin, end, [&](std::int64_t i, auto count) {
        const auto terms = entropy.terms(i, count);
        const auto g = gradient.at(i, count);
        if (dlogits) cpu::store_narrow(dlogits.as<S>() + i, g * entropy.logit_gradient(terms), count);
        if (dtargets) cpu::store_narrow(dtargets.as<S>() + i, g * entropy.target_gradient(terms), count);
      });
    });
  });
}

void mse_loss_forward(const Context& context, const Array& loss, const Array& input, const Array& target,
                      Reduction reduction, const Array& workspace) {
  cpu::for_floating(input.dtype, [&](auto tag) {
    using S = decltype(tag);
    const S *x = input.as<const S>(), *t = target.as<const S>();
    cpu::reduce_elements<S>(context, loss, input.size(), reduction, workspace, [=](std::int64_t i, auto count) {
      const auto difference = cpu::load_wide(x + i, count) - cpu::load_wide(t + i, count);
      return difference * difference;
    });
  });
}

void mse_loss_backward(const Context& context, const Array& dinput, const Array& dloss, const Array& input,
                       const Array& target, Reduction reduction) {
  cpu::for_floating(input.dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const S *x = input.as<const S>(), *t = target.as<const S>();
    const cpu::ElementGradient<T> gradient(dloss, input.size(), reduction);
    cpu::parallel_range(context, input.size(), cpu::grain, [&](std::int64_t begin, std::int64_t end) {
      cpu::for_vectors<S>(begin, end, [&](std::int64_t i, auto count) {
        const auto difference = cpu::load_wide(x + i, count) - cpu::load_wide(t + i, count);
        cpu::store_narrow(dinput.as<S>() + i, T(2) * gradient.at(i, count) * difference, count);
      });
    });
  });
}

}  // namespace imgrec
