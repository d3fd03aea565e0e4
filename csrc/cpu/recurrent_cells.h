// The mathematics of each cell on one vector of hidden units, forwards and backwards.
//
// What is kept of a step is a row of `slots`, each as wide as the hidden state (padded to whole panels):
//   - saved[0, gates) hold the input projections before the step and the gates' activations after it; the last of the
//     `saved` slots is the state that the backward pass asks of the step before (`previous`: c for lstm, else h);
//   - gradients are those of the gates before their activations. Those that weight_ih sees are slots [0, gates), those
//     that weight_hh sees [hidden_slot, hidden_slot + gates). They are the same but for gru's n, which the reset gate
//     divides: its slots are n, r, z, n_hidden, so that slot s of the first kind is gate (s + rotation) % gates.
// `carry` is what goes from step to step beside h: c forwards and dc backwards for lstm; for gru the part of dh that
// does not pass through weight_hh.
#pragma once

#include "cpu/vector_math.h"
#include "ops/recurrent.h"

namespace imgrec::cpu {

/// The numbers of slots and where they stand; see above.
struct CellLayout {
  int gates, saved, gradients, hidden_slot, rotation;
  bool adds_carry;
};
inline constexpr int most_gates = 4;

template <class T>
struct RnnTanh {
  static constexpr CellLayout layout = {
      .gates = 1, .saved = 1, .gradients = 1, .hidden_slot = 0, .rotation = 0, .adds_carry = false};

  static Vector<T> forward(Vector<T>* slots, const Vector<T>* product, Vector<T>, Vector<T>&) {
    return slots[0] = tanh(slots[0] + product[0]);
  }
  static void backward(Vector<T>* gradients, const Vector<T>* slots, Vector<T> dh, Vector<T>, Vector<T>&) {
    gradients[0] = dh * (T(1) - slots[0] * slots[0]);
  }
};

template <class T>
struct RnnRelu : RnnTanh<T> {
  static Vector<T> forward(Vector<T>* slots, const Vector<T>* product, Vector<T>, Vector<T>&) {
    const Vector<T> sum = slots[0] + product[0];
    return slots[0] = sum < T(0) ? Vector<T>{} : sum;  // NaN passes
  }
  static void backward(Vector<T>* gradients, const Vector<T>* slots, Vector<T> dh, Vector<T>, Vector<T>&) {
    gradients[0] = slots[0] > T(0) ? dh : Vector<T>{};
  }
};

template <class T>
struct Lstm {  // slots: i, f, g, o, c
  static constexpr CellLayout layout = {
      .gates = 4, .saved = 5, .gradients = 4, .hidden_slot = 0, .rotation = 0, .adds_carry = false};

  static Vector<T> forward(Vector<T>* slots, const Vector<T>* product, Vector<T>, Vector<T>& c) {
    const Vector<T> i = slots[0] = sigmoid(slots[0] + product[0]);
    const Vector<T> f = slots[1] = sigmoid(slots[1] + product[1]);
    const Vector<T> g = slots[2] = tanh(slots[2] + product[2]);
    const Vector<T> o = slots[3] = sigmoid(slots[3] + product[3]);
    slots[4] = c = f * c + i * g;
    return o * tanh(c);
  }
  static void backward(Vector<T>* gradients, const Vector<T>* slots, Vector<T> dh, Vector<T> c_previous,
                       Vector<T>& dc) {
    const Vector<T> i = slots[0], f = slots[1], g = slots[2], o = slots[3], tanh_c = tanh(slots[4]);
    dc += dh * o * (T(1) - tanh_c * tanh_c);
    gradients[0] = dc * g * i * (T(1) - i);
    gradients[1] = dc * c_previous * f * (T(1) - f);
    gradients[2] = dc * i * (T(1) - g * g);
    gradients[3] = dh * tanh_c * o * (T(1) - o);
    dc *= f;
  }
};

template <class T>
struct Gru {  // slots: n, r, z, weight_hn h + bias_hn, h; products: r, z, n
  static constexpr CellLayout layout = {
      .gates = 3, .saved = 5, .gradients = 4, .hidden_slot = 1, .rotation = 2, .adds_carry = true};

  static Vector<T> forward(Vector<T>* slots, const Vector<T>* product, Vector<T> h, Vector<T>&) {
    const Vector<T> r = slots[1] = sigmoid(slots[1] + product[0]);
    const Vector<T> z = slots[2] = sigmoid(slots[2] + product[1]);
    slots[3] = product[2];
    const Vector<T> n = slots[0] = tanh(slots[0] + r * slots[3]);
    return slots[4] = n + z * (h - n);
  }
  static void backward(Vector<T>* gradients, const Vector<T>* slots, Vector<T> dh, Vector<T> h_previous,
                       Vector<T>& carry) {
    const Vector<T> n = slots[0], r = slots[1], z = slots[2];
    gradients[0] = dh * (T(1) - z) * (T(1) - n * n);
    gradients[1] = gradients[0] * slots[3] * r * (T(1) - r);
    gradients[2] = dh * (h_previous - n) * z * (T(1) - z);
    gradients[3] = gradients[0] * r;
    carry = dh * z;
  }
};

/// Calls body with the cell's class. What does not depend on its mathematics goes by the layout alone, so that it is
/// compiled once for all cells.
template <class T, class Body>
auto for_cell(RecurrentCell cell, Body&& body) {
  switch (cell) {
    case RecurrentCell::rnn_tanh:
      return body(RnnTanh<T>{});
    case RecurrentCell::rnn_relu:
      return body(RnnRelu<T>{});
    case RecurrentCell::lstm:
      return body(Lstm<T>{});
    default:
      return body(Gru<T>{});
  }
}

inline CellLayout layout_of(RecurrentCell cell) {
  return for_cell<float>(cell, [](auto kind) { return decltype(kind)::layout; });
}

}  // namespace imgrec::cpu
