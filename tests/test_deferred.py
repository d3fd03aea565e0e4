"""Checks of labels and indices on `cuda` (or its stand-in): nobody waits for them, and none is lost."""

import numpy as np
import pytest
from captured_training import OPTIMIZERS, ScaledTraining, Training

import imgrec_engine as ie
from imgrec_engine import cuda, deferred, device, nn
from imgrec_engine import functional as F

pytestmark = pytest.mark.skipif("cuda" not in device.names(), reason="there is neither a GPU nor its stand-in")


def on_gpu(values):
    return ie.tensor(values, device="cuda")


def watched_waits(monkeypatch):
    """A list that grows with each wait for a stream."""
    waits = []
    stream = cuda.namespace().cuda.Stream
    synchronize = stream.synchronize
    monkeypatch.setattr(stream, "synchronize", lambda self: waits.append(self) or synchronize(self))
    return waits


@pytest.mark.parametrize("capture", [False, True])
def test_a_training_step_waits_for_nothing(capture, monkeypatch):
    training = ScaledTraining("cuda", OPTIMIZERS["adamw"], capture, max_norm=0.5)
    batches = [(*training.batch(number), ie.tensor(1.0, "float32", device="cuda")) for number in range(5)]
    for batch in batches[:3]:
        training.step(*batch)
    waits = watched_waits(monkeypatch)
    for batch in batches[3:]:
        loss = training.step(*batch)
    assert not waits
    assert loss.item() > 0
    assert waits


def test_looking_rows_up_waits_for_nothing(monkeypatch):
    table, rows, columns = nn.Embedding(5, 3).to("cuda"), on_gpu([[1, 4], [0, 1]]), on_gpu([0, 0])
    places = on_gpu(np.zeros((2, 1, 3), np.int64))
    waits = watched_waits(monkeypatch)
    y = table(rows)
    (y[:, columns] * F.gather(y, 1, places)).sum().backward()
    assert not waits
    assert table.weight.grad.abs().sum().item() > 0
    assert waits


def test_a_wrong_target_is_told_when_values_are_asked_for():
    logits = ie.zeros((3, 4), device="cuda", requires_grad=True)
    loss = F.cross_entropy(logits, on_gpu([1, 4, 2]))
    loss.backward()
    with pytest.raises(ValueError, match=r"cross_entropy: a target is 4, expected 0 to 3, .*found on the GPU"):
        loss.item()
    assert np.isnan(loss.item())  # told once
    assert logits.grad.numpy()[1].tolist() == [0, 0, 0, 0]


def test_what_one_call_has_found_outlives_the_next_ones():
    F.cross_entropy(ie.zeros((2, 4), device="cuda"), on_gpu([-1, 0]))
    F.cross_entropy(ie.zeros((2, 4), device="cuda"), on_gpu([1, 0]))
    with pytest.raises(ValueError, match="a target is -1"):
        ie.ones(1, device="cuda").numpy()


@pytest.mark.parametrize(("wrong", "told"), [(5, 5), (-1, -1), (10**12, 10**12)])
def test_a_wrong_index_touches_no_other_memory(wrong, told):
    table = ie.ones((5, 2), device="cuda", requires_grad=True)
    F.embedding(on_gpu([3, wrong, 3]), table).sum().backward()
    with pytest.raises(IndexError, match=f"embedding: an index is {told}, expected 0 to 4"):
        table.grad.numpy()
    assert table.grad.tolist() == [[0, 0], [0, 0], [0, 0], [2, 2], [0, 0]]


def test_a_graph_checks_in_every_replay():
    training = Training("cuda", OPTIMIZERS["sgd"], capture=True)
    images, labels = training.batch(0)
    for _ in range(4):
        training.step(images, labels).item()
    training.step(images, labels + 1)  # its last label is 3
    training.step(images, labels)
    with pytest.raises(ValueError, match="cross_entropy: a target is 3, expected 0 to 2"):
        next(iter(training.model.parameters())).numpy()
    training.step(images, labels)
    assert training.runs == 3
    training.optimizer.zero_grad()
    assert ie.ones(1, device="cuda").item() == 1  # told once


def test_many_kinds_of_checks_keep_what_they_have_found():
    def look_up():
        for rows in range(2, 2 + 2 * deferred.KINDS):
            F.embedding(on_gpu([rows - 1]), ie.ones((rows, 1), device="cuda"))

    look_up()
    F.embedding(on_gpu([2]), ie.ones((2, 1), device="cuda"))
    with pytest.raises(IndexError, match="an index is 2, expected 0 to 1"):
        look_up()
