"""Frameworks, each used in a process of its own."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

NAMES = ("ours", "torch", "onnxruntime")
PEERS = NAMES[1:]
MODULES = {"ours": "imgrec_engine", "torch": "torch", "onnxruntime": "onnxruntime"}  # what a user imports
_NEEDED = {"ours": ("imgrec_engine",), "torch": ("torch",), "onnxruntime": ("onnxruntime", "onnx")}
_CLASSES = {"ours": ("ours", "Ours"), "torch": ("pytorch", "PyTorch"), "onnxruntime": ("onnx_graphs", "OnnxRuntime")}


def is_installed(name: str) -> bool:
    """Whether all that the framework needs is there; without importing it."""
    return all(importlib.util.find_spec(module) is not None for module in _NEEDED[name])


def create(name: str, device: str, dtype: str = "float32") -> Any:
    """Imports a framework, whose floating tensors will be of ``dtype``."""
    module, kind = _CLASSES[name]
    return getattr(importlib.import_module(f"benchmarks.frameworks.{module}"), kind)(device, dtype)
