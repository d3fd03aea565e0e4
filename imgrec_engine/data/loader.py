"""From a data set to batches: shuffling, transforms and workers, the same bits whoever does the work."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.data.dataset import Dataset
from imgrec_engine.data.mixing import Mixing
from imgrec_engine.data.streams import batch_generator, checked_key, epoch_generator, item_generator
from imgrec_engine.data.transforms import Compose, Transform, to_float
from imgrec_engine.data.workers import worker_pool
from imgrec_engine.errors import DataError

if TYPE_CHECKING:
    from imgrec_engine.tensor import Tensor

Batch = tuple[NDArray[np.float32], NDArray[Any]]


class DataLoader:
    """Yields Tensors `(images, labels)`: float32 (N, H, W, C), or (N, T, H, W, C) of clips, and int64 (N,), or
    (N, S) of strings.

    The order and every random transform depend on `seed`, the epoch and the item only, so the batches are
    bit for bit the same for any number and kind of workers. Each iteration uses `epoch` and moves it on by
    one; `set_epoch` goes to any other. uint8 images are divided by 255 unless `transform` normalises them.

    Args:
        dataset: what to load from: a `Dataset`, or whatever has a length and gives (image, label) for an index.
        batch_size: items per batch; the last batch may have fewer unless `drop_last`.
        shuffle: draw a new order every epoch.
        seed: of the order and of the transforms' draws.
        drop_last: leave an incomplete last batch out.
        num_workers: how many workers prepare batches ahead; 0 prepares each when it is asked for.
        workers: "thread" (decoding and NumPy release the interpreter lock) or "process" (for data sets with
            much Python of their own; they and the transform must be picklable; started in every iteration).
        prefetch: batches per worker that may be ready ahead.
        continuous: whether workers that have prepared all of an epoch go on with the first batches of the next, so that
            those are there when they are asked for.
        transform: applied to every image.
        mixing: mixes the images of each batch after that; labels are then shares of the classes, float32 (N, classes).

    Leaving an iteration early stops its workers. An error in a worker is raised here as `DataError` naming
    the item.

    >>> from imgrec_engine.data import ArrayDataset
    >>> dataset = ArrayDataset(np.zeros((10, 8, 8), np.uint8), [0, 1] * 5, ("cat", "dog"))
    >>> [labels.shape for images, labels in DataLoader(dataset, batch_size=4, shuffle=True)]
    [(4,), (4,), (2,)]

    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        num_workers: int = 0,
        workers: Literal["thread", "process"] = "thread",
        prefetch: int = 2,
        continuous: bool = False,
        transform: Transform | None = None,
        mixing: Mixing | None = None,
    ) -> None:
        for name, value, low in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("prefetch", prefetch, 1),
        ):
            if value < low:
                raise DataError(f"DataLoader: {name} must be at least {low}, not {value}")
        if workers not in ("thread", "process"):
            raise DataError(f"DataLoader: workers must be 'thread' or 'process', not {workers!r}")
        if not isinstance(transform, Transform | None):
            raise DataError(f"DataLoader: transform must be a Transform, not {transform!r}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = checked_key(seed, "DataLoader: seed")
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.workers = workers
        self.prefetch = prefetch
        self.continuous = continuous
        self.transform = Compose([]) if transform is None else transform
        self.mixing = mixing
        self.epoch = 0
        self._begun: _Begun | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy: all but the batches that workers have begun."""
        return {**vars(self), "_begun": None}

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration that of `epoch`."""
        self.epoch = checked_key(epoch, "DataLoader: epoch")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.epoch
        self.epoch += 1
        return self._iterate(epoch)

    def _iterate(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        make = BatchMaker(self.dataset, self.transform, self.seed, self.mixing)
        if self.num_workers == 0:
            yield from (_as_tensors(make(epoch, *batch)) for batch in enumerate(self._batch_indices(epoch)))
            return
        limit = self.num_workers * self.prefetch
        settings = (make, self.batch_size, self.shuffle, self.drop_last)
        earlier, self._begun = self._begun, None
        begun = earlier.batches if earlier and (earlier.epoch, earlier.settings) == (epoch, settings) else deque()
        following = deque[Future[Batch]]()
        rest = list(enumerate(self._batch_indices(epoch)))[len(begun) :]
        later = enumerate(self._batch_indices(epoch + 1)[:limit] if self.continuous else [])
        coming = chain(((begun, epoch, *batch) for batch in rest), ((following, epoch + 1, *batch) for batch in later))
        with worker_pool(make, self.num_workers, self.workers) as submit:

            def submit_next(count: int) -> None:
                for ahead, *arguments in islice(coming, count):
                    ahead.append(submit(*arguments))

            submit_next(limit - len(begun))
            while begun:
                batch = _as_tensors(begun.popleft().result())
                submit_next(1)  # last, for a thread that wakes up takes the interpreter lock from this one
                yield batch
        self._begun = _Begun(epoch + 1, settings, following)

    def _batch_indices(self, epoch: int) -> list[NDArray[np.int64]]:
        order = np.arange(len(self.dataset), dtype=np.int64)
        if self.shuffle:
            order = epoch_generator(self.seed, epoch).permutation(order)
        return [order[start * self.batch_size : (start + 1) * self.batch_size] for start in range(len(self))]


class _Begun(NamedTuple):
    """The first batches of an epoch, begun at the end of the one before, and the settings that they are made with."""

    epoch: int
    settings: tuple[Any, ...]
    batches: deque[Future[Batch]]


@dataclass(frozen=True)
class BatchMaker:
    """Makes one batch of given items as arrays; all that a worker needs."""

    dataset: Dataset
    transform: Transform
    seed: int
    mixing: Mixing | None = None

    def __call__(self, epoch: int, number: int, indices: NDArray[np.int64]) -> Batch:
        """Return batch `number`: images (len(indices), ..., H, W, C) float32 and labels, int64 or mixed."""
        images, labels = self._prepare(epoch, indices)
        if self.mixing is None:
            return images, labels
        generator = batch_generator(self.seed, epoch, number)
        return self.mixing(images, labels, len(self.dataset.classes), generator)

    def _prepare(self, epoch: int, indices: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        gather = getattr(self.dataset, "gather", partial(Dataset.gather, self.dataset))
        images, labels = gather(indices)
        generators = (
            [item_generator(self.seed, epoch, int(index)) for index in indices] if self.transform.is_random else []
        )
        if isinstance(images, np.ndarray):
            return to_float(self.transform.batch(images, generators)), labels
        for position, index in enumerate(indices):
            try:
                generator = generators[position] if generators else None
                images[position] = self.transform(images[position], generator)
            except DataError as error:
                raise DataError(f"item {index} could not be transformed: {error}") from error
        return to_float(_stacked(images)), labels


def _as_tensors(batch: Batch) -> tuple[Tensor, Tensor]:
    from imgrec_engine.tensor import tensor  # so that worker processes need not load the kernels

    images, labels = batch
    return tensor(images), tensor(labels)


def _stacked(images: list[NDArray[Any]]) -> NDArray[Any]:
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        first, second = sorted(shapes)[:2]
        raise DataError(
            f"images of one batch differ in shape, e.g. {first} and {second}; "
            "let the transform bring them to one size (Resize) and one number of channels (ToGrey or ToRGB)"
        )
    return np.stack(images)
