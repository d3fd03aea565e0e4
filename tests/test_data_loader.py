"""The loader: order, workers that change nothing, errors and endings."""

import copy
import multiprocessing
import os
import threading
import time

import numpy as np
import pytest

from imgrec_engine.data import (
    ArrayDataset,
    ColorJitter,
    Compose,
    Cutout,
    DataLoader,
    Dataset,
    Mixing,
    Normalize,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomRotation,
    Resize,
    Transform,
)
from imgrec_engine.errors import DataError

AUGMENT = Compose(
    [
        RandomCrop((8, 8), 2),
        RandomHorizontalFlip(),
        RandomRotation(20),
        RandomAffine(10, 0.1, 5, 0.1),
        ColorJitter(0.2, 0.2, 0.2),
        RandomErasing(),
        Cutout(3),
        Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4)),
    ]
)


class Listed(Dataset):
    """Items loaded one by one; item 13 may fail and may take its time."""

    classes = ("even", "odd")

    def __init__(self, fails: bool = False, seconds: float = 0.0):
        self.fails = fails
        self.seconds = seconds
        self.loaded: list[int] = []

    def __len__(self):
        return 23

    def __getitem__(self, index):
        if self.fails and index == 13:
            raise OSError("disk on fire")
        self.loaded.append(index)
        time.sleep(self.seconds)
        rng = np.random.default_rng(index)
        return rng.integers(0, 256, (8, 8, 3), np.uint8), index % 2


class Deadly(Listed):
    def __getitem__(self, index):
        os._exit(3)


class Local(Transform):
    def __init__(self):
        self.function = lambda x: x

    def batch(self, images, generators):
        return images


def arrays(loader: DataLoader) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(images.numpy(), labels.numpy()) for images, labels in loader]


def in_memory() -> ArrayDataset:
    images, labels = Listed().gather(range(23))
    return ArrayDataset(np.stack(images), labels, Listed.classes)


def assert_same_bits(first, second):
    assert len(first) == len(second)
    for (images, labels), (other_images, other_labels) in zip(first, second, strict=True):
        assert images.tobytes() == other_images.tobytes()
        assert labels.tobytes() == other_labels.tobytes()


@pytest.fixture
def threads_before():
    before = threading.active_count()
    yield before
    assert threading.active_count() == before


def test_batches_are_float32_nhwc_and_int64():
    ((images, labels), *_) = arrays(DataLoader(in_memory(), 4))
    assert (images.shape, images.dtype) == ((4, 8, 8, 3), np.float32)
    assert (labels.shape, labels.dtype) == ((4,), np.int64)
    np.testing.assert_array_equal(images, in_memory().images[:4].astype(np.float32) / np.float32(255))
    assert labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [10, 10, 3]), (True, [10, 10])])
def test_length_and_last_batch(drop_last, sizes):
    loader = DataLoader(in_memory(), 10, drop_last=drop_last)
    assert len(loader) == len(sizes)
    assert [len(labels) for _, labels in arrays(loader)] == sizes


@pytest.mark.parametrize("mixing", [None, Mixing(mixup=0.4, cutmix=1.0)], ids=["plain", "mixed"])
@pytest.mark.parametrize(("num_workers", "workers"), [(1, "thread"), (3, "thread"), (1, "process"), (2, "process")])
def test_workers_do_not_change_a_bit(num_workers, workers, mixing, threads_before):
    def loader(dataset, **options):
        return DataLoader(dataset, 5, shuffle=True, seed=7, transform=AUGMENT, mixing=mixing, **options)

    expected = arrays(loader(in_memory()))
    assert_same_bits(arrays(loader(Listed(), num_workers=num_workers, workers=workers)), expected)


def test_item_by_item_equals_whole_batch():
    for batch_size in (1, 23):
        loader = DataLoader(in_memory(), batch_size, seed=7, transform=AUGMENT)
        images = np.concatenate([images for images, _ in arrays(loader)])
        assert (
            images.tobytes()
            == np.concatenate(
                [images for images, _ in arrays(DataLoader(Listed(), 5, seed=7, transform=AUGMENT))]
            ).tobytes()
        )


def test_order_depends_on_seed_and_epoch_only():
    dataset = ArrayDataset(np.arange(200, dtype=np.float32).reshape(200, 1, 1), np.zeros(200, int), ("a", "b"))

    def order(seed, epoch):
        loader = DataLoader(dataset, 32, shuffle=True, seed=seed)
        loader.set_epoch(epoch)
        return np.concatenate([images.ravel() for images, _ in arrays(loader)]).tolist()

    assert order(0, 0) == order(0, 0)
    assert sorted(order(0, 0)) == list(range(200))
    assert len({tuple(order(seed, epoch)) for seed in (0, 1, 2**64 - 1) for epoch in (0, 1)}) == 6


def test_each_iteration_is_the_next_epoch():
    loader = DataLoader(in_memory(), 23, shuffle=True, transform=AUGMENT)
    first, second = arrays(loader), arrays(loader)
    assert first[0][0].tobytes() != second[0][0].tobytes()
    loader.set_epoch(0)
    assert_same_bits(arrays(loader), first)


@pytest.mark.parametrize("workers", ["thread", "process"])
def test_errors_reach_the_consumer_and_name_the_item(workers, threads_before):
    loader = DataLoader(Listed(fails=True), 5, num_workers=2, workers=workers)
    batches = iter(loader)
    assert [len(next(batches)[1].numpy()) for _ in range(2)] == [5, 5]
    with pytest.raises(DataError, match="item 13 could not be loaded: OSError: disk on fire"):
        next(batches)


@pytest.mark.parametrize("workers", ["thread", "process"])
def test_leaving_early_ends_the_workers(workers):
    def running():
        return threading.active_count(), len(multiprocessing.active_children())

    before = running()
    for _ in DataLoader(Listed(seconds=0.002), 2, num_workers=2, workers=workers):
        assert running() > before
        break
    assert running() == before


def test_prefetch_is_bounded():
    dataset = Listed()
    iterator = iter(DataLoader(dataset, 1, num_workers=2, prefetch=2))
    next(iterator)
    deadline = time.monotonic() + 10
    while len(dataset.loaded) < 1 + 2 * 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)  # time in which a loader without a bound would go on
    assert len(dataset.loaded) == 1 + 2 * 2
    iterator.close()


@pytest.mark.parametrize(("num_workers", "workers"), [(0, "thread"), (2, "thread"), (1, "process")])
@pytest.mark.parametrize("batch_size", [5, 23])
def test_going_on_into_the_next_epoch_does_not_change_a_bit(batch_size, num_workers, workers, threads_before):
    def epochs(**options):
        loader = DataLoader(in_memory(), batch_size, shuffle=True, seed=7, transform=AUGMENT, **options)
        given = [arrays(loader) for _ in range(3)]
        loader.set_epoch(1)  # not the one that was begun
        return [batch for epoch in [*given, arrays(loader)] for batch in epoch]

    assert_same_bits(epochs(num_workers=num_workers, workers=workers, continuous=True), epochs())


def test_the_first_batches_of_the_next_epoch_are_there():
    dataset = Listed()
    loader = DataLoader(dataset, 4, num_workers=1, prefetch=2, shuffle=True, continuous=True)
    for _ in loader:
        pass
    assert len(dataset.loaded) == 23 + 2 * 4
    batches = iter(loader)
    next(batches)
    batches.close()
    dataset.loaded.clear()
    for _ in loader:  # that iteration was left early; nothing of this one was begun
        pass
    assert len(dataset.loaded) == 23 + 2 * 4


@pytest.mark.parametrize(
    "change",
    [{"transform": ColorJitter(brightness=0.5)}, {"batch_size": 5}, {"shuffle": False}, {"seed": 4}],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_setting_holds_from_the_next_epoch_on(change):
    def second_epoch(**options):
        loader = DataLoader(Listed(), 4, shuffle=True, **options)
        arrays(loader)
        for name, value in change.items():
            setattr(loader, name, value)
        return arrays(loader)

    assert_same_bits(second_epoch(num_workers=1, continuous=True), second_epoch())


def test_a_loader_that_has_begun_an_epoch_can_be_copied():
    loader = DataLoader(Listed(), 4, num_workers=1, shuffle=True, continuous=True)
    arrays(loader)
    copied = copy.deepcopy(loader)
    assert_same_bits(arrays(copied), arrays(loader))


def test_images_of_different_sizes_need_a_resize():
    class Mixed(Listed):
        def __getitem__(self, index):
            return np.zeros((4 + index % 3, 5, 1), np.uint8), 0

    with pytest.raises(DataError, match=r"differ in shape.*Resize"):
        arrays(DataLoader(Mixed(), 5))
    assert arrays(DataLoader(Mixed(), 5, transform=Resize((4, 4))))[0][0].shape == (5, 4, 4, 1)


def test_transform_errors_name_the_item():
    class Tiny(Listed):
        def __getitem__(self, index):
            return np.zeros((8 if index != 7 else 4, 8, 1), np.uint8), 0

    with pytest.raises(DataError, match="item 7 could not be transformed: RandomCrop"):
        arrays(DataLoader(Tiny(), 5, transform=RandomCrop((8, 8))))


def test_processes_need_what_can_be_pickled():
    with pytest.raises(DataError, match="use workers='thread'"):
        arrays(DataLoader(Listed(), 5, num_workers=1, workers="process", transform=Local()))


def test_a_worker_process_that_dies_is_an_error(threads_before):
    with pytest.raises(DataError, match="a worker process ended unexpectedly"):
        arrays(DataLoader(Deadly(), 5, num_workers=1, workers="process"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"batch_size": 1, "num_workers": -1}, "num_workers must be at least 0"),
        ({"batch_size": 1, "prefetch": 0}, "prefetch must be at least 1"),
        ({"batch_size": 1, "workers": "fibre"}, "not 'fibre'"),
        ({"batch_size": 1, "seed": -1}, "seed must be an integer"),
    ],
)
def test_arguments_are_checked(options, says):
    with pytest.raises(DataError, match=says):
        DataLoader(in_memory(), **options)


def test_whatever_has_a_length_and_items_can_be_loaded():
    items = [(np.full((2, 2, 1), number, np.float32), number % 2) for number in range(5)]
    (images, labels), *rest = DataLoader(items, batch_size=2)
    assert images.shape == (2, 2, 2, 1)
    assert labels.tolist() == [0, 1]
    assert len(rest) == 2
    assert len(DataLoader(items)) == 5


def test_a_transform_is_a_transform():
    with pytest.raises(DataError, match="transform must be a Transform"):
        DataLoader([], transform=abs)
