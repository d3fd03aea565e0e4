"""What the tests of the ONNX export have in common."""

import numpy as np

import imgrec_engine as ie
from imgrec_engine import nn


class Function(nn.Module):
    """A model of one function, with weights where it has any."""

    def __init__(self, function, *parts):
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        return self.function(x)


def values(*shape):
    return np.random.Generator(np.random.Philox(7)).standard_normal(shape).astype(np.float32)


def t(*shape):
    return ie.tensor(values(*shape))
