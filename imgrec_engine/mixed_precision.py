"""Mixed precision: the dtype in which an operation runs within `autocast`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from imgrec_engine.dtypes import as_dtype, bfloat16, float16, float32, float64, is_floating
from imgrec_engine.errors import DTypeError

if TYPE_CHECKING:
    from imgrec_engine.tensor import Tensor

Precision: TypeAlias = Literal["low", "full"]
DType: TypeAlias = np.dtype[Any]


class _Region(threading.local):
    """The innermost autocast on this thread, and the weights that were cast since the outermost one began."""

    dtype: DType | None = None

    def __init__(self) -> None:
        self.outer: list[DType | None] = []
        self.casts: dict[tuple[int, DType], tuple[Tensor, int, Any]] = {}


region = _Region()


class autocast(contextlib.ContextDecorator):  # noqa: N801
    """Within it, operations choose their own precision: a context manager, and a decorator ``@autocast("bfloat16")``.

    Matrix products, convolutions, recurrent layers and attention run in ``dtype``, "bfloat16" or "float16"; losses,
    norms, sums and powers in float32; the others in the dtype of what they are given (docs/mixed_precision.md lists
    them all). Arguments are cast for the call, and gradients come back in the dtype of the tensor they belong to:
    parameters stay float32 and so do their gradients. A call with a float64 argument is left alone.

    Regions nest, and ``enabled=False`` suspends them; each thread has its own. A weight is cast once for all of its
    uses in the outermost region, and again after it was written to. Meaning and name are PyTorch's; Micikevicius et
    al., "Mixed precision training", ICLR 2018.

    Raises:
        DTypeError: another dtype.

    >>> import imgrec_engine as ie
    >>> linear = ie.nn.Linear(3, 2)
    >>> with ie.autocast("bfloat16"):
    ...     y = linear(ie.ones((4, 3)))
    ...     loss = (y**2).mean()
    >>> y.dtype.name, loss.dtype.name
    ('bfloat16', 'float32')
    >>> loss.backward()
    >>> linear.weight.grad.dtype.name
    'float32'

    """

    def __init__(self, dtype: Any, enabled: bool = True) -> None:
        self.dtype = as_dtype(dtype)
        if self.dtype not in (bfloat16, float16):
            raise DTypeError(f"autocast: dtype is {self.dtype.name}, expected bfloat16 or float16")
        self.enabled = enabled

    def __enter__(self) -> None:
        region.outer.append(region.dtype)
        region.dtype = self.dtype if self.enabled else None

    def __exit__(self, *error: object) -> None:
        region.dtype = region.outer.pop()
        if not region.outer:
            region.casts.clear()


@contextlib.contextmanager
def without_casts() -> Iterator[None]:
    """Within it no weight counts as cast, and what is cast is forgotten at the end."""
    before, region.casts = region.casts, {}
    try:
        yield
    finally:
        region.casts = before


def wanted_dtype(precision: Precision, tensors: Iterable[Tensor]) -> DType | None:
    """The dtype that an op's floating arguments are cast to; None where they stay what they are."""
    if any(tensor._array.dtype == float64 for tensor in tensors):
        return None
    return region.dtype if precision == "low" else float32


def cast(tensor: Tensor, dtype: DType) -> Any:
    """The tensor's array in the dtype given, if it is floating.

    Of a leaf that learns, the region keeps it. Only the array: each use has its own edge to the float32 weight, so that
    gradients add up in float32 and one backward pass frees nothing that another needs.
    """
    array = tensor._array
    if array.dtype == dtype or not is_floating(array.dtype):
        return array
    if not (tensor.requires_grad and tensor.is_leaf):
        return array.astype(dtype)
    key, written = (id(tensor), dtype), tensor._version.stamp
    kept = region.casts.get(key)
    if kept is None or kept[1] != written:
        kept = region.casts[key] = tensor, written, array.astype(dtype)  # with the tensor itself: ids are used again
    return kept[2]
