"""Layers: modules that hold parameters and call `imgrec_engine.functional`. Names and state keys are PyTorch's."""

from imgrec_engine.nn import init
from imgrec_engine.nn.activation import GELU, ReLU, Sigmoid, SiLU, Tanh
from imgrec_engine.nn.attention import MultiheadAttention, TransformerEncoderLayer
from imgrec_engine.nn.container import Identity, ModuleList, Sequential
from imgrec_engine.nn.conv2d import Conv2d
from imgrec_engine.nn.dropout import Dropout
from imgrec_engine.nn.embedding import Embedding
from imgrec_engine.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss
from imgrec_engine.nn.matmul import Linear
from imgrec_engine.nn.module import Buffer, Module, Parameter
from imgrec_engine.nn.norm import BatchNorm1d, BatchNorm2d, LayerNorm
from imgrec_engine.nn.pool2d import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from imgrec_engine.nn.recurrent import GRU, LSTM, RNN
from imgrec_engine.nn.shape import Flatten

__all__ = [
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Buffer",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Flatten",
    "Identity",
    "LayerNorm",
    "Linear",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "MultiheadAttention",
    "Parameter",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Tanh",
    "TransformerEncoderLayer",
    "init",
]
