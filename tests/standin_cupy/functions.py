"""NumPy's functions as far as CuPy has them: their names, their keyword arguments, and what they lack for bfloat16."""

import functools

import ml_dtypes
import numpy as np

from standin_cupy.array import check, compute, cupy, ndarray, perform, plain
from standin_cupy.gpu import forbid_capture, get_current_stream

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
ARITHMETIC = ["add", "subtract", "multiply", "true_divide", "divide", "remainder", "power", "maximum", "minimum"]
OF_ONE = ["negative", "exp", "log", "sqrt", "sin", "cos", "tanh", "sign", "absolute", "invert"]
OF_ONE += ["isfinite", "isinf", "isnan"]
COMPARISONS = ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"]
LOGIC = ["logical_and", "logical_or", "logical_not"]
LAYOUT = ["moveaxis", "expand_dims", "split", "ascontiguousarray", "broadcast_to", "flatnonzero"]


def _function(name, *allowed):
    numpy_function = getattr(np, name)

    @functools.wraps(numpy_function)
    def function(*args, **kwargs):
        check([*args, *kwargs.values()], kwargs, allowed)
        if name == "flatnonzero":  # the length of the result is the host's to know
            forbid_capture(get_current_stream())
        given = {key: plain(value) for key, value in kwargs.items() if value is not None}

        def work():
            with np.errstate(all="ignore"):
                return numpy_function(*map(plain, args), **given)

        if "out" not in given:
            return compute(work, *args)
        perform(work)
        return kwargs["out"]

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
        return function(
            *(arg.astype(np.float32) if is_ else arg for arg, is_ in zip(args, has, strict=False)), **kwargs
        )

    setattr(cupy, name, narrow)


for _name in [*ARITHMETIC, *OF_ONE, *COMPARISONS, *LOGIC, *LAYOUT, "arange"]:
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


def _take_along_axis(array, indices, axis):
    check([array, indices])
    return compute(lambda: np.take_along_axis(array._host, indices._host % max(array.shape[axis], 1), axis), array)


cupy.take_along_axis = _take_along_axis
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
