"""The IDX format of MNIST and its kin (yann.lecun.com/exdb/mnist), gzipped or not."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.data.dataset import ArrayDataset, contiguous_labels
from imgrec_engine.errors import DataError

MAX_BYTES = 4 * 1024**3
"""Arrays of more bytes are refused."""

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_DIMENSIONS = 8
_CHUNK = 1024 * 1024


def read_idx(path: str | Path) -> NDArray[Any]:
    """Read an IDX file as an array in native byte order.

    Layout: two zero bytes, a type code, the number of dimensions, each dimension as big-endian uint32, the
    data. Memory grows only with the data that is really there, whatever the header claims. Raises
    `DataError` naming the file where anything does not fit.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not zipped:
                return _read(raw, path)
            with gzip.GzipFile(fileobj=raw) as unzipped:
                return _read(unzipped, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _read(stream: IO[bytes] | gzip.GzipFile, path: Path) -> NDArray[Any]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES or not 1 <= magic[3] <= _MAX_DIMENSIONS:
        raise DataError(f"{path}: not an IDX file (it begins with {magic.hex(' ') or 'nothing'})")
    header = stream.read(4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DataError(f"{path}: IDX file ends inside its header")
    shape = struct.unpack(f">{magic[3]}I", header)
    dtype = np.dtype(_DTYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    if expected > MAX_BYTES:
        raise DataError(f"{path}: IDX header claims {expected} bytes of shape {shape}; the limit is {MAX_BYTES}")
    data = bytearray()
    while len(data) <= expected and (chunk := stream.read(_CHUNK)):
        data += chunk
    if len(data) != expected:
        seen = f"only {len(data)}" if len(data) < expected else "more"
        raise DataError(f"{path}: IDX shape {shape} needs {expected} bytes of data, but the file holds {seen}")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def load_idx(images: str | Path, labels: str | Path | None = None, classes: tuple[str, ...] = ()) -> ArrayDataset:
    """Read an IDX image file and its label file as a data set.

    `labels` is by default the file beside `images` whose name has "labels" and "idx1" for "images" and
    "idx3". Without `classes` the distinct labels are numbered in ascending order and are their own names.
    """
    images = Path(images)
    labels = labels_beside(images) if labels is None else Path(labels)
    pixels, numbers = read_idx(images), read_idx(labels)
    if pixels.ndim not in (3, 4):
        raise DataError(f"{images}: images must have 3 or 4 dimensions, not shape {pixels.shape}")
    if numbers.shape != pixels.shape[:1]:
        raise DataError(f"{labels}: {numbers.shape} labels for {len(pixels)} images in {images}")
    try:
        if not classes:
            numbers, classes = contiguous_labels(numbers)
        return ArrayDataset(pixels, numbers, classes)
    except DataError as error:
        raise DataError(f"{images}: {error}") from error


def labels_beside(images: Path) -> Path:
    """Return the label file that belongs to an IDX image file; raises `DataError` where there is none."""
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    plain = name.removesuffix(".gz")
    for candidate in (name, plain, f"{plain}.gz"):
        if candidate != images.name and (images.parent / candidate).is_file():
            return images.parent / candidate
    if name == images.name:
        raise DataError(f"{images}: neither an npz file nor the images of an IDX pair (named ...images-idx3-ubyte)")
    raise DataError(f"{images}: no label file beside it; expected {images.parent / name}")


def find_idx_images(folder: Path) -> dict[str, Path]:
    """Return the IDX image files of a folder by split, e.g. `train-images-idx3-ubyte.gz` as "train"."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*ubyte*")):
        match = re.fullmatch(r"(train|t10k|test)[-_]images[-_.]idx\d[-_]ubyte(\.gz)?", path.name)
        if match and path.is_file():
            found.setdefault("train" if match[1] == "train" else "test", path)
    return found
