"""The array, the functions that make arrays, and what all operations are held to."""

import functools
import types

import numpy as np

from standin_cupy.gpu import (
    Block,
    Device,
    MemoryPointer,
    UnownedMemory,
    forbid_capture,
    get_current_stream,
    is_pinned,
    note_copy,
    thread,
)

ALIGNMENT = 512

cupy = types.ModuleType("cupy")


class ndarray:  # noqa: N801
    __array_priority__ = 100

    def __init__(self, host, device_id, block, base=None):
        self._host, self._device_id, self._block, self.base = host, device_id, block, base

    shape = property(lambda self: self._host.shape)
    strides = property(lambda self: self._host.strides)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    device = property(lambda self: Device(self._device_id))
    T = property(lambda self: self.transpose())

    @property
    def data(self):
        stream = get_current_stream(self._device_id)
        self._block.use(stream)
        if stream.capture is not None:
            stream.capture.hosts.append(self._host)
        return MemoryPointer(self._host, self._device_id, self._block)

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
        self._block.use(get_current_stream(self._device_id))
        get_current_stream(self._device_id).synchronize()
        return np.array(self._host, order=order)

    def set(self, source, stream=None):
        stream = stream or get_current_stream(self._device_id)
        forbid_capture(stream)
        if source.dtype != self.dtype or source.shape != self.shape:
            raise ValueError(f"{source.dtype} {source.shape} cannot be set into {self.dtype} {self.shape}")
        assert source.flags.c_contiguous
        assert self._host.flags.c_contiguous
        self._block.use(stream)
        if is_pinned(source):
            note_copy(source, stream)
        stream.issue(functools.partial(np.copyto, self._host, source))
        if not is_pinned(source):
            stream.synchronize()

    def item(self):
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def fill(self, value):
        check([self, value])
        perform(functools.partial(self._host.fill, value))

    def __getitem__(self, index):
        check([self, *(index if isinstance(index, tuple) else (index,))])
        places = plain(index)
        for part in places if type(places) is tuple else (places,):
            if isinstance(part, np.ndarray) and part.dtype.kind == "b":  # the result's length is the host's to know
                forbid_capture(get_current_stream())
        return compute(lambda: self._host[wrapped(places, self.shape)], self)

    def __setitem__(self, index, value):
        check([self, value, *(index if isinstance(index, tuple) else (index,))])
        perform(functools.partial(self._host.__setitem__, plain(index), plain(value)))

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
        described = {
            **self._host.__array_interface__,
            "version": 3,
            "stream": get_current_stream(self._device_id).ptr or 1,
        }
        return {**described, "strides": None if self._host.flags.c_contiguous else self.strides}

    def __dlpack_device__(self):
        return 2, self._device_id

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if stream not in (None, get_current_stream(self._device_id).ptr or 1):
            raise NotImplementedError("the stand-in shares arrays on the current stream only")
        return types.SimpleNamespace(shares=self.copy() if copy else self)


def wrapped(places, shape):
    """An index in which arrays of integers are taken around the end of their axes, as CuPy takes them."""
    parts = list(places) if type(places) is tuple else [places]
    taken = [_axes_taken(part) for part in parts]
    axis = 0
    for i, part in enumerate(parts):
        if part is Ellipsis:
            axis = len(shape) - sum(taken[i:])
        elif isinstance(part, np.ndarray) and part.dtype.kind in "iu":
            parts[i] = part.astype(np.int64) % max(shape[axis], 1)
        axis += taken[i]
    return tuple(parts)


def _axes_taken(part):
    if part is None or part is Ellipsis:
        return 0
    return part.ndim if isinstance(part, np.ndarray) and part.dtype.kind == "b" else 1


def _method(name, *allowed):
    def method(self, *args, **kwargs):
        check([self, *args, *kwargs.values()], kwargs, allowed)
        given = {key: plain(value) for key, value in kwargs.items()}
        work = functools.partial(getattr(self._host, name), *map(plain, args), **given)
        if "out" in kwargs:
            perform(work)
            return kwargs["out"]
        return compute(work, self)

    setattr(ndarray, name, method)


for _name in ("reshape", "ravel", "transpose", "swapaxes", "squeeze", "view"):
    _method(_name)
_method("astype", "order", "copy")
_method("copy", "order")
for _name in ("sum", "cumsum"):
    _method(_name, "axis", "dtype", "out", "keepdims")
for _name in ("all", "any"):
    _method(_name, "axis", "keepdims")


def _take(self, indices, axis, out):
    check([self, indices, out], {"axis": axis}, ["axis"])
    perform(lambda: np.take(self._host, indices._host % self.shape[axis], axis, out._host))


ndarray.take = _take


def check(values, kwargs=(), allowed=()):
    """Refuses what CuPy refuses, and arrays of another GPU than the current one."""
    if not set(kwargs) <= {*allowed, "out"}:
        raise TypeError(f"got an unexpected keyword argument among {sorted(kwargs)}")
    for value in values:
        if isinstance(value, (list, tuple)):
            check(value)
        elif isinstance(value, np.ndarray):
            raise TypeError(f"Unsupported type {type(value)}")
        elif isinstance(value, ndarray) and value._device_id != thread.device:
            raise RuntimeError(
                f"an array of GPU {value._device_id} is used while GPU {thread.device} is the current one"
            )
        elif isinstance(value, ndarray):
            value._block.use(get_current_stream())
    get_current_stream().run(get_current_stream().issued)  # operations come after what their stream had to do before


def plain(value):
    if isinstance(value, ndarray):
        return value._host
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value


def perform(work):
    """Does what changes memory; a capturing stream notes it."""
    capture = get_current_stream().capture
    work() if capture is None else capture.works.append(work)


def compute(work, *sources):
    """A function's result as arrays: views of a source, or memory of the pool, which a capture leaves unwritten."""
    result = work()
    if isinstance(result, (list, tuple)):
        return type(result)(_wrap(item, lambda i=i: work()[i], sources) for i, item in enumerate(result))
    return _wrap(result, work, sources)


def _wrap(result, again, sources):
    host = np.asarray(result)
    for source in sources:
        if isinstance(source, ndarray) and host.base is not None and np.may_share_memory(host, source._host):
            return ndarray(host, source._device_id, source._block, source if source.base is None else source.base)
    array = empty(host.shape, host.dtype, strides_of=host)
    if get_current_stream().capture is None:
        np.copyto(array._host, host)
    else:
        perform(lambda: np.copyto(array._host, again()))
    return array


def empty(shape, dtype=float, strides_of=None):
    """Memory of the pool, filled with NaN; rows may lie as those of an array of NumPy do."""
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    block = Block(size)
    memory = np.full(size + ALIGNMENT, 0xFF, np.uint8)
    start = -memory.__array_interface__["data"][0] % ALIGNMENT
    strides = None
    if strides_of is not None and not strides_of.flags.c_contiguous and size:
        strides = np.empty_like(strides_of).strides
    return ndarray(np.ndarray(shape, dtype, memory[start:], strides=strides), thread.device, block)


def asarray(source, dtype=None):
    if isinstance(source, ndarray):
        return source if dtype in (None, source.dtype) else source.astype(dtype)
    if hasattr(source, "__cuda_array_interface__"):
        described = source.__cuda_array_interface__
        shared = np.asarray(types.SimpleNamespace(__array_interface__=described))
        return ndarray(shared, thread.device, UnownedMemory(source))
    forbid_capture(get_current_stream())
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
        for array in (source, target):
            array._block.use(get_current_stream())
    else:
        check([target, source])
    perform(functools.partial(np.copyto, target._host, source._host, casting=casting))
