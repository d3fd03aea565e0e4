// One sample is one task; the states of a step lie in the lanes of vectors.
//
// Rows of states are padded: two before the first state and what fills the last vector hold -infinity, the logarithm of
// no probability, so that every state has the same three neighbours. Each step's row is shifted until its greatest is
// zero, and the shifts are added up in float64: logarithms stay near zero, where float32 has its digits, however long
// the sequence.
#include "ops/ctc.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/parallel.h"
#include "cpu/row_reduce.h"
#include "cpu/vector_math.h"
#include "cpu/workspace.h"

namespace imgrec {
namespace cpu {
namespace {

template <class T>
constexpr T never = -std::numeric_limits<T>::infinity();

/// log(exp(a) + exp(b) + exp(c)); -infinity where all three are.
template <class T>
Vector<T> log_add(Vector<T> a, Vector<T> b, Vector<T> c) {
  const Vector<T> greatest = maximum(maximum(a, b), c);
  const Vector<T> base = greatest == never<T> ? Vector<T>{} : greatest;
  return base + log(exp(a - base) + exp(b - base) + exp(c - base));
}

/// The rows of states that a thread works on, all padded, and its sums for each class.
template <class T>
struct CtcScratch {
  static constexpr std::int64_t before = lanes<T>, after = 2 * lanes<T>;

  std::int64_t width, row_size;
  T *emission, *skip, *row, *next, *classes;

  CtcScratch(const CtcShape& shape, T* memory)
      : width(round_up(shape.states(), lanes<T>)),
        row_size(before + width + after),
        emission(memory + before),
        skip(emission + row_size),
        row(skip + row_size),
        next(row + row_size),
        classes(next + row_size - before) {}

  static std::int64_t size(const CtcShape& shape) {
    return 4 * (before + round_up(shape.states(), lanes<T>) + after) + round_up(shape.classes, lanes<T>);
  }

  void clear() { std::fill(emission - before, classes, never<T>); }
};

template <class S>
struct CtcSample {
  using T = Compute<S>;

  const S* log_probs;
  const std::int64_t* targets;
  std::int64_t steps, labels, blank, classes;

  CtcSample(const Array& log_probs, const Array& targets, const Array& input_lengths, const Array& target_lengths,
            const CtcShape& shape, std::int64_t n)
      : log_probs(log_probs.as<const S>() + n * shape.steps * shape.classes),
        targets(targets.as<const std::int64_t>() + n * shape.targets),
        steps(input_lengths.as<const std::int64_t>()[n]),
        labels(target_lengths.as<const std::int64_t>()[n]),
        blank(shape.blank),
        classes(shape.classes) {}

  std::int64_t states() const { return 2 * labels + 1; }
  std::int64_t label(std::int64_t state) const { return state % 2 == 0 ? blank : targets[state / 2]; }

  bool valid(const CtcShape& shape) const {
    if (steps < 0 || steps > shape.steps || labels < 0 || labels > shape.targets) return false;
    return std::all_of(targets, targets + labels, [&](std::int64_t k) { return k >= 0 && k < classes && k != blank; });
  }

  void read_step(std::int64_t step, T* emission) const {
    const S* row = log_probs + step * classes;
    const T none = widen(row[blank]);
    for (std::int64_t s = 0; s < states(); ++s) emission[s] = s % 2 == 0 ? none : widen(row[targets[s / 2]]);
  }

  /// skip[s] is 0 where a path may come to s from s - 2, and -infinity elsewhere.
  void find_skips(T* skip) const {
    for (std::int64_t i = 1; i < labels; ++i)
      if (targets[i] != targets[i - 1]) skip[2 * i + 1] = T(0);
  }

  T shift(T* row, std::int64_t width) const {
    const T greatest = row_max(row, width);
    if (greatest == never<T>) return greatest;
    for (std::int64_t s = 0; s < width; s += lanes<T>) store(row + s, load(row + s) - greatest);
    return greatest;
  }

  T forward(T* alpha, std::int64_t pitch, CtcScratch<T> scratch) const {
    if (steps == 0) return labels == 0 ? T(0) : -never<T>;
    scratch.clear();
    find_skips(scratch.skip);
    double total = 0;
    for (std::int64_t step = 0; step < steps; ++step, alpha += pitch) {
      read_step(step, scratch.emission);
      T* row = scratch.next;
      if (step == 0) {
        std::copy_n(scratch.emission, std::min<std::int64_t>(2, states()), row);
      } else {
        for (std::int64_t s = 0; s < scratch.width; s += lanes<T>) {
          const T* from = scratch.row + s;
          store(row + s, load(scratch.emission + s) +
                             log_add<T>(load(from), load(from - 1), load(from - 2) + load(scratch.skip + s)));
        }
      }
      total += shift(row, scratch.width);
      std::copy_n(row, states(), alpha);
      std::swap(scratch.row, scratch.next);
    }
    const T* last = scratch.row + states() - 1;
    const T ends = labels == 0 ? *last : std::max(last[0], last[-1]);
    if (!(ends > never<T>)) return ends == ends && total == total ? -never<T> : std::numeric_limits<T>::quiet_NaN();
    const T sum = std::exp(last[0] - ends) + (labels == 0 ? T(0) : std::exp(last[-1] - ends));
    return static_cast<T>(-(total + ends + std::log(sum)));
  }

  /// From alpha and beta of one step: how probable each state is, given the targets, added up for each class.
  void add_posteriors(const T* alpha, const CtcScratch<T>& scratch) const {
    T* posterior = scratch.next;  // free until the step back
    for_vectors<T>(0, states(), [&](std::int64_t s, int count) {
      store(posterior + s, load_wide(alpha + s, count) + load(scratch.row + s));
    });
    const T greatest = row_max(posterior, states());
    const T sum = row_sum<T>(states(), [&](std::int64_t s, int) {
      const Vector<T> share = exp(load(posterior + s) - greatest);
      store(posterior + s, share);
      return share;
    });
    std::fill_n(scratch.classes, classes, T(0));
    for (std::int64_t s = 0; s < states(); ++s) scratch.classes[label(s)] += posterior[s] / sum;
    std::fill_n(posterior, scratch.width, never<T>);
  }

  /// `row` holds beta of a step and becomes that of the step before.
  void step_back(CtcScratch<T>& scratch) const {
    for (std::int64_t s = 0; s < scratch.width; s += lanes<T>)
      store(scratch.row + s, load(scratch.row + s) + load(scratch.emission + s));
    for (std::int64_t s = 0; s < scratch.width; s += lanes<T>) {
      const T* from = scratch.row + s;
      store(scratch.next + s, log_add<T>(load(from), load(from + 1), load(from + 2) + load(scratch.skip + s + 2)));
    }
    shift(scratch.next, scratch.width);
    std::swap(scratch.row, scratch.next);
  }

  void backward(S* dlog_probs, T dloss, const T* alpha, std::int64_t pitch, CtcScratch<T> scratch) const {
    scratch.clear();
    find_skips(scratch.skip);
    for (std::int64_t s = states() - 1; s >= std::max<std::int64_t>(0, states() - 2); --s) scratch.row[s] = T(0);
    for (std::int64_t step = steps - 1; step >= 0; --step) {
      add_posteriors(alpha + step * pitch, scratch);
      S* to = dlog_probs + step * classes;
      for_vectors<S>(0, classes, [&](std::int64_t k, int count) {
        store_narrow(to + k, load(scratch.classes + k) * -dloss, count);
      });
      if (step == 0) break;
      read_step(step, scratch.emission);
      step_back(scratch);
    }
  }
};

}  // namespace
}  // namespace cpu

Plan ctc_plan(const Context& context, const CtcShape& shape, DType dtype) {
  Plan plan{.algorithm = "log space"};
  cpu::for_compute(dtype, [&](auto tag) {
    using T = decltype(tag);
    plan.workspace_bytes = context.threads * cpu::CtcScratch<T>::size(shape) * static_cast<std::int64_t>(sizeof(T));
  });
  return plan;
}

void ctc_forward(const Context& context, const Array& loss, const Array& alpha, const Array& first_invalid,
                 const Array& log_probs, const Array& targets, const Array& input_lengths, const Array& target_lengths,
                 const CtcShape& shape, const Array& workspace) {
  cpu::for_floating(log_probs.dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const auto sample = [&](std::int64_t n) {
      return cpu::CtcSample<S>(log_probs, targets, input_lengths, target_lengths, shape, n);
    };
    const std::int64_t pitch = shape.states(), scratch_size = cpu::CtcScratch<T>::size(shape);
    cpu::parallel_tasks(context, shape.batch, [&](std::int64_t n, int worker) {
      loss.as<T>()[n] = sample(n).valid(shape) ? sample(n).forward(alpha.as<T>() + n * shape.steps * pitch, pitch,
                                                                   {shape, workspace.as<T>() + worker * scratch_size})
                                               : std::numeric_limits<T>::quiet_NaN();
    });
    std::int64_t first = 0;
    while (first < shape.batch && sample(first).valid(shape)) ++first;
    *first_invalid.as<std::int64_t>() = first < shape.batch ? first : -1;
  });
}

void ctc_backward(const Context& context, const Array& dlog_probs, const Array& dloss, const Array& loss,
                  const Array& alpha, const Array& log_probs, const Array& targets, const Array& input_lengths,
                  const Array& target_lengths, const CtcShape& shape, bool zero_infinity, const Array& workspace) {
  cpu::for_floating(log_probs.dtype, [&](auto tag) {
    using S = decltype(tag);
    using T = cpu::Compute<S>;
    const std::int64_t pitch = shape.states(), size = shape.steps * shape.classes;
    const std::int64_t scratch_size = cpu::CtcScratch<T>::size(shape);
    cpu::parallel_tasks(context, shape.batch, [&](std::int64_t n, int worker) {
      const T value = loss.as<const T>()[n];
      S* to = dlog_probs.as<S>() + n * size;
      const bool finite = std::abs(value) < std::numeric_limits<T>::infinity();
      const bool zero = finite || (zero_infinity && value == value);
      std::fill(to, to + size, cpu::narrow<S>(zero ? T(0) : std::numeric_limits<T>::quiet_NaN()));
      if (!finite) return;
      const cpu::CtcSample<S> sample(log_probs, targets, input_lengths, target_lengths, shape, n);
      sample.backward(to, dloss.as<const T>()[n], alpha.as<const T>() + n * shape.steps * pitch, pitch,
                      {shape, workspace.as<T>() + worker * scratch_size});
    });
  });
}

}  // namespace imgrec
