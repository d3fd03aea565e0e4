"""Recognition of clips."""

from __future__ import annotations

from typing import Any

from imgrec_engine import nn
from imgrec_engine.models.cnn import ConvFeatures, global_average
from imgrec_engine.models.registry import ImageModel, register
from imgrec_engine.tensor import Tensor


def frame_features(features: ConvFeatures, clips: Tensor) -> Tensor:
    """The pooled features of every frame of clips (N, T, H, W, C): (N, T, features.out_channels)."""
    pooled = global_average(features(clips.reshape(-1, *clips.shape[2:])))
    return pooled.reshape(*clips.shape[:2], -1)


@register("video_lstm")
class VideoLSTM(ImageModel):
    """CNN features of every frame of a clip, read by an LSTM over time; its last state is classified.

    Clips (N, T, H, W, in_channels) of any length give logits (N, num_classes); with ``lengths`` (N,), clips may have
    different lengths and are padded to T. Donahue et al., "Long-term Recurrent Convolutional Networks", CVPR 2015.
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
        self.features = ConvFeatures(in_channels, width)
        self.lstm = nn.LSTM(self.features.out_channels, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden_size, num_classes)

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        """Logits (N, num_classes)."""
        self.check_images(x, frames="T, ")
        _, (h_n, _) = self.lstm(frame_features(self.features, x), lengths=lengths)
        logits: Tensor = self.classifier(self.dropout(h_n[-1]))
        return logits
