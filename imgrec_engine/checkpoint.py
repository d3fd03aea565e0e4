"""Checkpoints: safetensors files with digests of all they hold, written so that a crash never leaves half of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from imgrec_engine.device import to_numpy
from imgrec_engine.errors import CheckpointError
from imgrec_engine.tensor import Tensor, tensor

_METADATA = "imgrec_engine"  # safetensors' metadata maps strings to strings: everything of ours is JSON under this key
_FORMAT = 2
_PART = ".part"  # how the names of files end that are not whole yet


def save(path: str | Path, state_dict: Mapping[str, Tensor | NDArray[Any]], metadata: Any = None) -> None:
    """Writes tensors and JSON metadata as a safetensors file.

    The file appears whole or not at all: it is written beside its place, flushed to the disk, and moved there.

    >>> import tempfile, imgrec_engine as ie
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(folder + "/x.safetensors", {"weight": ie.ones(2)}, {"epoch": 3})
    ...     state, metadata = load(folder + "/x.safetensors")
    >>> state["weight"].numpy(), metadata
    (array([1., 1.], dtype=float32), {'epoch': 3})
    """
    arrays = {
        name: np.ascontiguousarray(to_numpy(value._array) if isinstance(value, Tensor) else value)
        for name, value in state_dict.items()
    }
    for name, value in state_dict.items():  # ascontiguousarray gives a scalar a dimension
        arrays[name] = arrays[name].reshape(np.shape(value))
    digests = {name: _digest(array) for name, array in arrays.items()}
    header = {"format": _FORMAT, "digests": digests, "metadata": metadata, "metadata_digest": _text_digest(metadata)}
    with replacing(path) as file:
        file.write(safetensors.numpy.save(arrays, metadata={_METADATA: _json(header)}))


def load(path: str | Path) -> tuple[dict[str, Tensor], Any]:
    """Reads what ``save`` wrote: (state dict, metadata).

    CheckpointError, naming the file, if it is missing, damaged, or not one of ours: every tensor is checked against
    its digest, and so is the metadata.
    """
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = _header((file.metadata() or {}).get(_METADATA), path)
            for name in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                arrays[name] = file.get_tensor(name)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file") from None
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from None
    digests = header["digests"]
    if set(digests) != set(arrays):
        raise CheckpointError(f"{path}: damaged: it holds other tensors than its list of digests names")
    for name, array in arrays.items():
        if _digest(array) != digests[name]:
            raise CheckpointError(f"{path}: damaged: tensor {name!r} does not match its digest")
    return {name: tensor(array) for name, array in arrays.items()}, header["metadata"]


def _header(text: str | None, path: str | Path) -> Any:
    if text is None:
        raise CheckpointError(f"{path}: not a checkpoint of imgrec_engine: it has no metadata of ours")
    try:
        header = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise CheckpointError(f"{path}: damaged: its metadata is not JSON") from None
    if not isinstance(header, dict) or not isinstance(header.get("digests"), dict) or "metadata" not in header:
        raise CheckpointError(f"{path}: damaged: its metadata lacks the digests")
    if header.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: format {header.get('format')!r}, this version reads {_FORMAT}")
    if header.get("metadata_digest") != _text_digest(header["metadata"]):
        raise CheckpointError(f"{path}: damaged: the metadata does not match its digest")
    return header


def _json(content: Any) -> str:
    return json.dumps(content, allow_nan=False, sort_keys=True)


def _text_digest(metadata: Any) -> str:
    """Of the metadata as it will be read: JSON turns the keys of dictionaries into text."""
    return hashlib.sha256(_json(json.loads(_json(metadata))).encode()).hexdigest()


def _digest(array: NDArray[Any]) -> str:
    """Of the values together with dtype and shape."""
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to write; it takes the place of ``path`` once all of it is on the disk. An error leaves ``path`` alone."""
    place = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.", suffix=_PART)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(place)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def clear_parts(folder: str | Path) -> None:
    """Removes what a process that was killed while it wrote left in a folder; nobody may be writing there."""
    for path in Path(folder).glob(f".*{_PART}"):
        path.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
