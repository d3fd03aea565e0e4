"""Recurrent layers: one layer in one direction over sequences (N, T, C), from which the modules in nn stack theirs."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from imgrec_engine import kernels, packing
from imgrec_engine.autograd import Array, Gradients, Needs, Results, differentiable, is_recording
from imgrec_engine.device import contiguous, empty, empty_like
from imgrec_engine.dtypes import uint8
from imgrec_engine.errors import DTypeError, ShapeError

__all__ = ["gru", "lstm", "rnn"]

Shape = tuple[int, ...]


def _lengths(name: str, lengths: Any) -> Any:
    """The steps of each sample as an int64 array on the host; None for all steps."""
    if lengths is None:
        return None
    array = np.asarray(lengths)
    if array.dtype.kind not in "iu":
        raise DTypeError(f"{name}: lengths is of dtype {array.dtype.name}, expected int64")
    return array.astype(np.int64)  # a copy: the backward pass reads it again


class _Recurrence:
    """What the kernels are told about recurrences of certain shapes besides their arrays."""

    def __init__(
        self,
        module: Any,
        context: Any,
        name: str,
        x: Shape,
        weight_hh: Shape,
        dtype: np.dtype[Any],
        cell: str,
        training: bool,
    ) -> None:
        if len(x) != 3 or len(weight_hh) != 2:
            raise ShapeError(f"{name}: x is {x} and weight_hh {weight_hh}; expected (N, T, I) and (G H, H)")
        (batch, steps, _), hidden = x, weight_hh[1]
        self.output, self.state = (batch, steps, hidden), (batch, hidden)
        self.sizes = (context, *x, hidden, dtype, cell)
        self.plan = kernels.new_plan(module.recurrent_forward_plan, *self.sizes, training)
        self.layout = packing.Layout(
            self.plan, cell, lambda to, *weights: module.recurrent_pack(context, to, *weights, batch, steps, cell)
        )


_recurrence = functools.lru_cache(maxsize=1024)(_Recurrence)  # the same one for the same description


def _run(name: str, cell: str, operands: tuple[Any, ...], lengths: Any, reverse: bool) -> Results:
    """Runs a cell over x; operands are x, h_0, c_0, weight_ih, weight_hh, bias_ih, bias_hh, of which lstm has all."""
    versions = packing.lasting_versions(*operands[3:5])
    operands = tuple([array if array is None else contiguous(array) for array in operands])
    inputs = (*operands, _lengths(name, lengths))
    x, weights = operands[0], operands[3:5]
    module, context = kernels.of(x)
    has_cell_state, training = cell == "lstm", is_recording()
    call = _recurrence(module, context, name, x.shape, weights[1].shape, x.dtype, cell, training)
    output, h_n = empty(call.output, x.dtype, x), empty(call.state, x.dtype, x)
    c_n = empty(call.state, x.dtype, x) if has_cell_state else None
    reserve = empty((call.plan.reserve_bytes,), uint8, x) if training else None
    packed = call.layout.of(weights, versions)
    workspace = kernels.workspace(call.plan, x)
    module.recurrent_forward(context, output, h_n, c_n, reserve, inputs, packed, cell, reverse, workspace)

    def backward(dys: tuple[Array, ...], needs: Needs) -> Gradients:
        given = [dy if dy is None else contiguous(dy) for dy in (*dys, None)[:3]]
        gradients: list[Any] = [None] * len(operands)
        slots = [i for i in range(len(operands)) if has_cell_state or i != 2]
        for slot, needed in zip(slots, needs, strict=True):
            if needed:
                gradients[slot] = empty_like(operands[slot])
        workspace = kernels.workspace(kernels.plan(module.recurrent_backward_plan, *call.sizes), x)
        module.recurrent_backward(context, gradients, *given, inputs, cell, reverse, output, reserve, workspace)
        return tuple(gradients[slot] for slot in slots)

    return ((output, h_n, c_n) if has_cell_state else (output, h_n)), backward


@differentiable(precision="low")
def rnn(
    x: Array,
    h_0: Array | None,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None = None,
    bias_hh: Array | None = None,
    lengths: Any = None,
    reverse: bool = False,
    nonlinearity: str = "tanh",
) -> Results:
    """The simple recurrent layer (Elman, 1990): h = tanh(W_ih x + b_ih + W_hh h' + b_hh), h' the h of the step before.

    Args:
        x: sequences (N, T, I), of any floating dtype; 16-bit ones are computed, and the state kept, in float32.
        h_0: the initial state (N, H); None for zeros.
        weight_ih: (H, I).
        weight_hh: (H, H).
        bias_ih: (H,) or None.
        bias_hh: (H,) or None.
        lengths: how many of its T steps each sample has: N whole numbers in [1, T] as a Tensor, array or list;
            None for T. What lies past a sample's length is not read, and is zero in the output.
        reverse: from each sample's last step to its first.
        nonlinearity: "tanh" or "relu".

    Returns:
        output (N, T, H), the state after every step, and h_n (N, H), the state after each sample's last one.

    Raises:
        ShapeError: shapes that do not fit, lengths outside of [1, T], or T = 0.
        DTypeError: operands of different dtypes, or lengths that are not whole numbers.
        ValueError: another nonlinearity.

    >>> import imgrec_engine as ie
    >>> output, h_n = rnn(ie.ones((2, 5, 3)), None, ie.ones((4, 3)), ie.ones((4, 4)), lengths=[5, 2])
    >>> output.shape, h_n.shape, output[1, 2:].sum().item()
    ((2, 5, 4), (2, 4), 0.0)

    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"rnn: nonlinearity is {nonlinearity!r}, expected 'tanh' or 'relu'")
    operands = (x, h_0, None, weight_ih, weight_hh, bias_ih, bias_hh)
    return _run("rnn", f"rnn_{nonlinearity}", operands, lengths, reverse)


@differentiable(precision="low")
def lstm(
    x: Array,
    h_0: Array | None,
    c_0: Array | None,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None = None,
    bias_hh: Array | None = None,
    lengths: Any = None,
    reverse: bool = False,
) -> Results:
    """Long short-term memory (Hochreiter and Schmidhuber, 1997; with forget gates, Gers et al., 2000).

    With a = W_ih x + b_ih + W_hh h' + b_hh cut into the gates i, f, g, o, and h', c' the states of the step before:
    c = sigmoid(f) c' + sigmoid(i) tanh(g) and h = sigmoid(o) tanh(c).

    Args:
        x: sequences (N, T, I), of any floating dtype; 16-bit ones are computed, and the state kept, in float32.
        h_0: the initial h (N, H); None for zeros.
        c_0: the initial c (N, H); None for zeros.
        weight_ih: (4 H, I), in the order i, f, g, o.
        weight_hh: (4 H, H).
        bias_ih: (4 H,) or None.
        bias_hh: (4 H,) or None.
        lengths: how many of its T steps each sample has: N whole numbers in [1, T] as a Tensor, array or list;
            None for T. What lies past a sample's length is not read, and is zero in the output.
        reverse: from each sample's last step to its first.

    Returns:
        output (N, T, H), h after every step; h_n and c_n (N, H), the states after each sample's last step.

    Raises:
        ShapeError: shapes that do not fit, lengths outside of [1, T], or T = 0.
        DTypeError: operands of different dtypes, or lengths that are not whole numbers.

    >>> import imgrec_engine as ie
    >>> output, h_n, c_n = lstm(ie.ones((2, 5, 3)), None, None, ie.ones((16, 3)), ie.ones((16, 4)))
    >>> output.shape, h_n.shape, c_n.shape
    ((2, 5, 4), (2, 4), (2, 4))

    """
    return _run("lstm", "lstm", (x, h_0, c_0, weight_ih, weight_hh, bias_ih, bias_hh), lengths, reverse)


@differentiable(precision="low")
def gru(
    x: Array,
    h_0: Array | None,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None = None,
    bias_hh: Array | None = None,
    lengths: Any = None,
    reverse: bool = False,
) -> Results:
    """The gated recurrent unit (Cho et al., 2014), its reset gate applied after the product, as in cuDNN and PyTorch.

    With p = W_ih x + b_ih and q = W_hh h' + b_hh cut into r, z, n, and h' the state of the step before:
    r = sigmoid(p_r + q_r), z = sigmoid(p_z + q_z), n = tanh(p_n + r q_n) and h = (1 - z) n + z h'.

    Args:
        x: sequences (N, T, I), of any floating dtype; 16-bit ones are computed, and the state kept, in float32.
        h_0: the initial state (N, H); None for zeros.
        weight_ih: (3 H, I), in the order r, z, n.
        weight_hh: (3 H, H).
        bias_ih: (3 H,) or None.
        bias_hh: (3 H,) or None.
        lengths: how many of its T steps each sample has: N whole numbers in [1, T] as a Tensor, array or list;
            None for T. What lies past a sample's length is not read, and is zero in the output.
        reverse: from each sample's last step to its first.

    Returns:
        output (N, T, H), the state after every step, and h_n (N, H), the state after each sample's last one.

    Raises:
        ShapeError: shapes that do not fit, lengths outside of [1, T], or T = 0.
        DTypeError: operands of different dtypes, or lengths that are not whole numbers.

    >>> import imgrec_engine as ie
    >>> output, h_n = gru(ie.ones((2, 5, 3)), None, ie.ones((12, 3)), ie.ones((12, 4)), reverse=True)
    >>> output.shape, bool((output[:, 0] == h_n).numpy().all())
    ((2, 5, 4), True)

    """
    return _run("gru", "gru", (x, h_0, None, weight_ih, weight_hh, bias_ih, bias_hh), lengths, reverse)
