"""Training on the simulated CUDA kernels: the same losses as on the CPU, and the same bits at every run."""

import runpy
from pathlib import Path

import pytest

import imgrec_engine as ie
from imgrec_engine import device, models, optim
from imgrec_engine.train.tasks import task_of

pytestmark = pytest.mark.skipif("sim" not in device.names(), reason="this build has no simulator")


def test_losses_of_a_cnn_lstm_are_those_of_the_cpu():
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "simulated_gpu.py"))
    on_cpu, on_sim = example["train"]("cpu"), example["train"]("sim")
    assert on_cpu == pytest.approx(on_sim, rel=2e-5)
    assert on_cpu[-1] < on_cpu[0] - 0.2
    assert example["train"]("sim") == on_sim


def train(name, device):
    """The losses of two steps. Of fewer samples than 8, batch norm would make much of differences in the last bits."""
    ie.manual_seed(5)
    model = models.create(name, num_classes=3, in_channels=2, image_size=8).to(device)
    frames = (2,) if name.startswith("video_") else ()
    images = ie.randn((8, *frames, 8, 8, 2)).to(device)
    labels = ie.tensor([0, 1, 2, 0, 1, 2, 0, 1], device=device)
    if models.task(name) == "transcription":
        labels = labels.reshape(8, 1)
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        loss = task_of(model).loss(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", models.names())
def test_every_model_trains_as_on_the_cpu(name):
    on_sim = train(name, "sim")
    assert on_sim == pytest.approx(train(name, "cpu"), rel=0, abs=1e-4)
    assert on_sim[0] != on_sim[1]
