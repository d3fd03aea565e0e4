"""What max_pool2d promises beyond its values: NaN, ties, padding that is never chosen."""

import numpy as np

import imgrec_engine as ie
from imgrec_engine import functional as F


def test_nan_is_the_result_of_its_window(device):
    x = np.zeros((1, 2, 4, 2), dtype=np.float32)
    x[0, 0, 1, 1] = np.nan
    y = F.max_pool2d(ie.tensor(x, device=device), 2).numpy()
    np.testing.assert_array_equal(y[0, 0, :, 1], [np.nan, 0])
    np.testing.assert_array_equal(y[0, 0, :, 0], 0)


def test_gradient_goes_to_the_first_of_equal_elements(device):
    x = ie.zeros((1, 4, 4, 3), device=device, requires_grad=True)
    F.max_pool2d(x, 2).sum().backward()
    expected = np.zeros((4, 4))
    expected[::2, ::2] = 1
    np.testing.assert_array_equal(x.grad.numpy()[0], np.repeat(expected[..., None], 3, axis=-1))


def test_padding_is_never_chosen(device):
    x = ie.full((1, 3, 3, 1), -np.inf, device=device, requires_grad=True)
    y = F.max_pool2d(x, 3, stride=2, padding=1)
    assert (y.numpy() == -np.inf).all()
    y.backward(ie.ones(y.shape, device=device))
    assert x.grad.numpy().sum() == 4
