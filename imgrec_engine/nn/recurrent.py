"""Recurrent layers over sequences (N, T, C): stacked, in one direction or both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from imgrec_engine import functional as F
from imgrec_engine.creation import zeros
from imgrec_engine.errors import ShapeError
from imgrec_engine.nn import init
from imgrec_engine.nn.module import Module, Parameter
from imgrec_engine.tensor import Tensor

States = tuple[Tensor | None, ...]
Weights = tuple[Tensor, Tensor, Tensor, Tensor]  # weight_ih, weight_hh, bias_ih, bias_hh


class _Recurrent(Module):
    """Stacks layers and directions; a subclass runs one of them."""

    gates: int
    states: tuple[str, ...] = ("h_0",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        name = type(self).__name__
        for argument, value in [("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)]:
            if value < 1:
                raise ValueError(f"{name}: {argument} is {value}, expected 1 or more")
        if not 0 <= dropout <= 1:
            raise ValueError(f"{name}: dropout is {dropout}, expected 0 <= dropout <= 1")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.dropout = dropout
        self.bidirectional = bidirectional
        self._suffixes = [
            f"_l{layer}{direction}"
            for layer in range(num_layers)
            for direction in (["", "_reverse"] if bidirectional else [""])
        ]
        rows, directions = self.gates * hidden_size, 2 if bidirectional else 1
        for index, suffix in enumerate(self._suffixes):
            columns = input_size if index < directions else directions * hidden_size
            setattr(self, "weight_ih" + suffix, Parameter(zeros((rows, columns))))
            setattr(self, "weight_hh" + suffix, Parameter(zeros((rows, hidden_size))))
            setattr(self, "bias_ih" + suffix, Parameter(zeros(rows)))
            setattr(self, "bias_hh" + suffix, Parameter(zeros(rows)))
        for parameter in self.parameters():
            init.uniform_(parameter, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))

    def _weights(self, suffix: str) -> Weights:
        weight_ih, weight_hh, bias_ih, bias_hh = (
            getattr(self, name + suffix) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        return weight_ih, weight_hh, bias_ih, bias_hh

    def _direction(
        self, x: Tensor, states: States, weights: Weights, lengths: Any, reverse: bool
    ) -> tuple[Tensor, ...]:
        """One layer in one direction: the output and the final states."""
        raise NotImplementedError

    def _run(self, x: Tensor, states: Sequence[Tensor] | None, lengths: Any) -> tuple[Tensor, ...]:
        """All layers and directions: the output and the final states, each stacked to (layers * directions, N, C)."""
        initial = self._initial(x, states)
        directions = 2 if self.bidirectional else 1
        finals: list[tuple[Tensor, ...]] = []
        for index in range(0, len(self._suffixes), directions):
            if index and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for row, suffix in enumerate(self._suffixes[index : index + directions], index):
                given = tuple(None if state is None else state[row] for state in initial)
                output, *final = self._direction(x, given, self._weights(suffix), lengths, suffix.endswith("_reverse"))
                outputs.append(output)
                finals.append(tuple(final))
            x = outputs[0] if directions == 1 else F.concatenate(outputs, -1)
        if len(finals) == 1:
            return x, *(F.unsqueeze(final, 0) for final in finals[0])
        return x, *(F.stack(list(rows)) for rows in zip(*finals, strict=True))

    def _initial(self, x: Tensor, states: Sequence[Tensor] | None) -> Sequence[Tensor | None]:
        """The states given, checked; None stands for zeros."""
        name = type(self).__name__
        if x.ndim != 3 or x.shape[2] != self.input_size:
            raise ShapeError(f"{name}: x has shape {x.shape}, expected (N, T, {self.input_size})")
        shape = (len(self._suffixes), x.shape[0], self.hidden_size)
        if states is None:
            return [None] * len(self.states)
        if len(states) != len(self.states):
            raise ShapeError(f"{name}: {len(states)} initial states were given, expected {', '.join(self.states)}")
        for state, given in zip(self.states, states, strict=True):
            if given.shape != shape:
                raise ShapeError(
                    f"{name}: {state} has shape {given.shape}, expected {shape}: (layers * directions, N, hidden_size)"
                )
        return states

    def extra_repr(self) -> str:
        """Its sizes, and whatever is not the default."""
        options = {"num_layers": 1, "dropout": 0.0, "bidirectional": False}
        shown = [f"{name}={getattr(self, name)}" for name, usual in options.items() if getattr(self, name) != usual]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *shown])


class RNN(_Recurrent):
    """Elman's recurrence h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or with relu (Elman, 1990).

    ``output, h_n = rnn(x, h_0=None, lengths=None)``: x (N, T, input_size), output (N, T, directions * hidden_size),
    h_0 and h_n (num_layers * directions, N, hidden_size), lengths (N,) integers. Outputs past a sample's length are
    zero, and h_n is the state at its end. Dropout acts between layers, so not where there is one. Parameter names
    and initialisation, uniform in +-1 / sqrt(hidden_size), are PyTorch's.

    >>> import imgrec_engine as ie
    >>> output, h_n = ie.nn.RNN(3, 5, num_layers=2)(ie.ones((2, 7, 3)))
    >>> output.shape, h_n.shape
    ((2, 7, 5), (2, 2, 5))
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        dropout: float = 0.0,
        bidirectional: bool = False,
        nonlinearity: str = "tanh",
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNN: nonlinearity is {nonlinearity!r}, expected 'tanh' or 'relu'")
        super().__init__(input_size, hidden_size, num_layers, dropout, bidirectional)
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor, h_0: Tensor | None = None, lengths: Any = None) -> tuple[Tensor, Tensor]:
        """Runs over the sequences."""
        output, h_n = self._run(x, None if h_0 is None else [h_0], lengths)
        return output, h_n

    def _direction(
        self, x: Tensor, states: States, weights: Weights, lengths: Any, reverse: bool
    ) -> tuple[Tensor, ...]:
        (h_0,) = states
        return F.rnn(x, h_0, *weights, lengths=lengths, reverse=reverse, nonlinearity=self.nonlinearity)


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997), gates in the order i, f, g, o.

    ``output, (h_n, c_n) = lstm(x, (h_0, c_0)=None, lengths=None)``: shapes and parameters as for `RNN`, with four
    blocks of rows in each weight.

    >>> import imgrec_engine as ie
    >>> output, (h_n, c_n) = ie.nn.LSTM(3, 5, bidirectional=True)(ie.ones((2, 7, 3)))
    >>> output.shape, h_n.shape, c_n.shape
    ((2, 7, 10), (2, 2, 5), (2, 2, 5))
    """

    gates = 4
    states = ("h_0", "c_0")

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None, lengths: Any = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Runs over the sequences."""
        output, h_n, c_n = self._run(x, state, lengths)
        return output, (h_n, c_n)

    def _direction(
        self, x: Tensor, states: States, weights: Weights, lengths: Any, reverse: bool
    ) -> tuple[Tensor, ...]:
        h_0, c_0 = states
        return F.lstm(x, h_0, c_0, *weights, lengths=lengths, reverse=reverse)


class GRU(_Recurrent):
    """The gated recurrent unit (Cho et al., 2014), gates in the order r, z, n, in PyTorch's form.

    ``output, h_n = gru(x, h_0=None, lengths=None)``: shapes and parameters as for `RNN`, with three blocks of rows.

    >>> import imgrec_engine as ie
    >>> output, h_n = ie.nn.GRU(3, 5)(ie.ones((2, 7, 3)), lengths=ie.tensor([7, 4]))
    >>> float(abs(output.numpy()[1, 4:]).max())
    0.0
    """

    gates = 3

    def forward(self, x: Tensor, h_0: Tensor | None = None, lengths: Any = None) -> tuple[Tensor, Tensor]:
        """Runs over the sequences."""
        output, h_n = self._run(x, None if h_0 is None else [h_0], lengths)
        return output, h_n

    def _direction(
        self, x: Tensor, states: States, weights: Weights, lengths: Any, reverse: bool
    ) -> tuple[Tensor, ...]:
        (h_0,) = states
        return F.gru(x, h_0, *weights, lengths=lengths, reverse=reverse)
