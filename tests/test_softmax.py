"""softmax and log_softmax beyond the op table."""

import numpy as np

import imgrec_engine as ie
from imgrec_engine import functional as F


def test_rows_sum_to_one_and_infinities_are_treated_as_limits(device):
    x = ie.tensor([[0.0, -np.inf, 0.0], [-3e38, 3e38, 0.0]], device=device)
    np.testing.assert_array_equal(F.softmax(x).numpy(), [[0.5, 0, 0.5], [0, 1, 0]])
    np.testing.assert_array_equal(F.log_softmax(x).numpy()[0, 1], -np.inf)


def test_nan_and_rows_without_a_finite_number_give_nan(device):
    x = np.array([[1.0, np.nan, 2.0], [-np.inf] * 3, [1.0, 2.0, 3.0]], dtype=np.float32)
    for op in (F.softmax, F.log_softmax):
        assert np.isnan(op(ie.tensor(x, device=device)).numpy()).all(axis=1).tolist() == [True, True, False]


def test_a_row_gives_the_same_bits_alone(device):
    x = np.random.Generator(np.random.Philox(1)).standard_normal((50, 37)).astype(np.float32)
    for op in (F.softmax, F.log_softmax):
        together = op(ie.tensor(x, device=device)).numpy()
        alone = [op(ie.tensor(row, device=device)).numpy() for row in x]
        np.testing.assert_array_equal(together, alone)
