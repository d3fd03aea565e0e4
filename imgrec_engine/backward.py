"""The backward pass: from a result to the leaves it depends on, without recursion."""

from __future__ import annotations

import heapq
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from imgrec_engine import capturing, kernels, observe, quiet
from imgrec_engine.autograd import Node
from imgrec_engine.device import elsewhere, empty_like, has_own_memory, is_writable, on, place
from imgrec_engine.errors import AutogradError, DeviceError, OutOfMemoryError
from imgrec_engine.ops.arithmetic import plus
from imgrec_engine.tensor import Tensor


def backward(root: Tensor, gradient: Tensor | None = None) -> None:
    """Adds d root / d leaf, times ``gradient``, to the ``.grad`` of every leaf that requires it."""
    _walk("backward", root, gradient, None)


def grad(output: Tensor, inputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The gradients of a scalar with respect to tensors, as a list; no ``.grad`` changes.

    An input that the output does not depend on gets zeros. Inputs may be leaves or results of operations.

    >>> import imgrec_engine as ie
    >>> x = ie.tensor([3.0], requires_grad=True)
    >>> ie.grad((x * x).sum(), [x])[0].numpy()
    array([6.], dtype=float32)
    """
    wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if not isinstance(output, Tensor):
        raise TypeError(f"grad: output is of type {type(output).__name__}, expected a Tensor; add several up first")
    for position, tensor in enumerate(wanted):
        if not tensor.requires_grad:
            raise AutogradError(f"grad: inputs[{position}] of shape {tensor.shape} does not require a gradient")
    found: dict[Any, Any] = {_key(tensor): None for tensor in wanted}
    _walk("grad", output, None, found)
    results = (found[_key(tensor)] for tensor in wanted)
    return [
        Tensor(_zeros_like(tensor._array) if array is None else _copy(array))  # it may be a read-only view
        for tensor, array in zip(wanted, results, strict=True)
    ]


def _zeros_like(array: Any) -> Any:
    with on(array):
        return np.zeros_like(array)


def _key(tensor: Tensor) -> Any:
    return id(tensor) if tensor._node is None else (tensor._node, tensor._index)


def _seed(name: str, root: Tensor, gradient: Tensor | None) -> Any:
    """The gradient that a backward pass starts from."""
    if not root.requires_grad:
        raise AutogradError(
            f"{name}: this tensor of shape {root.shape} does not depend on anything that requires a gradient"
        )
    if gradient is None:
        if root.size != 1:
            raise AutogradError(
                f"{name}: the tensor has shape {root.shape}, expected a scalar: take .sum() or .mean() first, "
                "or call .backward(gradient) with a gradient of this shape"
            )
        return np.ones_like(root._array)
    if isinstance(gradient, Tensor) and gradient.device != root.device:
        raise DeviceError(
            f"{name}: the gradient is on {gradient.device} and the tensor on {root.device}; "
            f"expected both on one device: gradient.to({root.device!r})"
        )
    array = gradient._array if isinstance(gradient, Tensor) else place(gradient, type(root._array))
    if array.shape != root.shape:
        raise AutogradError(f"{name}: the gradient has shape {array.shape}, expected the tensor's, {root.shape}")
    return array.astype(root.dtype, copy=False)


def _walk(name: str, root: Tensor, gradient: Tensor | None, found: dict[Any, Any] | None) -> None:
    """Takes the gradient of the root to all leaves, or to what ``grad`` looks for."""
    if gpu := elsewhere(root._array):
        with gpu:
            _walk(name, root, gradient, found)
        return
    seed = _seed(name, root, gradient)
    if root._node is None:
        _deliver(root, [seed], 0, found)
        return
    before = quiet.enter()  # gradients may overflow, also where an input has fewer bits
    try:
        _visit(root, seed, found)
    finally:
        quiet.leave(before)


def _visit(root: Tensor, seed: Any, found: dict[Any, Any] | None) -> None:
    """Visits the nodes from the newest to the oldest, so that each has its whole gradient when its turn comes."""
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
        edges, arrays = _pull(node, gradients)
        gradients.clear()  # some may have been passed on
        for number, edge in enumerate(edges):
            if isinstance(edge, Tensor):
                _deliver(edge, arrays, number, found)
                continue
            slots = pending.get(edge.node)
            if slots is None:
                slots = pending[edge.node] = [None] * len(edge.node.outputs)
                heapq.heappush(queue, (-edge.node.number, edge.node))
            slots[edge.index] = _add(slots[edge.index], arrays[number])


def _pull(node: Node, gradients: list[Any]) -> tuple[list[Any], list[Any]]:
    """Calls a node's pullback; edges and the gradients that belong to them, two lists. Frees the node."""
    if node.pullback is None:
        raise AutogradError(
            f"backward of {node.name} a second time: what it had saved was freed by the first backward pass; "
            "run the forward pass again"
        )
    if gpu := elsewhere(gradients[0] if len(gradients) == 1 else next(g for g in gradients if g is not None)):
        with gpu:
            return _pull(node, gradients)
    node.check_unchanged()
    needs = tuple(_needs(edge) for edge in node.edges)
    try:
        given = (tuple(gradients) if node.several else gradients[0], needs)
        if observe.observers:
            results = observe.observed(node.name, "backward", node.pullback, given, {})
        else:
            results = node.pullback(*given)
    except MemoryError as error:
        raise OutOfMemoryError(f"backward of {node.name}: {error}") from error
    pairs: list[tuple[Any, Any]] = []
    for edge, result in _pair(node, node.edges, results, "one for each parameter annotated as Array"):
        if not isinstance(edge, tuple):
            pairs.append((edge, result))
        elif result is not None:
            pairs.extend(_pair(node, edge, result, "one for each tensor in the list"))
    wanted = [(edge, array) for edge, array in pairs if edge is not None and array is not None]
    checked = [_conform(node, edge, array) for edge, array in wanted]
    node.release()
    return [edge for edge, _ in wanted], checked


def _pair(node: Node, edges: tuple[Any, ...], results: Any, which: str) -> Iterable[tuple[Any, Any]]:
    """Edges with their gradients; AutogradError unless there is one for each."""
    if not isinstance(results, (tuple, list)):
        raise AutogradError(
            f"backward of {node.name} returned {type(results).__name__}, expected a tuple of gradients: {which}"
        )
    if len(results) != len(edges):
        raise AutogradError(
            f"backward of {node.name} returned {len(results)} gradients, expected {len(edges)}: {which}"
        )
    return zip(edges, results, strict=True)


def _needs(edge: Any) -> Any:
    return tuple(map(_needs, edge)) if isinstance(edge, tuple) else edge is not None


def _conform(node: Node, edge: Any, array: Any) -> Any:
    """The gradient on the device and in the dtype of what it belongs to; AutogradError where the shape is another."""
    if isinstance(edge, Tensor):
        shape, dtype, array_type = edge.shape, edge.dtype, type(edge._array)
    else:
        shape, dtype, array_type = edge.node.outputs[edge.index]
    array = place(array, array_type)
    if array.shape != shape:
        raise AutogradError(
            f"backward of {node.name} gave a gradient of shape {array.shape} for an input of shape {shape}"
        )
    return array if array.dtype == dtype else array.astype(dtype)


_accumulating = threading.Lock()  # threads that train one model add to the same gradients


def _deliver(leaf: Tensor, arrays: list[Any], number: int, found: dict[Any, Any] | None) -> None:
    """Adds the gradient arrays[number] to a leaf's ``.grad``, or to what ``grad`` looks for."""
    if found is not None:
        if id(leaf) in found:
            found[id(leaf)] = _add(found[id(leaf)], arrays[number])
        return
    capturing.note_gradient(leaf)
    with _accumulating:
        if leaf.grad is not None:
            leaf.grad = Tensor(_add(leaf.grad._array, arrays[number]))
        else:
            leaf.grad = Tensor(arrays[number] if _is_unshared(arrays, number) else _copy(arrays[number]))


_ONE_OWNER = 2  # what sys.getrefcount gives for what one list or object holds: its own argument counts


def _is_unshared(arrays: list[Any], number: int) -> bool:
    """Whether the list alone holds this array and all of its memory, so that a leaf may keep it and change it in place.

    Otherwise it may be on its way to other tensors, or be one of the caller's.
    """
    if sys.getrefcount(arrays[number]) != _ONE_OWNER:
        return False
    array = owner = arrays[number]
    while owner.base is not None:
        if sys.getrefcount(owner.base) != _ONE_OWNER:
            return False
        if not isinstance(owner.base, kernels.ARRAYS):
            break
        owner = owner.base
    is_whole = array.flags.c_contiguous and array.nbytes == owner.nbytes
    return bool(is_whole and is_writable(array) and has_own_memory(owner))


def _add(before: Any, array: Any) -> Any:
    """The sum of gradients; an array also without dimensions, where NumPy's sum would be a number."""
    if before is None:
        return array
    with on(array):
        return plus(before, array, empty_like(array))


def _copy(array: Any) -> Any:
    with on(array):
        copy = empty_like(array)
        np.copyto(copy, array)
    return copy
