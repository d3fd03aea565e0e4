"""State dicts between PyTorch and this package. The keys are the same; convolution weights are laid out differently.

A convolution's weight is (C_out, C_in / groups, KH, KW) there and (C_out, KH, KW, C_in / groups) here. All else
(Linear, normalisation with its running statistics and ``num_batches_tracked``, Embedding, RNN, LSTM, GRU,
MultiheadAttention, TransformerEncoderLayer) is the same on both sides.

One thing a state dict cannot tell: a Linear that follows a Flatten of an image sees the features in the order C, H, W
there and H, W, C here. Permute its weight's columns yourself:
``weight.reshape(out, C, H, W).transpose(0, 2, 3, 1).reshape(out, -1)``. Models that pool before their classifier, as
all of ours and most residual networks do, need nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def from_torch_state_dict(state_dict: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """A PyTorch state dict, as arrays, for ``load_state_dict`` of the same model written with our layers.

    Give it ``{name: tensor.numpy() for name, tensor in torch_model.state_dict().items()}``. Weights with four
    dimensions are taken for convolutions.

    >>> import numpy as np
    >>> from_torch_state_dict({"conv1.weight": np.zeros((16, 3, 5, 7), np.float32)})["conv1.weight"].shape
    (16, 5, 7, 3)
    """
    return _permute(state_dict, (0, 2, 3, 1))


def to_torch_state_dict(state_dict: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The way back: what ``Module.state_dict()`` returns as arrays in PyTorch's layout.

    >>> from imgrec_engine import nn
    >>> to_torch_state_dict(nn.Conv2d(3, 16, (5, 7)).state_dict())["weight"].shape
    (16, 3, 5, 7)
    """
    return _permute(state_dict, (0, 3, 1, 2))


def _permute(state_dict: Mapping[str, Any], axes: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """Copies of all arrays, those of convolution weights with their axes in another order."""
    converted = {}
    for name, value in state_dict.items():
        array = np.array(value)
        is_convolution = array.ndim == 4 and name.rpartition(".")[2] == "weight"
        converted[name] = np.ascontiguousarray(array.transpose(axes)) if is_convolution else array
    return converted
