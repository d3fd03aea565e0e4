"""Recognition models, made by name: ``models.create("cnn_lstm", num_classes=10, in_channels=1, image_size=28)``."""

from imgrec_engine.models.attention import VisionTransformer
from imgrec_engine.models.cnn import CNN
from imgrec_engine.models.cnn_attention import CNNAttention
from imgrec_engine.models.cnn_lstm import CNNLSTM
from imgrec_engine.models.crnn import CRNN
from imgrec_engine.models.registry import ImageModel, create, defaults, names, register, summaries, task
from imgrec_engine.models.resnet import ResNet10, ResNet18, ResNet20
from imgrec_engine.models.resnet_max import ResNetMax
from imgrec_engine.models.rows import RowLSTM, RowLSTMAttention, RowRNN
from imgrec_engine.models.video_attention import VideoAttention
from imgrec_engine.models.video_lstm import VideoLSTM

__all__ = [
    "CNN",
    "CNNLSTM",
    "CRNN",
    "CNNAttention",
    "ImageModel",
    "ResNet10",
    "ResNet18",
    "ResNet20",
    "ResNetMax",
    "RowLSTM",
    "RowLSTMAttention",
    "RowRNN",
    "VideoAttention",
    "VideoLSTM",
    "VisionTransformer",
    "create",
    "defaults",
    "names",
    "register",
    "summaries",
    "task",
]
