"""Hostile arguments: whatever an op is given, it answers with a result or with an error that names it, never a crash.

Each example takes a sample of the op table and puts something hostile in the place of one or two arguments. The
examples run in a process of their own, under a memory limit, so that a crash is seen and nothing large is allocated.
"""

import faulthandler
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine.dtypes import SUPPORTED, is_floating

EXAMPLES, SLOW_EXAMPLES = 6_000, 150_000
MEMORY = 6 * 1024**3  # bytes of address space
LARGEST_BACKWARD = 1_000_000  # elements
ERRORS = (ValueError, TypeError, IndexError, OverflowError, RuntimeError, MemoryError)
SHAPES = [(), (0,), (1,), (3,), (2, 3), (0, 4), (2, 5, 4), (1, 5, 5, 2), (2, 0, 3, 1), (2, 3, 1, 4), (1, 1, 1, 1, 1)]
NUMBERS = [-(2**63), -(2**31), -101, -1, 0, 1, 2, 7, 256, 2**20, 2**31, 2**32 + 1, 2**62, 2**63 - 1, 2**63, 2**100]
FLOATS = [-1.0, -0.0, 0.5, 1.0, 1.5, 1e-300, 1e300, float("nan"), float("inf"), float("-inf")]
OTHERS = [None, True, "same", "bogus", "", b"x", (), [], {}, object(), float, (1,), (2, -1), (1, 2, 3), "mean", "relu"]


def hostile_tensor(generator):
    shape = SHAPES[generator.integers(len(SHAPES))]
    dtype = SUPPORTED[generator.integers(len(SUPPORTED))]
    values = generator.integers(-300, 300, shape).astype(np.float64)
    kind = generator.integers(4)
    if kind == 0 and is_floating(dtype):
        values[...] = [np.nan, np.inf, -np.inf, 1e30][generator.integers(4)]
    elif kind == 0:
        values = np.full(shape, [2**31, -(2**63), 2**62][generator.integers(3)])
    with np.errstate(all="ignore"):
        tensor = ie.tensor(np.asarray(values).astype(dtype))
    if kind == 1 and tensor.ndim:
        tensor = tensor.flip(0)
    if kind == 2:
        tensor = tensor.expand(2, *shape)
    return tensor.requires_grad_(bool(generator.integers(2)) and is_floating(dtype))


def hostile_argument(generator):
    kind = generator.integers(6)
    if kind <= 1:
        return hostile_tensor(generator)
    pool = (NUMBERS, FLOATS, OTHERS)[generator.integers(3)]
    first = pool[generator.integers(len(pool))]
    if kind == 2:
        return first, NUMBERS[generator.integers(len(NUMBERS))]
    if kind == 3:
        return [hostile_tensor(generator) for _ in range(generator.integers(3))]
    return first


def draw(given, generator):
    if not callable(given):
        return given
    array = np.asarray(given(generator))
    return ie.tensor(array, requires_grad=is_floating(array.dtype))


def provoke(case, generator):
    """One call with one or two hostile arguments; what it was given, for the report."""
    sample = case.samples[generator.integers(len(case.samples))]
    made = {}
    for key, given in [*enumerate(sample.args), *sample.kwargs.items()]:
        made[key] = [draw(item, generator) for item in given] if isinstance(given, list) else draw(given, generator)
    for _ in range(generator.integers(1, 3)):
        made[list(made)[generator.integers(len(made))]] = hostile_argument(generator)
    args = [value for key, value in made.items() if isinstance(key, int)]
    kwargs = {key: value for key, value in made.items() if isinstance(key, str)}
    name = case.name
    try:
        outputs = getattr(F, name)(*args, **kwargs)
        for y in outputs if isinstance(outputs, tuple) else (outputs,):
            if y.requires_grad and y.size <= LARGEST_BACKWARD:
                y.sum().backward()
                break
    except ERRORS as error:
        if name not in str(error):
            raise AssertionError(f"{name}{tuple(args)} {kwargs} gave {type(error).__name__}: {error}") from error


def main(examples, seed):
    from op_cases import CASES

    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    generator = np.random.Generator(np.random.Philox(seed))
    for number in range(examples):
        provoke(CASES[number % len(CASES)], generator)


def run(examples, seed, timeout):
    places = [str(Path(__file__).parent), str(Path(ie.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, __file__, str(examples), str(seed)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3_000:]


def test_hostile_arguments_never_crash_an_op():
    run(EXAMPLES, seed=0, timeout=120)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_many_hostile_arguments_never_crash_an_op():
    run(SLOW_EXAMPLES, seed=1, timeout=3_500)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
