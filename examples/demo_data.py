"""What the demo trains on: faces, patches without a face, windows of photos and broken faces, varied in every epoch.

Two hundred patches are few. Three things make up for it: every sample is seen in many variants (`augmented`); windows
of photos without people show what the world looks like between faces (`window_pool`); and faces that are broken on
purpose show that skin, hair and an eye do not make a face yet (`broken_faces`).

Images are float32 arrays (N, SIDE, SIDE), grey, 0 is black and 1 is white. Every function works on all images at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgrec_engine.data import ArrayDataset, Dataset, ToGrey
from imgrec_engine.train import Recogniser

Images = NDArray[np.float32]
Random = np.random.Generator

SIDE = 25  # of the patches in `lfw_subset`
MIDDLE = (SIDE - 1) / 2
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE].astype(np.float32) - np.float32(MIDDLE)

# Photos in the wheel of scikit-image. Left out: the astronaut, who is the test, and what else shows people.
PHOTOS = (
    "brick",
    "camera",
    "chelsea",
    "clock",
    "coffee",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "page",
    "retina",
    "rocket",
    "stereo_motorcycle",
    "text",
)
CAMERAMAN_ROWS = 160  # his head is above

FACES, NOT_FACES, WINDOWS, BROKEN = 700, 150, 1050, 148  # samples of an epoch
EPOCH_SIZE = FACES + NOT_FACES + WINDOWS + BROKEN


def to_grey(photo: NDArray[np.uint8]) -> Images:
    """A photo (H, W) or (H, W, 3) in grey, (H, W), 0 to 1."""
    grey = ToGrey()(photo.reshape(*photo.shape[:2], -1))[..., 0]
    return grey.astype(np.float32) / np.float32(255)


def load_photos() -> list[Images]:
    """The photos without people, in grey."""
    import skimage.data

    photos = {name: getattr(skimage.data, name)() for name in PHOTOS}
    photos["stereo_motorcycle"] = photos["stereo_motorcycle"][0]  # the left eye's view
    photos["camera"] = photos["camera"][CAMERAMAN_ROWS:]
    return [to_grey(photo) for photo in photos.values()]


def cut(photo: Images, top: int, left: int, side: int) -> Images:
    """A square window of a photo, scaled to SIDE; where it reaches over the border, the border is continued."""
    rows = np.clip(np.arange(top, top + side), 0, photo.shape[0] - 1)
    columns = np.clip(np.arange(left, left + side), 0, photo.shape[1] - 1)
    window = Image.fromarray(photo[rows[:, None], columns])
    return np.asarray(window.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def window_pool(photos: list[Images], count: int, rng: Random) -> Images:
    """`count` windows of the photos, small and large ones, and half as many more that are put together from two."""
    windows = np.empty((count, SIDE, SIDE), np.float32)
    for n in range(count):
        photo = photos[n % len(photos)]
        side = int(np.exp(rng.uniform(np.log(20), np.log(min(160, *photo.shape)))))
        top, left = (rng.integers(length - side + 1) for length in photo.shape)
        windows[n] = cut(photo, top, left, side)
    return np.concatenate([windows, composites(windows, count // 2, rng)])


class Samples:
    """Draws an epoch's samples from labelled patches (not faces 0, faces 1) and the pool of windows."""

    def __init__(self, patches: Dataset, windows: Images, seed: int) -> None:
        images, labels = patches.gather(range(len(patches)))
        self.not_faces, self.faces = (np.asarray(images)[labels == label, ..., 0] for label in (0, 1))
        self.classes = patches.classes
        self.windows = windows
        self.weights = np.full(len(windows), 1 / len(windows))
        self.rng = np.random.default_rng(seed)

    def prefer_hard_windows(self, recogniser: Recogniser) -> None:
        """From now on draws windows that `recogniser` takes for faces up to eight times as often as others."""
        scores = recogniser.probabilities(self.windows[..., None])[:, 1].astype(np.float64)
        weights = 0.15 + np.minimum(scores / 0.2, 1)
        self.weights = weights / weights.sum()

    def draw_epoch(self) -> ArrayDataset:
        """EPOCH_SIZE samples: first the faces, then all that is no face."""
        chosen = self.rng.choice(len(self.windows), WINDOWS, replace=False, p=self.weights)
        parts = [
            varied_faces(self.faces, self.windows, self.rng),
            pick(self.not_faces, NOT_FACES, self.rng),
            self.windows[chosen],
            broken_faces(self.faces, self.windows, self.rng),
        ]
        labels = np.repeat([1, 0], [FACES, EPOCH_SIZE - FACES])
        return ArrayDataset(augmented(np.concatenate(parts), self.rng), labels, self.classes)


def varied_faces(faces: Images, windows: Images, rng: Random) -> Images:
    """Faces, half of them blended with another one, half of them before a new background: more people, more places."""
    face, other = pick(faces, FACES, rng), mirrored(pick(faces, FACES, rng), rng)
    face = blend(chance(0.5, FACES, rng) * uniform(0.3, 0.7, FACES, rng), other, face)
    outside = chance(0.5, FACES, rng) * (1 - soft(np.hypot(ROWS / 13.5, COLUMNS / 10)))
    return blend(outside, windows[rng.integers(len(windows), size=FACES)], face)


def broken_faces(faces: Images, windows: Images, rng: Random) -> Images:
    """Faces that are none any more: in pieces, turned, one part only, inverted, or with a hole (twice as many)."""
    pieces, turned, part, negative, *hollow = np.array_split(pick(faces, BROKEN, rng), 6)
    hole = np.concatenate(hollow)
    return np.concatenate(
        [
            *(shuffled_cells(half, cells, rng) for half, cells in zip(np.array_split(pieces, 2), (2, 3), strict=True)),
            *(np.rot90(third, turns, (1, 2)) for turns, third in enumerate(np.array_split(turned, 3), 1)),
            enlarged_part(part, rng),
            1 - negative,
            blend(random_ellipse(len(hole), rng), windows[rng.integers(len(windows), size=len(hole))], hole),
        ]
    )


def augmented(images: Images, rng: Random) -> Images:
    """Every image mirrored or not, turned, stretched and shifted a little, sometimes blurred, in another light."""
    count = len(images)
    images = resample(mirrored(images, rng), *random_affine(count, rng))
    images = blend(chance(0.3, count, rng), cross_blur(images), images)
    mean = images.mean(axis=(1, 2), keepdims=True)
    images = (images - mean) * np.exp(uniform(-0.35, 0.35, count, rng)) + mean + uniform(-0.15, 0.15, count, rng)
    light = uniform(-0.15, 0.15, count, rng) * ROWS + uniform(-0.15, 0.15, count, rng) * COLUMNS
    lit: Images = np.clip(images + light / np.float32(MIDDLE), 0, 1)
    return lit


def composites(windows: Images, count: int, rng: Random) -> Images:
    """Windows with a round or rectangular piece of another one set in: sharp outlines without a face inside."""
    outer, inner = windows[rng.integers(len(windows), size=(2, count))]
    height, width, top, left = (uniform(low, high, count, rng) for low, high in [(5, 12)] * 2 + [(-4, 4)] * 2)
    y, x = (ROWS - top) / height, (COLUMNS - left) / width
    distance = np.where(chance(0.5, count, rng) > 0, np.hypot(y, x), np.maximum(abs(y), abs(x)))
    return blend(soft(distance), inner, outer)


def random_ellipse(count: int, rng: Random) -> Images:
    """Masks: 1 where eyes, nose and mouth are, 0 where a head ends."""
    height, width, top = (uniform(low, high, count, rng) for low, high in [(7, 10), (5.5, 8), (-1, 3)])
    return soft(np.hypot((ROWS - top) / height, COLUMNS / width))


def soft(distance: Images) -> Images:
    """A mask: 1 where the distance is below 1, 0 where it is above, with a soft edge between."""
    mask: Images = np.clip((1 - distance) / np.float32(0.12) + np.float32(0.5), 0, 1)
    return mask


def blend(share: Images, image: Images, rest: Images) -> Images:
    """`share` of the one image, the rest of the other."""
    return rest + share * (image - rest)


def shuffled_cells(images: Images, cells: int, rng: Random) -> Images:
    """Every image cut into cells x cells pieces of which none stays in its place."""
    count, side = len(images), SIDE // cells
    pieces = images[:, : cells * side, : cells * side].reshape(count, cells, side, cells, side).swapaxes(2, 3)
    order = rng.permuted(np.tile(np.arange(cells**2), (count, 1)), axis=1)
    moved = np.empty((count, cells**2, side, side), np.float32)
    # Each piece goes where its successor in a random order was: one cycle through all places, so none stays.
    moved[np.arange(count)[:, None], order] = pieces.reshape(moved.shape)[
        np.arange(count)[:, None], np.roll(order, 1, axis=1)
    ]
    whole = moved.reshape(count, cells, cells, side, side).swapaxes(2, 3).reshape(count, cells * side, cells * side)
    return np.pad(whole, [(0, 0), (0, SIDE - cells * side), (0, SIDE - cells * side)], mode="edge")


def enlarged_part(images: Images, rng: Random) -> Images:
    """An eye, a mouth, a cheek: about half of an image's height and width, enlarged to fill it."""
    share = rng.uniform(0.35, 0.55, (len(images), 1, 1))
    middle = MIDDLE + rng.uniform(-1, 1, (len(images), 2)) * (1 - share[..., 0]) * MIDDLE
    return resample(images, share * np.eye(2), middle)


def random_affine(count: int, rng: Random) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrices (N, 2, 2) and middles (N, 2) for `resample`: +-10 degrees, 20 % in size, 10 % in shape, 2.2 pixels."""
    angle = np.radians(rng.uniform(-10, 10, count))
    size, shape = rng.uniform(-0.2, 0.2, count), rng.uniform(-0.1, 0.1, count)
    rotation = np.moveaxis(np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]), -1, 0)
    scale = np.exp(np.stack([-size - shape / 2, -size + shape / 2], axis=-1))
    return rotation * scale[:, None, :], MIDDLE + rng.uniform(-2.2, 2.2, (count, 2))


def resample(images: Images, matrices: NDArray[np.float64], middles: NDArray[np.float64]) -> Images:
    """Bilinear values at matrix @ (position - MIDDLE) + middle for every pixel; beyond the border, the border's."""
    positions = np.stack([ROWS.ravel(), COLUMNS.ravel()])
    points = np.clip(matrices.astype(np.float32) @ positions + middles[..., None].astype(np.float32), 0, SIDE - 1)
    corners = np.minimum(points.astype(np.intp), SIDE - 2)
    down, right = np.moveaxis(points - corners.astype(np.float32), 1, 0)
    pixels, index = images.reshape(len(images), -1), corners[:, 0] * SIDE + corners[:, 1]

    def row(offset: int) -> Images:
        left, beside = (np.take_along_axis(pixels, index + offset + step, axis=1) for step in (0, 1))
        return blend(right, beside, left)

    return blend(down, row(SIDE), row(0)).reshape(images.shape)


def cross_blur(images: Images) -> Images:
    """The mean of every pixel and its four neighbours."""
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1)], mode="edge")
    neighbours = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return np.divide(images + neighbours, 5, dtype=np.float32)


def mirrored(images: Images, rng: Random) -> Images:
    """Half of the images, drawn at random, mirrored."""
    return np.where(chance(0.5, len(images), rng) > 0, images[:, :, ::-1], images)


def pick(images: Images, count: int, rng: Random) -> Images:
    """`count` images, each as often as the others, in a random order."""
    order: NDArray[np.int64] = rng.permutation(np.resize(rng.permutation(len(images)), count))
    return images[order]


def chance(probability: float, count: int, rng: Random) -> Images:
    """One 0 or 1 for each image: (N, 1, 1)."""
    return (rng.random((count, 1, 1)) < probability).astype(np.float32)


def uniform(low: float, high: float, count: int, rng: Random) -> Images:
    """One number for each image: (N, 1, 1)."""
    return rng.uniform(low, high, (count, 1, 1)).astype(np.float32)
