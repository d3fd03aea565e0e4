"""Recognition of clips by attention between their frames."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec_engine import nn
from imgrec_engine.models.clips import frame_features, mean_of_frames, padding_of
from imgrec_engine.models.cnn import ConvFeatures
from imgrec_engine.models.registry import ImageModel, register
from imgrec_engine.tensor import Tensor, tensor


def sinusoids(steps: int, width: int) -> NDArray[np.float32]:
    """Positions in time, float32 (steps, width): sines in the first half, cosines in the second, of falling frequency.

    The angle of column k at step t is t / 10000^(2 k / width), k < width / 2; ``width`` is even. Vaswani et al.,
    "Attention Is All You Need", 2017, section 3.5.

    >>> sinusoids(3, 4).shape, sinusoids(1, 4).tolist()
    ((3, 4), [[0.0, 0.0, 1.0, 1.0]])
    """
    frequencies = 10000.0 ** (-np.arange(width // 2) / (width // 2))
    angles = np.arange(steps)[:, np.newaxis] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


@register("video_attention")
class VideoAttention(ImageModel):
    """CNN features of every frame of a clip, related by self-attention over time; the mean of the frames is classified.

    Clips (N, T, H, W, in_channels) of any length give logits (N, num_classes); with ``lengths`` (N,), clips may have
    different lengths and are padded to T: no frame attends to the padding, and it has no part in the mean. Sinusoidal
    positions say when a frame is. The "factorised encoder", first space and then time, of Arnab et al., "ViViT: A Video
    Vision Transformer", ICCV 2021, with a CNN for space.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        width: int = 16,
        depth: int = 2,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        self.features = ConvFeatures(in_channels, width)
        channels = self.features.out_channels
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(channels, num_heads, 2 * channels, dropout, activation="gelu", norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        self._positions: dict[tuple[Any, ...], Tensor] = {}

    def positions(self, frames: Tensor) -> Tensor:
        """When each of ``frames`` (N, T, E) is: (T, E), on their device.

        Made once for each length and kept: a captured step cannot copy from the host and finds it where it was.
        """
        key = (*frames.shape[1:], frames.dtype, frames.device)
        if key not in self._positions:
            self._positions[key] = tensor(sinusoids(*frames.shape[1:]), dtype=frames.dtype, device=frames.device)
        return self._positions[key]

    def forward(self, x: Tensor, lengths: Any = None) -> Tensor:
        """Logits (N, num_classes)."""
        self.check_images(x, frames="T, ")
        frames = frame_features(self.features, x)
        frames = frames + self.positions(frames)
        padding = None if lengths is None else padding_of(lengths, *x.shape[:2])
        hidden = None if padding is None else tensor(padding, device=frames.device)
        for layer in self.layers:
            frames = layer(frames, src_key_padding_mask=hidden)
        logits: Tensor = self.classifier(self.dropout(mean_of_frames(self.norm(frames), padding)))
        return logits
