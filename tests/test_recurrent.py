"""The recurrent ops beyond their rows in the op table: drawn sizes, PyTorch as a second reference, packed sequences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from op_cases import recurrent as reference

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine.testing import gradcheck

GATES = {"rnn": 1, "lstm": 4, "gru": 3}


@st.composite
def layers(draw, most_samples=40, most_units=70):
    """An op's name, its arrays by parameter (None where left out) and its lengths and direction."""
    name = draw(st.sampled_from(sorted(GATES)))
    n, t = draw(st.integers(1, most_samples)), draw(st.integers(1, 7))
    i, h = draw(st.integers(1, 20)), draw(st.integers(1, most_units))
    generator = np.random.Generator(np.random.Philox(draw(st.integers(0, 2**32))))
    rows = GATES[name] * h
    shapes = {"h_0": (n, h), "c_0": (n, h), "bias_ih": (rows,), "bias_hh": (rows,)}
    if name != "lstm":
        del shapes["c_0"]
    arrays = {key: generator.standard_normal(shape) if draw(st.booleans()) else None for key, shape in shapes.items()}
    arrays["x"] = generator.standard_normal((n, t, i))
    arrays["weight_ih"] = generator.uniform(-1, 1, (rows, i)) / h**0.5
    arrays["weight_hh"] = generator.uniform(-1, 1, (rows, h)) / h**0.5
    lengths = generator.integers(1, t + 1, n) if draw(st.booleans()) else None
    return name, arrays, {"lengths": lengths, "reverse": draw(st.booleans())}


def tensors(arrays, dtype, requires_grad=True):
    return {
        key: None if array is None else ie.tensor(array, dtype=dtype, requires_grad=requires_grad)
        for key, array in arrays.items()
    }


@given(layers())
def test_values_of_drawn_layers(layer):
    name, arrays, options = layer
    ours = getattr(F, name)(**tensors(arrays, "float64"), **options)
    theirs = getattr(reference, name)(**arrays, **options)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-11, atol=1e-12)


@given(layers(most_samples=3, most_units=4))
def test_gradients_of_drawn_layers(layer):
    name, arrays, options = layer
    inputs = tensors(arrays, "float64")
    gradcheck(lambda *_: getattr(F, name)(**inputs, **options), [t for t in inputs.values() if t is not None])


@given(layers(), st.integers(2, 5))
def test_threads_do_not_change_a_bit(layer, threads):
    name, arrays, options = layer

    def run(count):
        ie.set_num_threads(count)
        inputs = tensors(arrays, "float32")
        outputs = getattr(F, name)(**inputs, **options)
        sum((y * y).sum() for y in outputs).backward()
        return [*(y.numpy() for y in outputs), *(t.grad.numpy() for t in inputs.values() if t is not None)]

    for a, b in zip(run(1), run(threads), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("name", sorted(GATES))
def test_inference_gives_the_same_bits_without_a_reserve(name):
    arrays = drawn(name, 9, 5, 7, 33)
    inputs = tensors(arrays, "float32")
    with ie.no_grad():
        alone = getattr(F, name)(**inputs)
    for a, b in zip(alone, getattr(F, name)(**inputs), strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()


@pytest.mark.parametrize("name", sorted(GATES))
def test_what_lies_past_a_length_is_not_read(name):
    arrays = drawn(name, 3, 5, 4, 6)
    lengths = [5, 2, 3]

    def run(garbage):
        x = arrays["x"].copy()
        for sample, length in enumerate(lengths):
            x[sample, length:] = garbage
        inputs = tensors({**arrays, "x": x}, "float32")
        outputs = getattr(F, name)(**inputs, lengths=lengths)
        sum((y * y).sum() for y in outputs).backward()
        return [*(y.numpy() for y in outputs), *(t.grad.numpy() for t in inputs.values())]

    for a, b in zip(run(0.0), run(np.nan), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", sorted(GATES))
def test_lengths_may_be_a_tensor_an_array_or_a_list(name):
    inputs = tensors(drawn(name, 3, 5, 4, 6), "float32")
    lengths = [5, 1, 3]
    results = [
        getattr(F, name)(**inputs, lengths=given)[0].numpy()
        for given in (lengths, np.array(lengths, np.int32), ie.tensor(np.array(lengths)))
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("name", sorted(GATES))
@pytest.mark.parametrize("used", [0, 1, -1])
def test_one_result_alone_may_be_used(name, used):
    inputs = tensors(drawn(name, 2, 3, 3, 4), "float64")
    gradcheck(lambda *_: getattr(F, name)(**inputs, lengths=[2, 3])[used], list(inputs.values()))


def test_a_frozen_weight_gets_no_gradient():
    inputs = tensors(drawn("lstm", 2, 3, 3, 4), "float32")
    inputs["weight_hh"].requires_grad = False
    F.lstm(**inputs)[0].sum().backward()
    assert inputs["weight_hh"].grad is None
    assert inputs["weight_ih"].grad is not None


def test_changing_an_input_in_place_after_the_forward_pass_is_noticed():
    inputs = tensors(drawn("gru", 2, 3, 3, 4), "float32")
    output, _ = F.gru(**inputs)
    with ie.no_grad():
        inputs["weight_hh"].copy_(ie.zeros(inputs["weight_hh"].shape))
    with pytest.raises(ie.errors.AutogradError, match="weight_hh"):
        output.sum().backward()


def drawn(name, n, t, i, h):
    """All arrays of a layer of the sizes given."""
    generator = np.random.Generator(np.random.Philox(7))
    rows = GATES[name] * h
    shapes = {"x": (n, t, i), "h_0": (n, h), "c_0": (n, h), "weight_ih": (rows, i), "weight_hh": (rows, h)}
    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
    if name != "lstm":
        del shapes["c_0"]
    return {key: generator.uniform(-1, 1, shape) / h**0.5 for key, shape in shapes.items()}


@pytest.mark.parametrize("name", ["rnn_tanh", "rnn_relu", "lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("lengths", [None, [6, 2, 1, 5, 6]])
def test_pytorch_agrees(name, layers, lengths):
    """Bidirectional stacks made of our ops against torch.nn's modules; with lengths, on packed sequences."""
    torch = pytest.importorskip("torch")
    op, _, nonlinearity = name.partition("_")
    options = {"nonlinearity": nonlinearity} if nonlinearity else {}
    n, t, i, h = 5, 6, 7, 33
    torch.manual_seed(0)
    module = getattr(torch.nn, op.upper())(i, h, layers, batch_first=True, bidirectional=True, **options).double()
    x = torch.randn(n, t, i, dtype=torch.float64, requires_grad=True)
    given = x
    if lengths:
        given = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    theirs, states = module(given)
    if lengths:
        theirs, _ = torch.nn.utils.rnn.pad_packed_sequence(theirs, batch_first=True, total_length=t)
    states = states if op == "lstm" else (states,)
    (theirs.sin().sum() + sum(s.cos().sum() for s in states)).backward()

    weights = {key: ie.tensor(p.detach().numpy(), requires_grad=True) for key, p in module.named_parameters()}
    our_x = ie.tensor(x.detach().numpy(), requires_grad=True)
    ours, finals = our_x, []
    initial = [None] * len(states)
    for layer in range(layers):
        directions = []
        for suffix in ("", "_reverse"):
            keys = (f"{part}_l{layer}{suffix}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            args = [ours, *initial, *(weights[key] for key in keys)]
            output, *final = getattr(F, op)(*args, lengths=lengths, reverse=suffix != "", **options)
            directions.append(output)
            finals.append(final)
        ours = F.concatenate(directions, -1)
    total = sine(ours).sum()
    for final in finals:
        for state in final:
            total = total + sine(state + np.pi / 2).sum()
    total.backward()

    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=1e-10, atol=1e-12)
    for position, state in enumerate(states):
        np.testing.assert_allclose(
            [f[position].numpy() for f in finals], state.detach().numpy(), rtol=1e-10, atol=1e-12
        )
    np.testing.assert_allclose(our_x.grad.numpy(), x.grad.numpy(), rtol=1e-9, atol=1e-11)
    for key, p in module.named_parameters():
        np.testing.assert_allclose(weights[key].grad.numpy(), p.grad.numpy(), rtol=1e-9, atol=1e-11, err_msg=key)


@ie.autograd.differentiable
def sine(x: ie.autograd.Array):
    return np.sin(x), lambda dy, needs: (dy * np.cos(x),)
