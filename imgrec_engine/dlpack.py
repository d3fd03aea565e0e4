"""Memory shared with other array libraries: the DLPack protocol of the Python array API standard (2023.12)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgrec_engine import kernels

if TYPE_CHECKING:
    from imgrec_engine.tensor import Tensor

CPU_DEVICE = (1, 0)  # kDLCPU


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
    if stream is not None:
        raise BufferError(f"__dlpack__: stream is {stream!r}, expected None on the CPU")
    if device not in (None, CPU_DEVICE):
        raise BufferError(f"__dlpack__: dl_device is {device}, expected {CPU_DEVICE}, the CPU")
    array = tensor.numpy().copy() if copy else tensor.numpy()
    versioned = max_version is not None and tuple(max_version) >= (1, 0)
    if not versioned and not array.flags.writeable:
        raise BufferError("__dlpack__: this memory is read-only, which only DLPack 1.0 can tell; clone() it first")
    return kernels.of(array)[0].dlpack_export(array, versioned, bool(copy))


def import_array(source: Any, copy: bool | None) -> Any:
    """The array behind an object with the DLPack methods."""
    if not hasattr(source, "__dlpack__") or not hasattr(source, "__dlpack_device__"):
        raise TypeError(f"from_dlpack: source is of type {type(source).__name__}, which has no __dlpack__")
    device = source.__dlpack_device__()
    if int(device[0]) != CPU_DEVICE[0]:
        raise BufferError(f"from_dlpack: source is on DLPack device {tuple(map(int, device))}, expected the CPU")
    try:
        capsule = source.__dlpack__(max_version=(1, 0), copy=copy)
    except TypeError:  # an exporter from before DLPack 1.0
        capsule = source.__dlpack__()
        array = kernels.load("cpu")[0].dlpack_import(capsule)
        return array.copy() if copy else array
    return kernels.load("cpu")[0].dlpack_import(capsule)
