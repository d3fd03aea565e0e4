// One layer of a recurrent network, in one direction, over sequences x (N, T, I):
//
//   rnn   h = tanh(p + q) or relu(p + q)                                                         (Elman, 1990)
//   lstm  c = sigmoid(f) c' + sigmoid(i) tanh(g), h = sigmoid(o) tanh(c)                         (Gers et al., 2000)
//   gru   h = (1 - z) n + z h', r and z sigmoids, n = tanh(p_n + r q_n)                          (Cho et al., 2014)
//
// where p = weight_ih x + bias_ih and q = weight_hh h' + bias_hh, and h', c' are the states of the step before.
// weight_ih is (G H, I), weight_hh (G H, H), a bias (G H); the G gates come in the order i, f, g, o (lstm) and r, z, n
// (gru). Sample n takes lengths[n] steps, backwards from its last one where `reverse`; its output is zero past its
// length.
//
// float32, float64, float16, bfloat16; the 16-bit types are computed, and the state kept, in float32.
#pragma once

#include "ops/array.h"

namespace imgrec {

enum class RecurrentCell : std::uint8_t { rnn_tanh, rnn_relu, lstm, gru };

struct RecurrentShape {
  std::int64_t batch, steps, input, hidden;
};

/// What forward and backward both read. All contiguous; lengths is int64 in the host's memory, each in [1, T].
struct RecurrentInputs {
  Array x;         // (N, T, I)
  Array h_0, c_0;  // (N, H), or absent for zeros; c_0 for lstm only
  Array weight_ih, weight_hh;
  Array bias_ih, bias_hh;  // or absent for zeros, each for itself
  Array lengths;           // (N,), or absent where every sample has T steps
  RecurrentCell cell;
  bool reverse;
};

/// The gradients asked for, each of the shape of its input; absent ones are not computed.
struct RecurrentGradients {
  Array x, h_0, c_0, weight_ih, weight_hh, bias_ih, bias_hh;
};

/// `training`: whether a reserve is passed, which then takes the place of a part of the workspace.
Plan recurrent_forward_plan(const Context& context, const RecurrentShape& shape, DType dtype, RecurrentCell cell,
                            bool training);

/// Packs the weights for the forward pass; nothing where its plan asks for no packed bytes.
void recurrent_pack(const Context& context, const Array& packed, const Array& weight_ih, const Array& weight_hh,
                    const RecurrentShape& shape, RecurrentCell cell);

/// output (N, T, H), h_n (N, H), c_n (N, H; lstm only): the states after each sample's last step.
/// reserve: plan.reserve_bytes for the backward pass, or absent.
/// packed: from recurrent_pack; not looked at where the plan asks for none.
void recurrent_forward(const Context& context, const Array& output, const Array& h_n, const Array& c_n,
                       const Array& reserve, const RecurrentInputs& inputs, const Array& packed,
                       const Array& workspace);

Plan recurrent_backward_plan(const Context& context, const RecurrentShape& shape, DType dtype, RecurrentCell cell);

/// doutput, dh_n, dc_n: gradients of the results, each absent where the result was not used.
void recurrent_backward(const Context& context, const RecurrentGradients& gradients, const Array& doutput,
                        const Array& dh_n, const Array& dc_n, const RecurrentInputs& inputs, const Array& output,
                        const Array& reserve, const Array& workspace);

}  // namespace imgrec
