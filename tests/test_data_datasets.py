"""Data sets in memory: shapes, labels, subsets and splits."""

import numpy as np
import pytest

from imgrec_engine.data import ArrayDataset, ConcatDataset, Dataset, Subset, leave_group_out, split
from imgrec_engine.errors import DataError


def numbered(count: int, classes: int = 2) -> ArrayDataset:
    images = np.arange(count * 4, dtype=np.uint8).reshape(count, 2, 2)
    return ArrayDataset(images, np.arange(count) % classes, [str(c) for c in range(classes)])


class Broken(Dataset):
    classes = ("a", "b")

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 4:
            raise KeyError("no such row")
        return np.zeros((2, 2, 1), np.uint8), index % 2


@pytest.mark.parametrize(
    ("shape", "dtype", "item_shape", "item_dtype"),
    [
        ((3, 4, 5), np.uint8, (4, 5, 1), np.uint8),
        ((3, 4, 5, 3), np.float64, (4, 5, 3), np.float32),
        ((3, 4, 5), np.bool_, (4, 5, 1), np.uint8),
        ((3, 6, 4, 5, 1), np.float32, (6, 4, 5, 1), np.float32),
    ],
)
def test_array_dataset_shapes_and_dtypes(shape, dtype, item_shape, item_dtype):
    dataset = ArrayDataset(np.ones(shape, dtype), np.array([[1], [0], [1]], np.uint8), ("x", "y"))
    image, label = dataset[2]
    assert image.shape == item_shape == dataset.image_shape
    assert image.dtype == item_dtype
    assert label == 1
    assert isinstance(label, int)
    assert image.max() == (255 if dtype is np.bool_ else 1)
    assert dataset.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (np.zeros((3, 4)), [0, 1, 0], "images must have shape"),
        (np.zeros((0, 4, 4)), [], "empty"),
        (np.zeros((2, 4, 4), np.int32), [0, 1], "uint8"),
        (np.full((2, 4, 4), np.nan), [0, 1], "NaN"),
        (np.zeros((2, 4, 4)), [0, 1, 1], r"labels must have shape \(2,\)"),
        (np.zeros((2, 4, 4)), [0.0, 1.0], "integers"),
        (np.zeros((2, 4, 4)), [0, 2], r"0 \.\. 1 for 2 classes"),
        (np.zeros((2, 4, 4)), [-1, 1], "from -1 to 1"),
    ],
)
def test_array_dataset_refuses(images, labels, says):
    with pytest.raises(DataError, match=says):
        ArrayDataset(images, labels, ("x", "y"))


def test_gather_agrees_with_items():
    dataset = numbered(10)
    for view in (dataset, Subset(dataset, [7, 1, 1, 4]), ConcatDataset([dataset, numbered(5)])):
        indices = np.array([3, 0, 2])
        images, labels = view.gather(indices)
        for image, label, index in zip(images, labels, indices, strict=True):
            np.testing.assert_array_equal(image, view[int(index)][0])
            assert label == view[int(index)][1] == view.labels[index]


def test_iterating_ends():
    assert [label for _, label in numbered(5, 3)] == [0, 1, 2, 0, 1]


def test_labels_of_a_users_set():
    class Listed(Dataset):
        classes = ("a", "b")

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return np.zeros((2, 3, 1), np.uint8), index % 2

    assert Listed().labels.tolist() == [0, 1, 0]
    assert Listed().image_shape == (2, 3, 1)


def test_gather_names_the_item():
    with pytest.raises(DataError, match=r"item 4 could not be loaded: KeyError: 'no such row'"):
        Broken().gather([0, 4])


def test_concat_refuses_other_classes():
    with pytest.raises(DataError, match="classes are the same"):
        ConcatDataset([numbered(4, 2), numbered(4, 3)])
    with pytest.raises(IndexError):
        ConcatDataset([numbered(4), numbered(4)])[8]


def test_subset_refuses_indices_outside():
    with pytest.raises(DataError, match=r"0 \.\. 3"):
        Subset(numbered(4), [4])


def test_split_is_stratified_seeded_and_whole():
    labels = np.repeat([0, 1, 2], [40, 8, 1])
    dataset = ArrayDataset(np.zeros((49, 2, 2), np.uint8), labels, ("many", "few", "one"))
    rest, held_out = split(dataset, 0.25, seed=3)
    assert np.bincount(held_out.labels, minlength=3).tolist() == [10, 2, 0]
    assert sorted([*rest.indices, *held_out.indices]) == list(range(49))
    np.testing.assert_array_equal(split(dataset, 0.25, seed=3)[1].indices, held_out.indices)
    assert split(dataset, 0.25, seed=4)[1].indices.tolist() != held_out.indices.tolist()
    for fraction in (0.0, 1.0):
        with pytest.raises(DataError, match="fraction"):
            split(dataset, fraction)


def test_leave_group_out():
    images = np.zeros((6, 2, 2), np.uint8)
    dataset = ArrayDataset(images, [0, 1] * 3, ("a", "b"), groups=[1, 1, 2, 2, 3, 3])
    train, test = leave_group_out(dataset, [2])
    assert (train.indices.tolist(), test.indices.tolist()) == ([0, 1, 4, 5], [2, 3])
    with pytest.raises(DataError, match=r"no group 9; its groups are \[1, 2, 3\]"):
        leave_group_out(dataset, [9])
    with pytest.raises(DataError, match="no groups"):
        leave_group_out(numbered(4), [1])
