"""Reductions are described once for each shape and axis; what is asked for is still checked each time."""

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import functional as F


def test_an_axis_that_equals_a_whole_number_is_refused_also_where_that_one_is_known():
    x = ie.ones((5, 7))
    F.sum(x, axis=(1,))
    with pytest.raises(TypeError, match="float"):
        F.sum(x, axis=(1.0,))


@pytest.mark.parametrize("op", [F.sum, F.mean, F.var, F.max])
def test_keepdims_may_be_a_boolean_of_numpy(op):
    assert op(ie.ones((2, 3)), axis=1, keepdims=np.True_).shape == (2, 1)
