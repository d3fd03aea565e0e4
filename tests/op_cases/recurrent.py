import numpy as np

from imgrec_engine import functional as F
from imgrec_engine.errors import DTypeError, ShapeError
from op_cases.table import OpCase, bad, integers, normal, sample, uniform


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def over_steps(cell, x, h, c, hidden, lengths, reverse):
    """Runs cell(x_t, h, c) -> (h, c) over each sample's steps, one sample after the other."""
    batch, steps, _ = x.shape
    output = np.zeros((batch, steps, hidden))
    h = np.zeros((batch, hidden)) if h is None else h.copy()
    c = np.zeros((batch, hidden)) if c is None else c.copy()
    for n in range(batch):
        times = range(steps if lengths is None else int(lengths[n]))
        for t in reversed(times) if reverse else times:
            h[n], c[n] = cell(x[n, t], h[n], c[n])
            output[n, t] = h[n]
    return output, h, c


def projections(weight_ih, weight_hh, bias_ih, bias_hh, gates):
    def project(x, h):
        p = weight_ih @ x + (0 if bias_ih is None else bias_ih)
        q = weight_hh @ h + (0 if bias_hh is None else bias_hh)
        return np.split(p, gates), np.split(q, gates)

    return project


def rnn(x, h_0, weight_ih, weight_hh, bias_ih=None, bias_hh=None, lengths=None, reverse=False, nonlinearity="tanh"):
    project = projections(weight_ih, weight_hh, bias_ih, bias_hh, 1)

    def cell(x_t, h, c):
        (p,), (q,) = project(x_t, h)
        return (np.tanh(p + q) if nonlinearity == "tanh" else np.maximum(p + q, 0)), c

    return over_steps(cell, x, h_0, None, weight_hh.shape[1], lengths, reverse)[:2]


def lstm(x, h_0, c_0, weight_ih, weight_hh, bias_ih=None, bias_hh=None, lengths=None, reverse=False):
    project = projections(weight_ih, weight_hh, bias_ih, bias_hh, 4)

    def cell(x_t, h, c):
        i, f, g, o = (p + q for p, q in zip(*project(x_t, h), strict=True))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c

    return over_steps(cell, x, h_0, c_0, weight_hh.shape[1], lengths, reverse)


def gru(x, h_0, weight_ih, weight_hh, bias_ih=None, bias_hh=None, lengths=None, reverse=False):
    project = projections(weight_ih, weight_hh, bias_ih, bias_hh, 3)

    def cell(x_t, h, c):
        (p_r, p_z, p_n), (q_r, q_z, q_n) = project(x_t, h)
        r, z = sigmoid(p_r + q_r), sigmoid(p_z + q_z)
        return (1 - z) * np.tanh(p_n + r * q_n) + z * h, c

    return over_steps(cell, x, h_0, None, weight_hh.shape[1], lengths, reverse)[:2]


def call(gates, n, t, i, h, states=1, biases=True, initial=True, make=sample, **kwargs):
    """The arguments of one call: gates, sizes (N, T, I, H), number of states, and what is given of the options."""
    bound = 1 / max(h, 1) ** 0.5
    weights = [uniform(gates * h, i, low=-bound, high=bound), uniform(gates * h, h, low=-bound, high=bound)]
    bias = [uniform(gates * h)] * 2 if biases else []
    return make(normal(n, t, i), *[normal(n, h) if initial else None] * states, *weights, *bias, **kwargs)


def samples(gates, states):
    def case(*sizes, **kwargs):
        return call(gates, *sizes, states=states, **kwargs)

    return (
        case(3, 4, 5, 6),
        case(1, 1, 1, 1),
        case(5, 6, 3, 37, lengths=[6, 1, 4, 6, 2]),
        case(2, 5, 3, 4, lengths=[3, 5], reverse=True, initial=False),
        case(2, 3, 4, 5, reverse=True, biases=False),
        case(37, 3, 40, 70),
        case(0, 3, 4, 5),
        case(2, 3, 0, 5),
    )


def refused(gates, states):
    x, weight_ih, weight_hh, h_0 = normal(2, 3, 4), normal(gates * 5, 4), normal(gates * 5, 5), [None] * states
    return (
        bad(ShapeError, "lengths.1. is 4, expected 1 to T = 3", x, *h_0, weight_ih, weight_hh, lengths=[3, 4]),
        bad(ShapeError, "lengths.0. is 0, expected 1 to T = 3", x, *h_0, weight_ih, weight_hh, lengths=[0, 3]),
        bad(ShapeError, "lengths is int64 .3,., expected", x, *h_0, weight_ih, weight_hh, lengths=[3, 3, 3]),
        bad(DTypeError, "lengths is of dtype float64", x, *h_0, weight_ih, weight_hh, lengths=[3.0, 2.5]),
        bad(ShapeError, "a step and a hidden unit are needed", normal(2, 0, 4), *h_0, weight_ih, weight_hh),
        bad(ShapeError, "a step and a hidden unit are needed", x, *h_0, normal(0, 4), normal(0, 0)),
        bad(ShapeError, r"x is \(2, 4\)", normal(2, 4), *h_0, weight_ih, weight_hh),
        bad(ShapeError, "weight_ih is float32", x, *h_0, normal(gates * 5, 3), weight_hh),
        bad(ShapeError, "weight_hh is float32", x, *h_0, weight_ih, normal(gates * 5 + 1, 5)),
        bad(ShapeError, "h_0 is float32", x, normal(2, 6), *h_0[1:], weight_ih, weight_hh),
        bad(ShapeError, "bias_hh is float32", x, *h_0, weight_ih, weight_hh, None, normal(5 * gates + 1)),
        bad(DTypeError, "x is int64", integers(2, 3, 4, high=2), *h_0, weight_ih, weight_hh),
    )


CASES = (
    OpCase(
        F.rnn,
        rnn,
        (*samples(1, 1), call(1, 3, 4, 5, 6, nonlinearity="relu")),
        (
            *refused(1, 1),
            call(
                1, 2, 3, 4, 5, make=lambda *args: bad(ValueError, "nonlinearity is 'gelu'", *args, nonlinearity="gelu")
            ),
        ),
        reduction=111,
    ),
    OpCase(F.lstm, lstm, samples(4, 2), refused(4, 2), reduction=111),
    OpCase(F.gru, gru, samples(3, 1), refused(3, 1), reduction=111),
)
