"""Heat over a photo, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# Dark purple, red, orange, light yellow: brightness rises with the heat, so it is read right in grey as well.
COLOURS = np.array([(66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10), (252, 255, 164)], dtype=np.float32)
OPACITY = 0.75  # of the hottest place; the coldest shows the photo alone

SIDES, STRIP_SIDES = (256, 1024), (128, 256)  # least and most pixels of the longer side of a photo, of a clip's frame
FRAMES = 8  # of a clip that are drawn at most
GAP, CAPTION = 4, 28  # pixels between frames; the caption's height
DARK, LIGHT = "#14181d", "#e8ecf0"


def colours(heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """The colour (..., 3) in 0...255 of each heat (...) in [0, 1].

    >>> colours(np.array([0, 1], np.float32)).tolist()
    [[66.0, 10.0, 104.0], [252.0, 255.0, 164.0]]
    """
    stops = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(heat, stops, channel) for channel in COLOURS.T], axis=-1).astype(np.float32)


def overlay(image: NDArray[Any], heat: NDArray[np.float32], caption: str) -> NDArray[np.uint8]:
    """The image in grey, the heat over it in colours, and the caption below: uint8 (H', W', 3).

    ``image`` is (H, W, C) or a clip (T, H, W, C), uint8 or float32 in 0...1, heat (H, W) or (T, H, W) in [0, 1]. The
    longer side is drawn with 256 to 1024 pixels; of a clip, up to 8 frames, evenly spaced, side by side.

    >>> overlay(np.zeros((20, 40, 1), np.uint8), np.zeros((20, 40), np.float32), "nothing").shape
    (156, 256, 3)
    """
    if image.ndim == 4:
        chosen = np.unique(np.linspace(0, len(image) - 1, FRAMES).round().astype(int))
        tiles = [_tile(image[frame], heat[frame], STRIP_SIDES) for frame in chosen]
    else:
        tiles = [_tile(image, heat, SIDES)]
    return np.asarray(_captioned(tiles, caption))


def _tile(image: NDArray[Any], heat: NDArray[np.float32], sides: tuple[int, int]) -> Image.Image:
    """One frame and its heat, enlarged or reduced to sides that can be looked at."""
    pixels = image if image.dtype == np.uint8 else (image.clip(0, 1) * 255).round().astype(np.uint8)
    photo = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
    longest = max(photo.size)
    scale = min(max(longest, sides[0]), sides[1]) / longest
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    # In grey, because the photo's own colours could be taken for heat.
    grey = np.asarray(photo.convert("L").resize(size, Image.Resampling.BICUBIC), dtype=np.float32)[..., np.newaxis]
    warmth = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BILINEAR))[..., np.newaxis]
    mixed = grey + OPACITY * warmth * (colours(warmth[..., 0]) - grey)
    return Image.fromarray(mixed.round().astype(np.uint8))


def _captioned(tiles: Sequence[Image.Image], caption: str) -> Image.Image:
    """The tiles side by side over one line of text, cut where it is too long."""
    width, height = sum(tile.width + GAP for tile in tiles) - GAP, tiles[0].height
    canvas = Image.new("RGB", (width, height + CAPTION), DARK)
    for number, tile in enumerate(tiles):
        canvas.paste(tile, (number * (tile.width + GAP), 0))
    pen, font, margin = ImageDraw.Draw(canvas), ImageFont.load_default(15), 8
    text = caption
    while text and pen.textlength(text, font=font) > width - 2 * margin:
        caption = caption[:-1]
        text = f"{caption}…" if caption else ""
    pen.text((margin, height + CAPTION / 2), text, font=font, fill=LIGHT, anchor="lm")
    return canvas
