"""Recurrent layers, against their formulas in NumPy."""

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import nn
from imgrec_engine.errors import ShapeError


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_step(x, state, w, hidden):
    h, c = state
    i, f, g, o = np.split(x @ w[0].T + w[2] + h @ w[1].T + w[3], 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_step(x, state, w, hidden):
    from_x, from_h = x @ w[0].T + w[2], state[0] @ w[1].T + w[3]
    r, z = sigmoid(from_x[: 2 * hidden] + from_h[: 2 * hidden]).reshape(2, hidden)
    n = np.tanh(from_x[2 * hidden :] + r * from_h[2 * hidden :])
    return ((1 - z) * n + z * state[0],)


def rnn_step(x, state, w, hidden):
    return (np.tanh(x @ w[0].T + w[2] + state[0] @ w[1].T + w[3]),)


def reference(layer, step, x, states, lengths):
    """Every layer and direction, one sample and one step at a time."""
    suffixes = ["", "_reverse"] if layer.bidirectional else [""]
    finals = []
    for number in range(layer.num_layers):
        outputs = []
        for direction, suffix in enumerate(suffixes):
            w = [getattr(layer, f"{name}_l{number}{suffix}").numpy() for name in
                 ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]  # fmt: skip
            row = number * len(suffixes) + direction
            output, final = np.zeros((*x.shape[:2], layer.hidden_size)), []
            for n, length in enumerate(lengths):
                state = tuple(s[row, n] for s in states)
                for t in range(length)[:: -1 if suffix else 1]:
                    state = step(x[n, t], state, w, layer.hidden_size)
                    output[n, t] = state[0]
                final.append(state)
            outputs.append(output)
            finals.append([np.stack(rows) for rows in zip(*final, strict=True)])
        x = np.concatenate(outputs, -1)
    return x, *(np.stack(rows) for rows in zip(*finals, strict=True))


RECURRENT = [(nn.LSTM, lstm_step), (nn.GRU, gru_step), (nn.RNN, rnn_step)]


@pytest.mark.parametrize(("kind", "step"), RECURRENT)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [None, [5, 2, 3]])
def test_recurrent_layers_stack(kind, step, bidirectional, lengths):
    layer = kind(3, 4, num_layers=2, bidirectional=bidirectional).to("float64")
    x = ie.randn(3, 5, 3, dtype="float64")
    states = [ie.randn(4 if bidirectional else 2, 3, 4, dtype="float64") for _ in range(2 if kind is nn.LSTM else 1)]
    given = tuple(states) if kind is nn.LSTM else states[0]
    output, final = layer(x, given, lengths=None if lengths is None else ie.tensor(lengths))
    finals = final if isinstance(final, tuple) else (final,)
    expected = reference(layer, step, x.numpy(), [s.numpy() for s in states], lengths or [5] * 3)
    for value, wanted in zip((output, *finals), expected, strict=True):
        np.testing.assert_allclose(value.numpy(), wanted, atol=1e-12)
    (output * output).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_recurrent_state_defaults_to_zeros_and_is_checked():
    layer = nn.LSTM(3, 4)
    x = ie.randn(2, 5, 3)
    zeros = (ie.zeros((1, 2, 4)), ie.zeros((1, 2, 4)))
    np.testing.assert_array_equal(layer(x)[0].numpy(), layer(x, zeros)[0].numpy())
    with pytest.raises(ShapeError, match=r"LSTM: c_0 has shape \(2, 4\), expected \(1, 2, 4\)"):
        layer(x, (zeros[0], ie.zeros((2, 4))))
    with pytest.raises(ShapeError, match=r"LSTM: x has shape \(2, 5, 4\), expected \(N, T, 3\)"):
        layer(ie.zeros((2, 5, 4)))


def test_recurrent_dropout_acts_between_layers_in_training_only():
    ie.manual_seed(0)
    layer = nn.GRU(3, 16, num_layers=2, dropout=0.5)
    x = ie.randn(2, 5, 3)
    assert (layer(x)[0].numpy() != layer(x)[0].numpy()).any()
    layer.eval()
    np.testing.assert_array_equal(layer(x)[0].numpy(), layer(x)[0].numpy())
    np.testing.assert_array_equal(layer(x)[1].numpy()[1], layer(x)[0].numpy()[:, -1])


def test_dropout_of_a_single_recurrent_layer_acts_nowhere():
    layer = nn.LSTM(3, 4, dropout=0.5)
    x = ie.randn(2, 5, 3)
    assert layer(x)[0].tolist() == layer.eval()(x)[0].tolist()
