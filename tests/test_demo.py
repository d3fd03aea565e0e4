"""The fast pieces of the demo: its samples, its geometry, its verdict. The training itself is `make demo`."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skimage", reason="the demo's faces and photos come with scikit-image, which is not installed")

from imgrec_engine import data

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def demo_data():
    return _example("demo_data")


@pytest.fixture(scope="module")
def demo_photo():
    return _example("demo_photo")


def _example(name):
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def windows(demo_data):
    return demo_data.window_pool(demo_data.load_photos(), 1200, np.random.default_rng(0))


@pytest.fixture(scope="module")
def faces():
    return data.load("faces", "all")


def identity(count):
    return np.tile(np.eye(2), (count, 1, 1)), np.full((count, 2), 12.0)


def noise(count, seed=0):
    return np.random.default_rng(seed).random((count, 25, 25), np.float32)


def test_the_photos_show_nobody_and_the_astronaut_is_not_among_them(demo_data):
    assert "astronaut" not in demo_data.PHOTOS
    photos = demo_data.load_photos()
    assert len(photos) == len(demo_data.PHOTOS) == 15
    assert all(photo.ndim == 2 and 0 <= photo.min() < photo.max() <= 1 for photo in photos)
    assert photos[demo_data.PHOTOS.index("camera")].shape == (352, 512)


def test_windows(windows):
    assert (windows.shape, windows.dtype) == ((1800, 25, 25), np.float32)
    assert windows.min() >= 0
    assert windows.max() <= 1


def test_an_epoch_is_what_it_says(demo_data, faces, windows):
    samples = demo_data.Samples(faces, windows, seed=5)
    assert len(samples.faces) == len(samples.not_faces) == 100
    epoch = samples.draw_epoch()
    assert epoch.images.shape == (demo_data.EPOCH_SIZE, 25, 25, 1)
    assert epoch.labels.sum() == demo_data.FACES
    assert epoch.labels[: demo_data.FACES].all()
    assert 0 <= epoch.images.min() < epoch.images.max() <= 1
    again = demo_data.Samples(faces, windows, seed=5).draw_epoch()
    np.testing.assert_array_equal(epoch.images, again.images)
    assert not np.array_equal(epoch.images, samples.draw_epoch().images)
    assert not np.array_equal(epoch.images, demo_data.Samples(faces, windows, seed=6).draw_epoch().images)


def test_hard_windows_are_preferred(demo_data, faces, windows):
    class Judge:
        def probabilities(self, images):
            face = np.arange(len(images)) < 100
            return np.stack([~face, face], axis=1).astype(np.float32)

    samples = demo_data.Samples(faces, windows, seed=0)
    samples.prefer_hard_windows(Judge())
    assert samples.weights.sum() == pytest.approx(1)
    assert samples.weights[0] / samples.weights[-1] == pytest.approx(1.15 / 0.15)


def test_resample_moves_exactly(demo_data):
    images = noise(3)
    np.testing.assert_allclose(demo_data.resample(images, *identity(3)), images, atol=1e-6)
    turned = demo_data.resample(images, np.tile([[0, 1], [-1, 0]], (3, 1, 1)), np.full((3, 2), 12))
    np.testing.assert_allclose(turned, np.rot90(images, 1, (1, 2)), atol=1e-5)
    shifted = demo_data.resample(images, identity(3)[0], np.tile([12.0, 12.5], (3, 1)))
    np.testing.assert_allclose(shifted[:, :, :-1], (images[:, :, 1:] + images[:, :, :-1]) / 2, atol=1e-6)
    np.testing.assert_allclose(shifted[:, :, -1], images[:, :, -1], atol=1e-6)


@pytest.mark.parametrize("cells", [2, 3])
def test_no_cell_stays_in_its_place(demo_data, cells):
    images, side = noise(20), 25 // cells
    shuffled = demo_data.shuffled_cells(images, cells, np.random.default_rng(0))
    assert shuffled.shape == images.shape
    inside = slice(0, cells * side)
    np.testing.assert_allclose(
        shuffled[:, inside, inside].sum(axis=(1, 2)), images[:, inside, inside].sum(axis=(1, 2)), rtol=1e-5
    )
    for top, left in np.ndindex(cells, cells):
        cell = np.s_[:, top * side : (top + 1) * side, left * side : (left + 1) * side]
        assert (abs(shuffled[cell] - images[cell]).mean(axis=(1, 2)) > 0.05).all()


def test_broken_faces_are_not_the_faces_they_come_from(demo_data, windows):
    faces = noise(demo_data.BROKEN)
    broken = demo_data.broken_faces(faces, windows, np.random.default_rng(0))
    assert (broken.shape, broken.dtype) == (faces.shape, np.float32)
    distances = abs(broken[:, None] - faces[None]).mean(axis=(2, 3))
    assert distances.min() > 0.01


def test_mirrored_images_are_the_image_or_its_mirror_image(demo_data):
    images = noise(200)
    mirrored = demo_data.mirrored(images, np.random.default_rng(0))
    same = (mirrored == images).all(axis=(1, 2))
    assert 60 < same.sum() < 140
    np.testing.assert_array_equal(mirrored[~same], images[~same, :, ::-1])


def test_cut_continues_the_border(demo_data):
    photo = np.tile(np.linspace(0, 1, 50, dtype=np.float32), (50, 1))
    np.testing.assert_array_equal(demo_data.cut(photo, 5, 25, 25), photo[5:30, 25:50])
    beyond = demo_data.cut(photo, -10, 40, 25)
    np.testing.assert_array_equal(beyond[:, :10], photo[:25, 40:])
    assert (beyond[:, 10:] == 1).all()


def test_boxes(demo_photo):
    Box = demo_photo.Box
    box = Box(10, 20, 30, 40)
    assert box.area == 400
    assert box.overlap(box) == 1
    assert box.overlap(Box(20, 20, 40, 40)) == pytest.approx(200 / 600)
    assert box.touches(Box(29, 39, 50, 50))
    assert not box.touches(Box(30, 20, 50, 40))
    assert not box.touches(Box(50, 50, 60, 60))
    assert box.overlap(Box(50, 50, 60, 60)) == 0


def test_framing(demo_photo):
    assert demo_photo.framed(100, 200, 100) == (100, 202, 210, 312)
    small, large = demo_photo.framed(0, 0, 40), demo_photo.framed(0, 0, 160)
    np.testing.assert_allclose(4 * np.array(small), large, atol=4)


def test_windows_beside_the_face(demo_photo):
    boxes = [demo_photo.Box(0, 0, 40, 40), demo_photo.Box(5, 5, 105, 105)]
    windows = demo_photo.windows_beside(boxes, (512, 512, 3), np.random.default_rng(0))
    assert len(windows) == demo_photo.RANDOM_WINDOWS
    assert {window.bottom - window.top for window in windows} == {40, 100}
    assert not any(window.touches(demo_photo.FACE) for window in windows)
    assert all(min(w.top, w.left) >= 0 and max(w.bottom, w.right) <= 512 for w in windows)


def test_verdict_ranks_the_face_and_counts_only_windows_beside_it(demo_photo):
    Box = demo_photo.Box
    near = Box(60, 165, 195, 280)
    brushing = Box(180, 260, 260, 340)
    away = Box(300, 300, 400, 400)
    scores = np.array([0.8, 0.7, 0.9], np.float32)
    verdict = demo_photo.Verdict([near, brushing, away], scores, [away] * 3, np.array([0.1, 0.6, 0.2], np.float32))
    assert verdict.of_face.tolist() == [True, False, False]
    assert verdict.face_score == pytest.approx(0.8)
    assert verdict.face_rank == 2
    assert len(verdict.beside) == 4
    assert verdict.rejected == pytest.approx(0.5)


def test_the_cascade_proposes_the_face(demo_photo, tmp_path):
    photo = demo_photo.load_photo()
    proposals = demo_photo.propose(photo)
    verdict = demo_photo.Verdict(proposals, np.linspace(0, 0.9, len(proposals), dtype=np.float32), [], np.zeros(0))
    assert verdict.of_face.sum() == 1
    assert len(proposals) > 4
    demo_photo.draw(photo, verdict, tmp_path / "photo.png")
    drawn = data.read_image(tmp_path / "photo.png")
    assert drawn.shape[1:] == (1024, 3)


def test_the_face_is_explained(demo_photo):
    class Echo:
        def explain(self, image):
            return image

    photo, other = demo_photo.load_photo(), demo_photo.Box(300, 300, 400, 400)
    near = demo_photo.Box(60, 165, 195, 280)
    scores = np.array([0.9, 0.5, 0.7], np.float32)
    verdict = demo_photo.Verdict([other, near, demo_photo.FACE], scores, [], np.zeros(0))
    np.testing.assert_array_equal(demo_photo.explain_face(Echo(), photo, verdict), photo[70:190, 175:272])
