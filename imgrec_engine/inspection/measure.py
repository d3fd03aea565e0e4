"""Calls one op on the simulator and counts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine import kernels
from imgrec_engine.autograd import no_grad
from imgrec_engine.dtypes import as_dtype, int64, is_floating
from imgrec_engine.errors import DeviceError, DTypeError, ImgrecError
from imgrec_engine.inspection.ops import OPS, Shape
from imgrec_engine.inspection.profile import Inspection, KernelProfile
from imgrec_engine.inspection.source import notes
from imgrec_engine.tensor import tensor


def inspect_op(
    name: str,
    shapes: Sequence[Shape] | Mapping[str, Shape] = (),
    dtype: str = "float32",
    options: Mapping[str, Any] | None = None,
) -> Inspection:
    """Counts what the kernels of one op do, for normally distributed inputs.

    Args:
        name: one of OPS.
        shapes: of the op's tensors, in order or by name. The others' follow from them, or are the defaults in OPS.
        dtype: of the floating tensors.
        options: the op's other arguments.

    Raises:
        ImgrecError: an unknown op or argument, or one that the op refuses.
        DeviceError: the simulator is not built with checkers, or the op has no CUDA kernel.

    """
    op = OPS.get(name)
    if op is None:
        raise ImgrecError(f"inspect: there is no op {name!r}; there are {', '.join(OPS)}")
    chosen = {**op.options, **(options or {})}
    arrays = arguments(name, shapes, dtype, chosen)
    module = _checked_module()
    inputs = {key: tensor(array, device="sim") for key, array in arrays.items()}
    module.sim_profile_start()
    try:
        with no_grad():
            result = op.function(**inputs, **chosen)
    except (TypeError, ValueError) as error:
        raise ImgrecError(str(error)) from error
    finally:
        counted = module.sim_profile_take()
    if not counted:
        raise DeviceError(f"inspect: {name} has launched no CUDA kernel: its arrays are empty, or there is none")
    outputs = result if isinstance(result, tuple) else (result,)
    return Inspection(
        op=name,
        inputs={key: _describe(array) for key, array in inputs.items()},
        outputs=tuple(map(_describe, outputs)),
        options=chosen,
        minimum_bytes=sum(each.size * each.dtype.itemsize for each in (*inputs.values(), *outputs)),
        flop=op.flop({key: array.shape for key, array in inputs.items()}, outputs[0].shape, chosen),
        flop_formula=op.flop_formula,
        kernels=tuple(map(KernelProfile.of, counted)),
        notes=notes(module.__file__),
    )


def _checked_module() -> Any:
    """The simulator with checkers. Which of the two serves a process is settled when it first uses the device."""
    os.environ.setdefault("IMGREC_SIM_CHECK", "banks,coalescing")
    module, _ = kernels.load("sim")
    if not hasattr(module, "sim_profile_start"):
        raise DeviceError(
            "inspect: this process already uses the simulator without checkers; set IMGREC_SIM_CHECK=banks,coalescing "
            "before it starts (`make checked` builds the module that counts)"
        )
    return module


def arguments(
    name: str, shapes: Sequence[Shape] | Mapping[str, Shape], dtype: str, options: Mapping[str, Any]
) -> dict[str, NDArray[Any]]:
    """An array for each tensor of the op."""
    if not is_floating(as_dtype(dtype)):
        raise DTypeError(f"inspect: dtype is {dtype}, expected float32, float64, float16 or bfloat16")
    op = OPS[name]
    given = dict(shapes) if isinstance(shapes, Mapping) else dict(zip(op.axes, shapes, strict=False))
    unknown = sorted(given.keys() - op.axes.keys())
    if unknown or len(given) < len(shapes):
        what = f"{unknown[0]!r} is none of its tensors" if unknown else f"{len(shapes)} shapes were given"
        raise ImgrecError(f"inspect: {name}: {what}; expected shapes of {', '.join(op.axes)}")
    sizes = dict(op.sizes)
    for key, shape in reversed(given.items()):
        sizes.update(zip(op.axes[key], shape, strict=False))
    generator = np.random.Generator(np.random.Philox(0))
    arrays = {}
    for key, axes in op.axes.items():
        shape = given.get(key) or tuple(_length(axis, sizes, options) for axis in axes)
        if key in op.classes:
            arrays[key] = generator.integers(0, sizes[op.classes[key]], shape).astype(int64)
        else:
            arrays[key] = generator.standard_normal(shape).astype(as_dtype(dtype))
    return arrays


def _length(axis: str, sizes: Mapping[str, int], options: Mapping[str, Any]) -> int:
    axis, _, divisor = axis.partition("/")
    return sizes[axis] // max(int(options.get(divisor, 1)), 1)


def _describe(array: Any) -> str:
    return f"{array.dtype.name} {array.shape}"
