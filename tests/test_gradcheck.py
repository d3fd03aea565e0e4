"""gradcheck: what it takes, and that it finds gradients that are wrong."""

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine.autograd import Array, Result, differentiable
from imgrec_engine.testing import gradcheck


def test_gradcheck_takes_one_input_and_several_outputs():
    x = ie.tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    assert gradcheck(lambda x: [x * x, x.exp()], x) < 1e-6
    with pytest.raises(ValueError, match="none of the inputs"):
        gradcheck(lambda x: x, [ie.ones(2)])


def test_gradcheck_along_directions_notices_a_single_wrong_element():
    @differentiable
    def square(x: Array, wrong: bool) -> Result:
        def backward(dy, needs):
            dx = 2 * x * dy
            dx[20, 25] *= 1.1 if wrong else 1
            return (dx,)

        return x * x, backward

    x = ie.rand(40, 50, low=1, high=2, dtype="float64", requires_grad=True)
    assert gradcheck(lambda x: square(x, False), x, directions=2) < 1e-5
    with pytest.raises(AssertionError, match=r"inputs of shapes \[\(40, 50\)\] along direction 0: backward gives"):
        gradcheck(lambda x: square(x, True), x, directions=2)
    with pytest.raises(AssertionError, match="along direction 0: the function has a kink"):
        gradcheck(lambda x: x.relu(), ie.zeros(3, dtype="float64", requires_grad=True), directions=1)


@pytest.mark.parametrize("directions", [None, 2])
def test_gradcheck_takes_nan_for_a_disagreement(directions):
    @differentiable
    def lost(x: Array) -> Result:
        return x * x, lambda dy, needs: (dy * np.nan,)

    with pytest.raises(AssertionError, match="backward gives nan"):
        gradcheck(lost, ie.ones(2, dtype="float64", requires_grad=True), directions=directions)
