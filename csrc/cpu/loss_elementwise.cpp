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
                     [&](std::int64_t i, int count) { store_narrow(loss.as<T>() + i, term(i, count), count); });
    });
  auto* sums = workspace.as<double>();
  parallel_range(context, size, grain, [&](std::int64_t begin, std::int64_t end) {
    sums[begin / grain] = row_sum<S>(end - begin, [&](std::int64_t i, int count) { return term(begin + i, count); });
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

  Vector<T> at(std::int64_t i, int count) const {
    return each ? load_wide(values + i, count) : broadcast(values[0] * scale);
  }
};

template <class S>
struct BinaryCrossEntropy {
  using T = Compute<S>;
  using V = Vector<T>;

  const S *logits, *targets;
  const T *weight, *pos_weight;  // null where they are 1

  /// What is at hand for some elements: log(1 + exp(x)), log(1 + exp(-x)), sigmoid(x), sigmoid(-x), without
  /// cancellation at either end, and the weights of both terms.
  struct Terms {
    V target, softplus, softplus_negative, sigmoid, sigmoid_negative, negative_weight, positive_weight;
  };

  Terms terms(std::int64_t i, int count) const {
    const V x = load_wide(logits + i, count), zero{};
    const V e = exp(x < zero ? x : -x), one_more = e + T(1);
    // log(1 + e) after Kahan: the quotient makes up for what rounding took from 1 + e.
    const V log_one_more = one_more == broadcast(T(1)) ? e : log(one_more) * e / (one_more - T(1));
    const V greater = T(1) / one_more, smaller = e / one_more;
    const V w = weight ? load_wide(weight + i, count) : broadcast(T(1));
    return {.target = load_wide(targets + i, count),
            .softplus = (x > zero ? x : zero) + log_one_more,
            .softplus_negative = (x < zero ? -x : zero) + log_one_more,
            .sigmoid = x < zero ? smaller : greater,
            .sigmoid_negative = x < zero ? greater : smaller,
            .negative_weight = w,
            .positive_weight = pos_weight ? w * load_wide(pos_weight + i, count) : w};
  }

  V loss(std::int64_t i, int count) const {
    const Terms t = terms(i, count);
    return t.negative_weight * (T(1) - t.target) * t.softplus + t.positive_weight * t.target * t.softplus_negative;
  }
  V logit_gradient(const Terms& t) const {
    return t.negative_weight * (T(1) - t.target) * t.sigmoid - t.positive_weight * t.target * t.sigmoid_negative;
  }
  V target_gradient(const Terms& t) const {
    return t.positive_weight * t.softplus_negative - t.negative_weight * t.softplus;
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
                            [&](std::int64_t i, int count) { return entropy.loss(i, count); });
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
      cpu::for_vectors<S>(begin, end, [&](std::int64_t i, int count) {
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
    cpu::reduce_elements<S>(context, loss, input.size(), reduction, workspace, [=](std::int64_t i, int count) {
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
      cpu::for_vectors<S>(begin, end, [&](std::int64_t i, int count) {
        const auto difference = cpu::load_wide(x + i, count) - cpu::load_wide(t + i, count);
        cpu::store_narrow(dinput.as<S>() + i, T(2) * gradient.at(i, count) * difference, count);
      });
    });
  });
}

}  // namespace imgrec
