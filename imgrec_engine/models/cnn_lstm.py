"""Convolutional features aggregated by a recurrent memory."""

from __future__ import annotations

from imgrec_engine import functional as F
from imgrec_engine import nn
from imgrec_engine.models.cnn import ConvFeatures, global_average
from imgrec_engine.models.registry import ImageModel, register
from imgrec_engine.tensor import Tensor

LARGEST_GRID = 8  # positions on a side of the feature map that is read as a sequence


def sequence_grid(image_size: tuple[int, int]) -> tuple[int, int]:
    """The size to which the feature map of an image is pooled before it is read: its own, 8 x 8 at most."""
    return min(image_size[0] // 4, LARGEST_GRID), min(image_size[1] // 4, LARGEST_GRID)


def on_grid(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """A feature map (N, H, W, C), pooled to the grid if it has another size."""
    return features if features.shape[1:3] == grid else F.adaptive_avg_pool2d(features, grid)


@register("cnn_lstm")
class CNNLSTM(ImageModel):
    """CNN features read by an LSTM as a sequence; its last state beside the pooled CNN features is classified.

    Images (N, H, W, in_channels) give logits (N, num_classes). The feature map (H // 4, W // 4), pooled to 8 x 8 at
    most, is read row by row from top to bottom, a row's features side by side. In the line of Donahue et al.,
    "Long-term Recurrent Convolutional Networks", CVPR 2015, and Visin et al., "ReNet", 2015.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        width: int = 16,
        hidden_size: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        self.grid = sequence_grid(image_size)
        self.features = ConvFeatures(in_channels, width)
        self.lstm = nn.LSTM(self.grid[1] * self.features.out_channels, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.features.out_channels + hidden_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        self.check_images(x)
        features = self.features(x)
        rows = on_grid(features, self.grid).reshape(len(x), self.grid[0], -1)
        _, (h_n, _) = self.lstm(rows)
        joined = F.concatenate([global_average(features), h_n[-1]], -1)
        logits: Tensor = self.classifier(self.dropout(joined))
        return logits
