"""What one op costs on a GPU, line by line of its kernels, as the simulator counts it: `imgrec inspect`."""

from imgrec_engine.inspection.arguments import read_options, read_shapes
from imgrec_engine.inspection.measure import inspect_op
from imgrec_engine.inspection.ops import OPS
from imgrec_engine.inspection.page import as_page
from imgrec_engine.inspection.profile import Inspection, KernelProfile, LineCounters
from imgrec_engine.inspection.text import as_text

__all__ = [
    "OPS",
    "Inspection",
    "KernelProfile",
    "LineCounters",
    "as_page",
    "as_text",
    "inspect_op",
    "read_options",
    "read_shapes",
]
