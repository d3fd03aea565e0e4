"""Transforms against simple references, and their configurations."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imgrec_engine.data import (
    ArrayDataset,
    CenterCrop,
    ColorJitter,
    Compose,
    Cutout,
    Dataset,
    Normalize,
    Preprocessing,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomRotate90,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
    Standardize,
    ToGrey,
    ToRGB,
    Transform,
)
from imgrec_engine.data.streams import item_generator
from imgrec_engine.errors import DataError

EVERY = [
    ToGrey(),
    ToRGB(),
    Resize((5, 9)),
    CenterCrop((5, 4)),
    RandomCrop((6, 7), 2),
    RandomHorizontalFlip(),
    RandomVerticalFlip(0.3),
    RandomRotation(45),
    RandomErasing(0.9),
    RandomAffine(30, 0.2, 10, 0.2),
    ColorJitter(0.3, 0.3, 0.3),
    Cutout(3),
    Normalize((0.5,), (0.25,)),
    Standardize(),
    Compose([RandomHorizontalFlip(), ToGrey(), RandomCrop((4, 4)), Normalize((0.1,), (0.2,))]),
]


def pixels(*shape: int, dtype=np.uint8, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return values if dtype == np.uint8 else (values / np.float32(255)).astype(dtype)


def generators(count: int) -> list[np.random.Generator]:
    return [item_generator(3, 1, index) for index in range(count)]


@pytest.mark.parametrize("transform", EVERY, ids=lambda transform: type(transform).__name__)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(6, 8, 7, 3), (6, 4, 8, 7, 3), (6, 8, 7, 1)])
def test_items_and_batches_give_the_same_bits(transform, dtype, shape):
    images = pixels(*shape, dtype=dtype)
    before = images.copy()
    batch = transform.batch(images, generators(len(images)))
    for image, generator, expected in zip(images, generators(len(images)), batch, strict=True):
        result = transform(image, generator)
        assert result.dtype == expected.dtype
        assert result.shape == expected.shape
        assert result.tobytes() == expected.tobytes()
    np.testing.assert_array_equal(images, before)


def test_a_clip_is_turned_as_one():
    clip = np.repeat(pixels(1, 9, 9, 1), 5, axis=0)
    for transform in EVERY:
        result = transform(clip, item_generator(0, 0, 0))
        assert len(result) == 5
        np.testing.assert_array_equal(result, np.repeat(result[:1], 5, axis=0))


def test_grey_is_pillows():
    image = pixels(20, 30, 3)
    np.testing.assert_array_equal(ToGrey()(image)[..., 0], np.asarray(Image.fromarray(image).convert("L")))
    grey = ToGrey()(pixels(20, 30, 3, dtype=np.float32))
    np.testing.assert_allclose(grey * 255, ToGrey()(image), atol=0.51)
    np.testing.assert_array_equal(ToRGB()(grey), np.concatenate([grey] * 3, axis=-1))
    with pytest.raises(DataError, match="1 or 3 channels, not 2"):
        ToGrey()(pixels(4, 4, 2))


def test_resize_is_pillows_and_keeps_a_constant():
    image = pixels(20, 30, 3)
    expected = np.asarray(Image.fromarray(image).resize((11, 7), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(Resize((7, 11))(image), expected)
    flat = np.full((9, 5, 1), 0.25, np.float32)
    np.testing.assert_allclose(Resize((4, 20))(flat), 0.25, rtol=1e-6)


def test_center_crop():
    image = pixels(9, 8, 1)
    np.testing.assert_array_equal(CenterCrop((4, 4))(image), image[2:6, 2:6])
    with pytest.raises(DataError, match=r"CenterCrop of \(10, 4\) needs larger images than \(9, 8\)"):
        CenterCrop((10, 4))(image)


def test_random_crop_is_a_window_of_the_padded_image():
    image = pixels(6, 5, 1) | 1
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[top : top + 6, left : left + 5].tobytes(): (top, left) for top in range(5) for left in range(5)}
    crop = RandomCrop((6, 5), 2)
    seen = {windows[crop(image, item_generator(0, 0, index)).tobytes()] for index in range(400)}
    assert len(seen) == 25


@pytest.mark.parametrize(("flip", "axis"), [(RandomHorizontalFlip, 1), (RandomVerticalFlip, 0)])
def test_flips(flip, axis):
    image = pixels(6, 5, 3)
    mirrored = np.flip(image, axis)
    results = [flip(0.25)(image, item_generator(0, 0, index)) for index in range(1000)]
    share = np.mean([np.array_equal(result, mirrored) for result in results])
    assert all(np.array_equal(result, mirrored) or np.array_equal(result, image) for result in results)
    assert share == pytest.approx(0.25, abs=0.05)
    np.testing.assert_array_equal(flip(1.0)(image, item_generator(0, 0, 0)), mirrored)
    np.testing.assert_array_equal(flip(0.0)(image, item_generator(0, 0, 0)), image)


@pytest.mark.parametrize("shape", [(6, 6, 3), (4, 6, 6, 1)])
def test_quarter_turns_are_equally_likely(shape):
    image = pixels(*shape)
    turned = [np.rot90(image, quarters, axes=(-3, -2)).tobytes() for quarters in range(4)]
    drawn = [turned.index(RandomRotate90()(image, item_generator(0, 0, index)).tobytes()) for index in range(1000)]
    np.testing.assert_allclose(np.bincount(drawn) / 1000, 0.25, atol=0.05)


def test_quarter_turns_need_squares():
    with pytest.raises(DataError, match="RandomRotate90: the images are 6 x 5 pixels"):
        RandomRotate90()(pixels(6, 5, 1), item_generator(0, 0, 0))


@pytest.mark.parametrize("shape", [(6, 8, 8, 3), (6, 4, 8, 8, 1)])
def test_quarter_turns_of_items_and_batches_are_the_same(shape):
    images = pixels(*shape)
    batch = RandomRotate90().batch(images, generators(len(images)))
    for image, generator, expected in zip(images, generators(len(images)), batch, strict=True):
        np.testing.assert_array_equal(RandomRotate90()(image, generator), expected)


def test_rotation_turns_about_the_centre():
    image = pixels(8, 8, 3)
    np.testing.assert_array_equal(RandomRotation(0)(image, item_generator(0, 0, 0)), image)
    bar = np.zeros((41, 41, 1), np.float32)
    bar[20, 20:40] = 1.0  # points to the right
    ends = []
    for index in range(50):
        turned = RandomRotation(30)(bar, item_generator(0, 0, index))[..., 0]
        rows, columns = np.nonzero(turned > 0.3)
        ends.append(np.degrees(np.arctan2(20 - rows.mean(), columns.mean() - 20)))
    assert -31 < min(ends) < -15
    assert 15 < max(ends) < 31


def test_cutout_removes_at_most_the_square():
    image = np.full((10, 10, 2), 7, np.uint8)
    removed = []
    for index in range(200):
        hole = Cutout(4)(image, item_generator(0, 0, index)) == 0
        assert (hole[..., 0] == hole[..., 1]).all()
        removed.append(int(hole[..., 0].sum()))
    assert max(removed) == 16
    assert min(removed) == 4


def test_normalize():
    image = pixels(4, 5, 3)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = (image.astype(np.float64) / 255 - mean) / std
    result = Normalize(mean, std)(image)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)
    with pytest.raises(DataError, match="3 means but the images have 1 channels"):
        Normalize(mean, std)(pixels(4, 5, 1))


def test_calls_are_checked():
    with pytest.raises(DataError, match="draws at random and needs a generator"):
        RandomHorizontalFlip()(pixels(4, 4, 1))
    with pytest.raises(DataError, match=r"not float64 of shape \(4, 4, 1\)"):
        Resize((2, 2))(np.zeros((4, 4, 1)))
    with pytest.raises(DataError, match=r"not uint8 of shape \(4, 4\)"):
        Resize((2, 2))(pixels(4, 4))


@pytest.mark.parametrize("transform", EVERY, ids=lambda transform: type(transform).__name__)
def test_configuration_survives_json(transform):
    assert Transform.from_config(json.loads(json.dumps(transform.to_config()))) == transform


def test_compose_is_flat():
    nested = Compose([Compose([ToGrey(), Resize((4, 4))]), Normalize((0.5,), (0.5,))])
    assert [type(step) for step in nested.transforms] == [ToGrey, Resize, Normalize]


@pytest.mark.parametrize(
    "config",
    [
        None,
        [],
        "Resize",
        {},
        {"name": "os.system"},
        {"name": ["Resize"]},
        {"name": "Transform"},
        {"name": "Resize"},
        {"name": "Resize", "size": [4, 4], "extra": 1},
        {"name": "Resize", "size": "4"},
        {"name": "Resize", "size": [4, 4, 4]},
        {"name": "Resize", "size": [0, 4]},
        {"name": "Resize", "size": [4, 10**9]},
        {"name": "Resize", "size": [4.5, 4]},
        {"name": "Resize", "size": [True, 4]},
        {"name": "RandomCrop", "size": [4, 4], "padding": -1},
        {"name": "RandomHorizontalFlip", "p": 1.5},
        {"name": "RandomVerticalFlip", "p": "0.5"},
        {"name": "RandomRotation", "degrees": float("nan")},
        {"name": "Cutout", "size": 0},
        {"name": "Normalize", "mean": [0.5], "std": [0.0]},
        {"name": "Normalize", "mean": [0.5], "std": [0.5, 0.5]},
        {"name": "Normalize", "mean": 0.5, "std": 0.5},
        {"name": "Normalize", "mean": [], "std": []},
        {"name": "Normalize", "mean": [10**400], "std": [1]},
        {"name": "Compose", "transforms": {"name": "ToGrey"}},
        {"name": "Compose", "transforms": [{"name": "Compose", "transforms": []}]},
        {"name": "Compose", "transforms": [3]},
    ],
)
def test_bad_configurations_are_refused(config):
    with pytest.raises(DataError):
        Transform.from_config(config)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from(["size", "padding", "p", "degrees", "mean", "std", "transforms"])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([type(t).__name__ for t in EVERY]), st.dictionaries(FIELDS, JSON, max_size=2))
def test_any_json_is_a_transform_or_a_data_error(name, arguments):
    try:
        transform = Transform.from_config({"name": name} | arguments)
    except DataError:
        return
    assert Transform.from_config(transform.to_config()) == transform


def test_users_transforms_are_not_stored():
    class Mine(Transform):
        def batch(self, images, generators):
            return images

    with pytest.raises(DataError, match="Mine is not one of the engine's transforms"):
        Compose([Mine()]).to_config()


class Sizes(Dataset):
    classes = ("a", "b")
    image_shape = None

    def __init__(self, channels):
        self.channels = channels

    def __len__(self):
        return len(self.channels)

    def __getitem__(self, index):
        return pixels(10 + index, 12, self.channels[index], seed=index), index % 2


def test_preprocessing_measures_the_training_set():
    images = pixels(50, 6, 7, 3)
    dataset = ArrayDataset(images, np.arange(50) % 2, ("a", "b"))
    preprocessing = Preprocessing.measure(dataset)
    assert (preprocessing.image_size, preprocessing.channels) == ((6, 7), 3)
    prepared = preprocessing.compose().batch(images, []).astype(np.float64)
    np.testing.assert_allclose(prepared.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(prepared.std(axis=(0, 1, 2)), 1, atol=1e-5)
    grey = Preprocessing.measure(dataset, image_size=(4, 4), channels=1)
    assert grey.compose()(images[0]).shape == (4, 4, 1)


def test_preprocessing_of_various_images():
    assert Preprocessing.measure(Sizes([1, 1, 1])).channels == 1
    mixed = Preprocessing.measure(Sizes([1, 3, 1]))
    assert (mixed.image_size, mixed.channels) == ((64, 64), 3)
    flat = ArrayDataset(np.full((4, 2, 2), 9, np.uint8), [0, 1, 0, 1], ("a", "b"))
    assert Preprocessing.measure(flat).std == (1.0,)


def test_in_memory_changes_no_bit(monkeypatch):
    preprocessing = Preprocessing((8, 8), 3, (0.5,) * 3, (0.5,) * 3)
    dataset = Sizes([1, 3, 1, 3])
    held = preprocessing.in_memory(dataset)
    assert (held.image_shape, held.classes) == ((8, 8, 3), dataset.classes)
    for index in range(4):
        expected, label = preprocessing.compose()(dataset[index][0]), dataset[index][1]
        assert preprocessing.compose()(held[index][0]).tobytes() == expected.tobytes()
        assert held[index][1] == label
    assert preprocessing.in_memory(held) is held
    monkeypatch.setattr("imgrec_engine.data.preprocessing._MEMORY_VALUES", 4 * 8 * 8 * 3 - 1)
    assert preprocessing.in_memory(dataset) is dataset


def test_preprocessing_puts_augmentations_before_normalising():
    steps = Preprocessing((8, 8), 1, (0.5,), (0.5,)).compose([RandomHorizontalFlip()]).transforms
    assert [type(step) for step in steps] == [ToGrey, Resize, RandomHorizontalFlip, Normalize]


def test_standardize_is_blind_to_light():
    images = pixels(5, 6, 7, 3, dtype=np.float32)
    result = Standardize().batch(images, []).astype(np.float64)
    np.testing.assert_allclose(result.mean(axis=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(result.std(axis=(1, 2, 3)), 1, atol=1e-6)
    np.testing.assert_allclose(Standardize().batch(0.5 * images + 0.25, []), result, atol=1e-5)
    even = np.full((1, 4, 4, 1), 0.5, np.float32)
    even[0, 0, 0] += 0.001
    assert abs(Standardize(min_std=0.04).batch(even, [])).max() < 0.03


def test_preprocessing_can_standardise_every_image():
    preprocessing = Preprocessing((8, 8), 1, (0.0,), (1.0,), per_image=True)
    image = pixels(8, 8, 1)
    assert preprocessing.compose()(image).tobytes() == Standardize()(image).tobytes()


@pytest.mark.parametrize("per_image", [False, True])
def test_preprocessing_survives_json(per_image):
    preprocessing = Preprocessing((8, 9), 3, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), per_image)
    assert Preprocessing.from_config(json.loads(json.dumps(preprocessing.to_config()))) == preprocessing


@pytest.mark.parametrize(
    "change",
    [
        {"channels": 5},
        {"channels": True},
        {"mean": [0.1]},
        {"std": [0, 1, 1]},
        {"image_size": "8x8"},
        {"per_image": 1},
        {"more": 1},
    ],
)
def test_bad_preprocessing_is_refused(change):
    good = Preprocessing((8, 9), 3, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)).to_config()
    with pytest.raises(DataError):
        Preprocessing.from_config(good | change)


def test_one_number_is_a_square():
    assert Resize(5) == Resize((5, 5))
    assert CenterCrop(4) == CenterCrop((4, 4))
    assert RandomCrop(4, padding=2) == RandomCrop((4, 4), padding=2)
