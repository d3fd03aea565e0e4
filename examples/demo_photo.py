"""The photo of the demo: where to look in it, what the model makes of every place, and a picture of that."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from demo_data import Images, Random, cut, to_grey
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from imgrec_engine.train import Explanation, Recogniser

ACCEPTED = 0.5  # the score above which a window is called a face
RANDOM_WINDOWS = 300
DRAWN_WINDOWS = 40  # of the random ones; with all of them there would be no photo left to see

RECOGNISED, REJECTED, ALARM, SEARCHED = "#1e9e5a", "#d64545", "#f2994a", "#7db7f0"
LEGEND = {
    RECOGNISED: "the face, recognised",
    REJECTED: "proposal, rejected",
    ALARM: "false alarm",
    SEARCHED: f"random window, rejected ({DRAWN_WINDOWS} of {RANDOM_WINDOWS})",
}


class Box(NamedTuple):
    """A rectangle in a photo, in pixels."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Its pixels; 0 for an empty one."""
        return max(self.bottom - self.top, 0) * max(self.right - self.left, 0)

    def common(self, other: Box) -> Box:
        """The part that two boxes share."""
        return Box(*(max(a, b) for a, b in zip(self[:2], other[:2], strict=True)), *map(min, self[2:], other[2:]))

    def touches(self, other: Box) -> bool:
        """Whether they share a pixel."""
        return self.common(other).area > 0

    def overlap(self, other: Box) -> float:
        """Shared area over joint area (Jaccard index, intersection over union)."""
        shared = self.common(other).area
        return shared / (self.area + other.area - shared)


FACE = Box(70, 175, 190, 272)  # the astronaut's, from brow to chin: measured by eye, used to judge and not to find


@dataclass(frozen=True)
class Verdict:
    """What the model says of the proposals, and of windows drawn at random beside the face; scores of "face"."""

    proposals: list[Box]
    scores: NDArray[np.float32]
    windows: list[Box]
    window_scores: NDArray[np.float32]

    @property
    def of_face(self) -> NDArray[np.bool_]:
        """Which of the proposals are the face."""
        return np.array([box.overlap(FACE) > 0.4 for box in self.proposals])

    @property
    def face_score(self) -> float:
        """The face's score, the best one if several proposals are the face."""
        return float(self.scores[self.of_face].max(initial=0))

    @property
    def face_rank(self) -> int:
        """1 if no proposal beside the face scores as high."""
        return 1 + int((self.scores[~self.of_face] >= self.face_score).sum())

    @property
    def beside(self) -> NDArray[np.float32]:
        """The scores of all windows, proposed or drawn, that do not touch the face."""
        apart = [not box.touches(FACE) for box in self.proposals]
        return np.concatenate([self.scores[apart], self.window_scores])

    @property
    def rejected(self) -> float:
        """The share of rejected ones among the windows beside the face."""
        return float((self.beside <= ACCEPTED).mean())


def load_photo() -> NDArray[np.uint8]:
    """Eileen Collins, astronaut; 512 x 512, colour."""
    import skimage.data

    photo: NDArray[np.uint8] = skimage.data.astronaut()  # type: ignore[no-untyped-call]
    return photo


def propose(photo: NDArray[np.uint8]) -> list[Box]:
    """Where scikit-image's cascade of simple features sees something like a face: the face, and false alarms."""
    import skimage.data
    import skimage.feature

    trained = skimage.data.lbp_frontal_face_cascade_filename()  # type: ignore[no-untyped-call]
    cascade = skimage.feature.Cascade(trained)
    found = cascade.detect_multi_scale(
        img=photo,
        scale_factor=1.2,
        step_ratio=1,
        min_size=(24, 24),
        max_size=(250, 250),
        min_neighbor_number=2,
        intersection_score_threshold=0.3,
    )
    return [framed(place["r"], place["c"], place["width"]) for place in found]


def framed(top: int, left: int, side: int) -> Box:
    """A square of the cascade, moved and enlarged to how the training patches frame a face.

    The constants were measured by running the cascade over enlarged training patches.
    """
    larger = round(1.1 * side)
    middle = top + 0.545 * side, left + 0.57 * side
    new_top, new_left = (round(position - larger / 2) for position in middle)
    return Box(new_top, new_left, new_top + larger, new_left + larger)


def windows_beside(boxes: list[Box], shape: tuple[int, ...], rng: Random) -> list[Box]:
    """RANDOM_WINDOWS squares, as large as `boxes`, anywhere in the photo but not touching the face."""
    windows: list[Box] = []
    while len(windows) < RANDOM_WINDOWS:
        model = boxes[rng.integers(len(boxes))]
        side = model.bottom - model.top
        top, left = (int(rng.integers(length - side + 1)) for length in shape[:2])
        window = Box(top, left, top + side, left + side)
        if not window.touches(FACE):
            windows.append(window)
    return windows


def scores(recogniser: Recogniser, grey: Images, boxes: list[Box]) -> NDArray[np.float32]:
    """The probability of "face" for every box."""
    patches = [cut(grey, box.top, box.left, box.bottom - box.top)[..., None] for box in boxes]
    return recogniser.probabilities(patches)[:, recogniser.classes.index("face")]


def judge(recogniser: Recogniser, photo: NDArray[np.uint8], proposals: list[Box], seed: int) -> Verdict:
    """Recognises every proposal, and every one of the windows drawn with `seed`."""
    windows = windows_beside(proposals, photo.shape, np.random.default_rng(seed))
    grey = to_grey(photo)
    return Verdict(proposals, scores(recogniser, grey, proposals), windows, scores(recogniser, grey, windows))


def explain_face(recogniser: Recogniser, photo: NDArray[np.uint8], verdict: Verdict) -> Explanation:
    """What the model's answer for the face rests on: the best of the proposals that are the face."""
    box = verdict.proposals[int(np.where(verdict.of_face, verdict.scores, -1).argmax())]
    return recogniser.explain(photo[box.top : box.bottom, box.left : box.right])


def draw(photo: NDArray[np.uint8], verdict: Verdict, path: Path) -> None:
    """The photo as the model sees it, with the proposals and some of the random windows, and a legend below."""
    zoom, font = 2, ImageFont.load_default(19)
    grey = Image.fromarray((to_grey(photo) * 255).astype(np.uint8))
    canvas = Image.new("RGB", (zoom * grey.width, zoom * grey.height + 56), "#14181d")
    canvas.paste(grey.resize((zoom * grey.width, zoom * grey.height), Image.Resampling.LANCZOS).convert("RGB"))
    pen = ImageDraw.Draw(canvas, "RGBA")

    def outline(box: Box, colour: str, width: int, label: str = "") -> None:
        top, left, bottom, right = (zoom * edge for edge in box)
        pen.rectangle((left, top, right, bottom), outline=colour, width=width)
        if label:
            edge = max(top - 26, 0)
            pen.rectangle((left, edge, left + 52, edge + 26), fill=colour)
            pen.text((left + 26, edge + 13), label, font=font, fill="white", anchor="mm")

    for box, score in list(zip(verdict.windows, verdict.window_scores, strict=True))[:DRAWN_WINDOWS]:
        outline(box, ALARM if score > ACCEPTED else SEARCHED + "90", 1)
    for n in np.argsort(verdict.scores):  # the best last, on top of the others
        accepted = verdict.scores[n] > ACCEPTED
        colour = REJECTED if not accepted else RECOGNISED if verdict.of_face[n] else ALARM
        outline(verdict.proposals[n], colour, 5 if accepted else 2, f"{verdict.scores[n]:.2f}")
    left = 20
    for colour, text in LEGEND.items():
        middle = zoom * grey.height + 28
        pen.rectangle((left, middle - 9, left + 18, middle + 9), outline=colour, width=4)
        pen.text((left + 28, middle), text, font=font, fill="#e8ecf0", anchor="lm")
        left += 60 + round(pen.textlength(text, font=font))
    canvas.save(path)
