"""Writing a module: a residual block with a learned gate, trained to tell two kinds of stripes apart.

Run it from a checkout or anywhere after installation: python examples/custom_module.py
"""

import numpy as np

import imgrec_engine as ie
from imgrec_engine import functional as F
from imgrec_engine import nn, optim


class GatedBlock(nn.Module):
    """x + gate * relu(conv(x)): whatever is assigned in __init__ and is a Parameter or Module belongs to the module."""

    def __init__(self, channels: int) -> None:
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.gate = nn.Parameter(ie.zeros(channels))  # starts as the identity

    def forward(self, x: ie.Tensor) -> ie.Tensor:
        """Images (N, H, W, channels) to the same shape."""
        return x + self.gate * F.relu(self.conv(x))


class StripeNet(nn.Module):
    """A convolution, two of the blocks, global average pooling and a classifier."""

    def __init__(self) -> None:
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.Sequential(GatedBlock(8), GatedBlock(8))
        self.classifier = nn.Linear(8, 2)

    def forward(self, x: ie.Tensor) -> ie.Tensor:
        """Images (N, H, W, 1) to logits (N, 2)."""
        features = self.blocks(F.relu(self.stem(x)))
        logits: ie.Tensor = self.classifier(features.mean(axis=(1, 2)))
        return logits


def stripes(count: int) -> tuple[ie.Tensor, ie.Tensor]:
    """Noisy 12 x 12 images: horizontal stripes (0) and vertical stripes (1)."""
    stripe = (np.arange(12) // 2 % 2).astype(np.float32)
    labels = np.arange(count) % 2
    images = np.where(labels[:, None, None] == 0, stripe[:, None], stripe[None, :])
    return ie.tensor(images[..., None]) + 0.3 * ie.randn(count, 12, 12, 1), ie.tensor(labels)


def main() -> float:
    """Trains for some steps and returns the accuracy on new images."""
    ie.manual_seed(0)
    model = StripeNet()
    print(model)
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(30):
        images, labels = stripes(32)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 9:
            print(f"step {step + 1}: loss {loss.item():.3f}")
    images, labels = stripes(200)
    with ie.no_grad():
        accuracy = float((model.eval()(images).argmax(axis=1) == labels).astype("float32").mean().item())
    print(f"accuracy on new images: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
