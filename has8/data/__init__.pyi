from .batching import batches as batches
from .events import EventSpikes as EventSpikes
from .events import bin_events as bin_events
from .images import ArrayImages as ArrayImages
from .images import Batch as Batch
from .images import FolderImages as FolderImages
from .images import ImageDataset as ImageDataset
from .images import channel_statistics as channel_statistics
from .names import AUGMENTATIONS as AUGMENTATIONS
from .names import PREPROCESSES as PREPROCESSES
from .names import data_names as data_names
from .names import event_names as event_names
from .sources import Data as Data
from .sources import load_data as load_data

__all__ = [
    "AUGMENTATIONS",
    "PREPROCESSES",
    "ArrayImages",
    "Batch",
    "Data",
    "EventSpikes",
    "FolderImages",
    "ImageDataset",
    "batches",
    "bin_events",
    "channel_statistics",
    "data_names",
    "event_names",
    "load_data",
]
