"""Memory shared with other array libraries: the DLPack protocol of the Python array API standard (2023.12).

On the CPU the bindings speak it. On GPUs CuPy does, and makes one library's stream wait for the other's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from imgrec_engine import cuda, kernels
from imgrec_engine.device import to_numpy
from imgrec_engine.dtypes import bfloat16

if TYPE_CHECKING:
    from imgrec_engine.tensor import Tensor

CPU_DEVICE = (1, 0)  # kDLCPU
CUDA_TYPE = 2  # kDLCUDA


def device_of(array: Any) -> tuple[int, int]:
    """The pair that ``Tensor.__dlpack_device__`` returns."""
    return CPU_DEVICE if isinstance(array, np.ndarray) else (CUDA_TYPE, array.device.id)


def export(
    tensor: Tensor,
    stream: Any,
    max_version: tuple[int, int] | None,
    device: tuple[int, int] | None,
    copy: bool | None,
) -> Any:
    """The capsule that ``Tensor.__dlpack__`` returns; BufferError for what cannot be shared."""
    if tensor.requires_grad:
        raise BufferError("__dlpack__: this tensor requires a gradient, which would be lost; detach() it first")
    if not isinstance(tensor._array, np.ndarray):
        return tensor._array.__dlpack__(stream=stream, max_version=max_version, dl_device=device, copy=copy)
    if stream is not None:
        raise BufferError(f"__dlpack__: stream is {stream!r}, expected None on the CPU")
    if device not in (None, CPU_DEVICE):
        raise BufferError(f"__dlpack__: dl_device is {device}, expected {CPU_DEVICE}, the CPU")
    array = to_numpy(tensor._array).copy() if copy else tensor.numpy()
    versioned = max_version is not None and tuple(max_version) >= (1, 0)
    if not versioned and not array.flags.writeable:
        raise BufferError("__dlpack__: this memory is read-only, which only DLPack 1.0 can tell; clone() it first")
    return kernels.of(array)[0].dlpack_export(array, versioned, bool(copy))


def import_array(source: Any, copy: bool | None) -> Any:
    """The array behind an object with the DLPack methods."""
    if not hasattr(source, "__dlpack__") or not hasattr(source, "__dlpack_device__"):
        raise TypeError(f"from_dlpack: source is of type {type(source).__name__}, which has no __dlpack__")
    kind, index = map(int, source.__dlpack_device__())
    if kind == CUDA_TYPE:
        kernels.load(cuda.name_of(index))
        with cuda.on(index):
            return cuda.namespace().from_dlpack(source, copy=copy)
    if kind != CPU_DEVICE[0]:
        raise BufferError(f"from_dlpack: source is on DLPack device {(kind, index)}, expected the CPU or a GPU of CUDA")
    try:
        capsule = source.__dlpack__(max_version=(1, 0), copy=copy)
    except TypeError:  # an exporter from before DLPack 1.0
        capsule = source.__dlpack__()
        array = kernels.load("cpu")[0].dlpack_import(capsule)
        return array.copy() if copy else array
    return kernels.load("cpu")[0].dlpack_import(capsule)


def cuda_array_interface(tensor: Tensor) -> dict[str, Any]:
    """What ``Tensor.__cuda_array_interface__`` is; AttributeError, as for an absent attribute, where there is none.

    https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html, version 3: it names CuPy's current stream.
    """
    name = "__cuda_array_interface__"
    if isinstance(tensor._array, np.ndarray):
        raise AttributeError(f"{name}: this tensor is on {tensor.device}, expected a GPU")
    if tensor.requires_grad:
        raise AttributeError(f"{name}: this tensor requires a gradient, which would be lost; detach() it first")
    if tensor.dtype == bfloat16:
        raise AttributeError(f"{name}: it has no bfloat16; share this tensor through DLPack")
    return tensor._array.__cuda_array_interface__  # type: ignore[no-any-return]
