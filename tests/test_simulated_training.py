"""Training on the simulated CUDA kernels: the same losses as on the CPU, and the same bits at every run."""

import runpy
from pathlib import Path

import pytest

from imgrec_engine import device

pytestmark = pytest.mark.skipif("sim" not in device.names(), reason="this build has no simulator")


def test_losses_of_a_cnn_lstm_are_those_of_the_cpu():
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "simulated_gpu.py"))
    on_cpu, on_sim = example["train"]("cpu"), example["train"]("sim")
    assert on_cpu == pytest.approx(on_sim, rel=2e-5)
    assert on_cpu[-1] < on_cpu[0] - 0.2
    assert example["train"]("sim") == on_sim
