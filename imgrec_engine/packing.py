"""Weights in the layout that a kernel reads them in: packed once for each change, where changes can be known.

A plan says how many bytes packed weights take, and the functions ``<op>_pack`` of the bindings write them. An op asks
for the versions of its weights (`lasting_versions`) and for the packed weights (`Layout.of`), which lie with the
version of the memory that they were made from: they go when it is written to, and with the last tensor that views it.
None are kept

- of weights that are being trained: they change before they are used again;
- of memory that others may write to unseen: what ``Tensor.numpy()`` or DLPack has handed out, and what is not the
  pool's, such as NumPy arrays that were given to an op and what came through DLPack.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgrec_engine import kernels
from imgrec_engine.autograd import Version, mode

MOST_LAYOUTS = 4  # of one weight: a forward and a backward pass, each under two settings
_BYTES = np.dtype(np.uint8)
_handed_out: dict[int, weakref.ref[Any]] = {}  # owners of memory, by id


@dataclass(frozen=True, slots=True)
class _Source:
    """An array that something was made from."""

    array: Any
    owner: int  # of its memory, by id
    stamp: int  # of its version then


@dataclass(frozen=True, slots=True)
class _Kept:
    """Something and what it was made from."""

    sources: list[_Source]
    made: Any


def hand_out(array: Any) -> Any:
    """The array itself, whose memory others may write to unseen from now on."""
    owner = kernels.owner_of(array)
    number = id(owner)
    if isinstance(owner, np.ndarray) and number not in _handed_out:
        _handed_out[number] = weakref.ref(owner, lambda _: _handed_out.pop(number))
    return array


def lasting_versions(*weights: Any) -> list[Version] | None:
    """The versions of arguments of the operation that runs; None where packed copies of them are not worth keeping."""
    here = mode()
    found = []
    for weight in weights:
        for tensor in here.given:
            if tensor._array is weight and not (here.recording and tensor.requires_grad):
                found.append(tensor._version)
                break
        else:
            return None
    return found


class Layout:
    """How the kernels of a plan read weights: in ``bytes`` of memory that ``pack(memory, *weights)`` fills.

    ``description`` is what the layout depends on besides the weights and the plan.
    """

    __slots__ = ("bytes", "key", "pack")

    def __init__(self, plan: Any, description: Hashable, pack: Callable[..., None]) -> None:
        self.bytes: int = plan.packed_bytes
        self.key = _keys.setdefault((description, plan.algorithm, plan.packed_bytes), next(_numbers))
        self.pack = pack

    def of(self, weights: Sequence[Any], versions: Sequence[Version] | None) -> Any:
        """The packed weights, kept where there are versions; None where the kernels read weights as they are."""
        if not self.bytes:
            return None
        memory = None if versions is None else kept(weights, versions, self.key, self._make)
        return self._make(weights) if memory is None else memory

    def _make(self, weights: Sequence[Any]) -> Any:
        memory = kernels.EMPTY[type(weights[0])]((self.bytes,), _BYTES)
        self.pack(memory, *weights)
        return memory


_keys: dict[Hashable, int] = {}  # a number is found sooner than a long description
_numbers = itertools.count()


def kept(
    arrays: Sequence[Any], versions: Sequence[Version], key: Hashable, make: Callable[[Sequence[Any]], Any]
) -> Any:
    """What ``make`` gives for these arrays, made anew once one of them was written to; None where that may go unseen.

    It lies with the first version, under the key.
    """
    packed = versions[0].packed
    found: _Kept | None = None if packed is None else packed.get(key)
    if found is not None:
        for place, source in enumerate(found.sources):
            same = source.array is arrays[place] and source.stamp == versions[place].stamp
            if not same or source.owner in _handed_out:
                break
        else:
            return found.made
    stamps = [version.stamp for version in versions]  # read before the arrays are
    owners = [kernels.owner_of(array) for array in arrays]
    if not all(map(_is_private, owners)):
        return None
    sources = [_Source(array, id(owner), stamp) for array, owner, stamp in zip(arrays, owners, stamps, strict=True)]
    made = make(arrays)
    _keep(versions[0], key, _Kept(sources, made))
    return made


def _is_private(owner: Any) -> bool:
    """Whether nobody writes to the array unseen: its memory is the pool's, and was not handed out."""
    return kernels.pool_owns(owner.base) and id(owner) not in _handed_out


def _keep(version: Version, key: Hashable, made: _Kept) -> None:
    """Puts a new dictionary in the place of what was kept: other threads may be reading that."""
    others = [item for item in (version.packed or {}).items() if item[0] != key]
    version.packed = dict([*others[-(MOST_LAYOUTS - 1) :], (key, made)])
