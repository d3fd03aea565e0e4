"""A trained model together with its classes and its preprocessing: from image files to labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from imgrec_engine import checkpoint, models
from imgrec_engine.autograd import no_grad
from imgrec_engine.data import DataLoader, Dataset, Preprocessing
from imgrec_engine.errors import CheckpointError, DataError, ImgrecError
from imgrec_engine.functional import softmax
from imgrec_engine.models import ImageModel
from imgrec_engine.tensor import tensor
from imgrec_engine.train.evaluation import device_of, evaluate
from imgrec_engine.train.explain import Explanation, heat_map
from imgrec_engine.train.symmetries import Symmetric
from imgrec_engine.train.tasks import Prediction, task_of

BEST = "best.safetensors"


class Recogniser:
    """Recognises images with a trained model.

    Where images mean the same whichever way round they lie, ``symmetries`` says in which ways ("flip", "flip_vertical",
    "rotate90"), and answers are means over all of them (`Symmetric`).

    >>> import imgrec_engine as ie
    >>> model = ie.models.create("cnn", num_classes=2, in_channels=1, image_size=16)
    >>> recogniser = Recogniser(model, ("cat", "dog"), Preprocessing((16, 16), 1, (0.5,), (0.5,)))
    >>> sum(recogniser.predict([np.zeros((20, 30, 3), np.uint8)])[0].scores) - 1 < 1e-6
    True
    """

    def __init__(
        self,
        model: ImageModel,
        classes: Sequence[str],
        preprocessing: Preprocessing,
        symmetries: Sequence[str] = (),
    ) -> None:
        self.answering = Symmetric(model, symmetries)
        self.task = task_of(model)
        self.classes = tuple(classes)
        self.preprocessing = preprocessing

    @property
    def model(self) -> ImageModel:
        """The model, which sees images as they lie."""
        return self.answering.model

    @property
    def symmetries(self) -> tuple[str, ...]:
        """The names of the symmetries over which answers are means."""
        return self.answering.symmetries

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Self:
        """From a run folder (its best checkpoint) or a checkpoint file; CheckpointError if it cannot be used."""
        place = Path(path) / BEST if Path(path).is_dir() else Path(path)
        state, metadata = checkpoint.load(place)
        try:
            described = metadata["model"]
            model = models.create(described["name"], **described["arguments"])
            model.load_state_dict(state)
            preprocessing = Preprocessing.from_config(metadata["preprocessing"])
            classes = tuple(str(name) for name in metadata["classes"])
            recogniser = cls(model, classes, preprocessing, metadata.get("symmetries", ()))
        except (ImgrecError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{place}: not a model that this version can build: {error}") from error
        model.to(device=device)
        return recogniser

    def save(self, path: str | Path, metadata: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint that ``load`` reads; ``metadata`` adds JSON data to it."""
        described = {
            "model": self.model.config,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_config(),
            "symmetries": list(self.symmetries),
        }
        checkpoint.save(path, self.model.state_dict(), {**(metadata or {}), **described})

    def evaluate(self, dataset: Dataset) -> Any:
        """What `train.evaluate` says of a data set; DataError if its classes are not the model's."""
        if tuple(dataset.classes) != self.classes:
            raise DataError(f"the model knows the classes {self.classes}, the data has {tuple(dataset.classes)}")
        return evaluate(self.answering, self.loader(dataset))

    def loader(self, dataset: Dataset, batch_size: int = 256) -> DataLoader:
        """Batches of a data set, prepared as the model expects them, in order."""
        return DataLoader(self.preprocessing.in_memory(dataset), batch_size, transform=self.preprocessing.compose())

    def probabilities(self, images: Iterable[NDArray[Any]], batch_size: int = 256) -> NDArray[np.float32]:
        """The probability of every class for every image: (images, classes).

        Of a model that reads strings it is that of every class and of blank, the last, at every step: (images, T,
        classes + 1).
        Images are (H, W, C) arrays, or clips (T, H, W, C), of any size: uint8, or float32 in 0...1. Those of one array
        (images, H, W, C) are prepared together, which is faster.
        """
        transform = self.preprocessing.compose()
        if isinstance(images, np.ndarray) and len(images):
            prepared = list(transform.batch(images, []))
        else:
            prepared = [transform(image) for image in images]
        rows = []
        self.answering.eval()
        device = device_of(self.model)
        with no_grad():
            for start in range(0, len(prepared), batch_size):
                batch = np.stack(prepared[start : start + batch_size])
                rows.append(softmax(self.answering(tensor(batch, device=device))).numpy())
        return np.concatenate(rows) if rows else np.zeros((0, len(self.classes)), dtype=np.float32)

    def predict(self, images: Iterable[NDArray[Any]]) -> list[Prediction]:
        """What each image shows."""
        probabilities = self.probabilities(images)
        return self.task.predictions(probabilities, self.classes) if len(probabilities) else []

    def explain(self, image: NDArray[Any]) -> Explanation:
        """What one image shows, and where in it that rests on; ModelError for a model that cannot be explained.

        The image is (H, W, C), or a clip (T, H, W, C), of any size: uint8, or float32 in 0...1. With symmetries the
        class is that of all ways round, and the heat map that of the image as it is.

        >>> import imgrec_engine as ie
        >>> model = ie.models.create("resnet20", num_classes=2, in_channels=3, image_size=32)
        >>> recogniser = Recogniser(model, ("cat", "dog"), Preprocessing((32, 32), 3, (0.5,) * 3, (0.5,) * 3))
        >>> explanation = recogniser.explain(np.zeros((100, 80, 3), np.uint8))
        >>> explanation.method, explanation.heat.shape
        ('Grad-CAM', (100, 80))
        """
        probabilities = self.probabilities([image])[0]
        best = int(probabilities.argmax())
        prepared = self.preprocessing.compose()(image)
        heat, method = heat_map(self.model, prepared, (image.shape[-3], image.shape[-2]), best)
        return Explanation(image, heat, method, self.classes[best], float(probabilities[best]))
