"""Random numbers: the published Philox vectors, distributions, streams, dropout masks."""

import math

import numpy as np
import pytest
from scipy import stats

import imgrec_engine as ie
from imgrec_engine import device as devices
from imgrec_engine import functional as F
from imgrec_engine import kernels, random

# Random123's kat_vectors: (counter words, key words, result words)
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text):
    return [int(word, 16) for word in text.split()]


def pair(low, high):
    return np.uint64(high << 32 | low)


def bits(seed, offset, first, count, device="cpu"):
    out = devices.empty_on(device, (count, 4), np.dtype("int64"))
    state = np.array([seed, offset], np.uint64).view(np.int64)
    module, context = kernels.of(out)
    module.random_bits(context, out, state, int(first))
    return out


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(counter, key, expected, device):
    c = words(counter)
    found = bits(pair(*words(key)), pair(c[2], c[3]), pair(c[0], c[1]), 1, device)
    assert found[0].tolist() == words(expected)


def test_consecutive_counters_continue_one_stream():
    np.testing.assert_array_equal(bits(5, 6, 0, 9)[4:], bits(5, 6, 4, 5))


def test_uniform_numbers_are_the_words_of_their_counters():
    ie.manual_seed(3)
    ie.rand(1)  # the first draw has offset 0
    np.testing.assert_array_equal(ie.rand(10).numpy(), (bits(3, 1, 0, 3).ravel()[:10] >> 8) * np.float32(2**-24))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_rand_is_uniform(dtype, seed):
    ie.manual_seed(seed)
    x = ie.rand(200_000, dtype=dtype, low=-1, high=3).numpy()
    assert x.min() >= -1
    assert x.max() < 3
    assert stats.kstest(x, stats.uniform(-1, 4).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 0.01


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_randn_is_normal(dtype, seed):
    ie.manual_seed(seed)
    x = ie.randn(200_000, dtype=dtype, mean=2, std=0.5).numpy()
    assert stats.kstest(x, stats.norm(2, 0.5).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(x[::2], x[1::2])[0, 1]) < 0.01  # the two numbers of one counter


def test_draws_differ_and_seeds_repeat():
    ie.manual_seed(1)
    first, second = ie.rand(100).tolist(), ie.rand(100).tolist()
    ie.manual_seed(1)
    assert ie.rand(100).tolist() == first
    state = random.get_state()
    assert state == (1, 1)
    assert ie.rand(100).tolist() == second != first
    random.set_state(state)
    assert ie.rand(100).tolist() == second
    ie.manual_seed(2)
    assert ie.rand(100).tolist() != first
    for seed in (-1, 2**63):
        with pytest.raises(ValueError, match="manual_seed: seed is"):
            ie.manual_seed(seed)


@pytest.mark.parametrize("draw", [ie.rand, ie.randn, lambda n: F.dropout(ie.ones(n))])
def test_numbers_do_not_depend_on_threads(draw):
    found = set()
    for threads in (1, 2, 3):
        ie.set_num_threads(threads)
        ie.manual_seed(4)
        found.add(draw(100_003).numpy().tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (1,), (7, 3), (50_001,)])
def test_every_device_draws_the_same_bits(dtype, shape, device):
    def draws(device):
        ie.manual_seed(2**40 + 5)
        x = ie.tensor(np.linspace(-2, 2, math.prod(shape)).reshape(shape), dtype, device)
        return (
            ie.rand(shape, dtype=dtype, low=-0.3, high=1.7, device=device),
            ie.randn(shape, dtype=dtype, mean=0.1, std=3.3, device=device),
            F.dropout(x, 0.3),
        )

    for ours, reference in zip(draws(device), draws("cpu"), strict=True):
        assert ours.numpy().tobytes() == reference.numpy().tobytes()


def test_shapes_and_dtypes():
    assert ie.rand(2, 3).shape == ie.randn((2, 3)).shape == (2, 3)
    assert ie.rand(2, dtype="bfloat16", requires_grad=True).requires_grad
    assert ie.randn().shape == ()
    with pytest.raises(TypeError, match="int64, expected a floating one"):
        ie.rand(2, dtype="int64")


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_right_share_and_the_mean(p):
    n = 200_000
    x = ie.ones(n)
    y = F.dropout(x, p).numpy()
    kept = np.count_nonzero(y)
    assert stats.binomtest(kept, n, 1 - p).pvalue > 1e-4
    np.testing.assert_allclose(y[y != 0], 1 / (1 - p), rtol=1e-6)
    assert not np.array_equal(y != 0, F.dropout(x, p).numpy() != 0)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_dropout_masks_are_the_same_forward_and_backward(dtype):
    x = ie.ones((123, 45), dtype=dtype, requires_grad=True)
    y = F.dropout(x.T, 0.3)
    ie.rand(5)  # later draws do not matter
    (y * 1).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy().T, y.numpy())


def test_dropout_is_the_identity_outside_training():
    x = ie.ones(5)
    state = random.get_state()
    assert F.dropout(x, 0.5, training=False).tolist() == [1] * 5
    assert random.get_state() == state
