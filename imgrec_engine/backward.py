"""The backward pass: from a result to the leaves it depends on, without recursion."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from imgrec_engine.autograd import Node
from imgrec_engine.errors import AutogradError
from imgrec_engine.tensor import Tensor


def backward(root: Tensor, gradient: Tensor | None = None) -> None:
    """Adds d root / d leaf, times ``gradient``, to the ``.grad`` of every leaf that requires it."""
    _walk(root, gradient, None)


def grad(output: Tensor, inputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The gradients of a scalar with respect to tensors, as a list; no ``.grad`` changes.

    An input that the output does not depend on gets zeros. Inputs may be leaves or results of operations.

    >>> import imgrec_engine as ie
    >>> x = ie.tensor([3.0], requires_grad=True)
    >>> ie.grad((x * x).sum(), [x])[0].numpy()
    array([6.], dtype=float32)
    """
    wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    for position, tensor in enumerate(wanted):
        if not tensor.requires_grad:
            raise AutogradError(f"grad: inputs[{position}] of shape {tensor.shape} does not require a gradient")
    found: dict[Any, Any] = {_key(tensor): None for tensor in wanted}
    _walk(output, None, found)
    results = (found[_key(tensor)] for tensor in wanted)
    return [
        Tensor(np.zeros_like(tensor._array) if array is None else array)
        for tensor, array in zip(wanted, results, strict=True)
    ]


def _key(tensor: Tensor) -> Any:
    return id(tensor) if tensor._node is None else (tensor._node, tensor._index)


def _seed(root: Tensor, gradient: Tensor | None) -> Any:
    """The gradient that a backward pass starts from."""
    if not root.requires_grad:
        raise AutogradError(
            f"backward: this tensor of shape {root.shape} does not depend on anything that requires a gradient"
        )
    if gradient is None:
        if root.size != 1:
            raise AutogradError(
                f"backward: the tensor has shape {root.shape}; without a gradient argument it must be a scalar "
                "(take .sum() or .mean() first, or pass a gradient of this shape)"
            )
        return np.ones_like(root._array)
    array = gradient._array if isinstance(gradient, Tensor) else np.asarray(gradient)
    if array.shape != root.shape:
        raise AutogradError(f"backward: the gradient has shape {array.shape}, the tensor {root.shape}")
    return array.astype(root.dtype, copy=True)


def _walk(root: Tensor, gradient: Tensor | None, found: dict[Any, Any] | None) -> None:
    """Visits the nodes from the newest to the oldest, so that each has its whole gradient when its turn comes."""
    seed = _seed(root, gradient)
    if root._node is None:
        _deliver(root, seed, found)
        return
    pending: dict[Node, list[Any]] = {root._node: [None] * len(root._node.outputs)}
    pending[root._node][root._index] = seed
    queue = [(-root._node.number, root._node)]
    while queue:
        _, node = heapq.heappop(queue)
        gradients = pending.pop(node)
        if found is not None:
            for index, array in enumerate(gradients):
                if array is not None and (node, index) in found:
                    found[node, index] = array
        for edge, array in _pull(node, gradients):
            if isinstance(edge, Tensor):
                _deliver(edge, array, found)
                continue
            slots = pending.get(edge.node)
            if slots is None:
                slots = pending[edge.node] = [None] * len(edge.node.outputs)
                heapq.heappush(queue, (-edge.node.number, edge.node))
            slots[edge.index] = array if slots[edge.index] is None else slots[edge.index] + array


def _pull(node: Node, gradients: list[Any]) -> list[tuple[Any, Any]]:
    """Calls a node's pullback and pairs the gradients with the edges they belong to; frees the node."""
    if node.pullback is None:
        raise AutogradError(
            f"backward of {node.name} a second time: what it had saved was freed by the first backward pass; "
            "run the forward pass again"
        )
    node.check_unchanged()
    needs = tuple(_needs(edge) for edge in node.edges)
    given = tuple(gradients) if len(gradients) > 1 else gradients[0]
    results = node.pullback(given, needs)
    if len(results) != len(node.edges):
        raise AutogradError(
            f"backward of {node.name} returned {len(results)} gradients, expected {len(node.edges)}: "
            "one for each parameter annotated as Array"
        )
    pairs: list[tuple[Any, Any]] = []
    for edge, result in zip(node.edges, results, strict=True):
        if isinstance(edge, tuple):
            pairs.extend(zip(edge, result, strict=True))
        else:
            pairs.append((edge, result))
    wanted = [(edge, array) for edge, array in pairs if edge is not None and array is not None]
    checked = [(edge, _conform(node, edge, array)) for edge, array in wanted]
    node.release()
    return checked


def _needs(edge: Any) -> Any:
    return tuple(map(_needs, edge)) if isinstance(edge, tuple) else edge is not None


def _conform(node: Node, edge: Any, array: Any) -> Any:
    """The gradient in the dtype of what it belongs to; AutogradError where the shape is another."""
    shape, dtype = (edge.shape, edge.dtype) if isinstance(edge, Tensor) else edge.node.outputs[edge.index]
    array = np.asarray(array)
    if array.shape != shape:
        raise AutogradError(f"backward of {node.name} gave a gradient of shape {array.shape} for an input of {shape}")
    return array if array.dtype == dtype else array.astype(dtype)


def _deliver(leaf: Tensor, array: Any, found: dict[Any, Any] | None) -> None:
    """Adds a gradient to a leaf's ``.grad``, or to what ``grad`` looks for."""
    if found is not None:
        if id(leaf) in found:
            before = found[id(leaf)]
            found[id(leaf)] = array if before is None else before + array
    elif leaf.grad is None:
        # A copy: the same array may be on its way to other tensors, and gradients are changed in place by clipping.
        leaf.grad = Tensor(array.copy())
    else:
        leaf.grad = Tensor(leaf.grad._array + array)
