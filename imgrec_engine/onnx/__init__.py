"""Models as ONNX files, which other programs run: ``ie.onnx.export(model, "model.onnx", example)``."""

from imgrec_engine.onnx.exporting import export, export_recogniser
from imgrec_engine.onnx.parity import Parity

__all__ = ["Parity", "export", "export_recogniser"]
