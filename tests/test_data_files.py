"""Image, IDX and npz files, sound and damaged: the right pixels or one clear `DataError`, nothing else."""

import gzip
import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imgrec_engine.data import load_idx, read_idx, read_image, read_npz
from imgrec_engine.data.image import decode_image
from imgrec_engine.errors import DataError

RGB = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def idx_bytes(array: np.ndarray, code: int = 0x08) -> bytes:
    big = array.astype(array.dtype.newbyteorder(">"))
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + big.tobytes()


def result_or_message(function, *arguments):
    """What the function returns, or the message of the one kind of error it may raise."""
    try:
        return function(*arguments)
    except DataError as error:
        return str(error)


# Images


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_pixels(tmp_path, file_format):
    path = tmp_path / "image"
    path.write_bytes(encoded(Image.fromarray(RGB), file_format))
    np.testing.assert_array_equal(read_image(path), RGB)
    path.write_bytes(encoded(Image.fromarray(RGB[..., 0]), file_format))
    np.testing.assert_array_equal(read_image(path), RGB[..., :1])


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats(file_format):
    smooth = np.full((12, 9, 3), (200, 100, 50), np.uint8)
    image = decode_image(encoded(Image.fromarray(smooth), file_format), "x")
    assert image.shape == smooth.shape
    assert np.abs(image.astype(int) - smooth).max() < 30


def test_palette_alpha_16_bit_cmyk_and_bilevel():
    red = Image.new("RGB", (4, 3), "red")
    assert decode_image(encoded(red.quantize(4), "PNG"), "x")[0, 0].tolist() == [255, 0, 0]
    assert decode_image(encoded(red.convert("CMYK"), "TIFF"), "x")[0, 0].tolist() == [255, 0, 0]
    assert decode_image(encoded(Image.new("1", (4, 3), 1), "PNG"), "x").tolist() == [[[255]] * 4] * 3
    half = Image.new("RGBA", (4, 3), (255, 0, 0, 0))
    assert decode_image(encoded(half, "PNG"), "x")[0, 0].tolist() == [255, 255, 255]
    grey = Image.new("LA", (4, 3), (100, 255))
    assert decode_image(encoded(grey, "PNG"), "x")[0, 0].tolist() == [100]
    sixteen = np.array([[0, 257, 65535]], np.uint16)
    for file_format in ("PNG", "TIFF", "PPM"):
        image = decode_image(encoded(Image.fromarray(sixteen), file_format), "x")
        assert image.ravel().tolist() == [0, 1, 255], file_format
    with pytest.raises(DataError, match="no agreed white"):
        decode_image(encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "x")


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    image = decode_image(encoded(Image.fromarray(RGB), "PNG", exif=exif), "x")
    np.testing.assert_array_equal(image, np.rot90(RGB, -1))


def test_giant_image_is_refused_before_decoding(tmp_path):
    path = tmp_path / "giant.png"
    Image.new("1", (7100, 7100)).save(path)
    with pytest.raises(DataError, match=r"giant\.png: giant image of 7100x7100 pixels; the limit is 50000000"):
        read_image(path)
    assert read_image(path, max_pixels=7100 * 7100).shape == (7100, 7100, 1)


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bombs_are_refused(side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    png = encoded(Image.fromarray(RGB), "PNG")
    chunk = b"IHDR" + header
    bomb = png[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]
    with pytest.raises(DataError, match="x: giant image"):
        decode_image(bomb, "x")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (encoded(Image.fromarray(RGB), "PNG")[:100], "damaged or truncated"),
        (encoded(Image.fromarray(RGB), "JPEG")[:-60], "damaged or truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "EPS files are programs"),
    ],
)
def test_bad_images_give_one_line_naming_the_file(tmp_path, content, says):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_image_and_folder(tmp_path):
    with pytest.raises(DataError, match=r"nothing.png: no such file"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(DataError, match="not a file"):
        read_image(tmp_path)


SEEDS = {
    "png": encoded(Image.fromarray(RGB), "PNG"),
    "palette": encoded(Image.fromarray(RGB).quantize(16), "PNG"),
    "jpeg": encoded(Image.fromarray(RGB), "JPEG"),
    "gif": encoded(Image.fromarray(RGB), "GIF"),
    "tiff": encoded(Image.fromarray(RGB), "TIFF", compression="tiff_lzw"),
    "webp": encoded(Image.fromarray(RGB), "WEBP"),
    "bmp": encoded(Image.fromarray(RGB), "BMP"),
}


@st.composite
def mutated(draw, original: bytes) -> bytes:
    data = bytearray(original)
    for _ in range(draw(st.integers(1, 8))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@pytest.mark.filterwarnings("ignore")  # as in production: Pillow warns and goes on decoding
@pytest.mark.parametrize("name", SEEDS)
def test_mutated_images_are_read_or_refused(name):
    @settings(max_examples=200, deadline=None)
    @given(mutated(SEEDS[name]))
    def check(data):
        image = result_or_message(decode_image, data, "x", 10_000)
        if isinstance(image, str):
            assert image.startswith("x: ")
        else:
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] in (1, 3)

    check()


# IDX


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("dtype", "code"),
    [(np.uint8, 8), (np.int8, 9), (np.int16, 0xB), (np.int32, 0xC), (np.float32, 0xD), (np.float64, 0xE)],
)
def test_idx_round_trip(tmp_path, dtype, code, zipped):
    array = np.arange(2 * 3 * 5).reshape(2, 3, 5).astype(dtype)
    data = idx_bytes(array, code)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(data) if zipped else data)
    result = read_idx(path)
    assert result.dtype == dtype
    assert result.dtype.isnative
    np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG", "not an IDX file"),
        (b"\0\0\x08\x00", "not an IDX file"),
        (b"\0\0\x08\x03\0\0", "inside its header"),
        (idx_bytes(np.zeros((2, 3), np.uint8))[:-1], "needs 6 bytes of data, but the file holds only 5"),
        (idx_bytes(np.zeros((2, 3), np.uint8)) + b"x", "holds more"),
        (b"\0\0\x0e\x03" + b"\xff" * 12, "the limit is"),
        (b"\0\0\x08\x01\xff\xff\xff\x00", "holds only 0"),
        (gzip.compress(idx_bytes(np.zeros((20, 30), np.uint8)))[:-12], "damaged gzip"),
    ],
)
def test_bad_idx_is_refused(tmp_path, data, says):
    path = tmp_path / "bad-idx"
    path.write_bytes(data)
    with pytest.raises(DataError, match=says) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("zipped", [False, True])
def test_mutated_idx_is_read_or_refused(tmp_path, zipped):
    original = idx_bytes(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))
    path = tmp_path / "file"

    @settings(max_examples=300, deadline=None)
    @given(mutated(gzip.compress(original) if zipped else original))
    def check(data):
        path.write_bytes(data)
        array = result_or_message(read_idx, path)
        assert str(path) in array if isinstance(array, str) else array.nbytes <= 60

    check()


def test_idx_images_find_their_labels(tmp_path):
    images = tmp_path / "train-images-idx3-ubyte"
    images.write_bytes(idx_bytes(np.zeros((3, 4, 5), np.uint8)))
    with pytest.raises(DataError, match=r"expected .*train-labels-idx1-ubyte"):
        load_idx(images)
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx_bytes(np.array([7, 3, 7], np.uint8))))
    dataset = load_idx(images)
    assert (dataset.classes, dataset.labels.tolist()) == (("3", "7"), [1, 0, 1])
    labels.write_bytes(gzip.compress(idx_bytes(np.array([7, 3], np.uint8))))
    with pytest.raises(DataError, match=r"\(2,\) labels for 3 images"):
        load_idx(images)
    with pytest.raises(DataError, match="nothing: cannot be read"):
        read_idx(tmp_path / "nothing")


# npz


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


IMAGES, LABELS = np.arange(6 * 4 * 4, dtype=np.uint8).reshape(6, 4, 4), np.array([4, 9, 4, 9, 4, 9])


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"images": IMAGES, "labels": LABELS}, {"all": 6}),
        (
            {"images": IMAGES, "labels": LABELS, "split": np.array([0, 0, 0, 0, 1, 1])},
            {"all": 6, "train": 4, "test": 2},
        ),
        (
            {
                "train_images": IMAGES[:3],
                "train_labels": LABELS[:3, None],
                "val_images": IMAGES[3:4],
                "val_labels": LABELS[3:4, None],
                "test_images": IMAGES[4:],
                "test_labels": LABELS[4:, None],
            },
            {"train": 3, "val": 1, "test": 2},
        ),
        (
            {"x_train": IMAGES[:4], "y_train": LABELS[:4], "x_test": IMAGES[4:], "y_test": LABELS[4:]},
            {"train": 4, "test": 2},
        ),
    ],
)
def test_npz_styles(tmp_path, arrays, parts):
    sets = read_npz(save(tmp_path / "set.npz", **arrays))
    assert {name: len(part) for name, part in sets.items()} == parts
    for part in sets.values():
        assert part.classes == ("4", "9")
        for image, label in (part[index] for index in range(len(part))):
            row = image[0, 0, 0] // 16
            np.testing.assert_array_equal(image[..., 0], IMAGES[row])
            assert part.classes[label] == str(LABELS[row])


def test_npz_class_names(tmp_path):
    path = save(tmp_path / "set.npz", images=IMAGES, labels=LABELS % 2, classes=np.array(["cat", "dog"]))
    assert read_npz(path)["all"].classes == ("cat", "dog")
    assert read_npz(path, ["a", "b"])["all"].classes == ("a", "b")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"pictures": IMAGES}, "no images; expected"),
        ({"images": IMAGES}, "no array 'labels'; it holds images"),
        ({"images": IMAGES, "labels": LABELS[:4]}, "one per image"),
        ({"images": IMAGES, "labels": LABELS / 2}, "labels must be integers"),
        ({"images": np.array([{}] * 6), "labels": LABELS}, "Python objects"),
        ({"images": IMAGES, "labels": LABELS, "split": np.arange(6)}, "split must hold 0"),
        ({"images": IMAGES.astype(np.int16), "labels": LABELS}, "images must be uint8"),
    ],
)
def test_bad_npz_is_refused(tmp_path, arrays, says):
    with pytest.raises(DataError, match=says) as caught:
        read_npz(save(tmp_path / "set.npz", **arrays))
    assert "set.npz" in str(caught.value)


def test_npz_header_that_claims_too_much(tmp_path):
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999, 4, 4)}\n"
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(96))
        archive.writestr("labels.npy", b"")
    with pytest.raises(DataError, match="would have 16000000000"):
        read_npz(path)


def test_mutated_npz_is_read_or_refused(tmp_path):
    original = save(tmp_path / "set.npz", images=IMAGES, labels=LABELS).read_bytes()
    path = tmp_path / "mutated.npz"

    @settings(max_examples=300, deadline=None)
    @given(mutated(original))
    def check(data):
        path.write_bytes(data)
        sets = result_or_message(read_npz, path)
        assert str(path) in sets if isinstance(sets, str) else "all" in sets

    check()
