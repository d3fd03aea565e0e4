"""What all optimisers share: parameter groups, state, and the loop of a step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from imgrec_engine import capturing, observe
from imgrec_engine.autograd import no_grad
from imgrec_engine.device import contiguous, empty, on
from imgrec_engine.dtypes import float64
from imgrec_engine.errors import CheckpointError
from imgrec_engine.tensor import Tensor, tensor

Group = dict[str, Any]


class Optimizer:
    """Base of every optimiser. A subclass defines ``update``, which changes one parameter, or ``update_together``.

    ``parameters`` is an iterable of tensors that require gradients, or of dicts, each with such an iterable under
    "params" and its own values for some of the ``defaults``. ``param_groups`` holds one dict for each; schedulers
    change the "lr" in it. ``state`` holds a dict of tensors for each parameter.

    >>> import imgrec_engine as ie
    >>> class SignDescent(Optimizer):
    ...     def __init__(self, parameters, lr):
    ...         super().__init__(parameters, {"lr": lr})
    ...     def update(self, parameter, gradient, state, group):
    ...         parameter.copy_(parameter.numpy() - group["lr"] * np.sign(gradient.numpy()))
    >>> import numpy as np
    >>> x = ie.tensor([3.0], requires_grad=True)
    >>> optimizer = SignDescent([x], lr=0.5)
    >>> (x * x).sum().backward()
    >>> optimizer.step()
    >>> x.numpy()
    array([2.5], dtype=float32)
    """

    def __init__(self, parameters: Iterable[Tensor] | Iterable[Group], defaults: Group) -> None:
        self.defaults = defaults
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self.param_groups: list[Group] = []
        given: list[Any] = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        for group in given if given and isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)

    def add_param_group(self, group: Group) -> None:
        """Adds parameters; what the dict does not say is taken from the defaults."""
        name = type(self).__name__
        parameters = group["params"]
        parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        if not parameters:
            raise ValueError(f"{name}: an empty list of parameters")
        known = {id(parameter) for other in self.param_groups for parameter in other["params"]}
        for position, parameter in enumerate(parameters):
            what = f"{name}: parameter {position} of group {len(self.param_groups)}"
            if not isinstance(parameter, Tensor):
                raise TypeError(f"{what} is of type {type(parameter).__name__}, expected a Tensor")
            if not parameter.is_leaf:
                raise ValueError(f"{what} is the result of {parameter._node.name}; only leaves can be optimised")
            if id(parameter) in known:
                raise ValueError(f"{what}, of shape {parameter.shape}, is there twice")
            known.add(id(parameter))
        self.param_groups.append({**self.defaults, **group, "params": parameters})

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first group."""
        return float(self.param_groups[0]["lr"])

    def zero_grad(self) -> None:
        """Forgets the gradients of all parameters."""
        for group in self.param_groups:
            for parameter in group["params"]:
                capturing.note_zeroed(parameter)
                parameter.grad = None

    @no_grad()
    @observe.optimizer_step
    def step(self) -> None:
        """Updates every parameter that has a gradient."""
        recording = capturing.current()
        known = {id(parameter) for parameter, state in self.state.items() if state} if recording is not None else set()
        for group in self.param_groups:
            for parameters in self._alike(group["params"]):
                with on(parameters[0]._array):
                    self.update_together(parameters, group)
                for parameter in parameters:
                    parameter._wrote()
        if recording is not None:
            self._tell(recording, known)

    def _alike(self, parameters: Iterable[Tensor]) -> Iterable[list[Tensor]]:
        """Those with a gradient, in lists of one device and dtype; their state comes along where they have moved."""
        lists: dict[tuple[str, Any], list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                device = parameter.device
                lists.setdefault((device, parameter.dtype), []).append(parameter)
                state = self.state.setdefault(parameter, {})
                for entry, value in state.items():
                    if value.device != device:
                        state[entry] = value.to(device)
        return lists.values()

    def update_together(self, parameters: list[Tensor], group: Group) -> None:
        """Changes parameters of one device and dtype, all with gradients: here each by ``update``.

        Overridden by optimisers whose kernel takes many at once.
        """
        for parameter in parameters:
            if parameter.grad is not None:
                self.update(parameter, parameter.grad, self.state[parameter], group)

    def _tell(self, recording: capturing.Recording, known: set[int]) -> None:
        """What a captured step has to know; CaptureError where it has made state, which replays would make anew."""
        recording.guards.append(self._captured)
        made = [parameter for parameter, state in self.state.items() if state and id(parameter) not in known]
        for parameter in made:
            self.state[parameter].clear()
        if made:
            capturing.refuse(f"{type(self).__name__}.step begins the state of a parameter of shape {made[0].shape}")

    def _captured(self) -> list[Any]:
        """What a captured step has of this optimiser: all settings but the learning rates, and where its arrays lie."""
        found: list[Any] = []
        for group in self.param_groups:
            found += [value for key, value in _settings(group).items() if key not in ("lr", "initial_lr")]
            for parameter in group["params"]:
                found += [parameter._array, *(value._array for value in self.state.get(parameter, {}).values())]
        return found

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: Group) -> None:
        """Changes one parameter in place; ``state`` is empty the first time. Nothing is recorded here."""
        raise NotImplementedError(f"{type(self).__name__} has no update method")

    def state_dict(self) -> dict[str, Any]:
        """``{"state": {"0.exp_avg": Tensor, ...}, "param_groups": [...]}``: named tensors and plain data.

        The tensors' names begin with the parameter's number. They fit safetensors, the rest fits JSON.
        """
        numbers = {id(p): i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        return {
            "state": {
                f"{numbers[id(parameter)]}.{name}": value
                for parameter, state in self.state.items()
                for name, value in state.items()
            },
            "param_groups": [
                {**copy.deepcopy(_settings(group)), "params": [numbers[id(parameter)] for parameter in group["params"]]}
                for group in self.param_groups
            ],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continues from what ``state_dict`` returned; CheckpointError if it belongs to other parameters."""
        groups, name = state_dict["param_groups"], type(self).__name__
        sizes = [len(group["params"]) for group in self.param_groups]
        if [len(group["params"]) for group in groups] != sizes:
            raise CheckpointError(
                f"{name}.load_state_dict: groups of {[len(group['params']) for group in groups]} parameters, "
                f"expected {sizes}"
            )
        numbered = {
            number: parameter
            for group, own in zip(groups, self.param_groups, strict=True)
            for number, parameter in zip(group["params"], own["params"], strict=True)
        }
        loaded: dict[Tensor, dict[str, Tensor]] = {}
        for key, value in state_dict["state"].items():
            number, _, entry = key.partition(".")
            parameter = numbered.get(int(number))
            if parameter is None or (value.shape and value.shape != parameter.shape):
                expected = "no such parameter" if parameter is None else f"expected {parameter.shape}"
                raise CheckpointError(f"{name}.load_state_dict: {key} has shape {value.shape}, {expected}")
            loaded.setdefault(parameter, {})[entry] = tensor(value, device=parameter.device)
        self.state = loaded
        for group, own in zip(groups, self.param_groups, strict=True):
            own.update(copy.deepcopy(_settings(group)))

    def __repr__(self) -> str:
        lines = []
        for group in self.param_groups:
            values = sum(parameter.size for parameter in group["params"])
            settings = ", ".join(f"{key}={value}" for key, value in _settings(group).items())
            lines.append(f"  {len(group['params'])} tensors, {values:,} parameters: {settings}")
        return "\n".join([f"{type(self).__name__}:", *lines])


def _settings(group: Mapping[str, Any]) -> Group:
    """A group without its parameters."""
    return {key: value for key, value in group.items() if key != "params"}


def write_arrays(parameters: Iterable[Tensor], name: str) -> list[Any]:
    """The arrays of parameters that an optimiser is about to write to."""
    for parameter in parameters:
        parameter._check_write(name)
    return [parameter._array for parameter in parameters]


def gradient_arrays(parameters: Iterable[Tensor]) -> list[Any]:
    """The contiguous arrays of their gradients."""
    return [contiguous(parameter.grad._array) for parameter in parameters if parameter.grad is not None]


def number_beside(read: Callable[[], float], like: Any) -> Any:
    """A float64 array (1,) beside another, with the number that ``read`` gives: what kernels read anew in every step.

    In a captured step ``read`` is called before each replay.
    """
    number = empty((1,), float64, like)
    if (recording := capturing.current()) is None:
        number.fill(read())
    else:
        recording.numbers.append((number, read))
    return number


def check_setting(optimizer: str, name: str, value: float, below: float = float("inf")) -> None:
    """ValueError unless 0 <= value < below."""
    if not 0 <= value < below:
        upper = "" if below == float("inf") else f" < {below:g}"
        raise ValueError(f"{optimizer}: {name} is {value}, expected 0 <= {name}{upper}")
