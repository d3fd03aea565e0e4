"""The base of all layers and models: a tree of modules that holds parameters and buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self, TypeVar

from imgrec_engine import capturing
from imgrec_engine.autograd import no_grad
from imgrec_engine.device import as_array, check, is_name
from imgrec_engine.dtypes import as_dtype, is_floating
from imgrec_engine.errors import CheckpointError, DTypeError
from imgrec_engine.nn.summary import summary
from imgrec_engine.tensor import Tensor, named_targets

Kind = TypeVar("Kind", bound=Tensor)


class Parameter(Tensor):
    """A tensor that a module learns: attributes of this type are found by ``Module.parameters()``.

    >>> import imgrec_engine as ie
    >>> ie.nn.Parameter(ie.zeros(2))
    tensor([0., 0.], dtype=float32, requires_grad=True)
    """

    __slots__ = ()

    def __init__(self, data: Tensor, requires_grad: bool = True) -> None:
        if not isinstance(data, Tensor):
            raise TypeError(f"Parameter: data is of type {type(data).__name__}, expected a Tensor")
        super().__init__(data._array, requires_grad)
        self._version = data._version


class Buffer(Tensor):
    """A tensor that a module keeps in its state without learning it, such as running statistics."""

    __slots__ = ()

    def __init__(self, data: Tensor) -> None:
        super().__init__(data._array)
        self._version = data._version


class IncompatibleKeys(NamedTuple):
    """What ``load_state_dict(..., strict=False)`` passed over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class RemovableHandle:
    """A hook of a module; ``remove`` takes it away again."""

    def __init__(self, module: Module, hook: Callable[[Module, tuple[Any, ...], Any], Any]) -> None:
        self.module = module
        self.hook = hook

    def remove(self) -> None:
        """The module calls the hook no longer."""
        self.module._forward_hooks = tuple(handle for handle in self.module._forward_hooks if handle is not self)


class Module:
    """Base class of every layer and model. A subclass sets its parts as attributes and defines ``forward``.

    Attributes that are a `Parameter`, a `Buffer` or a `Module` belong to the module; nothing has to be registered.

    >>> import imgrec_engine as ie
    >>> from imgrec_engine import nn
    >>> class Scale(nn.Module):
    ...     def __init__(self, features):
    ...         self.gain = nn.Parameter(ie.ones(features))
    ...     def forward(self, x):
    ...         return x * self.gain
    >>> scale = Scale(3)
    >>> scale(ie.full((2, 3), 5)).shape, [name for name, _ in scale.named_parameters()]
    ((2, 3), ['gain'])
    """

    training = True
    _forward_hooks: tuple[RemovableHandle, ...] = ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the result; calling the module calls this."""
        raise NotImplementedError(f"{type(self).__name__} has no forward method")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs ``forward``, then the hooks."""
        output = self.forward(*args, **kwargs)
        for handle in self._forward_hooks:
            replaced = handle.hook(self, args, output)
            output = output if replaced is None else replaced
        return output

    def __setattr__(self, name: str, value: Any) -> None:
        current = vars(self).get(name)
        if type(value) is Tensor:
            if isinstance(current, Parameter):
                raise TypeError(
                    f"{type(self).__name__}.{name} is a parameter and a plain Tensor would hide it from the optimiser; "
                    "assign an nn.Parameter, or write into it with `with no_grad(): ....copy_(value)`"
                )
            if isinstance(current, Buffer):
                value = Buffer(value)
        super().__setattr__(name, value)

    def register_buffer(self, name: str, tensor: Tensor) -> None:
        """Sets an attribute that is saved with the state and follows ``to``, but is not learned."""
        setattr(self, name, Buffer(tensor))

    def register_forward_hook(self, hook: Callable[[Module, tuple[Any, ...], Any], Any]) -> RemovableHandle:
        """Calls ``hook(module, args, output)`` after each ``forward``; what it returns, if not None, is the new output.

        >>> import imgrec_engine as ie
        >>> layer = ie.nn.ReLU()
        >>> handle = layer.register_forward_hook(lambda module, args, output: print(output.shape))
        >>> y = layer(ie.zeros((2, 3)))
        (2, 3)
        >>> handle.remove()
        """
        handle = RemovableHandle(self, hook)
        self._forward_hooks = (*self._forward_hooks, handle)
        return handle

    # --- its parts ----------------------------------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly in this one, with their attribute names."""
        return ((name, value) for name, value in vars(self).items() if isinstance(value, Module))

    def children(self) -> Iterator[Module]:
        """The modules directly in this one."""
        return (child for _, child in self.named_children())

    def _paths(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Every place in the tree, parents first; a module that has two places comes twice."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child._paths(f"{prefix}.{name}" if prefix else name)

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """The module itself (named ``""``) and all below it, each once, with dotted names."""
        seen: set[int] = set()
        for path, module in self._paths():
            if id(module) not in seen:
                seen.add(id(module))
                yield path, module

    def modules(self) -> Iterator[Module]:
        """The module itself and all below it, each once."""
        return (module for _, module in self.named_modules())

    def _named_tensors(self, kind: type[Kind]) -> Iterator[tuple[str, Kind]]:
        """Every tensor of a kind in every place of the tree, with its dotted name."""
        for path, module in self._paths():
            for name, value in vars(module).items():
                if isinstance(value, kind):
                    yield (f"{path}.{name}" if path else name), value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters, each once, with dotted names."""
        return _once(self._named_tensors(Parameter))

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, each once: what an optimiser takes."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """All buffers, each once, with dotted names."""
        return _once(self._named_tensors(Buffer))

    def buffers(self) -> Iterator[Buffer]:
        """All buffers, each once."""
        return (buffer for _, buffer in self.named_buffers())

    # --- its state ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers by dotted name, sharing this module's memory. The names are PyTorch's."""
        return {name: tensor.detach() for name, tensor in self._named_state()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copies arrays or tensors into the parameters and buffers of the same names, converting dtypes.

        Raises CheckpointError that lists every missing key, unexpected key (these two unless ``strict`` is false) and
        wrong shape; then nothing has been overwritten.
        """
        own = dict(self._named_state())
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        arrays = {name: as_array(state_dict[name]) for name in own if name in state_dict}
        reshaped = [
            f"{name} {array.shape}, expected {own[name].shape}"
            for name, array in arrays.items()
            if array.shape != own[name].shape
        ]
        problems = [("wrong shapes: ", reshaped)]
        if strict:
            problems = [("missing keys: ", missing), ("unexpected keys: ", unexpected), *problems]
        found = "; ".join(what + ", ".join(names) for what, names in problems if names)
        if found:
            raise CheckpointError(f"load_state_dict: the state does not fit {type(self).__name__}: {found}")
        with no_grad():
            for name, array in arrays.items():
                own[name].copy_(array)
        return IncompatibleKeys(missing, unexpected)

    def _named_state(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, value) for name, value in self._named_tensors(Tensor) if isinstance(value, (Parameter, Buffer)))

    # --- what is done to all of it ------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Training mode for this module and all below it: dropout drops, batch statistics are used and tracked."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Evaluation mode: the opposite of ``train``."""
        return self.train(False)

    def apply(self, function: Callable[[Module], Any]) -> Self:
        """Calls a function with every module below this one, children first, then with this one."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def to(self, *targets: Any, device: str | None = None, dtype: Any = None) -> Self:
        """Moves parameters and buffers to a device, the floating ones of them to a floating dtype, or both.

        The tensors stay the same objects, so an optimiser made before goes on working.
        """
        targets = (*targets, *named_targets(device, dtype))
        devices = [check(target) for target in targets if is_name(target)]
        dtypes = [as_dtype(target) for target in targets if not is_name(target)]
        for dtype in dtypes:
            if not is_floating(dtype):
                raise DTypeError(f"{type(self).__name__}.to: dtype is {dtype.name}, expected a floating one")
        for _, tensor in self._named_state():
            wanted = [*devices, *dtypes] if is_floating(tensor.dtype) else devices
            tensor._array = tensor.detach().to(*wanted)._array
            tensor._version.advance()
            if tensor.grad is not None:
                tensor.grad = tensor.grad.to(*wanted)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Sets whether all parameters collect gradients; false freezes them."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self) -> None:
        """Forgets the gradients of all parameters."""
        for parameter in self.parameters():
            capturing.note_zeroed(parameter)
            parameter.grad = None

    # --- how it is shown ----------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """The arguments to show between the parentheses of ``repr``."""
        return ""

    def __repr__(self) -> str:
        return summary(self)


def _once(named: Iterator[tuple[str, Kind]]) -> Iterator[tuple[str, Kind]]:
    """The first occurrence of each tensor."""
    seen: set[int] = set()
    for name, tensor in named:
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor
