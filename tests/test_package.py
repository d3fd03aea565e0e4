"""What importing the package costs and brings along, and what its namespace holds."""

import subprocess
import sys
from pathlib import Path

import imgrec_engine as ie

HEAVY = ("cupy", "matplotlib", "sklearn", "skimage", "scipy", "torch", "tqdm", "hypothesis", "onnx", "onnxruntime")
HEAVY += ("optuna", "tensorboardX")
LIMIT = 0.25  # seconds on top of what a bare interpreter and NumPy take

TIMED = """
import time
start = time.perf_counter()
import numpy, ml_dtypes
middle = time.perf_counter()
import imgrec_engine
print(middle - start, time.perf_counter() - middle)
"""


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_importing_is_quick():
    """The best of five, so that a busy machine does not decide."""
    runs = [[float(word) for word in python(TIMED).split()] for _ in range(5)]
    assert min(ours for _, ours in runs) <= LIMIT


def test_importing_brings_nothing_heavy_and_prints_nothing():
    code = f"import sys, imgrec_engine; print([name for name in {HEAVY} if name in sys.modules])"
    assert python(code) == "[]\n"


def test_the_public_names_exist_and_are_sorted():
    assert sorted(ie.__all__) == ie.__all__
    assert all(hasattr(ie, name) for name in ie.__all__)


def test_the_package_says_that_it_is_typed():
    assert (Path(ie.__file__).parent / "py.typed").exists()
