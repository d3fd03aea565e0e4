"""A deep-learning engine for image recognition whose kernels are written by hand and meant to be read.

>>> import imgrec_engine as ie
>>> from imgrec_engine import functional as F, nn, optim
"""

import importlib
from types import ModuleType

from imgrec_engine import convert, dtypes, errors, functional, models, nn, optim
from imgrec_engine.autograd import differentiable, is_recording, no_grad
from imgrec_engine.backward import grad
from imgrec_engine.checkpoint import load, save
from imgrec_engine.creation import arange, from_dlpack, full, ones, zeros
from imgrec_engine.device import (
    get_float32_matmul_precision,
    get_num_threads,
    set_float32_matmul_precision,
    set_num_threads,
)
from imgrec_engine.dtypes import bfloat16, float16, float32, float64
from imgrec_engine.graphs import capture
from imgrec_engine.mixed_precision import autocast
from imgrec_engine.ops.elementwise import where
from imgrec_engine.ops.joining import concatenate, stack
from imgrec_engine.profiling import profile
from imgrec_engine.random import manual_seed, rand, randn
from imgrec_engine.tensor import Tensor, tensor

__version__ = "0.1.0"

__all__ = [
    "Tensor",
    "arange",
    "autocast",
    "bfloat16",
    "capture",
    "concatenate",
    "convert",
    "data",
    "differentiable",
    "dtypes",
    "errors",
    "float16",
    "float32",
    "float64",
    "from_dlpack",
    "full",
    "functional",
    "get_float32_matmul_precision",
    "get_num_threads",
    "grad",
    "is_recording",
    "load",
    "manual_seed",
    "metrics",
    "models",
    "nn",
    "no_grad",
    "ones",
    "onnx",
    "optim",
    "profile",
    "rand",
    "randn",
    "save",
    "set_float32_matmul_precision",
    "set_num_threads",
    "stack",
    "tensor",
    "testing",
    "train",
    "where",
    "zeros",
]

_ON_DEMAND = ("data", "metrics", "onnx", "testing", "train")  # with them the import would take twice as long


def __getattr__(name: str) -> ModuleType:
    if name in _ON_DEMAND:
        return importlib.import_module(f"imgrec_engine.{name}")
    raise AttributeError(f"module 'imgrec_engine' has no attribute {name!r}")
