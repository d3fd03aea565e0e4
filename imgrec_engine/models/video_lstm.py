"""Recognition of clips."""

from __future__ import annotations

from typing import Any

from imgrec_engine import nn
from imgrec_engine.models.clips import frame_features, mean_of_frames, padding_of
from imgrec_engine.models.cnn import ConvFeatures
from imgrec_engine.models.registry import ImageModel, register
from imgrec_engine.tensor import Tensor


@register("video_lstm")
class VideoLSTM(ImageModel):
    """CNN features of every frame of a clip, read by an LSTM in both directions; the mean of its states is classified.

    Clips (N, T, H, W, in_channels) of any length give logits (N, num_classes); with ``lengths`` (N,), clips may have
    different lengths and are padded to T. Donahue et al., "Long-term Recurrent Convolutional Networks", CVPR 2015; both
    directions: Graves and Schmidhuber, 2005.
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
        self.lstm = nn.LSTM(self.features.out_channels, hidden_size, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(2 * hidden_size, num_classes)

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        """Logits (N, num_classes)."""
        self.check_images(x, frames="T, ")
        padding = None if lengths is None else padding_of(lengths, *x.shape[:2])
        states, _ = self.lstm(frame_features(self.features, x), lengths=lengths)
        logits: Tensor = self.classifier(self.dropout(mean_of_frames(states, padding)))
        return logits
