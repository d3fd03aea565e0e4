"""The training loop: averages, accumulation, mixed labels, and state that loses nothing."""

import numpy as np
import pytest

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import nn, optim
from imgrec_engine.data import ArrayDataset, DataLoader, Mixing
from imgrec_engine.errors import CheckpointError
from imgrec_engine.train import Trainer
from imgrec_engine.train.loss import ClassificationLoss, balancing_weights


def dataset(count=22):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
    return ArrayDataset(images, np.arange(count) % 3, ("a", "b", "c"))


def loader(**options):
    return DataLoader(dataset(), 4, shuffle=True, mixing=Mixing(mixup=0.4, cutmix=1.0), **options)


def make_trainer(accumulate=1, average=True, dropout=0.5, **options):
    ie.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(108, 3)
    )
    optimizer = optim.AdamW(model.parameters(), lr=0.02)
    return Trainer(
        model,
        optimizer,
        ClassificationLoss(0.1, ie.tensor([1.0, 2.0, 0.5])),
        optim.OneCycleLR(optimizer, 0.02, 40),
        max_grad_norm=1.0,
        accumulate=accumulate,
        average=optim.ExponentialMovingAverage(model, 0.9) if average else None,
        **options,
    )


def bits(trainer):
    tensors, settings = trainer.state_dict()
    return {name: value.numpy().tobytes() for name, value in tensors.items()}, settings


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("stop", range(1, 13))
def test_training_continues_after_any_batch_to_the_same_bits(stop, precision):
    """Two epochs of six batches, three to a step: kill points at epochs' ends, in mid-epoch and in mid-accumulation."""
    whole, stopped = (make_trainer(accumulate=4, precision=precision) for _ in range(2))
    ie.manual_seed(1)
    for _ in range(2):
        whole.train_epoch(loader())
    expected = bits(whole)
    ie.manual_seed(1)
    seen = 0

    def after_batch(progress, seconds):
        nonlocal seen
        seen += 1
        return seen < stop

    while seen < stop:
        stopped.train_epoch(loader(), after_batch)
    tensors, settings = stopped.state_dict()
    state = {name: ie.tensor(value) for name, value in tensors.items()}  # as a checkpoint keeps them
    assert any(name.startswith("gradient.") for name in state) == (settings["progress"]["batch"] % 4 != 0)
    ie.manual_seed(99)
    resumed = make_trainer(accumulate=4, precision=precision)
    resumed.load_state_dict(state, settings)
    while resumed.progress.epoch < 2:
        resumed.train_epoch(loader(num_workers=2))
    assert bits(resumed) == expected


def test_accumulated_batches_are_one_large_batch():
    """Without batch statistics, which differ; the learning rate of both is the same, and nothing else moves weights."""
    images, labels = ie.tensor(np.random.default_rng(0).random((6, 5), np.float32)), ie.tensor([0, 1, 2, 0, 1, 2])
    weights = []
    for parts in (1, 3):
        ie.manual_seed(0)
        model = nn.Linear(5, 3)
        trainer = Trainer(model, optim.SGD(model.parameters(), lr=0.5), max_grad_norm=0.1, accumulate=parts)
        size = 6 // parts
        for position in range(parts):
            part = slice(position * size, (position + 1) * size)
            before = model.weight.numpy().copy()
            trainer.train_batch(images[part], labels[part], position, parts)
            assert (before != model.weight.numpy()).any() == (position + 1 == parts)
        weights.append(model.weight.numpy().copy())
    np.testing.assert_allclose(*weights, rtol=1e-5, atol=1e-7)


def test_batches_left_at_the_end_of_an_epoch_make_a_step():
    trainer = make_trainer(accumulate=4)  # six batches: four and two
    trainer.train_epoch(loader())
    assert trainer.scheduler.last_epoch == 2
    assert trainer.average.updates == 2


def test_evaluation_is_with_the_averages_and_leaves_the_weights():
    trainer = make_trainer(dropout=0.0)
    batches = DataLoader(dataset(), 22)
    for _ in range(3):
        trainer.train_epoch(loader())
    before = bits(trainer)
    averaged = trainer.evaluate(batches).loss
    assert bits(trainer) == before
    trainer.model.load_state_dict(trainer.average.averages)
    trainer.average = None
    assert trainer.evaluate(batches).loss == averaged
    trainer.load_state_dict(*make_trainer(average=False).state_dict())


def test_the_average_is_the_formula():
    ie.manual_seed(0)
    layer = nn.BatchNorm2d(2)
    average = optim.ExponentialMovingAverage(layer, decay=0.3)
    expected = np.ones(2)
    for step in range(6):
        layer.load_state_dict({**layer.state_dict(), "weight": np.full(2, step), "num_batches_tracked": step})
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        average.update()
    np.testing.assert_allclose(average.averages["weight"].numpy(), expected, rtol=1e-6)
    assert average.averages["num_batches_tracked"].item() == 5
    with pytest.raises(ValueError, match="decay is 1"):
        optim.ExponentialMovingAverage(layer, decay=1)
    with pytest.raises(CheckpointError, match="weight has shape"):
        average.load_state_dict(optim.ExponentialMovingAverage(nn.Linear(2, 2)).state_dict())


@pytest.mark.parametrize("weights", [None, [1.0, 3.0, 0.5]])
def test_the_loss_of_shares(weights, device):
    """Beside a float64 sum; with shares of 0 and 1 it is the loss of classes; its gradient is checked."""
    generator = np.random.default_rng(0)
    logits, shares = generator.normal(size=(5, 3)), generator.dirichlet([1, 1, 1], 5)
    w = np.ones(3) if weights is None else np.array(weights)
    smooth = 0.8 * shares + 0.2 / 3
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -(smooth * w * logs).sum() / (shares * w).sum()
    loss = ClassificationLoss(0.2, None if weights is None else ie.tensor(weights, dtype="float64", device=device))
    x = ie.tensor(logits, dtype="float64", device=device, requires_grad=True)
    given = ie.tensor(shares, dtype="float64", device=device)
    np.testing.assert_allclose(loss(x, given).item(), expected, rtol=1e-12)
    loss(x, given).backward()
    step = np.zeros_like(logits)
    step[2, 1] = 1e-6
    change = [loss(ie.tensor(logits + s * step, dtype="float64", device=device), given).item() for s in (1, -1)]
    np.testing.assert_allclose(x.grad.numpy()[2, 1], (change[0] - change[1]) / 2e-6, rtol=1e-5)
    classes = np.array([0, 2, 1, 1, 0])
    np.testing.assert_allclose(
        loss(x, ie.tensor(np.eye(3)[classes], dtype="float64", device=device)).item(),
        loss(x, ie.tensor(classes, device=device)).item(),
        rtol=1e-12,
    )
    if weights is not None:
        plain = F.cross_entropy(x, ie.tensor(classes, device=device), loss.class_weights, 0.2)
        assert loss(x, ie.tensor(classes, device=device)).item() == plain.item()


def test_balancing_weights_give_every_class_the_same_part():
    labels = np.repeat([0, 1, 2], [1, 4, 15])
    weights = balancing_weights(ArrayDataset(np.zeros((20, 2, 2), np.uint8), labels, "abc")).numpy()
    np.testing.assert_allclose(np.bincount(labels) * weights, 20 / 3, rtol=1e-6)


def test_waiting_is_measured():
    class Slow(ArrayDataset):
        def gather(self, indices):
            import time

            time.sleep(0.02)
            return super().gather(indices)

    trainer = make_trainer()
    slow = DataLoader(Slow(dataset().images, dataset().labels, ("a", "b", "c")), 11)
    trainer.train_epoch(slow)
    assert trainer.waited >= 0.04


def test_captured_steps_do_not_accumulate():
    with pytest.raises(ValueError, match="accumulate is 2, expected 1 with capture"):
        make_trainer(accumulate=2, capture=True)
    with pytest.raises(ValueError, match="accumulate is 0, expected 1 or more"):
        make_trainer(accumulate=0)
