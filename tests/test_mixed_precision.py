"""autocast: which dtype each op runs in, the gradients, the casts that are kept, and training under it."""

import re
import threading
from pathlib import Path

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import kernels, models, nn, optim
from imgrec_engine.autograd import differentiable
from imgrec_engine.errors import DTypeError
from imgrec_engine.mixed_precision import region
from imgrec_engine.train.tasks import task_of

PAGE = Path(__file__).parents[1] / "docs" / "mixed_precision.md"
OPS = {name: op for name, op in vars(F).items() if getattr(op, "differentiable_op", False)}
HALVES = ("bfloat16", "float16")


def sequences(name, gates, states=1):
    return lambda t: OPS[name](
        t(2, 3, 4), *(t(2, 5) for _ in range(states)), t(5 * gates, 4), t(5 * gates, 5), t(5 * gates), t(5 * gates)
    )


LOW = {
    "matmul": lambda t: F.matmul(t(2, 3), t(3, 4)),
    "linear": lambda t: F.linear(t(2, 3), t(4, 3), bias=t(4)),
    "conv2d": lambda t: F.conv2d(t(1, 5, 5, 2), t(4, 3, 3, 2), t(4), padding=1),
    "rnn": sequences("rnn", 1),
    "lstm": sequences("lstm", 4, states=2),
    "gru": sequences("gru", 3),
    "scaled_dot_product_attention": lambda t: F.scaled_dot_product_attention(
        t(1, 3, 2, 4), t(1, 3, 2, 4), t(1, 3, 2, 4), attn_mask=t(3, 3)
    ),
    "self_attention": lambda t: F.self_attention(t(1, 3, 12), 2, attn_mask=t(3, 3)),
}
FULL = {
    "softmax": lambda t: F.softmax(t(2, 3)),
    "log_softmax": lambda t: F.log_softmax(t(2, 3)),
    "cross_entropy": lambda t: F.cross_entropy(t(2, 3), ie.tensor([0, 2]).to(t(1).device)),
    "ctc_loss": lambda t: F.ctc_loss(t(2, 3, 4), ie.tensor([[1], [2]]).to(t(1).device)),
    "binary_cross_entropy_with_logits": lambda t: F.binary_cross_entropy_with_logits(t(3), t(3)),
    "mse_loss": lambda t: F.mse_loss(t(3), t(3)),
    "layer_norm": lambda t: F.layer_norm(t(2, 3), t(3), t(3)),
    "sum": lambda t: F.sum(t(3)),
    "mean": lambda t: F.mean(t(3)),
    "var": lambda t: F.var(t(3)),
    "std": lambda t: F.std(t(3)),
    "cumsum": lambda t: F.cumsum(t(3), 0),
    "exp": lambda t: F.exp(t(3)),
    "log": lambda t: F.log(t(3)),
    "sqrt": lambda t: F.sqrt(t(3)),
    "power": lambda t: F.power(t(3), 2.5),
}


def maker(device, dtype):
    """A function that makes leaves, and the list of all that it has made."""
    made = []

    def make(*shape):
        made.append(ie.rand(*shape, dtype=dtype).to(device).requires_grad_())
        return made[-1]

    return make, made


def first(result):
    return result[0] if isinstance(result, tuple) else result


# --- the policy -------------------------------------------------------------------------------------------------------


def test_every_op_with_a_precision_has_a_case_here():
    assert {name for name, op in OPS.items() if op.precision == "low"} == LOW.keys()
    assert {name for name, op in OPS.items() if op.precision == "full"} == FULL.keys()


def test_the_table_in_the_documentation_is_the_one_in_the_code():
    rows = dict(re.findall(r"^\| in ([\w' ]+) \| (.*) \|$", PAGE.read_text("utf-8"), re.MULTILINE))
    listed = {what: re.findall(r"`(\w+)`", names) for what, names in rows.items()}
    assert listed["autocast's dtype"] == sorted(LOW)
    assert listed["float32"] == sorted(FULL)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", LOW)
def test_products_run_in_the_dtype_of_the_region(name, half, device):
    make, made = maker(device, "float32")
    with ie.autocast(half):
        result = first(LOW[name](make))
    assert result.dtype == half
    result.sum().backward()
    assert {leaf.grad.dtype.name for leaf in made if leaf.grad is not None} == {"float32"}
    assert any(np.any(leaf.grad.numpy()) for leaf in made)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", FULL)
def test_what_needs_digits_runs_in_float32(name, half, device):
    make, made = maker(device, half)
    assert first(FULL[name](make)).dtype == half
    with ie.autocast(half):
        result = first(FULL[name](make))
    assert result.dtype == "float32"
    assert made[-1].dtype == half
    made.clear()
    with ie.autocast(half):
        FULL[name](make).sum().backward()
    assert made[0].grad.dtype == half


@pytest.mark.parametrize(
    ("op", "dtypes", "expected"),
    [
        (F.relu, ["float16"], "float16"),
        (F.relu, ["float32"], "float32"),
        (F.add, ["float16", "float16"], "float16"),
        (F.add, ["float16", "float32"], "float32"),
        (F.max, ["bfloat16"], "bfloat16"),
        (lambda *x: F.concatenate(x), ["float16", "float32"], "float32"),
        (lambda x: F.batch_norm(x, None, None, ie.ones(3), ie.ones(3), training=True), ["bfloat16"], "bfloat16"),
    ],
)
def test_the_others_follow_what_they_are_given(op, dtypes, expected):
    with ie.autocast("float16"):
        assert op(*(ie.rand(2, 3, dtype=dtype) for dtype in dtypes)).dtype == expected


def test_float64_and_integers_are_left_alone():
    x, w = ie.rand(2, 3, dtype="float64"), ie.rand(4, 3)
    with ie.autocast("float16"):
        assert F.linear(x, w).dtype == "float64"
        assert F.exp(x).dtype == "float64"
        assert F.sum(ie.tensor([1, 2])).dtype == "int64"
        assert F.power(ie.tensor([1, 2]), 2).dtype == "int64"


def test_functions_of_your_own_take_part():
    @differentiable(precision="low")
    def total(x: "Sequence[Array]", y: "Array | None" = None):  # noqa: F821
        seen.extend(array.dtype.name for array in x)
        return sum(array.sum() for array in x), lambda dy, needs: (tuple(np.full(a.shape, dy) for a in x), None)

    seen = []
    x = ie.ones(2, requires_grad=True)
    with ie.autocast("float16"):
        total([x, ie.ones(3)]).backward()
    assert seen == ["float16", "float16"]
    assert x.grad.dtype == "float32"


# --- the region -------------------------------------------------------------------------------------------------------


def dtype_of_a_product():
    return (ie.ones((2, 2)) @ ie.ones((2, 2))).dtype.name


def test_regions_nest_and_end():
    with ie.autocast("bfloat16"):
        with ie.autocast("float16"):
            assert dtype_of_a_product() == "float16"
            with ie.autocast("float16", enabled=False):
                assert dtype_of_a_product() == "float32"
        assert dtype_of_a_product() == "bfloat16"
        with pytest.raises(KeyError), ie.autocast("float16"):
            raise KeyError
        assert dtype_of_a_product() == "bfloat16"
    assert dtype_of_a_product() == "float32"


def test_a_decorated_function_may_call_itself():
    @ie.autocast("float16")
    def deep(levels):
        return [dtype_of_a_product(), *(deep(levels - 1) if levels else [])]

    assert deep(2) == ["float16"] * 3
    assert dtype_of_a_product() == "float32"


def test_each_thread_has_its_own():
    found = []
    with ie.autocast("float16"):
        thread = threading.Thread(target=lambda: found.append(dtype_of_a_product()))
        thread.start()
        thread.join()
    assert found == ["float32"]


@pytest.mark.parametrize("dtype", ["float32", "int64", "half"])
def test_only_16_bit_dtypes(dtype):
    with pytest.raises(DTypeError, match=dtype):
        ie.autocast(dtype)


# --- casts that are kept ----------------------------------------------------------------------------------------------


def kept():
    return [array for _, _, array in region.casts.values()]


def test_a_weight_is_cast_once_and_again_after_a_write(device):
    layer = nn.Linear(3, 3, bias=False).to(device)
    x = ie.ones((1, 3)).to(device)
    with ie.autocast("bfloat16"):
        layer(layer(x))
        (before,) = kept()
        layer(x)
        assert kept()[0] is before
        with ie.no_grad():
            layer.weight.fill_(2.0)
        assert layer(x).tolist() == [[6.0] * 3]
        (after,) = kept()
        assert after is not before
    assert kept() == []


def test_what_does_not_learn_is_not_kept():
    with ie.autocast("float16"):
        hidden = ie.ones((2, 3)) @ ie.ones((3, 2), requires_grad=True)
        hidden.to("float32") @ ie.ones((2, 2))
        assert len(kept()) == 1


def test_a_cast_made_without_recording_does_not_lose_the_gradient():
    layer = nn.Linear(3, 2)
    with ie.autocast("float16"):
        with ie.no_grad():
            layer(ie.ones((1, 3)))
        layer(ie.ones((1, 3))).sum().backward()
        layer(ie.ones((1, 3))).sum().backward()  # the first pass has freed nothing that this one needs
    assert layer.weight.grad.tolist() == [[2.0] * 3] * 2


def test_gradients_of_several_uses_add_up_in_float32():
    """256 uses with gradient 1 and one with 2^-8: bfloat16 has 8 bits and would lose the small one."""
    w = ie.ones((1, 1), requires_grad=True)
    with ie.autocast("bfloat16"):
        uses = [ie.tensor([[1.0]]) @ w for _ in range(256)] + [ie.tensor([[2.0**-8]]) @ w]
        loss = F.concatenate(uses).sum()
    loss.backward()
    assert w.grad.item() == 256 + 2.0**-8


# --- models -----------------------------------------------------------------------------------------------------------


# Images and learning rate. Residual networks amplify, through many normalised layers, what few images leave to chance:
# with four and a rate of 0.05 their gradients change in float32, too, by 18 % where images change by 2^-11.
SETTINGS = dict.fromkeys(["resnet10", "resnet18", "resnet20"], (16, 0.001))


def train(name, device, precision, steps=3):
    """Losses of the first steps, and the algorithms that were planned in the last one's forward pass."""
    count, rate = SETTINGS.get(name, (4, 0.05))
    ie.manual_seed(3)
    model = models.create(name, num_classes=2, in_channels=1, image_size=8)
    model.to(device)
    optimizer = optim.SGD(model.parameters(), lr=rate)  # Adam would make a step of what is only rounding
    scaler = optim.GradScaler(init_scale=1024.0, enabled=precision == "float16")
    frames = (2,) if name.startswith("video_") else ()
    images = ie.randn(count, *frames, 8, 8, 1).numpy()
    images[::2] += 0.5
    images, labels = ie.tensor(images, device=device), ie.tensor(np.arange(count) % 2, device=device)
    if models.task(name) == "transcription":
        labels = labels.reshape(count, 1)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        kernels.take_algorithms()
        with ie.autocast("bfloat16" if precision == "float32" else precision, enabled=precision != "float32"):
            loss = task_of(model).loss(model(images), labels)
        algorithms = kernels.take_algorithms()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert {(p.dtype.name, p.grad.dtype.name) for p in model.parameters()} == {("float32", "float32")}
    return losses, algorithms


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "resnet18")) for name in models.names()]
)
def test_models_train_as_in_float32(name, device):
    """Losses are those of float32 on the CPU but for two roundings, of 2^-8 in bfloat16 and 2^-11 in float16.

    Through residual networks, four.
    """
    exact, _ = train(name, "cpu", "float32")
    roundings = 4 if name.startswith("resnet") else 2
    for half, rounding in [("bfloat16", 2**-8), ("float16", 2**-11)]:
        losses, algorithms = train(name, device, half)
        assert losses != exact
        assert losses == pytest.approx(exact, rel=0, abs=roundings * rounding * exact[0])
        assert losses[-1] < losses[0]
        if device == "sim":
            assert not {"implicit_gemm_simt", "tiled_simt", "stepwise"} & set(algorithms)
            recurrent_alone = name in ("rnn", "lstm", "lstm_attention")
            assert recurrent_alone or {"implicit_gemm_tensor_core", "tiled_tensor_core"} & set(algorithms)


@pytest.mark.skipif("sim" not in ie.device.names(), reason="this build has no simulator")
@pytest.mark.parametrize(
    ("name", "run", "exact", "low"),
    [
        (
            "conv2d",
            lambda t: F.conv2d(t(1, 6, 6, 16), t(16, 3, 3, 16)),
            "implicit_gemm_simt",
            "implicit_gemm_tensor_core",
        ),
        (
            "attention",
            lambda t: F.scaled_dot_product_attention(*(t(1, 8, 2, 8) for _ in range(3))),
            "tiled_simt",
            "tiled_tensor_core",
        ),
        ("lstm", lambda t: F.lstm(t(2, 3, 8), None, None, t(32, 8), t(32, 8))[0], "persistent", "persistent"),
    ],
)
@pytest.mark.parametrize("half", HALVES)
def test_the_kernels_of_the_simulator_are_those_for_16_bits(name, run, exact, low, half):
    for enabled, expected in [(False, exact), (True, low)]:
        make, _ = maker("sim", "float32")
        kernels.take_algorithms()
        with ie.autocast(half, enabled):
            y = run(make)
        assert kernels.take_algorithms() == [expected]
        y.backward(ie.ones(y.shape).to("sim"))
        assert expected in kernels.take_algorithms()
