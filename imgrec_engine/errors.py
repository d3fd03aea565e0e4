"""Every error that the engine raises on purpose, each also a kind of the built-in error that it refines."""


class ImgrecError(Exception):
    """The common root: ``except ImgrecError`` catches whatever this package reports."""


class ShapeError(ImgrecError, ValueError):
    """Shapes that do not fit each other or the operation."""


class DTypeError(ImgrecError, TypeError):
    """A dtype that the operation does not take."""


class DeviceError(ImgrecError, RuntimeError):
    """A device that is absent, or operands on different devices."""


class KernelError(ImgrecError, RuntimeError):
    """A CUDA kernel that could not be launched, or in which the simulator found a fault."""


class AutogradError(ImgrecError, RuntimeError):
    """A backward pass that cannot be had: freed, changed in place, or from a result that is not a scalar."""


class CaptureError(ImgrecError, RuntimeError):
    """A step that cannot be captured as a CUDA graph, or no longer repeated as it was captured."""


class OutOfMemoryError(ImgrecError, MemoryError):
    """Memory ran out. What was live before the operation still is, and the next operation may work."""


class DataError(ImgrecError, ValueError):
    """A data set or an image that cannot be used; the message names the file."""


class ModelError(ImgrecError, ValueError):
    """A model that does not exist, or cannot be built with these arguments."""


class CheckpointError(ImgrecError, ValueError):
    """A checkpoint that is damaged, incomplete, or for another model."""


class ExportError(ImgrecError, ValueError):
    """A model that cannot be exported, or whose exported file computes something else."""
