"""Augmentations against what they promise: where pixels go, how much is erased, how labels are mixed."""

import math

import numpy as np
import pytest

from imgrec_engine.data import ColorJitter, Mixing, RandomAffine, RandomErasing
from imgrec_engine.data.resampling import resample
from imgrec_engine.data.streams import batch_generator, item_generator
from imgrec_engine.errors import DataError


def generators(count):
    return [item_generator(5, 2, index) for index in range(count)]


def smooth(count=6, side=24, channels=1):
    """Pictures that bilinear interpolation follows well, from 0 to 1."""
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(3 * x + n) * np.cos(2 * y - n) for n in range(count * channels)]
    return (np.stack(waves, -1).reshape(side, side, count, channels).transpose(2, 0, 1, 3) / 2 + 0.5).astype(np.float32)


def reference(image, entries):
    """Pixel by pixel in float64."""
    height, width = image.shape[:2]
    result = np.empty(image.shape)
    for row, column in np.ndindex(height, width):
        place = entries.astype(np.float64) @ (column - (width - 1) / 2, row - (height - 1) / 2, 1)
        x, y = np.clip(place[0] + (width - 1) / 2, 0, width - 1), np.clip(place[1] + (height - 1) / 2, 0, height - 1)
        left, above = min(int(x), width - 2), min(int(y), height - 2)
        u, v = x - left, y - above
        upper = (1 - u) * image[above, left] + u * image[above, left + 1]
        result[row, column] = (1 - v) * upper + v * ((1 - u) * image[above + 1, left] + u * image[above + 1, left + 1])
    return result


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_resampling_is_the_bilinear_formula(channels):
    images = np.random.default_rng(0).random((40, 11, 14, channels), np.float32)  # more than one block of them
    maps = np.random.default_rng(1).normal([[1, 0, 0], [0, 1, 0]], [0.3, 0.3, 2], (40, 2, 3)).astype(np.float32)
    result = resample(images, maps)
    for image, entries, got in zip(images[::13], maps[::13], result[::13], strict=True):
        np.testing.assert_allclose(got, reference(image, entries), atol=1e-5)


def test_an_affine_map_that_draws_nothing_changes_nothing():
    for images in (smooth(), (smooth() * 255).astype(np.uint8)):
        np.testing.assert_array_equal(RandomAffine().batch(images, generators(6)), images)


def test_an_affine_map_is_drawn_for_the_share_that_is_wanted():
    images = smooth(400)
    always, half, never = (RandomAffine(translate=0.2, p=p).batch(images, generators(400)) for p in (1.0, 0.5, 0.0))
    moved = [(result != images).any(axis=(1, 2, 3)) for result in (always, half, never)]
    assert moved[0].all()
    assert 160 < moved[1].sum() < 240
    assert not moved[2].any()


def test_turning_and_turning_back():
    class Fixed:
        def __init__(self, angle):
            self.angle = angle

        def uniform(self, low, high, count):
            return np.array([self.angle, 0, 0, 0, 0])

    images = smooth(2)
    turned = RandomAffine(degrees=90).batch(images, [Fixed(1.0), Fixed(-1.0)])
    np.testing.assert_allclose(turned[0], np.rot90(images[0], k=-1, axes=(0, 1)), atol=1e-5)
    np.testing.assert_allclose(turned[1], np.rot90(images[1], axes=(0, 1)), atol=1e-5)
    back = RandomAffine(degrees=20).batch(RandomAffine(degrees=20).batch(images, [Fixed(1)] * 2), [Fixed(-1)] * 2)
    np.testing.assert_allclose(back[:, 8:16, 8:16], images[:, 8:16, 8:16], atol=0.01)


def test_the_draws_stay_within_their_bounds():
    affine = RandomAffine(degrees=30, scale=0.5, shear=10, translate=0.25)
    for generator in generators(200):
        entries = np.array(affine._draw(generator, 40, 20)).reshape(2, 3)
        forward = np.linalg.inv(entries[:, :2])
        right, down = -forward @ entries[:, 2]
        assert abs(right) <= 5 + 1e-9
        assert abs(down) <= 10 + 1e-9
        assert 1 / 1.5 - 1e-9 <= math.sqrt(np.linalg.det(forward)) <= 1.5 + 1e-9


def test_erasing_draws_its_share_of_noise():
    images = np.full((400, 30, 20, 1), 0.5, np.float32)
    changed = (RandomErasing(p=0.7).batch(images, generators(400)) != images).mean(axis=(1, 2, 3))
    assert 0.62 < (changed > 0).mean() < 0.78
    assert changed[changed > 0].min() > 0.01
    assert changed.max() < 0.36
    assert 0.12 < changed[changed > 0].mean() < 0.2  # the mean of 2 ... 33 %


def test_colours_change_by_their_factors():
    images, luma = smooth(50, channels=3), np.array([[0.299], [0.587], [0.114]])
    for setting, measure in (
        ("brightness", lambda values: values.mean(axis=(1, 2, 3))),
        ("contrast", lambda values: values.std(axis=(1, 2, 3))),
        (
            "saturation",
            lambda values: np.abs(values - values @ luma).mean((1, 2, 3)),
        ),
    ):
        ratios = measure(ColorJitter(**{setting: 0.4}).batch(images, generators(50))) / measure(images)
        assert 0.6 - 0.05 < ratios.min() < 0.75
        assert 1.25 < ratios.max() < 1.4 + 0.05
    np.testing.assert_allclose(ColorJitter().batch(images, generators(50)), images, atol=1e-6)
    white = np.full((4, 2, 2, 1), 255, np.uint8)
    assert (ColorJitter(brightness=1.0).batch(white, generators(4)) > 0).all()  # a factor above 1 does not wrap round


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.5), Mixing(cutmix=1.0)], ids=["mixup", "cutmix"])
def test_labels_are_mixed_as_the_images_are(mixing):
    labels = np.arange(8) % 4
    images = np.eye(4, dtype=np.float32)[labels][:, None, None, :].repeat(12, 1).repeat(10, 2)  # class c is channel c
    for number in range(20):
        mixed, shares = mixing(images, labels, 4, batch_generator(0, 0, number))
        np.testing.assert_allclose(mixed.mean(axis=(1, 2), dtype=np.float64), shares, atol=1e-6)
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
        if mixing.cutmix:
            assert set(np.unique(mixed)) <= {0.0, 1.0}
    assert images.sum() == 8 * 120  # the batch given is left as it was


def test_both_mixings_take_turns():
    images, labels = np.random.default_rng(0).random((8, 6, 6, 1), np.float32), np.arange(8) % 2
    pasted = [
        np.isin(Mixing(0.9, 0.9)(images, labels, 2, batch_generator(0, 3, number))[0], images).all()
        for number in range(60)
    ]
    assert 15 < sum(pasted) < 45


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RandomAffine(degrees=200), "RandomAffine: degrees"),
        (lambda: RandomAffine(scale=-1), "RandomAffine: scale"),
        (lambda: RandomAffine(p=2), "RandomAffine: p"),
        (lambda: RandomErasing(2), "RandomErasing: p"),
        (lambda: ColorJitter(brightness="much"), "ColorJitter: brightness"),
        (lambda: Mixing(mixup=-1), "Mixing: mixup"),
    ],
)
def test_wrong_amounts_are_named(make, words):
    with pytest.raises(DataError, match=words):
        make()
