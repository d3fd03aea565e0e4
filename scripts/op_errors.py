"""Prints, for every op of the op table, the largest error against float64: values and gradients, by dtype.

Errors are relative to the largest element of each output or gradient; "finite differences" is the largest absolute
difference between float64 gradients and central differences. Run it from the checkout, for the CPU or another device:
python scripts/op_errors.py [DEVICE]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import test_ops as bodies
from op_cases import CASES

from imgrec_engine.dtypes import bfloat16, float16, float32, float64, is_floating
from imgrec_engine.testing import gradcheck


def relative(ours: Any, reference: Any) -> float:
    """The largest difference as a share of the reference's largest element."""
    reference = np.asarray(reference, dtype=np.float64)
    difference = np.abs(np.asarray(ours, dtype=np.float64) - reference)
    finite = np.isfinite(difference)
    return float(difference[finite].max(initial=0.0) / max(np.abs(reference[finite]).max(initial=0.0), 1e-30))


def value_error(case: Any, dtype: Any, device: str) -> float:
    """Outputs for inputs rounded to the dtype, against the NumPy reference in float64."""
    worst = 0.0
    for sample in case.samples:
        args, kwargs = bodies.arguments(case, sample, bodies.to_tensor(dtype, device))
        outputs = bodies.call(case, args, kwargs)
        rounded = bodies.arguments(
            case, sample, lambda a: a.astype(dtype).astype(np.float64) if is_floating(a.dtype) else a
        )
        case.before()
        references = bodies.as_tuple(case.reference(*rounded[0], **rounded[1]))
        for output, reference in zip(outputs, references, strict=True):
            if is_floating(output.dtype):
                worst = max(worst, relative(output.numpy(), reference))
    return worst


def gradient_error(case: Any, dtype: Any, device: str) -> float:
    """Gradients for inputs rounded to the dtype, against the CPU's float64 gradients for the same inputs."""
    worst = 0.0
    exact = bodies.to_tensor(float64, requires_grad=True)
    for sample in case.samples:
        _, ours = bodies.forward_and_backward(case, sample, bodies.to_tensor(dtype, device, requires_grad=True))
        _, references = bodies.forward_and_backward(
            case, sample, lambda a: exact(a.astype(dtype) if is_floating(a.dtype) else a)
        )
        pairs = [(a, b) for a, b in zip(ours, references, strict=True) if a is not None]
        worst = max([worst, *(relative(a, b) for a, b in pairs)])
    return worst


def difference_error(case: Any, device: str) -> float:
    """Float64 gradients against central differences."""
    worst = 0.0
    for sample in case.samples:
        args, kwargs = bodies.arguments(case, sample, bodies.to_tensor(float64, device, requires_grad=True))
        inputs = [t for t in bodies.tensors_of(args, kwargs) if t.requires_grad]
        directions = bodies.DIRECTIONS[device]
        if inputs and (directions or sum(t.size for t in inputs) <= bodies.LARGEST_GRADCHECK):

            def function(*_: Any, args: Any = args, kwargs: Any = kwargs) -> tuple[Any, ...]:
                return tuple(y for y in bodies.call(case, args, kwargs) if y.requires_grad)

            worst = max(worst, gradcheck(function, inputs, directions=directions))
    return worst


def main() -> None:
    """One line an op."""
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    dtypes = (float64, float32, float16, bfloat16)
    names = "".join(f"{dtype.name:>10}" for dtype in dtypes)
    print(f"{'op':<34}{names}  | gradients {names[10:]}  | finite differences")
    for case in CASES:
        line = f"{case.name:<34}"
        checked = [float64, *case.dtypes]
        line += "".join(f"{value_error(case, d, device):>10.1e}" if d in checked else f"{'-':>10}" for d in dtypes)
        if case.differentiable:
            line += "  |           "
            line += "".join(
                f"{gradient_error(case, d, device):>10.1e}" if d in checked else f"{'-':>10}" for d in dtypes[1:]
            )
            line += f"  | {difference_error(case, device):.1e}"
        print(line)


if __name__ == "__main__":
    main()
