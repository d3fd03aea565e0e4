"""CUDA graphs: `ie.capture(step)` records the launches of a training step once and then repeats them as one."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

from imgrec_engine import autograd, capturing, cuda, kernels, mixed_precision, observe, random
from imgrec_engine import device as devices
from imgrec_engine.debug import describe_arguments
from imgrec_engine.errors import CaptureError, DeviceError, ImgrecError
from imgrec_engine.tensor import Tensor

WARM_UPS = 2  # calls that run as they are: what is compiled, planned or allocated once is so before the capture

P = ParamSpec("P")
R = TypeVar("R")


def capture(step: Callable[P, R]) -> Callable[P, R]:
    """A function that does what ``step`` does and, on a GPU, repeats it as a CUDA graph from the third call on.

    ``step`` may hold forward and backward pass, clipping and the optimiser's step; it must begin with
    ``optimizer.zero_grad()`` where it has a backward pass. Where one of its arguments is a tensor on `cuda`, the first
    two calls for arguments of given shapes, dtypes and other values are ordinary ones, the third records a graph, and
    from then on each call copies its tensors to the graph's and launches it: Python runs no line of ``step`` any more.
    The results are the same tensors each time, with values that are valid until the next call. Everywhere else ``step``
    is simply called. docs/cuda.md says what may change between calls and what not.

    Raises:
        CaptureError: ``step`` does what a graph cannot repeat, as asking for values of a tensor; the message names it.
        DeviceError: tensors of several GPUs.

    >>> import imgrec_engine as ie
    >>> weight = ie.tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = ie.optim.SGD([weight], lr=0.5)
    >>> @ie.capture
    ... def step(x):
    ...     optimizer.zero_grad()
    ...     loss = (weight * x).sum()
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss
    >>> [step(ie.ones(2)).item() for _ in range(4)]
    [3.0, 2.0, 1.0, 0.0]

    """
    captured: dict[Any, _CapturedStep[R]] = {}

    @functools.wraps(step)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        gpu = _gpu_of([*args, *kwargs.values()])
        if gpu is None or capturing.current() is not None:
            return step(*args, **kwargs)
        modes = autograd.is_recording(), kernels.is_tf32_allowed(), mixed_precision.region.dtype
        key = (gpu, modes, _described(args), _described(kwargs))
        if key not in captured:
            captured[key] = _CapturedStep(step)
        with cuda.on(gpu):
            return captured[key](args, kwargs)

    return call


class _CapturedStep(Generic[R]):
    """A step for arguments of one kind, and its graph once there is one."""

    def __init__(self, step: Callable[..., R]) -> None:
        self.step = step
        self.name = getattr(step, "__name__", type(step).__name__)
        self.warm_ups = 0
        self.replay: _Replay[R] | None = None

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        if self.replay is not None and not self.replay.is_valid():
            self.replay = None
        if self.replay is None and self.warm_ups < WARM_UPS:
            self.warm_ups += 1
            return self.step(*args, **kwargs)
        replay = self.replay = self.replay or _Replay(self.step, args, kwargs)
        if not observe.observers:
            return replay(args, kwargs)
        arrays = [tensor._array for tensor in _tensors(args, kwargs)]
        result: R = observe.observed(self.name, "graph", lambda *_: replay(args, kwargs), arrays, {})
        return result


class _Replay(Generic[R]):
    """A graph, the tensors that it reads and writes, and what Python has to do around it."""

    def __init__(self, step: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        own_args = [_copied(value) for value in args]
        own_kwargs = {name: _copied(value) for name, value in kwargs.items()}
        self.inputs = _tensors(own_args, own_kwargs)
        self.random_state = random.state_on(self.inputs[0]._array)
        self.graph = cuda.Graph()
        with capturing.recording() as recording, observe.only(_naming), mixed_precision.without_casts():
            try:
                with self.graph.recorded():
                    self.result = step(*own_args, **own_kwargs)
            except Exception as error:
                if isinstance(error, ImgrecError):
                    raise
                raise CaptureError(f"capture: the step cannot be recorded: {error}") from error
            finally:
                self.gradients = [(leaf, leaf.grad) for leaf in recording.leaves.values()]
                for leaf, _ in self.gradients:
                    leaf.grad = None  # nothing was computed yet
        self.recording = recording
        self.guarded = self._guarded()

    def _guarded(self) -> list[Any]:
        return [value for guard in self.recording.guards for value in guard()]

    def is_valid(self) -> bool:
        """Whether what the graph has taken for granted is as it was."""
        now = self._guarded()
        return len(now) == len(self.guarded) and all(map(_is_same, now, self.guarded))

    def __call__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> R:
        self._check_gradients()
        for array, read in self.recording.numbers:
            array.fill(read())
        for own, given in zip(self.inputs, _tensors(args, kwargs), strict=True):
            devices.write(own._array, given._array)
        random.bring(self.random_state)
        self.graph.launch()
        for version in self.recording.versions:
            version.advance()
        for leaf, gradient in self.gradients:
            leaf.grad = gradient
        return self.result

    def _check_gradients(self) -> None:
        """CaptureError where an ordinary call would add to gradients and the graph overwrites them."""
        for leaf, _ in self.gradients:
            if leaf.grad is not None and id(leaf) not in self.recording.zeroed:
                raise CaptureError(
                    f"capture: a tensor of shape {leaf.shape} has a gradient, and had none when the step was captured; "
                    "call optimizer.zero_grad() at the step's beginning"
                )


@contextlib.contextmanager
def _naming(call: observe.Call) -> Iterator[None]:
    """An observer: errors of what is being captured name the operation."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ImgrecError) and not isinstance(error, CaptureError):
            raise
        name = f"backward of {call.name}" if call.phase == "backward" else call.name
        given = "" if call.phase == "optimizer" else describe_arguments(call.given, call.kwargs)
        reason = str(error).removeprefix("capture: ")
        raise CaptureError(f"capture: {name}({given}) cannot be recorded: {reason}") from error


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    return [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]


def _gpu_of(values: Sequence[Any]) -> int | None:
    """The number of the GPU of the tensors among a step's arguments; None where all are on the host."""
    places = sorted({value.device for value in values if isinstance(value, Tensor) and cuda.is_array(value._array)})
    if len(places) > 1:
        raise DeviceError(f"capture: the step's arguments are on {' and '.join(places)}, expected all on one GPU")
    return cuda.index_of(places[0]) if places else None


def _described(arguments: Any) -> Any:
    """What a graph depends on in the arguments of a step: of tensors all but the values."""
    if isinstance(arguments, dict):
        return tuple((name, _described((value,))) for name, value in arguments.items())
    return tuple(
        (value.shape, value.dtype, value.device, value.requires_grad) if isinstance(value, Tensor) else _hashable(value)
        for value in arguments
    )


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"capture: an argument of the step is of type {type(value).__name__}, expected tensors and values that can "
            "be hashed; give the tensors of a list one by one"
        ) from None
    return type(value), value


def _copied(value: Any) -> Any:
    """A tensor of the graph's own in place of the caller's."""
    if not isinstance(value, Tensor):
        return value
    if value.requires_grad:
        raise CaptureError(
            f"capture: an argument of shape {value.shape} requires a gradient, which would be lost with the copy that "
            "the graph works on; let the step find it as a variable of its surroundings"
        )
    return Tensor(value._array.copy())


def _is_same(now: Any, then: Any) -> bool:
    if isinstance(now, kernels.ARRAYS):
        return now is then
    return type(now) is type(then) and bool(now == then)
