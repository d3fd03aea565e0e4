"""A stand-in for CuPy on machines without a GPU: its interface as far as the package uses it, on memory of the host.

It is as strict as CuPy, or stricter where CuPy is silent and wrong: arrays do not become NumPy's by themselves, nor mix
with them; what CuPy lacks for bfloat16 is lacking; operations want their arrays on the current GPU (there are two). A
stream other than the default one puts copies from pinned memory off until somebody waits for them, so that what does not
wait reads NaN, and a pinned buffer that is used again too early spoils the copy.

`pytest -p standin_cupy` installs it as `cupy`, with the simulator's kernels as `imgrec_engine._cuda`.
"""

import contextlib
import ctypes
import functools
import importlib
import sys
import threading
import types
import weakref

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
GPUS = 2
ALIGNMENT = 512

cupy = types.ModuleType("cupy")


class _Thread(threading.local):
    def __init__(self):
        self.device = 0
        self.streams = [Stream.null] * GPUS


# --- Devices, streams, events -----------------------------------------------------------------------------------------


class Device:
    compute_capability = "90"
    attributes = types.MappingProxyType({"MultiProcessorCount": 4, "MaxSharedMemoryPerBlockOptin": 99 * 1024})

    def __init__(self, index=None):
        self.id = _thread.device if index is None else index
        self._before = []

    def __enter__(self):
        self._before.append(_thread.device)
        _thread.device = self.id
        return self

    def __exit__(self, *_):
        _thread.device = self._before.pop()


class Event:
    def __init__(self, block=False, disable_timing=False):
        self._recorded = None

    def record(self, stream=None):
        stream = stream or get_current_stream()
        self._recorded = stream, stream.issued

    def synchronize(self):
        if self._recorded is None:
            raise RuntimeError("an event is waited for that was never recorded")
        stream, issued = self._recorded
        stream.run(issued)


class Stream:
    null = None
    _made = 0

    def __init__(self, null=False, non_blocking=False):
        Stream._made += not null
        self.ptr = 0 if null else 0x1000 + Stream._made
        self.issued = self._done = 0
        self._waiting = []

    def issue(self, work):
        self.issued += 1
        self._waiting.append(work)
        if self.ptr == 0:
            self.run(self.issued)

    def run(self, until):
        while self._done < until:
            self._done += 1
            self._waiting.pop(0)()

    def synchronize(self):
        self.run(self.issued)

    def wait_event(self, event):
        event.synchronize()

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def __enter__(self):
        self._before = get_current_stream()
        _thread.streams[_thread.device] = self
        return self

    def __exit__(self, *_):
        _thread.streams[_thread.device] = self._before


Stream.null = Stream(null=True)
_thread = _Thread()


def get_current_stream(device_id=-1):
    return _thread.streams[_thread.device if device_id < 0 else device_id]


# --- Memory -----------------------------------------------------------------------------------------------------------


class OutOfMemoryError(MemoryError):
    pass


class MemoryPool:
    limit = 0

    def __init__(self):
        self._used = 0
        self._lock = threading.RLock()

    def take(self, size):
        with self._lock:
            if self.limit and self._used + size > self.limit:
                raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (allocated so far: {self._used:,} bytes)")
            self._used += size

    def give_back(self, size):
        with self._lock:
            self._used -= size

    def set_limit(self, size=None):
        self.limit = size or 0

    def used_bytes(self):
        return self._used

    def free_bytes(self):
        return 0

    def free_all_blocks(self):
        pass


_pools = [MemoryPool() for _ in range(GPUS)]


def get_default_memory_pool():
    return _pools[_thread.device]


class PinnedMemory(bytearray):
    pass


def _is_pinned(array):
    while isinstance(array, (np.ndarray, memoryview)):
        array = array.base if isinstance(array, np.ndarray) else array.obj
    return isinstance(array, PinnedMemory)


class MemoryPointer:
    def __init__(self, host, device_id):
        self._host = host
        self.ptr = host.__array_interface__["data"][0]
        self.device_id = device_id

    def memset_async(self, value, size):
        ctypes.memset(self.ptr, value, size)


# --- Arrays -----------------------------------------------------------------------------------------------------------


class ndarray:  # noqa: N801
    __array_priority__ = 100

    def __init__(self, host, device_id, base=None):
        self._host, self._device_id, self.base = host, device_id, base

    shape = property(lambda self: self._host.shape)
    strides = property(lambda self: self._host.strides)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    device = property(lambda self: Device(self._device_id))
    data = property(lambda self: MemoryPointer(self._host, self._device_id))
    T = property(lambda self: self.transpose())

    @property
    def flags(self):
        flags = self._host.flags
        return types.SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous)

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        function = getattr(cupy, ufunc.__name__, None)
        if method != "__call__" or function is None:
            return NotImplemented
        (out,) = kwargs.pop("out", (None,))
        return function(*inputs, out=out, **kwargs)

    def __array_function__(self, function, kinds, args, kwargs):
        own = getattr(cupy, function.__name__, None)
        return NotImplemented if own is None else own(*args, **kwargs)

    def get(self, stream=None, order="C", out=None, blocking=True):
        get_current_stream(self._device_id).synchronize()
        return np.array(self._host, order=order)

    def set(self, source, stream=None):
        stream = stream or get_current_stream(self._device_id)
        if source.dtype != self.dtype or source.shape != self.shape:
            raise ValueError(f"{source.dtype} {source.shape} cannot be set into {self.dtype} {self.shape}")
        assert source.flags.c_contiguous
        assert self._host.flags.c_contiguous
        stream.issue(functools.partial(np.copyto, self._host, source))
        if not _is_pinned(source):
            stream.synchronize()

    def item(self):
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def fill(self, value):
        _check([self, value])
        self._host.fill(value)

    def __getitem__(self, index):
        _check([self, *(index if isinstance(index, tuple) else (index,))])
        try:
            return _wrap(self._host[_plain(index)], self)
        except IndexError as error:
            if "out of bounds" in str(error) and "array" in repr(index):
                raise RuntimeError("CuPy takes an index out of bounds for another one") from error
            raise

    def __setitem__(self, index, value):
        _check([self, value, *(index if isinstance(index, tuple) else (index,))])
        self._host[_plain(index)] = _plain(value)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __len__(self):
        return len(self._host)

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __format__(self, specification):
        return format(self.get(), specification)

    def __repr__(self):
        return f"array of {self.dtype} {self.shape} on GPU {self._device_id}"

    __hash__ = None

    @property
    def __cuda_array_interface__(self):
        described = {**self._host.__array_interface__, "version": 3, "stream": get_current_stream(self._device_id).ptr or 1}
        return {**described, "strides": None if self._host.flags.c_contiguous else self.strides}

    def __dlpack_device__(self):
        return 2, self._device_id

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        assert stream is None or isinstance(stream, int)
        get_current_stream(self._device_id).synchronize()  # more than the consumer's stream waiting for it
        return types.SimpleNamespace(shares=self.copy() if copy else self)


def _method(name, *allowed):
    def method(self, *args, **kwargs):
        _check([self, *args, *kwargs.values()], kwargs, allowed)
        return _wrap(getattr(self._host, name)(*map(_plain, args), **{k: _plain(v) for k, v in kwargs.items()}), self)

    setattr(ndarray, name, method)


for _name in ("reshape", "ravel", "transpose", "swapaxes", "squeeze", "view"):
    _method(_name)
_method("astype", "order", "copy")
_method("copy", "order")
_method("take", "axis", "out")
for _name in ("sum", "cumsum"):
    _method(_name, "axis", "dtype", "out", "keepdims")
for _name in ("all", "any"):
    _method(_name, "axis", "keepdims")


def _check(values, kwargs=(), allowed=()):
    """Refuses what CuPy refuses, and arrays of another GPU than the current one."""
    if not set(kwargs) <= {*allowed, "out"}:
        raise TypeError(f"got an unexpected keyword argument among {sorted(kwargs)}")
    for value in values:
        if isinstance(value, (list, tuple)):
            _check(value)
        elif isinstance(value, np.ndarray):
            raise TypeError(f"Unsupported type {type(value)}")
        elif isinstance(value, ndarray) and value._device_id != _thread.device:
            raise RuntimeError(f"an array of GPU {value._device_id} is used while GPU {_thread.device} is the current one")
    get_current_stream().synchronize()  # operations come after what their own stream had to do before


def _plain(value):
    if isinstance(value, ndarray):
        return value._host
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _wrap(result, *sources):
    """A result as arrays: a view of a source, or memory of the pool."""
    if isinstance(result, (list, tuple)):
        return type(result)(_wrap(item, *sources) for item in result)
    host = np.asarray(result)
    for source in sources:
        if isinstance(source, ndarray) and host.base is not None and np.may_share_memory(host, source._host):
            return ndarray(host, source._device_id, source if source.base is None else source.base)
    array = empty(host.shape, host.dtype, strides_of=host)
    array._host[...] = host
    return array


def empty(shape, dtype=float, strides_of=None):
    """Memory of the pool, filled with NaN; rows may lie as those of an array of NumPy do."""
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    pool = get_default_memory_pool()
    pool.take(size)
    try:
        memory = np.full(size + ALIGNMENT, 0xFF, np.uint8)
    except BaseException:
        pool.give_back(size)
        raise
    weakref.finalize(memory, pool.give_back, size)
    start = -memory.__array_interface__["data"][0] % ALIGNMENT
    strides = None
    if strides_of is not None and not strides_of.flags.c_contiguous and size:
        strides = np.empty_like(strides_of).strides
    return ndarray(np.ndarray(shape, dtype, memory[start:], strides=strides), _thread.device)


def asarray(source, dtype=None):
    if isinstance(source, ndarray):
        return source if dtype in (None, source.dtype) else source.astype(dtype)
    if hasattr(source, "__cuda_array_interface__"):
        described = source.__cuda_array_interface__
        shared = np.asarray(types.SimpleNamespace(__array_interface__=described))
        return ndarray(shared, _thread.device, source)
    host = np.asarray(source, dtype)
    array = empty(host.shape, host.dtype)
    array._host[...] = host
    return array


def from_dlpack(source, copy=None):
    capsule = source.__dlpack__(stream=get_current_stream().ptr or 1, max_version=(1, 0), dl_device=None, copy=copy)
    return capsule.shares[...]


def copyto(target, source, casting="same_kind"):
    same = target.dtype == source.dtype and target.shape == source.shape
    if target._device_id != source._device_id:
        assert same
        assert target._host.flags.c_contiguous
        assert source._host.flags.c_contiguous
        get_current_stream(source._device_id).synchronize()
    else:
        _check([target, source])
    np.copyto(target._host, source._host, casting=casting)


# --- Functions --------------------------------------------------------------------------------------------------------


def _function(name, *allowed):
    numpy_function = getattr(np, name)

    @functools.wraps(numpy_function)
    def function(*args, **kwargs):
        _check([*args, *kwargs.values()], kwargs, allowed)
        out = kwargs.get("out")
        with np.errstate(all="ignore"):
            result = numpy_function(*map(_plain, args), **{k: _plain(v) for k, v in kwargs.items() if v is not None})
        return _wrap(result, *args) if out is None else out

    setattr(cupy, name, function)
    return function


def _without_bfloat16(name, *allowed, refuses=False):
    """A function that has no loop for bfloat16: it gives float32, or refuses."""
    function = _function(name, *allowed)

    def narrow(*args, **kwargs):
        has = [getattr(value, "dtype", None) == BFLOAT16 for value in (*args, *kwargs.values())]
        if refuses and any(has):
            raise TypeError(f"Wrong type (bfloat16) of arguments for cupy_{name}")
        if refuses and any(isinstance(value, ndarray) and value.size == 0 for value in args):
            raise ValueError(f"zero-size array to reduction operation cupy_{name} which has no identity")
        if name == "where" and not isinstance(args[0], ndarray):
            raise TypeError(f"Unsupported type {type(args[0])}")
        return function(*(arg.astype(np.float32) if is_ else arg for arg, is_ in zip(args, has, strict=False)), **kwargs)

    setattr(cupy, name, narrow)


for _name in (
    "add subtract multiply true_divide divide power maximum minimum negative exp log sqrt sin cos tanh sign absolute "
    "equal not_equal less less_equal greater greater_equal logical_and logical_or logical_not isfinite isnan remainder "
    "invert arange moveaxis expand_dims split flatnonzero ascontiguousarray take_along_axis broadcast_to"
).split():
    _function(_name, "axis")
for _name, _allowed in {
    "concatenate": ["axis", "casting"],
    "stack": ["axis", "casting"],
    "pad": ["constant_values"],
    "flip": ["axis"],
    "argsort": ["kind"],
    "diff": ["prepend"],
    "cumsum": ["axis", "dtype"],
    "all": ["axis", "keepdims"],
    "any": ["axis", "keepdims"],
    "zeros_like": [],
    "ones_like": [],
}.items():
    _function(_name, *_allowed)
for _name in ("max", "min", "argmax", "argmin"):
    _without_bfloat16(_name, "axis", "keepdims", refuses=True)
for _name in ("where", "clip"):
    _without_bfloat16(_name)


ndarray.max = lambda self: cupy.max(self)
ndarray.min = lambda self: cupy.min(self)


def _operator(symbol, name):
    def forward(self, other):
        return getattr(cupy, name)(self, other)

    def backward(self, other):
        return getattr(cupy, name)(other, self)

    def in_place(self, other):
        return getattr(cupy, name)(self, other, out=self)

    for prefix, operator in (("", forward), ("r", backward), ("i", in_place)):
        setattr(ndarray, f"__{prefix}{symbol}__", operator)


for _symbol, _name in {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "mod": "remainder",
    "pow": "power",
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}.items():
    _operator(_symbol, _name)
ndarray.__neg__ = lambda self: cupy.negative(self)
ndarray.__invert__ = lambda self: cupy.invert(self)


# --- cuBLAS, and what is installed ------------------------------------------------------------------------------------

_DTYPES = {0: np.dtype(np.float32), 1: np.dtype(np.float64), 2: np.dtype(np.float16), 14: BFLOAT16}
_COMPUTE = {68: np.float32, 70: np.float64}


def gemm_strided_batched_ex(
    handle, transa, transb, m, n, k, alpha, a, a_type, lda, stride_a, b, b_type, ldb, stride_b, beta, c, c_type, ldc,
    stride_c, batch, compute, algorithm,
):  # fmt: skip
    """Its matrices lie by columns: element (i, j) of one is at i + j ld."""

    def matrices(address, code, rows, columns, step, stride):
        if step < max(1, rows):
            raise RuntimeError("CUBLAS_STATUS_INVALID_VALUE")
        dtype = _DTYPES[code]
        last = (batch - 1) * stride + (columns - 1) * step + rows
        memory = (ctypes.c_char * (last * dtype.itemsize)).from_address(address)
        strides = (stride * dtype.itemsize, dtype.itemsize, step * dtype.itemsize)
        return np.ndarray((batch, rows, columns), dtype, memory, strides=strides)

    left = matrices(a, a_type, k, m, lda, stride_a).swapaxes(1, 2) if transa else matrices(a, a_type, m, k, lda, stride_a)
    right = matrices(b, b_type, n, k, ldb, stride_b).swapaxes(1, 2) if transb else matrices(b, b_type, k, n, ldb, stride_b)
    wide = _COMPUTE[compute]
    assert np.ctypeslib.as_array((ctypes.c_char * 8).from_address(alpha)).size
    matrices(c, c_type, m, n, ldc, stride_c)[...] = (left.astype(np.float64) @ right.astype(np.float64)).astype(wide)


def install():
    """Puts the stand-ins where the package imports CuPy and its own module of CUDA kernels from."""
    runtime = types.SimpleNamespace(
        CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}),
        driverGetVersion=lambda: 13000,
        getDeviceCount=lambda: GPUS,
        getDevice=lambda: _thread.device,
        CUDA_R_32F=0,
        CUDA_R_64F=1,
        CUDA_R_16F=2,
        CUDA_R_16BF=14,
    )
    for own in (ndarray, empty, asarray, from_dlpack, copyto, get_default_memory_pool):
        setattr(cupy, own.__name__, own)
    cupy.__version__ = "14.2.0"
    cupy.cuda = types.SimpleNamespace(
        Device=Device,
        Event=Event,
        Stream=Stream,
        alloc_pinned_memory=PinnedMemory,
        get_cublas_handle=lambda: 1,
        get_current_stream=get_current_stream,
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=runtime,
    )
    sys.modules["cupy"] = cupy
    sys.modules["cupy_backends.cuda.libs.cublas"] = types.SimpleNamespace(
        gemmStridedBatchedEx=gemm_strided_batched_ex,
        CUBLAS_COMPUTE_32F=68,
        CUBLAS_COMPUTE_64F=70,
        CUBLAS_GEMM_DEFAULT=-1,
    )
    with contextlib.suppress(ImportError):
        sys.modules["imgrec_engine._cuda"] = importlib.import_module("imgrec_engine._sim")


install()
