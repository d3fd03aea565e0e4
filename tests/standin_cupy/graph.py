"""Graphs: a capturing stream notes what it is given in place of doing it, and the graph does it at each launch.

What is noted holds on to the numbers that it works on, not to the pool's memory: a launch fails where somebody has
given memory back that the graph did not take itself.
"""

import functools
import types
import weakref

from standin_cupy import array, gpu


class Capture:
    """What a stream was given since its capture began, and the memory that this uses."""

    def __init__(self):
        self.works, self.hosts, self._blocks = [], [], {}

    def note_use(self, block):
        self._blocks[id(block)] = weakref.ref(block), weakref.ref(block.pool)

    def finish(self):
        own = [ref for ref, pool in self._blocks.values() if pool() not in gpu.default_pools]
        pools = {pool for _, pool in self._blocks.values() if pool() not in gpu.default_pools}
        others = [ref for ref, pool in self._blocks.values() if pool() in gpu.default_pools]
        return Graph(self.works, self.hosts, own, others, pools)


class Graph:
    def __init__(self, works, hosts, own, others, pools):
        self._works, self._hosts, self._own, self._others, self._pools = works, hosts, own, others, pools

    def launch(self, stream=None):
        stream = stream or gpu.get_current_stream()
        gpu.forbid_capture(stream)
        if any(ref() is None for ref in (*self._others, *self._pools)):
            raise RuntimeError("a graph is launched that uses memory which was given back")
        for block in filter(None, (ref() for ref in (*self._own, *self._others))):
            block.use(stream)
        stream.run(stream.issued)
        for work in self._works:
            work()


class _Lasting:
    """In place of a block: the graph's launches account for the use of it."""

    def use(self, stream):
        pass


def _fixed(argument):
    """An argument of a kernel as the graph keeps it."""
    if isinstance(argument, list):
        return [_fixed(item) for item in argument]
    if not isinstance(argument, array.ndarray):
        return argument
    assert argument.data
    return array.ndarray(argument._host, argument._device_id, _Lasting())


def capturable(module):
    """A module of kernels whose launches, which return nothing, are noted by a capturing stream."""
    found = types.ModuleType(module.__name__, module.__doc__)
    for name, value in vars(module).items():
        is_kernel = callable(value) and not isinstance(value, type)
        is_kernel = is_kernel and not name.startswith(("pool_", "dlpack_", "serve_", "empty", "kernel_", "pool2d_"))
        setattr(found, name, _launcher(value) if is_kernel and not name.endswith("_plan") else value)
    return found


def _launcher(kernel):
    def launch(context, *args):
        array.perform(functools.partial(kernel, context, *map(_fixed, args)))

    return launch
