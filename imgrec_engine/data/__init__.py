"""Data sets, transforms and loading, for `import imgrec_engine as ie` as `ie.data`."""

from imgrec_engine.data.augmentation import (
    ColorJitter,
    Cutout,
    RandomAffine,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomRotate90,
    RandomRotation,
    RandomVerticalFlip,
)
from imgrec_engine.data.dataset import ArrayDataset, ConcatDataset, Dataset, Subset, leave_group_out, split
from imgrec_engine.data.folder import ImageFolder
from imgrec_engine.data.idx import load_idx, read_idx
from imgrec_engine.data.image import MAX_PIXELS, read_image
from imgrec_engine.data.loader import DataLoader
from imgrec_engine.data.mixing import Mixing
from imgrec_engine.data.npz import read_npz
from imgrec_engine.data.preprocessing import Preprocessing
from imgrec_engine.data.registry import load, load_parts, load_train_test, names
from imgrec_engine.data.shared import data_root, read_fir_actions
from imgrec_engine.data.transforms import (
    CenterCrop,
    Compose,
    Normalize,
    Resize,
    Standardize,
    ToGrey,
    ToRGB,
    Transform,
)

__all__ = [
    "MAX_PIXELS",
    "ArrayDataset",
    "CenterCrop",
    "ColorJitter",
    "Compose",
    "ConcatDataset",
    "Cutout",
    "DataLoader",
    "Dataset",
    "ImageFolder",
    "Mixing",
    "Normalize",
    "Preprocessing",
    "RandomAffine",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomRotate90",
    "RandomRotation",
    "RandomVerticalFlip",
    "Resize",
    "Standardize",
    "Subset",
    "ToGrey",
    "ToRGB",
    "Transform",
    "data_root",
    "leave_group_out",
    "load",
    "load_idx",
    "load_parts",
    "load_train_test",
    "names",
    "read_fir_actions",
    "read_idx",
    "read_image",
    "read_npz",
    "split",
]
