"""The tensor: an array with a memory of how it was computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from imgrec_engine import arguments, autograd, capturing, dlpack, kernels, packing
from imgrec_engine import device as devices
from imgrec_engine.dtypes import as_dtype, float32, float64, is_floating
from imgrec_engine.errors import AutogradError, DTypeError, ShapeError
from imgrec_engine.methods import Methods
from imgrec_engine.ops import elementwise, indexing, shape

Index: TypeAlias = (
    Any  # what NumPy takes: int, slice, None, ..., an integer or boolean array or Tensor, or a tuple of these
)


class Tensor(Methods):
    """An n-dimensional array of one dtype on one device, differentiable where the dtype is floating.

    Tensors come from `imgrec_engine.tensor`, the creation functions and operations. Operators follow NumPy's
    broadcasting; Python scalars do not widen the dtype; reshape, transpose and basic indexing give views.
    ``x[...] = value``, ``copy_`` and ``fill_`` write in place. So does ``x += y``, but where a gradient is to flow
    through it: there it binds x to the new tensor ``x + y``.

    >>> import imgrec_engine as ie
    >>> x = ie.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([[2., 4.],
            [6., 8.]], dtype=float32)
    """

    __slots__ = ("__weakref__", "_array", "_index", "_node", "_version", "grad", "requires_grad")
    __array_ufunc__ = None  # NumPy's operators leave mixed expressions to ours

    def __init__(self, array: Any, requires_grad: bool = False) -> None:
        if requires_grad and not is_floating(array.dtype):
            raise DTypeError(f"only floating tensors can require gradients, not {array.dtype.name}")
        self._array = array
        self.requires_grad = requires_grad
        self.grad: Tensor | None = None
        self._node: Any = None
        self._index = 0
        self._version = autograd.Version()

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the dimensions."""
        return self._array.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype; bfloat16 is ml_dtypes'."""
        return self._array.dtype  # type: ignore[no-any-return]

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self._array.ndim  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._array.size  # type: ignore[no-any-return]

    @property
    def device(self) -> str:
        """The device's name."""
        return devices.of(self._array)

    @property
    def is_leaf(self) -> bool:
        """Whether it was created by the user and not by an operation that was recorded."""
        return self._node is None

    @property
    def T(self) -> Tensor:  # noqa: N802
        """The transpose: all dimensions in reverse order."""
        return shape.permute(self, tuple(range(self.ndim))[::-1])

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a tensor without dimensions")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __contains__(self, value: Any) -> bool:
        with devices.on(self._array):
            return bool((self._array == getattr(value, "_array", value)).any())

    def __format__(self, specification: str) -> str:
        return format(self.item() if specification and self.ndim == 0 else str(self), specification)

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(f"the truth of a tensor of shape {self.shape} is ambiguous; use .all() or .any()")
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if is_floating(self.dtype) or self.ndim:
            raise TypeError(f"a {self.dtype.name} tensor of shape {self.shape} is no index, expected one integer")
        return int(self.item())

    def __repr__(self) -> str:
        values = devices.to_numpy(self._array)
        if self.dtype.itemsize == 2:  # NumPy prints bfloat16 without alignment
            values = values.astype(float32)
        body = np.array2string(values, precision=4, separator=", ", prefix="tensor(", threshold=100, edgeitems=3)
        parts = [body, f"dtype={self.dtype.name}"]
        if self.size > 100 or not self.size:
            parts.append(f"shape={self.shape}")
        if self.device != "cpu":
            parts.append(f"device={self.device!r}")
        if self._node is not None:
            parts.append(f"grad_op={self._node.name}")
        elif self.requires_grad:
            parts.append("requires_grad=True")
        return f"tensor({', '.join(parts)})"

    # --- out of and into it -------------------------------------------------------------------------------------------

    def numpy(self) -> NDArray[Any]:
        """The values as a plain NumPy array: one that shares this tensor's memory, or a copy of what is on a GPU.

        Whoever has shared memory may write to it unseen, so kernels then read these values anew in every call: of
        weights that are to be used afterwards take ``weight.clone().numpy()``.
        """
        array: NDArray[Any] = packing.hand_out(devices.to_numpy(self._array))
        return array

    def item(self) -> float | int | bool:
        """The only element as a Python number; ValueError if there are more."""
        if self.size != 1:
            raise ValueError(f"item: the tensor has shape {self.shape}, expected exactly one element")
        return devices.to_numpy(self._array).item()  # type: ignore[no-any-return]

    def tolist(self) -> Any:
        """The values as nested Python lists."""
        return devices.to_numpy(self._array).tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(devices.to_numpy(self._array) if copy else self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        return dlpack.export(self, stream, max_version, dl_device, copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.device_of(self._array)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return dlpack.cuda_array_interface(self)

    def to(self, *targets: Any, device: str | None = None, dtype: Any = None) -> Tensor:
        """The tensor on another device, in another dtype, or both: ``x.to("sim")``, ``x.to("float16")``.

        Differentiable: gradients are copied back. Returns the same tensor if nothing changes.
        """
        result = self
        for target in (*targets, *named_targets(device, dtype)):
            if devices.is_name(target):
                target = devices.check(target)
                result = result if result.device == target else autograd.transfer(result, target)
                continue
            dtype = as_dtype(target)
            result = result if result.dtype == dtype else elementwise.cast(result, dtype)
        return result

    astype = to

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """A leaf with memory, gradient and all, of its own: as models are copied."""
        if self._node is not None:
            raise AutogradError("deepcopy: only leaves can be copied with what they are; detach() or clone() first")
        copied = memo[id(self)] = type(self).__new__(type(self))
        Tensor.__init__(copied, devices.to_device(self._array, self.device), self.requires_grad)
        copied.grad = copy.deepcopy(self.grad, memo)
        return copied

    def detach(self) -> Tensor:
        """The same memory without the history: a tensor that does not require a gradient."""
        tensor = Tensor(self._array)
        tensor._version = self._version
        return tensor

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Sets whether a leaf collects gradients, and returns it."""
        if self._node is not None:
            raise AutogradError("requires_grad_: only leaves can change it; detach() first")
        if requires_grad and not is_floating(self.dtype):
            raise DTypeError(f"requires_grad_: only floating tensors can require gradients, not {self.dtype.name}")
        self.requires_grad = requires_grad
        return self

    def backward(self, grad: Tensor | None = None) -> None:
        """Adds the gradient of this scalar to the ``.grad`` of every leaf that it depends on and that requires one.

        A tensor that is no scalar needs ``grad``, of its own shape: the gradient of the loss with respect to it.
        """
        from imgrec_engine.backward import backward  # it needs this class first

        backward(self, grad)

    # --- in place -----------------------------------------------------------------------------------------------------

    def __setitem__(self, index: Index, value: Any) -> None:
        self._check_write("x[index] = value", value)
        try:
            with devices.on(self._array):
                self._array[indexing.plain(index, self._array)] = _writable_value(value, self._array)
        except IndexError as error:
            raise IndexError(f"x[index] = value for a tensor of shape {self.shape}: {error}") from None
        except ValueError as error:
            raise ShapeError(f"x[index] = value for a tensor of shape {self.shape}: {error}") from None
        self._wrote()

    def copy_(self, source: Any) -> Tensor:
        """Overwrites the values with those of ``source``, broadcast and converted, and returns this tensor."""
        self._check_write("copy_", source)
        array = source._array if isinstance(source, Tensor) else devices.as_array(source)
        try:
            devices.write(self._array, array)
        except ValueError:
            raise ShapeError(f"copy_: source of shape {array.shape} does not broadcast to {self.shape}") from None
        self._wrote()
        return self

    def fill_(self, value: float) -> Tensor:
        """Overwrites every element with a number, and returns this tensor."""
        self._check_write("fill_")
        devices.fill(self._array, value)
        self._wrote()
        return self

    def _assign(self, what: str, result: Tensor) -> Tensor:
        """What ``x += y`` leaves in x: x itself with the result written into it, or the result where it is recorded."""
        is_recorded = autograd.is_recording() and (self.requires_grad or result.requires_grad)
        if is_recorded and not (self.is_leaf and self.requires_grad):
            return result
        if result.dtype != self.dtype:
            raise DTypeError(f"{what}: the result is {result.dtype.name} and x {self.dtype.name}; write x = x + y")
        if result.shape != self.shape:
            raise ShapeError(f"{what}: the result has shape {result.shape} and x {self.shape}; write x = x + y")
        return self.copy_(result)

    def _check_write(self, what: str, value: Any = None) -> None:
        """Refuses an in-place write where history would become wrong."""
        if autograd.is_recording() and (self.requires_grad or getattr(value, "requires_grad", False)):
            which = "this tensor" if self.requires_grad else "the value"
            raise AutogradError(
                f"{what}: {which} requires a gradient, and a write in place cannot be differentiated; "
                "use `with no_grad():`, or `where` and `concatenate` to make a new tensor"
            )
        if not devices.is_writable(self._array):
            raise ValueError(f"{what}: this tensor's memory is read-only (expanded, or shared so); clone() it first")

    def _wrote(self) -> None:
        """Says that a write is over: not before, or another thread might keep what it has packed meanwhile."""
        self._version.advance()
        capturing.note_write(self._version)


arguments.set_tensor_type(Tensor)


def _writable_value(value: Any, target: Any) -> Any:
    """What ``x[index] = value`` writes: numbers as they are, else an array on the device of x."""
    given = value._array if isinstance(value, Tensor) else value
    return given if isinstance(given, (int, float, np.generic)) else devices.beside(devices.as_array(given), target)


def named_targets(device: str | None, dtype: Any) -> tuple[Any, ...]:
    """The keyword arguments of ``to`` that were given."""
    return (*(() if device is None else (devices.check(device),)), *(() if dtype is None else (as_dtype(dtype),)))


def tensor(array: Any, dtype: Any = None, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of ``array``: numbers, nested lists, a NumPy or CuPy array, another Tensor.

    Without ``dtype``, Python floats become float32 and Python integers int64; arrays keep their dtype.

    >>> tensor([1, 2]).dtype.name, tensor([1.0, 2]).dtype.name, tensor([1.0], dtype="bfloat16").dtype.name
    ('int64', 'float32', 'bfloat16')
    """
    given = array._array if isinstance(array, Tensor) else array
    source = devices.as_array(given)
    if dtype is not None:
        wanted = as_dtype(dtype)
    elif source.dtype == float64 and not isinstance(given, (*kernels.ARRAYS, np.generic)):
        wanted = float32
    else:
        wanted = as_dtype(source.dtype)
    with devices.on(source):
        converted = source.astype(wanted, copy=False)
    return Tensor(devices.to_device(converted, device), requires_grad)
