"""Random streams of the data side: who draws what depends on (seed, epoch, item), never on who works when."""

from __future__ import annotations

import numpy as np

from imgrec_engine.errors import DataError

_ITEM, _EPOCH, _BATCH = 0, 1, 2  # the third counter word keeps the kinds of stream apart


def item_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the generator from which the transforms of item `index` draw in `epoch`.

    Philox is counter-based (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), so every
    item has a stream of its own: a worker needs to know nothing of the items that other workers transform.

    >>> item_generator(seed=0, epoch=2, index=7).integers(100) == item_generator(0, 2, 7).integers(100)
    np.True_
    """
    return _generator(seed, epoch, index, _ITEM)


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    """Return the generator that shuffles the items of `epoch`."""
    return _generator(seed, epoch, 0, _EPOCH)


def batch_generator(seed: int, epoch: int, number: int) -> np.random.Generator:
    """Return the generator from which batch `number` of `epoch` draws what its items share."""
    return _generator(seed, epoch, number, _BATCH)


def checked_key(value: int, name: str) -> int:
    """Return `value`, a seed or an epoch, if it fits a word of a Philox key, else raise `DataError`."""
    if not 0 <= value < 2**64:
        raise DataError(f"{name} must be an integer in 0 .. 2**64 - 1, not {value}")
    return int(value)


def _generator(seed: int, epoch: int, index: int, kind: int) -> np.random.Generator:
    # The lowest counter word is the generator's own, to count its draws.
    key, counter = np.array([seed, epoch], np.uint64), np.array([0, index, kind, 0], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
