"""Data sets that have a name, and the ways to prepare and to augment images.

Plain data without torch, so that a command's help, which lists the names, comes at once.
"""

from __future__ import annotations

from dataclasses import dataclass

PREPROCESSES = ("crop", "paper")
"""How an image file becomes a square; see :func:`crop_of`."""
FILTERS = ("bilinear", "bicubic")
AUGMENTATIONS = ("none", "flip", "crop", "resized")
"""What :func:`has8.data.batches` can do to training images."""


@dataclass(frozen=True, slots=True)
class KnownArrays:
    """A data set that is held in memory.

    Args:
        torchvision: torchvision's class that reads and downloads it; None for the digits that
            come with scikit-learn.
        flip: whether an image keeps its class when mirrored left to right.
    """

    torchvision: str | None
    flip: bool


@dataclass(frozen=True, slots=True)
class KnownFolder:
    """A data set of class folders.

    Args:
        places: where it may lie below the data root; the first that holds folders is taken.
        classes: how many it has when it is whole.
        without: a folder that is no class.
        torchvision: torchvision's class that downloads it to the first place, if one does.
    """

    places: tuple[str, ...]
    classes: int
    without: str = ""
    torchvision: str | None = None


@dataclass(frozen=True, slots=True)
class KnownEvents:
    """A data set of recordings of an event camera.

    Args:
        tonic: tonic's class that reads and downloads it.
        shape: polarities and pixels, ``(C, H, W)``.
        class_names: one for each label.
    """

    tonic: str
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]


ARRAYS = {
    "digits": KnownArrays(None, flip=False),
    "mnist": KnownArrays("MNIST", flip=False),
    "fashion_mnist": KnownArrays("FashionMNIST", flip=True),
    "cifar10": KnownArrays("CIFAR10", flip=True),
    "cifar100": KnownArrays("CIFAR100", flip=True),
}

FOLDERS = {
    "caltech101": KnownFolder(
        ("caltech101/101_ObjectCategories", "101_ObjectCategories", "caltech101"),
        classes=101,
        without="BACKGROUND_Google",
        torchvision="Caltech101",
    ),
    "caltech256": KnownFolder(
        ("caltech256/256_ObjectCategories", "256_ObjectCategories", "caltech256"),
        classes=257,
        torchvision="Caltech256",
    ),
    "imagenet": KnownFolder(("imagenet",), classes=1000),
}

EVENTS = {
    "nmnist": KnownEvents("NMNIST", (2, 34, 34), tuple("0123456789")),
    "dvs_gesture": KnownEvents(
        "DVSGesture",
        (2, 128, 128),
        (
            "hand clapping",
            "right hand wave",
            "left hand wave",
            "right hand clockwise",
            "right hand counter clockwise",
            "left hand clockwise",
            "left hand counter clockwise",
            "arm roll",
            "air drums",
            "air guitar",
            "other gestures",
        ),
    ),
}


def crop_of(preprocess: str) -> tuple[str, float] | None:
    """What a way to prepare an image file says; None for what is no such way.

    "crop" takes the centre square, bilinear; "paper" squeezes the whole image, which it says by a
    part of 0; "bicubic-0.875" takes the centre square of 0.875 of the shorter side, as encoders
    trained on ImageNet ask for (there: the shorter side to 256, of which the centre 224).

    Returns:
        The filter, antialiased, and the part of the shorter side that remains, in (0, 1].
    """
    if preprocess in PREPROCESSES:
        return "bilinear", float(preprocess == "crop")
    name, _, part = preprocess.partition("-")
    try:
        kept = float(part)
    except ValueError:
        return None
    return (name, kept) if name in FILTERS and 0 < kept <= 1 else None


def data_names() -> list[str]:
    """The names of images that :func:`has8.data.load_data` takes beside folders, sorted."""
    return sorted([*ARRAYS, *FOLDERS])


def event_names() -> list[str]:
    """The names of recordings of events that :func:`has8.data.load_data` takes, sorted."""
    return sorted(EVENTS)
