"""The loss against every path written out, its accuracy over long sequences, and the decoders."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine.decoding import ctc_beam_search_decode, ctc_greedy_decode
from imgrec_engine.errors import ShapeError


def log_softmax(x):
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


def spell(path, blank):
    return tuple(k for k, _ in itertools.groupby(path) if k != blank)


def every_spelling(log_probs, blank):
    """The probability of each spelling, from all its paths."""
    found = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        p = np.exp(sum(row[k] for row, k in zip(log_probs, path, strict=True)))
        found[spell(path, blank)] = found.get(spell(path, blank), 0) + p
    return found


def draw(seed, *shape):
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape)


@given(st.integers(0, 5), st.integers(2, 3), st.integers(0, 2), st.integers(0, 10**6))
def test_the_loss_is_the_sum_over_every_path(steps, classes, blank, seed):
    blank %= classes
    log_probs = log_softmax(draw(seed, steps, classes))
    spellings = every_spelling(log_probs, blank)
    for labels, p in spellings.items():
        targets = ie.tensor(np.array([labels], dtype=np.int64).reshape(1, -1))
        loss = F.ctc_loss(ie.tensor(log_probs[None], dtype="float64"), targets, blank=blank, reduction="sum")
        np.testing.assert_allclose(np.exp(-loss.item()), p, rtol=1e-12)
    assert abs(sum(spellings.values()) - 1) < 1e-12


def test_float32_keeps_its_digits_over_long_sequences(device):
    batch, steps, classes, count = 2, 400, 12, 150  # more states than a block has threads
    x = draw(3, batch, steps, classes).astype(np.float32)
    targets = np.random.Generator(np.random.Philox(4)).integers(1, classes, (batch, count))
    found = {}
    for where, dtype in ((device, "float32"), ("cpu", "float64")):
        logits = ie.tensor(x, dtype=dtype, device=where, requires_grad=True)
        loss = F.ctc_loss(F.log_softmax(logits, -1), ie.tensor(targets, device=where), reduction="sum")
        loss.backward()
        found[dtype] = loss.item(), logits.grad.numpy()
    assert found["float32"][0] == pytest.approx(found["float64"][0], rel=1e-6)
    exact = found["float64"][1]
    np.testing.assert_allclose(found["float32"][1], exact, atol=3e-5 * abs(exact).max())


@pytest.mark.parametrize("zero_infinity", [False, True])
def test_targets_that_do_not_fit_their_input(device, zero_infinity):
    log_probs = ie.tensor(log_softmax(draw(5, 2, 3, 4)), dtype="float64", device=device, requires_grad=True)
    targets = ie.tensor([[1, 1], [1, 2]], device=device)  # 1 1 needs a blank between: 3 steps
    lengths = ie.tensor([2, 3], device=device)
    loss = F.ctc_loss(log_probs, targets, lengths, reduction="none", zero_infinity=zero_infinity)
    assert loss.numpy()[0] == (0 if zero_infinity else np.inf)
    assert np.isfinite(loss.numpy()[1])
    loss.sum().backward()
    if zero_infinity:
        np.testing.assert_array_equal(log_probs.grad.numpy()[0], 0)
    else:
        assert np.isnan(log_probs.grad.numpy()[0]).all()
    assert np.isfinite(log_probs.grad.numpy()[1]).all()
    np.testing.assert_allclose(log_probs.grad.numpy()[1].sum(axis=1), -1, rtol=1e-12)  # posteriors of each step


def test_it_agrees_with_pytorch():
    torch = pytest.importorskip("torch")
    generator = np.random.Generator(np.random.Philox(6))
    x, targets = generator.standard_normal((5, 20, 7)), generator.integers(1, 7, (5, 6))
    steps, labels = generator.integers(13, 21, 5), generator.integers(0, 7, 5)
    theirs = torch.tensor(x, requires_grad=True)
    rows = theirs.log_softmax(-1).transpose(0, 1)
    torch.nn.functional.ctc_loss(rows, *map(torch.tensor, (targets, steps, labels))).backward()
    ours = ie.tensor(x, dtype="float64", requires_grad=True)
    F.ctc_loss(F.log_softmax(ours, -1), *map(ie.tensor, (targets, steps, labels))).backward()
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), atol=1e-12)


@given(st.integers(0, 5), st.integers(0, 10**6))
def test_a_wide_beam_finds_every_spelling(steps, seed):
    log_probs = log_softmax(2 * draw(seed, steps, 3))
    spellings = every_spelling(log_probs, 2)
    found = ctc_beam_search_decode(log_probs[None], blank=2, width=10_000)[0]
    assert {tuple(labels) for labels, _ in found} == set(spellings)
    for labels, score in found:
        np.testing.assert_allclose(np.exp(score), spellings[tuple(labels)], rtol=1e-12)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_the_decoders_heed_lengths():
    steps = np.log(0.98 * np.eye(3)[[[1, 0, 2, 2], [2, 1, 1, 0]]] + 0.01)
    assert ctc_greedy_decode(ie.tensor(steps), [2, 4]) == [[1], [2, 1]]
    best = [spellings[0][0] for spellings in ctc_beam_search_decode(steps, [4, 1], width=3)]
    assert best == [[1, 2], [2]]
    for decode in (ctc_greedy_decode, ctc_beam_search_decode):
        with pytest.raises(ShapeError, match=r"lengths are \[5, 1\], expected 2 of them, from 0 to the 4 steps"):
            decode(steps, [5, 1])
        with pytest.raises(ShapeError, match=r"expected \(N, T, classes\)"):
            decode(steps[0])
    with pytest.raises(ValueError, match="width is 0"):
        ctc_beam_search_decode(steps, width=0)
