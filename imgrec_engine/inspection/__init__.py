"""What one op costs on a GPU, line by line of its kernels, as the simulator counts it: `imgrec inspect`."""

from imgrec_engine.inspection.arguments import read_options, read_shapes
from imgrec_engine.inspection.measure import inspect_op
from imgrec_engine.inspection.ops import OPS
from imgrec_engine.inspection.page import page
from imgrec_engine.inspection.profile import Inspection, KernelProfile, LineCounters
from imgrec_engine.inspection.text import text

__all__ = [
    "OPS",
    "Inspection",
    "KernelProfile",
    "LineCounters",
    "inspect_op",
    "page",
    "read_options",
    "read_shapes",
    "text",
]
