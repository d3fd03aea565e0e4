"""What a prediction rests on, as a heat map over the image.

The model is run on the one image while hooks note what each of its modules returned, so no model needs code for this.
How it is explained follows from what it is made of:

- **convolutions**: Grad-CAM (Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks", ICCV 2017) at the
  last feature map that still has a place;
- **attention** over patches: attention rollout (Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL
  2020), started from what each of the last tokens adds to the class;
- **recurrence** over rows: integrated gradients (Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep
  Networks", ICML 2017), summed over each row, which is one step.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgrec_engine import nn
from imgrec_engine.backward import grad
from imgrec_engine.errors import ModelError
from imgrec_engine.nn.conv2d import pair
from imgrec_engine.tensor import Tensor, tensor
from imgrec_engine.train.evaluation import device_of
from imgrec_engine.train.overlay import overlay

Floats = NDArray[np.float32]
STEPS = 16  # of the integral over gradients


@dataclass(frozen=True)
class Explanation:
    """One image, the class that was recognised in it, and where that rests on.

    ``image`` is what was given: (H, W, C), or a clip (T, H, W, C). ``heat``, float32 (H, W) or (T, H, W), is 0 where
    nothing speaks for the class and 1 where most does; all 0 where nothing does anywhere.
    """

    image: NDArray[Any]
    heat: Floats
    method: str
    label: str
    probability: float

    def picture(self) -> NDArray[np.uint8]:
        """The image in grey, the heat over it in colours and a caption below, (H, W, 3); of a clip up to 8 frames."""
        return overlay(self.image, self.heat, f"{self.label} {self.probability:.2f} · {self.method}")

    def draw(self, path: str | Path) -> None:
        """Writes the picture as a PNG, with the folders above it; FileExistsError where there is such a file."""
        png = io.BytesIO()
        Image.fromarray(self.picture()).save(png, "PNG")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("xb") as file:
            file.write(png.getvalue())


class HeatMap(NamedTuple):
    """The heat, and by which method it was found."""

    heat: Floats
    method: str


def heat_map(model: nn.Module, prepared: Floats, size: tuple[int, int], label: int) -> HeatMap:
    """What speaks for a class, as heat of a size (height, width), or one such map for each frame.

    ``prepared`` is one image (H, W, C) or clip (T, H, W, C), as the model takes them in batches; ``label`` is the
    number of the class. Raises ModelError for a model that cannot be explained so, or has no such class.

    >>> import imgrec_engine as ie
    >>> model = ie.models.create("cnn", num_classes=3, in_channels=1, image_size=16)
    >>> heat, method = heat_map(model, np.ones((16, 16, 1), np.float32), (40, 30), label=2)
    >>> heat.shape, method
    ((40, 30), 'Grad-CAM')
    """
    name, method = _method(model)
    run = _Run(model.eval(), prepared, label)
    grids, region = method(run)
    maps = [
        np.asarray(Image.fromarray(grid).resize((size[1], size[0]), Image.Resampling.BILINEAR, region))
        for grid in grids.astype(np.float32)
    ]
    heat = np.stack(maps)
    heat = (heat / (heat.max() or 1)).astype(np.float32)
    return HeatMap(heat if prepared.ndim == 4 else heat[0], name)


Region = tuple[float, float, float, float] | None  # left, top, right, bottom of the image within a grid; None for all


class _Run:
    """One image or clip, run through a model: what each module was given and returned, and the logits."""

    def __init__(self, model: nn.Module, prepared: Floats, label: int) -> None:
        self.model = model
        self.name = type(model).__name__
        self.frames = len(prepared) if prepared.ndim == 4 else 1
        self.x = tensor(prepared[np.newaxis], device=device_of(model), requires_grad=True)
        with _recorded(model) as self.calls:
            self.logits: Tensor = model(self.x)
        if self.logits.ndim != 2:
            raise ModelError(
                f"explain: {self.name} gives {self.logits.shape} for one image; only models that give it one class, "
                "(1, classes), are explained"
            )
        if not 0 <= label < self.logits.shape[1]:
            raise ModelError(f"explain: {self.name} has {self.logits.shape[1]} classes; there is no number {label}")
        self.label = label

    def outputs(self, ndim: int) -> Iterator[tuple[nn.Module, Tensor]]:
        """The results with so many dimensions, from the last to the first, and the modules that gave them."""
        for module, _, output in reversed(self.calls):
            if isinstance(output, Tensor) and output.ndim == ndim:
                yield module, output

    def gradient(self, where: Tensor) -> NDArray[Any]:
        """Of the class's logit. The graph is freed, so once a run."""
        return grad(self.logits[0, self.label], [where])[0].numpy()


@contextlib.contextmanager
def _recorded(model: nn.Module) -> Iterator[list[tuple[nn.Module, tuple[Any, ...], Any]]]:
    """The calls of the model's modules within it, on this thread: a server may use the model on others meanwhile."""
    calls: list[tuple[nn.Module, tuple[Any, ...], Any]] = []
    own = threading.get_ident()

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() == own:
            calls.append((module, args, output))

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _method(model: nn.Module) -> tuple[str, Any]:
    """How a model is explained, by what it is made of: name and function."""
    modules = list(model.modules())
    if any(isinstance(module, nn.Conv2d) and _sees_neighbours(module) for module in modules):
        return "Grad-CAM", _grad_cam
    if any(isinstance(module, nn.MultiheadAttention) for module in modules):
        return "attention rollout", _attention_rollout
    if any(isinstance(module, (nn.RNN, nn.LSTM, nn.GRU)) for module in modules):
        return "integrated gradients", _integrated_gradients
    raise ModelError(
        f"explain: {type(model).__name__} has neither convolutions nor attention nor recurrence, so there is no way to "
        "explain what it says"
    )


def _sees_neighbours(convolution: nn.Conv2d) -> bool:
    """False where its windows do not overlap: it only cuts the image into patches."""
    steps = pair(convolution.stride)
    return any(window > step for window, step in zip(convolution.kernel_size, steps, strict=True))


def _grad_cam(run: _Run) -> tuple[NDArray[Any], Region]:
    """The channels of a feature map (T, h, w, C), each weighted by its mean gradient; what is negative is left out.

    The mean is over the frames too, so that they can be compared.
    """
    for _, features in run.outputs(ndim=4):
        if len(features) == run.frames and features.shape[1:3] != (1, 1):
            weights = run.gradient(features).mean(axis=(0, 1, 2))
            return np.maximum((weights * features.detach().numpy()).sum(axis=-1), 0), None
    raise ModelError(f"explain: {run.name} has no feature map of more than one position for an image of this size")


def _attention_rollout(run: _Run) -> tuple[NDArray[Any], Region]:
    """What each last token adds to the class, followed back through the layers to the patches it comes from.

    A token is, to equal parts, what it was and what it attended to; so a layer is (I + A) / 2, with the mean A of its
    heads. What all patches have in common, the least of them, is taken away.
    """
    attended = [
        module.weights(*args[:2]).detach().numpy().mean(axis=(0, 1))
        for module, args, _ in run.calls
        if isinstance(module, nn.MultiheadAttention)
    ]
    tokens = len(attended[0])
    patches, rows, columns = _patches(run, tokens)
    last = next((output for _, output in run.outputs(ndim=3) if output.shape[:2] == (1, tokens)), None)
    if last is None or any(matrix.shape != (tokens, tokens) for matrix in attended):
        raise ModelError(f"explain: {run.name}'s attention layers do not all look at the same tokens")
    share = np.maximum((run.gradient(last) * last.detach().numpy())[0].sum(axis=-1), 0)
    flow = (share @ rollout(attended))[-rows * columns :]
    return (flow - flow.min()).reshape(1, rows, columns), _inside_padding(patches, run.x.shape)


def _patches(run: _Run, tokens: int) -> tuple[nn.Conv2d, int, int]:
    """The convolution that cuts the image into the patches that the tokens are, and how many rows and columns."""
    for module, grid in run.outputs(ndim=4):
        if isinstance(module, nn.Conv2d) and len(grid) == 1:
            rows, columns = grid.shape[1:3]
            if tokens - rows * columns in (0, 1):  # 1: a class token before them
                return module, rows, columns
    raise ModelError(
        f"explain: {run.name}'s {tokens} tokens are not the patches into which a convolution cuts the image"
    )


def rollout(attended: list[NDArray[Any]]) -> NDArray[Any]:
    """How much of each last token comes from each first one (rows sum to 1), from the attention (S, S) of each layer.

    >>> rollout([np.array([[0.0, 1.0], [0.5, 0.5]])])
    array([[0.5 , 0.5 ],
           [0.25, 0.75]])
    """
    flow = np.eye(len(attended[0]))
    for matrix in attended:
        flow = (flow + matrix @ flow) / 2
    return flow


def _inside_padding(patches: nn.Conv2d, shape: tuple[int, ...]) -> Region:
    """Which part of the grid of patches the image is, without the zeros around it."""
    rows, columns = pair(patches.stride)
    above, left = (0, 0) if isinstance(patches.padding, str) else pair(patches.padding)
    return left / columns, above / rows, (left + shape[2]) / columns, (above + shape[1]) / rows


def _integrated_gradients(run: _Run) -> tuple[NDArray[Any], Region]:
    """Gradient times input, the gradient averaged on the way to the image, summed over each row; positive sums.

    The way begins at zero, which is the mean image after preparation. At its end alone the gradient says little: a
    model that is sure is saturated there.
    """
    image = run.x.detach().numpy()
    fractions = ((np.arange(STEPS) + 0.5) / STEPS).reshape(-1, *[1] * (image.ndim - 1))
    way = tensor((fractions * image).astype(image.dtype), device=run.x.device, requires_grad=True)
    gradient = grad(run.model(way)[:, run.label].sum(), [way])[0].numpy().mean(axis=0)
    shares = (gradient * image[0]).sum(axis=(-2, -1))
    return np.maximum(shares, 0).reshape(run.frames, -1, 1), None
