"""The device `cuda`: arrays, memory and streams are CuPy's, kernels those of `csrc/cuda/` as nvcc compiled them.

`cuda` is the first GPU of the machine and `cuda:1` the second. Everything runs on CuPy's current stream. CuPy is not
imported before a process asks for the device.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine import capturing, cublas
from imgrec_engine.errors import DeviceError, OutOfMemoryError

LEAST_CUPY = 14
LEAST_CAPABILITY = 80  # 8.0: asynchronous copies and tensor cores for bfloat16
_POISON = 0xFF  # NaN in every floating dtype, -1 in the integers

_cupy: Any = None  # these two once the device was asked for with success
_kernels: Any = None
_usable: set[int] = set()  # GPUs that were checked
_contexts: dict[tuple[int, int], Any] = {}  # by GPU and stream
_poisons = False
_allows_tf32 = False
_loading = threading.Lock()


def index_of(device: str) -> int:
    """The number of the GPU that a name stands for: 0 for "cuda", 1 for "cuda:1"; DeviceError for another name."""
    kind, colon, number = device.partition(":")
    if kind != "cuda" or (colon and not (number.isascii() and number.isdecimal())):
        raise DeviceError(f"device {device!r} is not available; GPUs are named cuda, cuda:1, cuda:2 and so on")
    return int(number or 0)


def name_of(index: int) -> str:
    """The name of a GPU: "cuda" for the first one."""
    return f"cuda:{index}" if index else "cuda"


class _Kernels(SimpleNamespace):
    """The functions of a compiled module and those that others have in its place; hashable, as a module is."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def load(index: int = 0) -> tuple[Any, Any]:
    """The kernels, and a context of the GPU of this number; DeviceError, which says what is missing, otherwise."""
    global _cupy, _kernels
    if index not in _usable:
        with _loading:
            module, cupy = _import_kernels(index), _import_cupy(index)
            _check_gpu(cupy, index)
            if _kernels is None:
                # Without it cuBLAS takes workspace as it goes, and products on several streams may differ in bits.
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
                module.serve_arrays(cupy.ndarray)
                products = cublas.Products(cupy, module.activation_forward)
                names = {**vars(module), "matmul_plan": products.plan, "matmul": products.multiply, **_POOL}
                _cupy, _kernels = cupy, _Kernels(**names)
            _usable.add(index)
    return _kernels, _context(index)


def _unavailable(index: int, why: str) -> DeviceError:
    return DeviceError(f"device {name_of(index)!r} is not available: {why}")


def _import_kernels(index: int) -> Any:
    try:
        return importlib.import_module("imgrec_engine._cuda")
    except ModuleNotFoundError as error:
        raise _unavailable(
            index,
            "this build has no kernels for GPUs; where a CUDA compiler (nvcc) is, "
            "`pip install . -C cmake.define.IMGREC_CUDA=ON` builds them",
        ) from error
    except ImportError as error:
        raise _unavailable(index, f"the module imgrec_engine._cuda cannot be loaded ({error})") from error


def _import_cupy(index: int) -> Any:
    extras = "`pip install imgrec_engine[cuda13]`, or [cuda12] for a driver of CUDA 12, installs it"
    try:
        cupy = importlib.import_module("cupy")
    except ModuleNotFoundError as error:
        raise _unavailable(index, f"CuPy is not installed; {extras}") from error
    except ImportError as error:
        raise _unavailable(index, f"CuPy cannot be imported ({str(error).strip().splitlines()[0]})") from error
    if int(cupy.__version__.split(".")[0]) < LEAST_CUPY:
        raise _unavailable(index, f"CuPy is of version {cupy.__version__}, {LEAST_CUPY} or later is needed; {extras}")
    return cupy


def _check_gpu(cupy: Any, index: int) -> None:
    """DeviceError where the machine has no driver, no GPU of this number, or one that is too old."""
    runtime = cupy.cuda.runtime
    if runtime.driverGetVersion() == 0:
        raise _unavailable(index, "no driver for NVIDIA GPUs is loaded on this machine")
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise _unavailable(index, str(error)) from error
    if index >= count:
        found = "no GPU" if count == 0 else f"one GPU, {name_of(0)}" if count == 1 else f"{count} GPUs"
        raise _unavailable(index, f"this machine has {found}")
    capability = int(cupy.cuda.Device(index).compute_capability)
    if capability < LEAST_CAPABILITY:
        raise _unavailable(
            index,
            f"its GPU has compute capability {capability / 10}, and the kernels need {LEAST_CAPABILITY / 10} or later",
        )


def _context(index: int) -> Any:
    """The context of a GPU and its current stream, which CuPy knows by thread."""
    stream: int = _cupy.cuda.get_current_stream(index).ptr
    context = _contexts.get((index, stream))
    if context is None:
        attributes = _cupy.cuda.Device(index).attributes
        context = _contexts[index, stream] = _kernels.Context(
            threads=1,
            sm_count=attributes["MultiProcessorCount"],
            max_shared_bytes=attributes["MaxSharedMemoryPerBlockOptin"],
            stream=stream,
            device=index,
            allow_tf32=_allows_tf32,
        )
    return context


def allow_tf32(allowed: bool) -> None:
    """Sets whether float32 products on every GPU may round their factors to tf32."""
    global _allows_tf32
    _allows_tf32 = allowed
    _contexts.clear()


# --- Arrays: what other modules ask of those that are not NumPy's -----------------------------------------------------


def is_array(array: Any) -> bool:
    """Whether it is an array on a GPU."""
    return _cupy is not None and isinstance(array, _cupy.ndarray)


def of(array: Any) -> tuple[Any, Any]:
    """The kernels for an array on a GPU, and the context of that GPU and its current stream."""
    if not is_array(array):
        raise TypeError(f"no device has arrays of type {type(array).__name__}")
    return _kernels, _context(array.device.id)


def namespace() -> Any:
    """The module `cupy`."""
    return _cupy


def array_type() -> type:
    """The type of the arrays on GPUs."""
    return _cupy.ndarray  # type: ignore[no-any-return]


def device_of(array: Any) -> str:
    """The name of the GPU that holds the array."""
    return name_of(array.device.id)


def on(index: int) -> contextlib.AbstractContextManager[Any]:
    """Makes a GPU the current one, on which CuPy makes arrays and runs kernels."""
    return _cupy.cuda.Device(index)  # type: ignore[no-any-return]


def elsewhere(array: Any) -> contextlib.AbstractContextManager[Any] | None:
    """What makes the array's GPU the current one; None where it is that already, or for an array of the host."""
    if not is_array(array) or array.device.id == _cupy.cuda.runtime.getDevice():
        return None
    return array.device  # type: ignore[no-any-return]


def empty(shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
    """An uninitialised array from CuPy's pool on the current GPU; OutOfMemoryError where it has no more."""
    try:
        array = _cupy.empty(tuple(shape), dtype)
    except _cupy.cuda.memory.OutOfMemoryError as error:
        raise OutOfMemoryError(f"{name_of(_cupy.cuda.runtime.getDevice())}: {error}") from error
    if _poisons:
        array.data.memset_async(_POISON, array.nbytes)
    return array


def place(value: Any) -> Any:
    """A value of the host, an array or a number, as an array on the current GPU."""
    if is_array(value):
        return value
    capturing.refuse("it copies a value of the host to the GPU")
    return _cupy.asarray(value)


def share(source: Any) -> Any:
    """What has ``__cuda_array_interface__`` as an array on the same memory, ready for the current stream."""
    return source if is_array(source) else _cupy.asarray(source)


def repeats(array: Any) -> bool:
    """Whether elements share one place in memory, as after a broadcast; CuPy knows no read-only arrays."""
    return any(stride == 0 and length > 1 for stride, length in zip(array.strides, array.shape, strict=True))


def has_own_memory(array: Any) -> bool:
    """Whether CuPy has allocated an array's memory, and no other library."""
    return not isinstance(array.data.mem, _cupy.cuda.UnownedMemory)


def to_host(array: Any) -> NDArray[Any]:
    """A copy of the values in host memory, as NumPy's array, once the GPU has come so far."""
    capturing.refuse("it asks for values of a tensor (.item(), .numpy(), float(), if, print)")
    return array.get()  # type: ignore[no-any-return]


def write(target: Any, source: Any) -> None:
    """Overwrites an array on a GPU with one of the host or any GPU, broadcast and converted."""
    with target.device:
        if is_array(source):
            _cupy.copyto(target, _brought(source, target.device), casting="unsafe")
            return
        capturing.refuse("it copies values of the host to the GPU")
        host = np.asarray(np.broadcast_to(source, target.shape), dtype=target.dtype, order="C")
        if target.flags.c_contiguous:
            target.set(host)
        else:
            target[...] = _cupy.asarray(host)


def _brought(array: Any, device: Any) -> Any:
    """The array on another GPU, the current one: each GPU's stream waits for what the other's has to do before."""
    if array.device.id == device.id:
        return array
    capturing.refuse("it copies from one GPU to another")
    here = _cupy.cuda.get_current_stream(device.id)
    with array.device:
        source = _cupy.ascontiguousarray(array)
        written = _cupy.cuda.get_current_stream().record()
    here.wait_event(written)
    copy = _cupy.empty(array.shape, array.dtype)
    _cupy.copyto(copy, source)
    copied = here.record()
    with array.device:
        _cupy.cuda.get_current_stream().wait_event(copied)  # before its memory is given to somebody else
    return copy


# --- Graphs -----------------------------------------------------------------------------------------------------------


class Graph:
    """Work that was recorded from a stream and can be launched again, and the memory that it works in."""

    def __init__(self) -> None:
        self.pool = _cupy.cuda.MemoryPool()
        self._launchable: Any = None

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Within it nothing runs: what would, on the current GPU and by this thread, becomes this graph.

        Its memory comes from the graph's own pool, from which nobody else takes any.
        """
        outer, stream = _cupy.cuda.get_current_stream(), _cupy.cuda.Stream(non_blocking=True)
        stream.wait_event(outer.record())
        try:
            with stream, _cupy.cuda.using_allocator(self.pool.malloc):
                stream.begin_capture()
                try:
                    yield
                except BaseException:
                    with contextlib.suppress(_cupy.cuda.runtime.CUDARuntimeError):  # what went wrong has ended it
                        stream.end_capture()
                    raise
                self._launchable = stream.end_capture()
        finally:
            outer.wait_event(stream.record())

    def launch(self) -> None:
        """Starts the work on the current stream."""
        self._launchable.launch()


# --- Time, for `ie.profile()` ----------------------------------------------------------------------------------------


def record_event() -> Any:
    """An event on the current stream of the current GPU."""
    return _cupy.cuda.get_current_stream().record()


def milliseconds(start: Any, end: Any) -> float:
    """The time between two events, which is waited for."""
    end.synchronize()
    return float(_cupy.cuda.get_elapsed_time(start, end))


@contextlib.contextmanager
def marked(name: str) -> Iterator[None]:
    """A range of this name for NVIDIA's profilers (NVTX); nothing where CuPy has come without it."""
    nvtx: Any = getattr(_cupy.cuda, "nvtx", None)
    if not hasattr(nvtx, "RangePush"):
        yield
        return
    nvtx.RangePush(name)
    try:
        yield
    finally:
        nvtx.RangePop()


# --- The pool, by the names that the other devices' modules have ------------------------------------------------------


def _set_poison(poison: bool) -> None:
    """Whether new arrays are filled with NaN, so that what a kernel forgets to write shows."""
    global _poisons
    _poisons = poison


_POOL = {
    "pool_trim": lambda: _cupy.get_default_memory_pool().free_all_blocks(),
    "pool_limit": lambda size: _cupy.get_default_memory_pool().set_limit(size=size),
    "pool_poison": _set_poison,
    "pool_used": lambda: _cupy.get_default_memory_pool().used_bytes(),
    "pool_cached": lambda: _cupy.get_default_memory_pool().free_bytes(),
}
