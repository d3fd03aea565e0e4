"""Activations as modules, for use in Sequential."""

from __future__ import annotations

from imgrec_engine import functional as F
from imgrec_engine.nn.module import Module
from imgrec_engine.tensor import Tensor


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return F.relu(x)


class GELU(Module):
    """The Gaussian error linear unit in its exact form (Hendrycks and Gimpel, 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return F.gelu(x)


class SiLU(Module):
    """X sigmoid(x), also called swish (Elfwing, Uchibe and Doya, 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return F.silu(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return F.sigmoid(x)


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return F.tanh(x)
