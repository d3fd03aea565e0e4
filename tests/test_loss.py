"""Where losses are delicate: nothing that counts, large logits, rare events."""

import numpy as np

import imgrec_engine as ie
from imgrec_engine import functional as F


def test_the_mean_of_no_targets_is_nan_and_their_gradient_zero(device):
    logits = ie.ones((3, 4), device=device, requires_grad=True)
    loss = F.cross_entropy(logits, ie.full(3, -100, dtype="int64", device=device))
    assert np.isnan(loss.item())
    loss.backward()
    np.testing.assert_array_equal(logits.grad.numpy(), 0)


def test_cross_entropy_of_large_logits_is_finite(device):
    logits = ie.tensor([[1e4, -1e4, 0.0]], device=device, requires_grad=True)
    loss = F.cross_entropy(logits, ie.tensor([1], device=device))
    assert loss.item() == 2e4
    loss.backward()
    np.testing.assert_array_equal(logits.grad.numpy(), [[1, -1, 0]])


def test_small_integer_targets_are_taken(device):
    logits = ie.tensor([[1.0, 2.0], [3.0, 4.0]], device=device)
    dtypes = ("int64", "int32", "uint8")
    losses = [F.cross_entropy(logits, ie.tensor([0, 1], dtype, device)).item() for dtype in dtypes]
    assert len(set(losses)) == 1


def test_binary_cross_entropy_keeps_its_accuracy_at_both_ends(device):
    x = np.array([-60.0, -12.0, -5.0, 5.0, 12.0, 60.0], dtype=np.float32)
    for target in (0.0, 1.0):
        logits = ie.tensor(x, device=device, requires_grad=True)
        losses = F.binary_cross_entropy_with_logits(logits, ie.full(6, target, device=device), reduction="none")
        sign = np.float64(-1 if target else 1)
        np.testing.assert_allclose(losses.numpy(), np.logaddexp(0, sign * x.astype(np.float64)), rtol=5e-7)
        losses.sum().backward()
        exact = sign / (1 + np.exp(-sign * x.astype(np.float64)))
        np.testing.assert_allclose(logits.grad.numpy(), exact, rtol=5e-7)
