"""Every translation of an operation to ONNX, with its cases, run by onnxruntime."""

import numpy as np
import pytest
from exported import Function, t, values
from hypothesis import assume, given
from hypothesis import strategies as st

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import nn
from imgrec_engine.onnx import translate as module
from imgrec_engine.onnx.table import TRANSLATIONS

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def check(tmp_path, function, example, *parts, tolerance=2e-6):
    """The function, exported, gives what it gives; the export itself runs it on batches of 1, 3 and 5."""
    parity = ie.onnx.export(Function(function, *parts), tmp_path / "f.onnx", example)
    assert parity.samples == 9
    assert parity.difference <= tolerance * max(1, parity.largest)


WEIGHTS = [nn.Parameter(t(*shape)) for shape in ((4,), (6, 4), (3, 5), (5,))]
TABLE, ROWS = t(7, 3), np.arange(7).reshape(1, 7)
MASK = ie.tensor(values(5, 5) > 0)

CASES = {
    "activations": (lambda x: [F.relu(x), F.gelu(x), F.silu(x), F.sigmoid(x), F.tanh(x)], (2, 3)),
    "arithmetic": (lambda x: [x + 1, 2 - x, x * x, 3 / (x * x + 1), x**2, -x, F.power(abs(x) + 1, x)], (2, 3)),
    "extremes": (lambda x: [F.maximum(x, 0.2), F.minimum(x, WEIGHTS[0]), x.clip(-0.5), x.clip(None, 0.5)], (3, 4)),
    "functions": (lambda x: [x.abs(), x.exp(), (x * x + 1).log(), (x * x).sqrt(), x.sin(), x.cos(), x.clone()], (3,)),
    "comparisons": (lambda x: [x == x, x != 0, x < 0, x <= 0, x > WEIGHTS[0], x >= 0, (x < 0).to("int32") == 1], (4,)),
    "logic": (lambda x: [(x > 0) & (x < 1), (x > 1) | (x < 0), ~(x > 0)], (4,)),
    "not numbers": (lambda x: [F.isnan(x.log()), F.isfinite(x.log()), F.isfinite(x > 0)], (4,)),
    "where": (lambda x: [ie.where(x > 0, x, 0.5), ie.where(x > 0, 1.0, x * 2), ie.where(x > 0, WEIGHTS[0], x)], (3, 4)),
    "cast": (lambda x: [x.to("int64") + 1, (x > 0).to("float32"), x.to("int32") * x, x.to("int64") / 2], (4,)),
    "sums": (lambda x: [x.sum(), x.sum(1), x.sum((1, -1), keepdims=True), (x > 0).sum(2), x.cumsum(1)], (3, 4)),
    "means": (lambda x: [x.mean(), x.mean((1, 2)), x.var(1), x.std((1, 2), keepdims=True), x.var(2, 0)], (3, 4)),
    "reductions": (lambda x: [x.max(), x.min(1), x.max(2), (x > 0).all(1), (x > 2).any(), (x > 0).max()], (3, 4)),
    "numbers": (lambda x: [-x.sum(), x.sum() * x.mean(), (x > 1).any() | (x.sum() < 0), abs(x.mean()) + x], (3, 4)),
    "positions": (lambda x: [x.argmax(1), x.argmin(-1, keepdims=True)], (3, 4)),
    "softmax": (lambda x: [x.softmax(), x.softmax(1), x.log_softmax(-1)], (3, 4)),
    "reshape": (
        lambda x: [x.reshape(len(x), -1), x.reshape(-1, 4), x.flatten(1), x.unsqueeze(1).squeeze(1), x.reshape(-1)],
        (3, 4),
    ),
    "axes": (lambda x: [x.permute(0, 2, 1), x.transpose(-1, 0), x.flip(1), x.flip((0, 2))], (3, 4)),
    "expand": (lambda x: [x.unsqueeze(1).expand(-1, 3, -1), x.unsqueeze(0).expand(2, len(x), 4)], (4,)),
    "pad": (lambda x: [F.pad(x, [(0, 0), (1, 2), (0, 3)]), F.pad(x, [(0, 0), (0, 0), (1, 1)], 2.5)], (3, 4)),
    "join": (
        lambda x: [
            F.concatenate([x, x * 2, WEIGHTS[1].expand(len(x), 6, 4)], 1),
            F.stack([x, x + 1], -1),
            F.concatenate([x, x], 0),
        ],
        (3, 4),
    ),
    "split": (lambda x: [*x.split([1, 2], 1), *x.split(3, -1), *x.split(4, 2)], (3, 4)),
    "slices": (lambda x: [x[:, 1], x[:, -1, ::2], x[..., None, 1:3], x[:, ::-1], x[:, -2:, 3:0:-2], x[0]], (3, 4)),
    "places": (lambda x: [x[:, [2, 0, 0]], x[:, :, ie.tensor([-1, 1])], x[:, ie.tensor([[0, 1], [2, 2]])]], (3, 4)),
    "gather": (lambda x: x.gather(1, x.argmax(1, keepdims=True)), (3, 4)),
    "constants with a batch": (lambda x: [ie.ones((len(x), 4)) * x.mean(0), ie.full((len(x), 2), 3) + x[:, :2]], (4,)),
    "linear": (lambda x: [
            F.linear(x, WEIGHTS[1], activation="gelu"), F.linear(x[:, 0], WEIGHTS[1], ie.ones(6), activation="relu"),
            F.linear(x, ie.ones((4, 4)), ie.ones(4), "relu", x), F.linear(x[:, 0], ie.ones((4, 4)), residual=x[:, 1]),
    ], (3, 4)),
    "matmul": (lambda x: [x @ x.transpose(1, 2), x @ WEIGHTS[0], x[:, 0] @ WEIGHTS[1].T, WEIGHTS[2] @ F.pad(
        x, [(0, 0), (0, 2), (0, 0)]
    )], (3, 4)),
    "norms": (
        lambda x: [
            F.layer_norm(x, activation="gelu"),
            F.layer_norm(x, WEIGHTS[0], WEIGHTS[0]),
            F.batch_norm(x, WEIGHTS[0], ie.full(4, 2.0), WEIGHTS[0], None, False, activation="relu"),
            F.batch_norm(x[:, 0], WEIGHTS[0], ie.full(4, 2.0), None, WEIGHTS[0], False),
        ],
        (3, 4),
    ),
    "dropout": (lambda x: [F.dropout(x, 0.5, training=False), F.dropout(x, 0.0)], (3,)),
    "images": (
        lambda x: [
            F.max_pool2d(x, 2) + 1,
            F.avg_pool2d(x, 3, 2, 1) * WEIGHTS[0],
            F.adaptive_avg_pool2d(x, (3, 2)),
            F.adaptive_avg_pool2d(x, 2).sum((1, 2)),
            F.concatenate([F.max_pool2d(x, 2), F.avg_pool2d(x, 2)], -1),
            F.concatenate([F.max_pool2d(x, 2), F.avg_pool2d(x, 2)], 1),
            F.max_pool2d(x, 2).to("float32").mean((1, 2)),
            (F.max_pool2d(x, 2) > 0).to("float32"),
        ],
        (6, 8, 4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_operation_computes_the_same(name, tmp_path):
    function, shape = CASES[name]
    check(tmp_path, function, values(2, *shape))


def test_indices_are_looked_up(tmp_path):
    check(tmp_path, lambda x: F.embedding(x, TABLE), ROWS)


def test_every_translation_has_a_case(monkeypatch):
    """By name: those of the table above, and those that have tests of their own below."""
    seen = {"conv2d", "embedding", "rnn", "lstm", "gru", "scaled_dot_product_attention", "self_attention"}

    class Spy(dict):
        def __getitem__(self, name):
            seen.add(name)
            return super().__getitem__(name)

    monkeypatch.setattr(module, "TRANSLATIONS", Spy(TRANSLATIONS))
    for function, shape in CASES.values():
        module.translate(Function(function), values(2, *shape))
    assert seen == set(TRANSLATIONS)


@given(
    st.sampled_from([(1, "same"), (1, 0), (2, 1), ((2, 1), (0, 2))]),
    st.sampled_from([1, 2, 4]),
    st.tuples(st.integers(1, 4), st.integers(1, 3)),
    st.sampled_from([1, 2, (1, 3)]),
    st.sampled_from([None, "relu", "gelu", "silu"]),
    st.booleans(),
)
def test_convolutions(tmp_path_factory, window, groups, kernel, dilation, activation, biased):
    (stride, padding), weight = window, t(8, *kernel, 4 // groups)
    bias = t(8) if biased else None
    check(
        tmp_path_factory.mktemp("conv"),
        lambda x: F.conv2d(x, weight, bias, stride, padding, dilation, groups, activation),
        values(1, 10, 9, 4),
    )


@given(st.integers(1, 3), st.sampled_from([None, 1, (2, 1)]), st.sampled_from([0, 1]), st.integers(1, 7))
def test_poolings(tmp_path_factory, kernel, stride, padding, size):
    assume(2 * padding <= kernel)
    functions = (
        lambda x: F.max_pool2d(x, (kernel, kernel + 1), stride, padding),
        lambda x: F.avg_pool2d(x, (kernel, kernel + 1), stride, padding),
        lambda x: F.adaptive_avg_pool2d(x, (size, 3)),
    )
    check(tmp_path_factory.mktemp("pool"), lambda x: [f(x) for f in functions], values(1, 7, 6, 2))


RECURRENT = [nn.RNN, nn.LSTM, nn.GRU, lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options)]


@pytest.mark.parametrize("layer", RECURRENT)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_recurrent_layers(tmp_path, layer, bidirectional, layers):
    module = layer(3, 5, num_layers=layers, bidirectional=bidirectional)
    check(tmp_path, module, values(1, 6, 3), module)


def test_recurrent_layers_that_start_somewhere(tmp_path):
    weights = t(20, 3), t(20, 5)

    def function(x):
        fixed = ie.full((len(x), 5), 0.5)
        return [*F.lstm(x, x.mean(1) @ weights[0][:5].T, fixed, *weights), *F.gru(x, fixed, *(w[:15] for w in weights))]

    check(tmp_path, function, values(1, 4, 3))


@given(
    st.sampled_from([(4, 4), (4, 2), (4, 1)]), st.sampled_from(["", "causal", "mask", "empty", "added"]), st.booleans()
)
def test_attention(tmp_path_factory, heads, mask, scaled):
    masks = {
        "mask": MASK,
        "empty": MASK & (ie.arange(5) != 2).reshape(5, 1),
        "added": ie.where(MASK & (ie.arange(5) != 1).reshape(5, 1), t(5, 5), float("-inf")),
    }

    def function(x):
        parts = x.split([3 * heads[0], 3 * heads[1], 2 * heads[1]], -1)
        counts = (*heads, heads[1])
        query, key, value = (part.reshape(len(x), 5, n, -1) for part, n in zip(parts, counts, strict=True))
        return F.scaled_dot_product_attention(
            query, key, value, masks.get(mask), is_causal=mask == "causal", scale=0.3 if scaled else None
        )

    check(tmp_path_factory.mktemp("attention"), function, values(1, 5, 3 * heads[0] + 5 * heads[1]))


@pytest.mark.parametrize("mask", [None, MASK])
def test_self_attention(tmp_path, mask):
    check(tmp_path, lambda x: F.self_attention(x, 2, mask, is_causal=mask is None), values(1, 5, 24))


def test_attention_with_masks_from_the_input(tmp_path):
    layer = nn.MultiheadAttention(8, 2)
    hidden = lambda x: x[:, :, 0] > 0.5  # noqa: E731
    check(tmp_path, lambda x: layer(x, x + 1, x, key_padding_mask=hidden(x))[0], values(1, 5, 8), layer)
