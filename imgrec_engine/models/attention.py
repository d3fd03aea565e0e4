"""A small vision transformer."""

from __future__ import annotations

from imgrec_engine import nn
from imgrec_engine.creation import zeros
from imgrec_engine.models.registry import ImageModel, register
from imgrec_engine.tensor import Tensor

LARGEST_SMALL_IMAGE = 64  # pixels; up to here patches of 4, beyond it of 16


@register("attention")
class VisionTransformer(ImageModel):
    """A small vision transformer: patches, learned positions, encoder layers, the mean of the tokens, a classifier.

    Images (N, *image_size, in_channels) give logits (N, num_classes). Patches are ``patch_size`` on a side (4, or 16
    above 64 pixels, if not given); images that they do not divide are padded with zeros. Dosovitskiy et al., "An Image
    is Worth 16x16 Words", ICLR 2021; the mean in place of a class token: Beyer, Zhai and Kolesnikov, 2022.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        patch_size: int | None = None,
        width: int = 64,
        depth: int = 4,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        patch = patch_size or (4 if max(image_size) <= LARGEST_SMALL_IMAGE else 16)
        padding = [(-side % patch + 1) // 2 for side in image_size]
        tokens = 1
        for side, pad in zip(image_size, padding, strict=True):
            tokens *= (side + 2 * pad) // patch
        self.patches = nn.Conv2d(in_channels, width, patch, stride=patch, padding=(padding[0], padding[1]))
        self.positions = nn.Parameter(zeros((1, tokens, width)))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(width, num_heads, 2 * width, dropout, activation="gelu", norm_first=True)
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes)."""
        self.check_images(x, exact_size=True)
        x = self.patches(x)
        x = x.reshape(x.shape[0], -1, x.shape[3]) + self.positions
        x = self.norm(self.layers(x))
        logits: Tensor = self.classifier(x.mean(axis=1))
        return logits
