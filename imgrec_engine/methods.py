"""The operators and methods of Tensor. Each calls the operation of its name in `imgrec_engine.functional`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from imgrec_engine.ops import (
    activation,
    arithmetic,
    comparison,
    elementwise,
    indexing,
    joining,
    matmul,
    reduction,
    shape,
    softmax,
)

if TYPE_CHECKING:
    from imgrec_engine.tensor import Tensor

Axis = int | tuple[int, ...] | None


class Methods:
    """Base of Tensor."""

    __slots__ = ()

    # --- operators ----------------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Tensor:
        return arithmetic.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return arithmetic.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return arithmetic.subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return arithmetic.subtract(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return arithmetic.multiply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return arithmetic.multiply(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return arithmetic.divide(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return arithmetic.divide(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return arithmetic.power(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return arithmetic.power(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return matmul.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return matmul.matmul(other, self)

    # `x += y` and its like: see Tensor._assign

    def __iadd__(self, other: Any) -> Tensor:
        return self._assign("x += y", arithmetic.add(self, other))

    def __isub__(self, other: Any) -> Tensor:
        return self._assign("x -= y", arithmetic.subtract(self, other))

    def __imul__(self, other: Any) -> Tensor:
        return self._assign("x *= y", arithmetic.multiply(self, other))

    def __itruediv__(self, other: Any) -> Tensor:
        return self._assign("x /= y", arithmetic.divide(self, other))

    def _assign(self, what: str, result: Tensor) -> Tensor:
        raise NotImplementedError

    def __neg__(self) -> Tensor:
        return arithmetic.negative(self)

    def __abs__(self) -> Tensor:
        return elementwise.abs(self)

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return comparison.equal(self, other) if _comparable(other) else NotImplemented

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return comparison.not_equal(self, other) if _comparable(other) else NotImplemented

    __hash__ = object.__hash__  # `==` compares elements; a tensor as a key stands for itself

    def __lt__(self, other: Any) -> Tensor:
        return comparison.less(self, other)

    def __le__(self, other: Any) -> Tensor:
        return comparison.less_equal(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return comparison.greater(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return comparison.greater_equal(self, other)

    def __and__(self, other: Any) -> Tensor:
        return comparison.logical_and(self, other)

    def __rand__(self, other: Any) -> Tensor:
        return comparison.logical_and(other, self)

    def __or__(self, other: Any) -> Tensor:
        return comparison.logical_or(self, other)

    def __ror__(self, other: Any) -> Tensor:
        return comparison.logical_or(other, self)

    def __invert__(self) -> Tensor:
        return comparison.logical_not(self)

    def __getitem__(self, index: Any) -> Tensor:
        return indexing.getitem(self, index)

    # --- each element by itself ---------------------------------------------------------------------------------------

    def abs(self) -> Tensor:
        """The absolute value."""
        return elementwise.abs(self)

    def exp(self) -> Tensor:
        """E to the power of each element."""
        return elementwise.exp(self)

    def log(self) -> Tensor:
        """The natural logarithm."""
        return elementwise.log(self)

    def sqrt(self) -> Tensor:
        """The square root."""
        return elementwise.sqrt(self)

    def sin(self) -> Tensor:
        """The sine."""
        return elementwise.sin(self)

    def cos(self) -> Tensor:
        """The cosine."""
        return elementwise.cos(self)

    def clip(self, min: float | None = None, max: float | None = None) -> Tensor:
        """Each element, but not below ``min`` nor above ``max``."""
        return elementwise.clip(self, min, max)

    def relu(self) -> Tensor:
        """max(x, 0), element by element."""
        return activation.relu(self)

    def gelu(self) -> Tensor:
        """The Gaussian error linear unit."""
        return activation.gelu(self)

    def silu(self) -> Tensor:
        """X sigmoid(x)."""
        return activation.silu(self)

    def sigmoid(self) -> Tensor:
        """1 / (1 + exp(-x))."""
        return activation.sigmoid(self)

    def tanh(self) -> Tensor:
        """The hyperbolic tangent."""
        return activation.tanh(self)

    def softmax(self, axis: int = -1) -> Tensor:
        """exp(x) / sum(exp(x)) along an axis."""
        return softmax.softmax(self, axis)

    def log_softmax(self, axis: int = -1) -> Tensor:
        """The logarithm of the softmax along an axis."""
        return softmax.log_softmax(self, axis)

    def isfinite(self) -> Tensor:
        """Where elements are neither NaN nor infinite."""
        return comparison.isfinite(self)

    def isnan(self) -> Tensor:
        """Where elements are NaN."""
        return comparison.isnan(self)

    def clone(self) -> Tensor:
        """A differentiable copy in memory of its own."""
        return elementwise.clone(self)

    # --- reductions ---------------------------------------------------------------------------------------------------

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The sum over an axis, several, or all."""
        return reduction.sum(self, axis, keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The mean over an axis, several, or all."""
        return reduction.mean(self, axis, keepdims)

    def var(self, axis: Axis = None, correction: int = 1, keepdims: bool = False) -> Tensor:
        """The variance over axes; unbiased unless ``correction`` is 0."""
        return reduction.var(self, axis, correction, keepdims)

    def std(self, axis: Axis = None, correction: int = 1, keepdims: bool = False) -> Tensor:
        """The standard deviation over axes; of the unbiased variance unless ``correction`` is 0."""
        return reduction.std(self, axis, correction, keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The largest element over axes."""
        return reduction.max(self, axis, keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The smallest element over axes."""
        return reduction.min(self, axis, keepdims)

    def all(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Whether all elements over axes are True."""
        return reduction.all(self, axis, keepdims)

    def any(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """Whether any element over axes is True."""
        return reduction.any(self, axis, keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """Where the largest element along an axis is."""
        return reduction.argmax(self, axis, keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """Where the smallest element along an axis is."""
        return reduction.argmin(self, axis, keepdims)

    def cumsum(self, axis: int) -> Tensor:
        """The sums of the elements up to each along an axis."""
        return reduction.cumsum(self, axis)

    # --- shape --------------------------------------------------------------------------------------------------------

    def reshape(self, *lengths: int | Sequence[int]) -> Tensor:
        """The same elements in another shape; one length may be -1."""
        return shape.reshape(self, *lengths)

    def flatten(self, start_axis: int = 0, end_axis: int = -1) -> Tensor:
        """The axes from ``start_axis`` to ``end_axis`` made one."""
        return shape.flatten(self, start_axis, end_axis)

    def permute(self, *axes: int | Sequence[int]) -> Tensor:
        """The dimensions in the order given."""
        return shape.permute(self, *axes)

    def transpose(self, axis0: int, axis1: int) -> Tensor:
        """Two axes swapped."""
        return shape.transpose(self, axis0, axis1)

    def squeeze(self, axis: Axis = None) -> Tensor:
        """The axes of length 1 dropped: those named, or all of them."""
        return shape.squeeze(self, axis)

    def unsqueeze(self, axis: int) -> Tensor:
        """A new axis of length 1 at the position given."""
        return shape.unsqueeze(self, axis)

    def expand(self, *lengths: int | Sequence[int]) -> Tensor:
        """Axes of length 1 repeated without copying; -1 keeps a length."""
        return shape.expand(self, *lengths)

    def flip(self, axis: int | tuple[int, ...]) -> Tensor:
        """The elements in reverse order along an axis or several."""
        return shape.flip(self, axis)

    def split(self, sizes: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
        """Views along an axis: of the lengths given, or all of one length."""
        return joining.split(self, sizes, axis)

    def gather(self, axis: int, indices: Tensor) -> Tensor:
        """For each of the ``indices``, the element at that place of an axis."""
        return indexing.gather(self, axis, indices)


def _comparable(other: object) -> bool:
    """Whether ``==`` compares elements; anything else, as None or a string, is simply not equal."""
    return isinstance(other, (Methods, np.ndarray, np.generic, int, float))
