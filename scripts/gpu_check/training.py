"""Stage 11: trains a model on the embedded digits, through prefetching and the command line's own code."""

from __future__ import annotations

import shutil
import time
from typing import Any

import numpy as np

import imgrec_engine as ie
from gpu_check.stage import Rows, Setting
from imgrec_engine import functional as F
from imgrec_engine import optim
from imgrec_engine.train import Run, RunConfig

LEAST_ACCURACY = 0.95
STEPS = 8  # of the comparison with the CPU


def run(setting: Setting, rows: Rows) -> str:
    """Rows: the first losses beside the CPU's, and the run's accuracy; in a rehearsal the losses alone."""
    ours, reference = losses(setting.device), losses("cpu")
    apart = float(np.abs(np.subtract(ours, reference)).max())
    rows.add("the first losses are the CPU's", bool(np.allclose(ours, reference, rtol=1e-4)), losses=ours, apart=apart)
    rows.add("the loss falls", ours[-1] < ours[0])
    if setting.rehearsal:
        return f"loss {ours[0]:.3f} -> {ours[-1]:.3f} in {STEPS} steps; a whole run needs a GPU"
    folder = setting.work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    reports: dict[str, Any] = {}
    start = time.monotonic()
    trained = Run.start(folder, RunConfig("digits", device=setting.device))
    trained.fit(lambda kind, report: reports.update({kind: report}))
    seconds = time.monotonic() - start
    accuracy = reports["end"]["evaluation"].accuracy
    rows.add("it learns", accuracy >= LEAST_ACCURACY, accuracy=accuracy, epochs=trained.epochs, seconds=seconds)
    return f"accuracy {accuracy:.4f} on the test set after {trained.epochs} epochs in {seconds:.0f} s"


def losses(device: str) -> list[float]:
    """Of the first steps of a small model with convolutions and a recurrence."""
    ie.manual_seed(0)
    train_set, _ = ie.data.load_train_test("digits")
    batches = ie.data.DataLoader(train_set, batch_size=16, shuffle=True, seed=0)
    model = ie.models.create("cnn_lstm", num_classes=10, in_channels=1, image_size=8, width=8, hidden_size=24)
    model.to(device)
    optimizer = optim.AdamW(model.parameters(), lr=3e-3)
    found = []
    for _, (images, labels) in zip(range(STEPS), ie.train.prefetch(batches, device), strict=False):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.item()))
    return found
