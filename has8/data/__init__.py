"""Image classification data behind one function: :func:`load_data`.

Images arrive as float32 in [0, 1], ``[C, H, W]``, without normalisation: the range of the
first encoder belongs to the model, and a recipe that normalises asks :func:`channel_statistics`.
"""

from has8.data.batching import AUGMENTATIONS, batches
from has8.data.images import (
    PREPROCESSES,
    ArrayImages,
    Batch,
    FolderImages,
    ImageDataset,
    channel_statistics,
)
from has8.data.sources import Data, data_names, load_data

__all__ = [
    "AUGMENTATIONS",
    "PREPROCESSES",
    "ArrayImages",
    "Batch",
    "Data",
    "FolderImages",
    "ImageDataset",
    "batches",
    "channel_statistics",
    "data_names",
    "load_data",
]
