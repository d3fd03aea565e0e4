"""Modules and layers, against formulas in NumPy."""

import copy
import math
import runpy
from pathlib import Path

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import nn
from imgrec_engine.errors import CheckpointError, DTypeError, ShapeError


class Tree(nn.Module):
    def __init__(self):
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.rest = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.ReLU()])
        self.gain = nn.Parameter(ie.ones(4))

    def forward(self, x):
        for layer in [self.first, self.norm, *self.rest]:
            x = layer(x)
        return x * self.gain


def test_parts_are_found_in_order_and_named():
    tree = Tree()
    assert [name for name, _ in tree.named_modules()] == ["", "first", "norm", "rest", "rest.0", "rest.1"]
    assert [name for name, _ in tree.named_parameters()] == [
        "gain", "first.weight", "first.bias", "norm.weight", "norm.bias", "rest.0.weight",
    ]  # fmt: skip
    assert [name for name, _ in tree.named_buffers()] == [
        f"norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")
    ]
    assert [type(child) for child in tree.children()] == [nn.Linear, nn.BatchNorm1d, nn.ModuleList]


def test_a_shared_module_counts_once_but_is_saved_in_both_places():
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    assert len(list(model.parameters())) == 2
    assert set(model.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert "6 parameters" in repr(model)


def test_state_survives_a_round_trip():
    ie.manual_seed(1)
    source, target = Tree(), Tree()
    source(ie.randn(8, 3))
    assert target.load_state_dict(source.state_dict()) == ([], [])
    for name, value in source.state_dict().items():
        np.testing.assert_array_equal(target.state_dict()[name].numpy(), value.numpy())
    x = ie.randn(5, 3)
    np.testing.assert_array_equal(source.eval()(x).numpy(), target.eval()(x).numpy())
    assert target.norm.num_batches_tracked.item() == 1


def test_a_state_that_does_not_fit_is_refused_whole():
    tree = Tree()
    before = {name: value.numpy().copy() for name, value in tree.state_dict().items()}
    state = {name: np.full(value.shape, 7.0) for name, value in tree.state_dict().items()}
    del state["gain"], state["norm.bias"]
    state["other"] = np.zeros(1)
    state["first.weight"] = np.zeros((4, 5))
    with pytest.raises(CheckpointError) as error:
        tree.load_state_dict(state)
    message = str(error.value)
    for part in ("missing keys: gain, norm.bias", "unexpected keys: other", "first.weight (4, 5), expected (4, 3)"):
        assert part in message
    for name, value in tree.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    with pytest.raises(CheckpointError, match="wrong shapes"):
        tree.load_state_dict(state, strict=False)
    state["first.weight"] = np.full((4, 3), 7.0)
    assert tree.load_state_dict(state, strict=False) == (["gain", "norm.bias"], ["other"])
    assert (tree.first.weight.numpy() == 7).all()


def test_modes_and_freezing_reach_every_module():
    tree = Tree()
    assert all(not module.training for module in tree.eval().modules())
    assert all(module.training for module in tree.train().modules())
    tree.first.requires_grad_(False)
    assert "(16 frozen)" in repr(tree)
    tree(ie.randn(4, 3)).sum().backward()
    assert tree.first.weight.grad is None
    assert tree.gain.grad is not None
    tree.zero_grad()
    assert tree.gain.grad is None


def test_apply_calls_children_first():
    order = []
    nn.Sequential(nn.Identity(), nn.ReLU()).apply(lambda module: order.append(type(module).__name__))
    assert order == ["Identity", "ReLU", "Sequential"]


def test_to_changes_floating_tensors_in_place():
    tree = Tree()
    weight = tree.first.weight
    tree.to("cpu", "float64")
    assert tree.first.weight is weight
    assert weight.dtype == np.float64
    assert tree.norm.running_var.dtype == np.float64
    assert tree.norm.num_batches_tracked.dtype == np.int64
    assert tree(ie.randn(4, 3, dtype="float64")).dtype == np.float64
    with pytest.raises(DTypeError, match="floating"):
        tree.to("int64")


def test_plain_tensors_do_not_replace_parameters():
    tree = Tree()
    with pytest.raises(TypeError, match=r"Tree\.gain is a parameter"):
        tree.gain = ie.zeros(4)
    tree.norm.running_mean = ie.ones(4)
    assert "running_mean" in dict(tree.norm.named_buffers())
    tree.gain = None
    assert "gain" not in tree.state_dict()


def test_copies_are_independent():
    tree = Tree()
    twin = copy.deepcopy(tree)
    with ie.no_grad():
        twin.gain.fill_(3)
    assert (tree.gain.numpy() == 1).all()
    assert len(list(twin.parameters())) == len(list(tree.parameters()))


def test_containers_index_slice_and_grow():
    layers = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert isinstance(layers[-1], nn.Linear)
    assert layers[:2](ie.ones((4, 2))).shape == (4, 3)
    layers.append(nn.Tanh())
    assert len(layers) == 4
    with pytest.raises(TypeError, match="not a Module"):
        layers.append(3)


# --- initial values ---------------------------------------------------------------------------------------------------


def test_fans_count_for_channels_last():
    assert nn.init.fans(ie.zeros((8, 5))) == (5, 8)
    assert nn.init.fans(ie.zeros((8, 3, 3, 2))) == (18, 72)
    with pytest.raises(ShapeError, match="no fans"):
        nn.init.fans(ie.zeros(3))


@pytest.mark.parametrize(
    ("name", "arguments", "deviation", "bound"),
    [
        ("uniform_", (-2.0, 2.0), 2 / math.sqrt(3), 2.0),
        ("normal_", (0.0, 0.3), 0.3, None),
        ("xavier_uniform_", (), math.sqrt(2 / (18 + 576)), math.sqrt(6 / (18 + 576))),
        ("xavier_normal_", (2.0,), 2 * math.sqrt(2 / (18 + 576)), None),
        ("kaiming_uniform_", (math.sqrt(5),), 1 / math.sqrt(3 * 18), 1 / math.sqrt(18)),
        ("kaiming_normal_", (0, "fan_out", "relu"), math.sqrt(2 / 576), None),
        ("trunc_normal_", (0.0, 1.0, -1.0, 1.0), 0.53956, 1.0),
    ],
)
def test_initial_values_have_their_deviation(name, arguments, deviation, bound):
    values = getattr(nn.init, name)(ie.zeros((64, 3, 3, 2)), *arguments).numpy()
    assert abs(values.std() / deviation - 1) < 0.05
    assert abs(values.mean()) < 0.1 * deviation
    if bound is not None:
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.97 * bound


@pytest.mark.parametrize("shape", [(6, 6), (3, 8), (9, 2, 2)])
def test_orthogonal(shape):
    matrix = nn.init.orthogonal_(ie.zeros(shape, dtype="float64"), gain=2.0).numpy().reshape(shape[0], -1)
    product = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-12)


def test_initial_values_follow_the_seed():
    ie.manual_seed(5)
    first = nn.LSTM(3, 4).state_dict()
    ie.manual_seed(5)
    second = nn.LSTM(3, 4).state_dict()
    for name, value in first.items():
        np.testing.assert_array_equal(value.numpy(), second[name].numpy())
        assert np.abs(value.numpy()).max() <= 0.5


# --- layers -----------------------------------------------------------------------------------------------------------


def test_batch_norm_tracks_statistics():
    norm = nn.BatchNorm2d(3)
    x = ie.randn(4, 5, 6, 3, mean=2.0)
    flat = x.numpy().reshape(-1, 3).astype(np.float64)
    y = norm(x).numpy().reshape(-1, 3)
    np.testing.assert_allclose(y, (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), atol=1e-5)
    np.testing.assert_allclose(norm.running_mean.numpy(), 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.running_var.numpy(), 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)
    assert norm.num_batches_tracked.item() == 1
    mean, var = norm.running_mean.numpy().copy(), norm.running_var.numpy().copy()
    y = norm.eval()(x).numpy().reshape(-1, 3)
    np.testing.assert_allclose(y, (flat - mean) / np.sqrt(var + 1e-5), atol=1e-5)
    np.testing.assert_array_equal(norm.running_mean.numpy(), mean)
    with pytest.raises(ShapeError, match=r"BatchNorm2d: x has shape \(4, 3\), expected \(N, H, W, 3\)"):
        norm(ie.zeros((4, 3)))


def attention_reference(layer, query, key, value, hidden):
    """Masked scores are -inf where ``hidden`` (N, heads, S_q, S_k)."""
    width, heads = layer.embed_dim, layer.num_heads
    weight, bias = layer.in_proj_weight.numpy(), layer.in_proj_bias.numpy()
    q, k, v = (
        (x @ weight[i * width : (i + 1) * width].T + bias[i * width : (i + 1) * width])
        .reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)
        for i, x in enumerate((query, key, value))
    )  # fmt: skip
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(width // heads) + hidden
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = (weights / weights.sum(-1, keepdims=True)) @ v
    y = y.transpose(0, 2, 1, 3).reshape(*query.shape[:2], width)
    return y @ layer.out_proj.weight.numpy().T + layer.out_proj.bias.numpy()


@pytest.mark.parametrize("additive", [False, True])
def test_multihead_attention(additive):
    layer = nn.MultiheadAttention(8, 2).to("float64")
    with ie.no_grad():
        nn.init.normal_(layer.in_proj_bias)
    query, key = ie.randn(3, 4, 8, dtype="float64"), ie.randn(3, 6, 8, dtype="float64")
    padding = np.arange(6) >= np.array([[6], [4], [2]])
    forbidden = np.triu(np.ones((4, 6), bool), 3)
    hidden = np.where(padding[:, None, None] | forbidden, -np.inf, 0.0)
    mask = ie.tensor(np.where(forbidden, -np.inf, 0.0) if additive else forbidden)
    output, weights = layer(query, key, key, ie.tensor(padding), mask)
    assert weights is None
    expected = attention_reference(layer, query.numpy(), key.numpy(), key.numpy(), hidden)
    np.testing.assert_allclose(output.numpy(), expected, atol=1e-12)
    itself, _ = layer(query, query, query)
    expected = attention_reference(layer, query.numpy(), query.numpy(), query.numpy(), 0.0)
    np.testing.assert_allclose(itself.numpy(), expected, atol=1e-12)
    one_each, _ = layer(query, key, key, attn_mask=ie.tensor(np.broadcast_to(forbidden, (6, 4, 6))))
    np.testing.assert_allclose(
        one_each.numpy(), layer(query, key, key, attn_mask=ie.tensor(forbidden))[0].numpy(), atol=1e-12
    )


@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_layer_composes_its_parts(norm_first):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, norm_first=norm_first)
    x = ie.randn(2, 5, 8)

    def feed_forward(y):
        return layer.linear2(layer.linear1(y).relu())

    if norm_first:
        y = x + layer.self_attn(*[layer.norm1(x)] * 3)[0]
        expected = y + feed_forward(layer.norm2(y))
    else:
        y = layer.norm1(x + layer.self_attn(x, x, x)[0])
        expected = layer.norm2(y + feed_forward(y))
    np.testing.assert_allclose(layer(x).numpy(), expected.numpy(), atol=1e-6)


def test_losses_call_their_functions():
    logits, targets = ie.randn(6, 3), ie.tensor([0, 1, 2, 0, 1, 2])
    weight = ie.tensor([1.0, 2.0, 0.5])
    module = nn.CrossEntropyLoss(weight, label_smoothing=0.1, ignore_index=2)
    expected = ie.functional.cross_entropy(logits, targets, weight, label_smoothing=0.1, ignore_index=2)
    assert module(logits, targets).item() == expected.item()
    assert set(module.state_dict()) == {"weight"}
    np.testing.assert_allclose(nn.MSELoss()(logits, logits + 2).item(), 4, rtol=1e-6)
    halves = ie.full((2, 3), 0.5)
    np.testing.assert_allclose(nn.BCEWithLogitsLoss()(ie.zeros((2, 3)), halves).item(), math.log(2), rtol=1e-6)


def additions(layer, x):
    """How many calls of `add` the layer makes, and its result."""
    with ie.profile() as p:
        y = layer(x)
    return sum(row.calls for row in p.rows("op") if row.name == "add"), y


class OtherLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x)


@pytest.mark.parametrize("norm_first", [False, True])
def test_products_add_residuals_in_evaluation(norm_first):
    layer, x = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, norm_first=norm_first), ie.randn(2, 5, 8)
    count, expected = additions(layer, x)
    assert count == 2
    count, y = additions(layer.eval(), x)
    assert count == 0
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)

    with ie.autocast("bfloat16"):
        assert additions(layer, x)[0] == 2
    seen = []
    handle = layer.linear2.register_forward_hook(lambda module, args, output: seen.append(output))
    count, y = additions(layer, x)
    assert (count, len(seen)) == (1, 1)
    handle.remove()
    layer.dropout1.train()
    assert additions(layer, x)[0] == 1
    layer.linear2 = OtherLinear(16, 8)
    assert additions(layer, x)[0] == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "groups is 2"),
        (lambda: nn.LSTM(3, 0), "hidden_size is 0"),
        (lambda: nn.GRU(3, 4, dropout=1.5), "dropout is 1.5"),
        (lambda: nn.LSTM(3, 4)(ie.zeros((2, 5, 3)), (ie.zeros((1, 2, 4)),)), "expected h_0, c_0"),
        (lambda: nn.LayerNorm((3, 4)), "expected one length"),
        (lambda: nn.RNN(3, 4, nonlinearity="gelu"), "nonlinearity is 'gelu'"),
        (lambda: nn.MultiheadAttention(10, 3), "must divide"),
        (lambda: nn.TransformerEncoderLayer(8, 2, activation="tanh"), "activation is 'tanh'"),
        (lambda: nn.Dropout(1.5), "p is 1.5"),
        (lambda: nn.init.calculate_gain("cube"), "nonlinearity is 'cube'"),
        (lambda: nn.Flatten(2)(ie.zeros((3, 4))), "cannot join"),
        (lambda: nn.LayerNorm(4)(ie.zeros((3, 5))), r"\(3, 5\), expected"),
        (lambda: nn.MultiheadAttention(8, 2)(*[ie.zeros((2, 3, 4))] * 3), "query has shape"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_example_module_learns():
    path = Path(__file__).parents[1] / "examples" / "custom_module.py"
    assert runpy.run_path(str(path))["main"]() > 0.95


def test_a_parameter_is_made_of_a_tensor():
    with pytest.raises(TypeError, match="ndarray"):
        nn.Parameter(np.ones(2))


def test_layer_norm_takes_its_length_as_a_shape():
    assert nn.LayerNorm((4,)).weight.shape == nn.LayerNorm([4]).weight.shape == nn.LayerNorm(4).weight.shape == (4,)


def test_forward_hooks_see_each_call_and_may_replace_its_output():
    layer, seen = nn.Linear(3, 2), []
    first = layer.register_forward_hook(lambda module, args, output: seen.append((module, args, output)))
    x = ie.ones((4, 3))
    y = layer(x)
    assert [(module, args) for module, args, _ in seen] == [(layer, (x,))]
    assert seen[0][2] is y
    second = layer.register_forward_hook(lambda module, args, output: output * 2)
    np.testing.assert_array_equal(layer(x).numpy(), 2 * y.numpy())
    first.remove()
    first.remove()
    layer(x)
    assert len(seen) == 2
    second.remove()
    np.testing.assert_array_equal(layer(x).numpy(), y.numpy())
    assert "_forward_hooks" not in repr(layer)
    assert set(layer.state_dict()) == {"weight", "bias"}
