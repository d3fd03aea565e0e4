"""Rows of a table, looked up by number."""

from __future__ import annotations

from imgrec_engine.arrays import take_rows
from imgrec_engine.autograd import Array, Gradients, Needs, Result, differentiable
from imgrec_engine.device import empty
from imgrec_engine.errors import ShapeError
from imgrec_engine.ops.indexing import add_rows, check_indices

__all__ = ["embedding"]


@differentiable
def embedding(indices: Array, weight: Array) -> Result:
    """The rows of weight (V, D) at integer indices (...): (..., D). A row's gradient is summed over all its uses.

    >>> import imgrec_engine as ie
    >>> embedding(ie.tensor([[0, 2]]), ie.tensor([[1.0], [2.0], [3.0]])).numpy()
    array([[[1.],
            [3.]]], dtype=float32)
    """
    if weight.ndim != 2:
        raise ShapeError(f"embedding: weight has shape {weight.shape}, expected (rows, features)")
    rows, features = weight.shape
    check_indices("embedding", indices, rows)
    y = empty((*indices.shape, features), weight.dtype, weight)
    take_rows(weight, indices, y)

    def backward(dy: Array, needs: Needs) -> Gradients:
        return None, add_rows(dy.reshape(indices.size, features), indices.ravel(), rows)

    return y, backward
