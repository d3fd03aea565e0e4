"""Data sets by name and by path; the real ones where this machine has them."""

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrec_engine.data import Preprocessing, data_root, leave_group_out, load, load_train_test, names, read_fir_actions
from imgrec_engine.data.shared import SETS, location, solar_grade_parts
from imgrec_engine.errors import DataError

REAL = {
    "fashion-mnist": (60000, 10000, 10, (28, 28, 1), "Ankle boot"),
    "mnist": (60000, 10000, 10, (28, 28, 1), "9"),
    "orl-faces": (200, 200, 40, (112, 92, 1), "person 39"),
    "pneumonia-xray": (4708, 624, 2, (28, 28, 1), "pneumonia"),
    "bccd-cells": (823, 290, 3, (32, 32, 3), "platelet"),
    "elpv-solar": (1970, 654, 2, (60, 60, 1), "defective"),
    "elpv-solar-grades": (1970, 654, 8, (60, 60, 1), "poly defective"),
    "deeppcb": (8847, 4137, 7, (64, 64, 2), "pin-hole"),
    "fir-actions": (1680, 840, 7, (16, 16, 16, 2), "stand"),
}


@pytest.fixture
def shared():
    try:
        return data_root()
    except DataError as error:
        pytest.skip(str(error))


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder, prefix, count, suffix=""):
    for kind, array in (
        ("images-idx3", np.zeros((count, 4, 4), np.uint8)),
        ("labels-idx1", np.arange(count, dtype=np.uint8) % 2),
    ):
        data = idx(array)
        path = folder / f"{prefix}-{kind}-ubyte{suffix}"
        path.write_bytes(gzip.compress(data) if suffix else data)
    return folder / f"{prefix}-images-idx3-ubyte{suffix}"


def write_folder(root, counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (4, 4), number).save(root / name / f"{number}.png")


@pytest.mark.parametrize("name", REAL)
def test_real_sets(shared, name):
    try:
        location(name)
    except DataError as error:
        pytest.skip(str(error))
    train_count, test_count, classes, shape, last = REAL[name]
    train, test = load_train_test(name)
    assert (len(train), len(test)) == (train_count, test_count)
    for part in (train, test):
        assert part.image_shape == shape
        assert len(part.classes) == classes
        assert part.classes[-1] == last
        assert np.unique(part.labels).tolist() == list(range(classes))


def test_solar_cells_by_kind_and_grade(tmp_path):
    path = tmp_path / "cells.npz"
    images, split = np.arange(4, dtype=np.uint8)[:, None, None] * np.ones((4, 8, 8), np.uint8), [0, 0, 1, 0]
    probability, poly = np.array([0, 1, 2 / 3, 1 / 3], np.float32), np.array([0, 1, 1, 0], np.uint8)
    np.savez(path, images=images, split=np.array(split), defect_probability=probability, module_poly=poly)
    parts = solar_grade_parts(path)
    train, test = parts["train"](), parts["test"]()
    assert [train.classes[label] for label in train.labels] == [
        "mono functional",
        "poly defective",
        "mono probably functional",
    ]
    assert [test.classes[label] for label in test.labels] == ["poly probably defective"]
    np.testing.assert_array_equal(test.images[0, ..., 0], images[2])
    good = {"images": images, "split": np.array(split), "defect_probability": probability, "module_poly": poly}
    for name, bad in [
        ("defect_probability", probability[:3]),
        ("defect_probability", np.full(4, 2.0)),
        ("defect_probability", np.full(4, np.nan)),
        ("defect_probability", np.array(["0"] * 4)),
        ("module_poly", poly[:1]),
        ("module_poly", poly + 1),
        ("split", np.array([0, 0, 1, 2])),
    ]:
        np.savez(path, **{**good, name: bad})
        with pytest.raises(DataError, match="for each of 4 images"):
            solar_grade_parts(path)["train"]()


def test_cifar10_test_part(shared):
    if not (shared / "cifar10-jpeg").is_dir():
        pytest.skip(f"{shared} has no cifar10-jpeg")
    test = load("cifar10", "test")
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert (test.image_shape, test.classes[0], test.classes[-1]) == ((32, 32, 3), "airplane", "truck")


def test_fir_actions_by_subject(shared):
    path = shared / "fir-actions" / "fir-actions.npz"
    if not path.is_file():
        pytest.skip(f"{path} does not exist")
    whole = load("fir-actions", "all")
    assert np.bincount(whole.groups).tolist() == [0] + [280] * 9
    train, test = leave_group_out(whole, [4])
    assert (len(train), len(test)) == (2240, 280)
    assert read_fir_actions(path, frames=5).image_shape == (5, 16, 16, 2)


def test_fir_actions_are_means_of_slices_and_their_change(tmp_path):
    generator = np.random.default_rng(0)
    arrays = {
        "frames": generator.integers(0, 256, (11, 3, 3), np.uint8),
        "background": generator.integers(0, 256, (2, 3, 3), np.uint8),
        "clip_start": np.array([0, 5], np.int32),
        "clip_length": np.array([5, 6], np.uint8),
        "sequence": np.array([1, 0], np.uint16),
        "labels": np.array([3, 6], np.uint8),
        "subject": np.array([7, 2], np.uint8),
    }
    np.savez(tmp_path / "clips.npz", **arrays)
    clips = read_fir_actions(tmp_path / "clips.npz", frames=4)
    assert (clips.labels.tolist(), clips.groups.tolist()) == ([3, 6], [7, 2])
    values = arrays["frames"].astype(np.float64)
    # five frames in four slices: a slice is a whole frame and a part of the next
    first = np.stack([values[n] * (4 - n) + values[n + 1] * (n + 1) for n in range(4)]) / 5
    second = np.stack(
        [v for n in (5, 8) for v in ((2 * values[n] + values[n + 1]) / 3, (values[n + 1] + 2 * values[n + 2]) / 3)]
    )
    for number, (slices, length) in enumerate(((first, 5), (second, 6))):
        warmer = slices - arrays["background"][arrays["sequence"][number]]
        warmer -= np.median(warmer)
        image = clips.images[number] * 255.0
        np.testing.assert_allclose(image[..., 0], warmer, atol=1e-3)
        np.testing.assert_array_equal(image[0, ..., 1], 0)
        np.testing.assert_allclose(image[1:, ..., 1], np.diff(warmer, axis=0) * 4 / length, atol=1e-3)
    np.savez(tmp_path / "short.npz", **{**arrays, "frames": arrays["frames"][:9]})
    with pytest.raises(DataError, match=r"short\.npz: clips and frames do not fit together"):
        read_fir_actions(tmp_path / "short.npz")


def save_pairs(path, **changes):
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 6), ("test", 4)):
        arrays[f"{split}_images"] = generator.integers(0, 256, (count, 8, 9), np.uint8)
        arrays[f"{split}_templates"] = generator.integers(0, 256, (count, 8, 9), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 7
        arrays[f"{split}_board"] = np.arange(count) // 2
    np.savez(path, **{**arrays, **changes})
    return arrays


def test_templates_are_a_second_channel(tmp_path):
    arrays = save_pairs(tmp_path / "pairs.npz")
    train, test = load_train_test(tmp_path / "pairs.npz")
    assert train.image_shape == (8, 9, 2)
    assert train.classes[0] == "no defect"
    np.testing.assert_array_equal(train.images[..., 0], arrays["train_images"])
    np.testing.assert_array_equal(test.images[..., 1], arrays["test_templates"])
    assert train.groups.tolist() == [0, 0, 1, 1, 2, 2]
    save_pairs(tmp_path / "bad.npz", test_templates=np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(DataError, match=r"bad\.npz: templates of test are uint8"):
        load_train_test(tmp_path / "bad.npz")


def test_two_channels_stay_what_they_are(tmp_path):
    save_pairs(tmp_path / "pairs.npz")
    train, _ = load_train_test(tmp_path / "pairs.npz")
    preprocessing = Preprocessing.measure(train, image_size=(16, 18))
    assert (preprocessing.channels, len(preprocessing.mean)) == (2, 2)
    doubled = preprocessing.compose()(train[0][0])
    assert doubled.shape == (16, 18, 2)
    with pytest.raises(DataError, match="2 means but the images have 3 channels"):
        preprocessing.compose()(np.zeros((16, 18, 3), np.uint8))


def test_clips_in_a_file_of_ones_own(tmp_path, shared):
    path = shared / "fir-actions" / "fir-actions.npz"
    if not path.is_file():
        pytest.skip(f"{path} does not exist")
    (tmp_path / "clips.npz").symlink_to(path)
    np.testing.assert_array_equal(load(tmp_path / "clips.npz", "all").labels, load("fir-actions", "all").labels)


@pytest.mark.parametrize(("name", "total", "held_out"), [("digits", 1797, 445), ("faces", 200, 50)])
def test_embedded_sets_hold_out_every_fourth_of_a_class(name, total, held_out):
    pytest.importorskip("sklearn" if name == "digits" else "skimage")
    whole, (train, test) = load(name, "all"), load_train_test(name)
    assert (len(whole), len(train), len(test)) == (total, total - held_out, held_out)
    for label in range(len(whole.classes)):
        members = np.flatnonzero(whole.labels == label)
        np.testing.assert_array_equal(test.indices[test.labels == label], members[3::4])
    assert not np.intersect1d(train.indices, test.indices).size
    assert whole.images.min() == 0
    assert whole.images.max() == 1


def test_faces_come_first_in_lfw_subset():
    pytest.importorskip("skimage")
    whole = load("faces", "all")
    assert whole.classes == ("not face", "face")
    assert whole.labels.tolist() == [1] * 100 + [0] * 100


@pytest.mark.parametrize(("name", "module"), [("digits", "sklearn.datasets"), ("faces", "skimage.data")])
def test_a_missing_package_is_named(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=r"not installed: pip install imgrec_engine\[train\]"):
        load(name)


def test_a_missing_folder_of_sets_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("IMGREC_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(
        DataError, match=r"no folder of data sets at .*nowhere; set IMGREC_DATA .* made from yann\.lecun"
    ):
        load("mnist")
    monkeypatch.setenv("IMGREC_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"mnist: there is no such file or folder; mnist is made from .*docs/data\.md"):
        load("mnist")
    with pytest.raises(
        DataError, match=r"fir-actions\.npz: there is no such file .* made from github\.com/muralab/Low"
    ):
        load("fir-actions")


def test_the_page_says_where_each_shared_set_lies_and_comes_from():
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
    for name, (place, origin, _) in SETS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` | `{place}"))
        assert origin.removeprefix("PneumoniaMNIST of ") in row


def test_unknown_names_and_splits():
    with pytest.raises(DataError, match="neither a file, a folder nor a known data set; known are digits, faces"):
        load("imagenet")
    with pytest.raises(DataError, match="no split 'dev'; there are train, test, all"):
        load("digits", "dev")
    assert {"digits", "faces", *REAL, "cifar10", "captcha-digits"} == set(names())


def test_image_folder_holds_out_a_quarter(tmp_path):
    write_folder(tmp_path / "set", {"cat": 8, "dog": 5})
    train, test = load_train_test(tmp_path / "set")
    assert [int(test[index][0][0, 0, 0]) for index in range(len(test))] == [3, 7, 3]
    assert (len(train), len(load(tmp_path / "set", "all"))) == (10, 13)
    assert train.dataset is test.dataset
    (tmp_path / "set" / "cat" / "x.txt").write_text("x")
    with pytest.raises(DataError, match=r"x\.txt: not an image"):
        load(tmp_path / "set", strict=True)


def test_image_folder_with_parts_of_its_own(tmp_path):
    write_folder(tmp_path / "train", {"cat": 3, "dog": 4})
    write_folder(tmp_path / "test", {"cat": 2, "dog": 1})
    train, test = load_train_test(tmp_path)
    assert (len(train), len(test), len(load(tmp_path, "all"))) == (7, 3, 10)


def test_parts_must_agree_about_the_classes(tmp_path):
    write_folder(tmp_path / "train", {"cat": 3, "dog": 4})
    write_folder(tmp_path / "test", {"cat": 2, "cow": 1})
    with pytest.raises(DataError, match="'cow'"):
        load_train_test(tmp_path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_paths(tmp_path, suffix):
    train_images = write_idx(tmp_path, "train", 8, suffix)
    assert len(load(train_images, "test")) == 2
    write_idx(tmp_path, "t10k", 6, suffix)
    for source in (tmp_path, train_images):
        train, test = load_train_test(source)
        assert (len(train), len(test)) == (8, 6)


def test_npz_paths(tmp_path):
    images, labels = np.zeros((8, 4, 4), np.uint8), np.array([0, 1] * 4)
    np.savez(tmp_path / "whole.npz", images=images, labels=labels)
    assert [len(part) for part in load_train_test(tmp_path / "whole.npz")] == [6, 2]
    np.savez(tmp_path / "train.npz", train_images=images, train_labels=labels)
    with pytest.raises(DataError, match="no train and test parts; there are all, train"):
        load_train_test(tmp_path / "train.npz")


def test_other_files_are_not_data_sets(tmp_path):
    (tmp_path / "photo.jpg").write_text("x")
    with pytest.raises(DataError, match=r"photo\.jpg"):
        load(tmp_path / "photo.jpg")
