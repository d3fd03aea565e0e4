// The mathematics of each cell for one hidden unit of one sample, forwards and backwards, and which step comes when.
//
// What is kept of a step are slots, each as wide as the hidden state:
//
//           forward: input projections, then activations     backward: gradients before the activations
//   rnn     h                                                h
//   lstm    i, f, g, o, c                                    i, f, g, o
//   gru     r, z, n, q_n, h                                  r, z, n, q_n     with q_n = weight_hn h' + bias_hn
//
// weight_ih is multiplied by the gradients of the first slots, weight_hh too, but for gru's q_n in place of n.
// `carry` goes from step to step beside what weight_hh sees: c or h forwards; backwards dc or, for gru, the part of dh
// that does not pass through weight_hh.
#pragma once

#include "cuda/activation.h"
#include "cuda/gemm/divide.h"
#include "ops/recurrent.h"

namespace imgrec::cuda::recurrent {

constexpr int most_gates = 4, most_saved = 5;

struct CellLayout {
  int gates, saved, gradients;
};

__host__ __device__ constexpr CellLayout layout_of(RecurrentCell cell) {
  switch (cell) {
    case RecurrentCell::lstm:
      return {.gates = 4, .saved = 5, .gradients = 4};
    case RecurrentCell::gru:
      return {.gates = 3, .saved = 5, .gradients = 4};
    default:
      return {.gates = 1, .saved = 1, .gradients = 1};
  }
}

/// The slot whose gradient weight_hh sees for a gate.
__host__ __device__ constexpr int hidden_slot(RecurrentCell cell, int gate) {
  return cell == RecurrentCell::gru && gate == 2 ? 3 : gate;
}

/// One step forwards: slots as above, `products` those of weight_hh with h' by gate. Returns h.
template <class Number>
__device__ __forceinline__ Number advance_cell(RecurrentCell cell, Number (&slots)[most_saved],
                                               const Number (&products)[most_gates], Number hidden_bias,
                                               Number& carry) {
  switch (cell) {
    case RecurrentCell::lstm: {
      const Number i = slots[0] = sigmoid(slots[0] + products[0]);
      const Number f = slots[1] = sigmoid(slots[1] + products[1]);
      const Number g = slots[2] = tanh(slots[2] + products[2]);
      const Number o = slots[3] = sigmoid(slots[3] + products[3]);
      slots[4] = carry = f * carry + i * g;
      return o * tanh(carry);
    }
    case RecurrentCell::gru: {
      const Number r = slots[0] = sigmoid(slots[0] + products[0]);
      const Number z = slots[1] = sigmoid(slots[1] + products[1]);
      slots[3] = products[2] + hidden_bias;
      const Number n = slots[2] = tanh(slots[2] + r * slots[3]);
      return slots[4] = carry = n + z * (carry - n);
    }
    case RecurrentCell::rnn_relu: {
      const Number sum = slots[0] + products[0];
      return slots[0] = sum < Number(0) ? Number(0) : sum;  // NaN passes
    }
    default:
      return slots[0] = tanh(slots[0] + products[0]);
  }
}

/// One step backwards; `previous` is the state before the step, c for lstm and h for gru.
template <class Number>
__device__ __forceinline__ void differentiate_cell(RecurrentCell cell, Number (&gradients)[most_gates],
                                                   const Number (&slots)[most_saved], Number dh, Number previous,
                                                   Number& carry) {
  const Number one(1);
  switch (cell) {
    case RecurrentCell::lstm: {
      const Number i = slots[0], f = slots[1], g = slots[2], o = slots[3], tanh_c = tanh(slots[4]);
      const Number dc = carry + dh * o * (one - tanh_c * tanh_c);
      gradients[0] = dc * g * i * (one - i);
      gradients[1] = dc * previous * f * (one - f);
      gradients[2] = dc * i * (one - g * g);
      gradients[3] = dh * tanh_c * o * (one - o);
      carry = dc * f;
      return;
    }
    case RecurrentCell::gru: {
      const Number r = slots[0], z = slots[1], n = slots[2];
      const Number whole = dh + carry;
      gradients[2] = whole * (one - z) * (one - n * n);
      gradients[0] = gradients[2] * slots[3] * r * (one - r);
      gradients[1] = whole * (previous - n) * z * (one - z);
      gradients[3] = gradients[2] * r;
      carry = whole * z;
      return;
    }
    case RecurrentCell::rnn_relu:
      gradients[0] = slots[0] > Number(0) ? dh : Number(0);
      return;
    default:
      gradients[0] = dh * (one - slots[0] * slots[0]);
  }
}

/// Which step of which sample comes when.
struct Order {
  const int* lengths;  // (N,) in the device's memory, or null where all have T steps
  FastDivisor steps;
  bool reverse;

  __device__ std::int64_t length(std::int64_t sample) const { return lengths ? lengths[sample] : steps.divisor; }

  /// The row of (N T, ...) that the sample reads and writes in its step `step` < length.
  __device__ std::int64_t row(std::int64_t sample, std::int64_t step, std::int64_t length) const {
    return sample * steps.divisor + (reverse ? length - 1 - step : step);
  }
};

}  // namespace imgrec::cuda::recurrent
