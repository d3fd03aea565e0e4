"""Image folders: what becomes an item, what is skipped and what is refused."""

import pickle

import numpy as np
import pytest
from PIL import Image

from imgrec_engine.data import DataLoader, ImageFolder, Resize, folder
from imgrec_engine.errors import DataError


def write(path, value=100, size=(6, 5), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * 3).save(path)
    return path


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "animals"
    write(root / "dog" / "b.png", 20)
    write(root / "dog" / "a.bmp", 10)
    write(root / "dog" / "young" / "c.tif", 30)
    write(root / "cat" / "z.png", 40)
    return root


def test_classes_and_items_are_sorted(root):
    dataset = ImageFolder(root)
    assert dataset.classes == ("cat", "dog")
    assert [path.name for path in dataset.paths] == ["z.png", "a.bmp", "b.png", "c.tif"]
    assert dataset.labels.tolist() == [0, 1, 1, 1]
    assert [int(dataset[index][0][0, 0, 0]) for index in range(4)] == [40, 10, 20, 30]
    assert dataset.image_shape == (5, 6, 1)
    assert dataset.skipped == []
    assert repr(dataset) == "ImageFolder(4 items of 5x6x1, 2 classes)"
    with pytest.raises(IndexError):
        dataset[4]


def test_various_sizes_and_modes_have_no_shape(root):
    write(root / "cat" / "colour.png", mode="RGB")
    assert ImageFolder(root).image_shape is None


def bad_files(root):
    (root / "cat" / "notes.txt").write_text("not an image")
    whole = write(root / "dog" / "cut.png", size=(50, 50)).read_bytes()
    (root / "dog" / "cut.png").write_bytes(whole[:-30])
    Image.new("1", (7100, 7100)).save(root / "dog" / "giant.png")
    (root / "dog" / "gone.png").symlink_to(root / "nowhere.png")


def test_bad_files_are_skipped_and_counted(root):
    bad_files(root)
    dataset = ImageFolder(root)
    assert len(dataset) == 4
    reasons = {path.name: reason for path, reason in dataset.skipped}
    assert reasons["notes.txt"] == "not an image"
    assert reasons["cut.png"].startswith("damaged or truncated image")
    assert reasons["giant.png"].startswith("giant image of 7100x7100")
    assert reasons["gone.png"] == "no such file"


def test_strict_stops_at_a_bad_file(root):
    ImageFolder(root, strict=True)
    bad_files(root)
    with pytest.raises(DataError, match=r"notes\.txt: not an image"):
        ImageFolder(root, strict=True)


def test_hidden_files_are_not_even_counted(root):
    (root / ".git").mkdir()
    (root / "cat" / ".DS_Store").write_bytes(b"\0")
    dataset = ImageFolder(root, strict=True)
    assert (dataset.classes, dataset.skipped) == (("cat", "dog"), [])


@pytest.mark.timeout(10)
def test_links_are_followed_but_loops_end(root, tmp_path):
    (root / "dog" / "loop").symlink_to(root)
    (root / "dog" / "self").symlink_to(root / "dog" / "self")
    write(tmp_path / "elsewhere" / "bird.png")
    (root / "bird").symlink_to(tmp_path / "elsewhere")
    dataset = ImageFolder(root)
    assert dataset.classes == ("bird", "cat", "dog")
    assert dataset.labels.tolist().count(0) == 1
    assert [path.name for path, _ in dataset.skipped] == ["self"]


def test_folders_that_hold_no_data_set(tmp_path, root):
    def refused(path, says):
        with pytest.raises(DataError, match=says) as caught:
            ImageFolder(path)
        assert str(caught.value).startswith(str(path))

    refused(tmp_path / "missing", "no such folder")
    refused(root / "cat" / "z.png", "not a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty folder; it must hold one folder of images per class")
    refused(root / "cat", "1 files but no folders")
    write(tmp_path / "single" / "cat" / "a.png")
    refused(tmp_path / "single", "only one class, 'cat'")
    (root / "bird").mkdir()
    refused(root, "no image for class 'bird': it is empty")
    (root / "bird" / "x.png").write_text("x")
    refused(root, r"1 files, none usable \(the first: not an image\)")


def test_what_does_not_fit_the_cache_is_read_again(root, monkeypatch):
    monkeypatch.setattr(folder, "CACHE_BYTES", 70)  # two images of 30 bytes
    dataset = ImageFolder(root)
    assert len(dataset._cache) == 2
    assert [int(dataset[index][0][0, 0, 0]) for index in range(4)] == [40, 10, 20, 30]
    dataset.paths[3].write_bytes(b"broken later")
    with pytest.raises(DataError, match=r"item 3 could not be loaded: .*c\.tif: not an image"):
        list(DataLoader(dataset, 4, num_workers=1))


def test_workers_get_no_cache(root):
    copy = pickle.loads(pickle.dumps(ImageFolder(root)))
    assert copy._cache == {}
    assert [int(copy[index][0][0, 0, 0]) for index in range(4)] == [40, 10, 20, 30]


@pytest.mark.parametrize("workers", ["thread", "process"])
def test_loading(root, workers):
    write(root / "cat" / "large.png", 50, size=(20, 30))
    loader = DataLoader(ImageFolder(root), 2, num_workers=2, workers=workers, transform=Resize((4, 4)))
    images = np.concatenate([images.numpy() for images, _ in loader])
    assert images.shape == (5, 4, 4, 1)
    np.testing.assert_allclose(images[:, 0, 0, 0] * 255, [50, 40, 10, 20, 30], rtol=1e-6)
