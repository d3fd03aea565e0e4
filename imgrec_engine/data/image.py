"""Reading one image file that nobody has checked yet."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from imgrec_engine.errors import DataError

MAX_PIXELS = 50_000_000
"""Images of more pixels are refused; well under the size at which Pillow itself begins to warn."""

MAX_BYTES = 256 * 1024 * 1024
"""Files of more bytes are refused before they are read."""

# Pillow hands EPS to Ghostscript, a program interpreter: not for files from strangers.
_REFUSED_FORMATS = frozenset({"EPS"})
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read an image file as uint8: (H, W, 1) where the file is grey, (H, W, 3) RGB otherwise.

    EXIF orientation is applied; palettes and CMYK become RGB; 16-bit grey is scaled to 8; transparency
    shows white; of an animation the first frame is read. Raises `DataError`, naming the file, for what is
    missing, not an image, truncated, above 256 MiB, or above `max_pixels`, which is checked before any
    pixel is decoded.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: file of {path.stat().st_size} bytes; the limit is {MAX_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return decode_image(data, str(path), max_pixels)


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode the bytes of an image file as `read_image` does; `name` stands for the file in errors."""
    # Pillow's decoders answer damaged files with almost any exception (OSError, SyntaxError, struct.error,
    # KeyError, ...), so everything that comes out of them means the same: this file is bad.
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check(image, name, max_pixels)
            return _pixels(image, name)
    except DataError:
        raise
    except _BOMBS as error:
        raise DataError(f"{name}: giant image; the limit is {max_pixels} pixels") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: not an image") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name}: damaged or truncated image: {reason}") from error


def _check(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(f"{name}: giant image of {width}x{height} pixels; the limit is {max_pixels} pixels")
    if width * height == 0:
        raise DataError(f"{name}: image of {width}x{height} pixels")
    if image.format in _REFUSED_FORMATS:
        raise DataError(f"{name}: {image.format} files are programs, not images; convert it first")


def _pixels(image: Image.Image, name: str) -> NDArray[np.uint8]:
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image), name)
    if image.mode == "F":
        raise DataError(f"{name}: floating-point pixels have no agreed white; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = _on_white(image)
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))[..., np.newaxis]
    return np.array(image.convert("RGB"))


def _on_white(image: Image.Image) -> Image.Image:
    grey = image.mode in ("1", "L", "LA", "La")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("L" if grey else "RGB")


def _from_16_bit(pixels: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise DataError(f"{name}: 32-bit pixels have no agreed white; convert it to 8 or 16 bits")
    return ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)[..., np.newaxis]
