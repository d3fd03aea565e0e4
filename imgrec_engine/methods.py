"""The operators and methods of Tensor. Each calls the operation of its name in `imgrec_engine.functional`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgrec_engine.ops import activation, arithmetic, elementwise, matmul, reduction, shape

if TYPE_CHECKING:
    from imgrec_engine.tensor import Tensor

Axis = int | tuple[int, ...] | None


class Methods:
    """Base of Tensor."""

    __slots__ = ()

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

    def __neg__(self) -> Tensor:
        return arithmetic.negative(self)

    def __matmul__(self, other: Any) -> Tensor:
        return matmul.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return matmul.matmul(other, self)

    def clone(self) -> Tensor:
        """A differentiable copy in memory of its own."""
        return elementwise.clone(self)

    def reshape(self, *shape_: int | tuple[int, ...]) -> Tensor:
        """The same elements in another shape; one length may be -1."""
        return shape.reshape(self, *shape_)

    def permute(self, *axes: int | tuple[int, ...]) -> Tensor:
        """The dimensions in the order given."""
        return shape.permute(self, *axes)

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        """The sum over an axis, several, or all."""
        return reduction.sum(self, axis, keepdims)

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
