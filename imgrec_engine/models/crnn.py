"""Convolutional features read from left to right: an image becomes a string."""

from __future__ import annotations

import itertools
from typing import ClassVar

from imgrec_engine import functional as F
from imgrec_engine import nn
from imgrec_engine.models.registry import ImageModel, register
from imgrec_engine.tensor import Tensor


class ColumnFeatures(nn.Module):
    """Four 3x3 convolutions with batch normalisation and ReLU; pooling keeps more of the width than of the height.

    x (N, H, W, in_channels) gives (N, H // 8, W // 4, 4 * width).
    """

    POOLING: ClassVar[tuple[tuple[int, int], ...]] = ((2, 2), (2, 2), (1, 1), (2, 1))

    def __init__(self, in_channels: int, width: int) -> None:
        self.out_channels = 4 * width
        channels = [in_channels, width, 2 * width, 4 * width, 4 * width]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, bias=False) for before, after in itertools.pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for after in channels[1:])

    def forward(self, x: Tensor) -> Tensor:
        """The feature map."""
        for convolution, norm, window in zip(self.convolutions, self.norms, self.POOLING, strict=True):
            x = norm(convolution(x), activation="relu")
            if window != (1, 1):
                x = F.max_pool2d(x, window)
        return x


@register("crnn")
class CRNN(ImageModel):
    """CNN features read by an LSTM in both directions, column by column: the string in the image, trained by CTC.

    Images (N, *image_size, in_channels), W wide, give logits (N, W // 4, num_classes + 1): for each column of the
    feature map the classes and, as the last, CTC's blank. So a string of S classes needs a width of 4 S pixels or more,
    and 4 for each repetition in it. Shi, Bai and Yao, "An end-to-end trainable neural network for image-based sequence
    recognition", 2015; CTC: Graves et al., 2006.
    """

    task = "transcription"

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        width: int = 32,
        hidden_size: int = 96,
        dropout: float = 0.2,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        self.features = ColumnFeatures(in_channels, width)
        self.lstm = nn.LSTM(image_size[0] // 8 * self.features.out_channels, hidden_size, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(2 * hidden_size, num_classes + 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, W // 4, num_classes + 1)."""
        self.check_images(x, exact_size=True)
        columns = self.features(x).permute(0, 2, 1, 3)
        columns = columns.reshape(*columns.shape[:2], -1)
        states, _ = self.lstm(self.dropout(columns))
        logits: Tensor = self.classifier(self.dropout(states))
        return logits
