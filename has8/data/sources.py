"""Data sets by name, or any folder of images."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from has8.data.events import Binning
from has8.data.files import is_array_file, read_arrays
from has8.data.folders import find_known, read_folder
from has8.data.images import ArrayImages, ImageDataset, check_preprocess
from has8.data.names import (
    ARRAYS,
    EVENTS,
    FOLDERS,
    PREPROCESSES,
    crop_of,
    data_names,
    event_names,
)
from has8.data.recordings import load_events
from has8.errors import BadInput, UnknownName
from has8.values import Rules, check_fields, path, value, whole

DIGITS_TRAIN = 1437
"""Digits to learn from: the first so many of scikit-learn's 1797."""


@dataclass(frozen=True, slots=True)
class Data:
    """A data set, ready for training.

    Args:
        name: the registered name, or the folder's.
        train: images to learn from.
        test: held-out images.
        input_shape: ``(C, H, W)`` of one image.
        class_names: one for each label; none if the labels are not known, which are 0 then.
        preprocess: how image files became squares; see :class:`has8.data.FolderImages`.
        steps: T of spikes ``[T, B, C, H, W]``; None for images ``[B, C, H, W]``.

    Raises:
        BadInput: for a value of another type.
    """

    name: str
    train: ImageDataset
    test: ImageDataset
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    preprocess: str = "crop"
    steps: int | None = None

    def __post_init__(self) -> None:
        images = "images such as the parts of has8.load_data"
        rules: Rules = {
            "name": (lambda _: True, "a string"),
            "train": (lambda _: True, images),
            "test": (lambda _: True, images),
            "input_shape": (lambda sides: min(sides) > 0, "three whole numbers (C, H, W) above 0"),
            "class_names": (lambda _: True, "strings, one for each label"),
            "preprocess": (
                lambda way: crop_of(way) is not None,
                f"{', '.join(PREPROCESSES)}, or such as bicubic-0.875",
            ),
            "steps": (lambda steps: steps > 0, "a whole number above 0, or None"),
        }
        check_fields(self, rules)

    def tests(self, count: int | None = None) -> tuple[Tensor, Tensor | None]:
        """``count`` held-out inputs, spread evenly, with their labels if these are known.

        Returns:
            What :meth:`has8.data.ImageDataset.tensors` of the held-out part does, with None for
            labels that are not known.
        """
        x, labels = self.test.tensors(count)
        return x, labels if self.class_names else None


def load_data(
    name: str = "digits",
    root: str | Path | None = None,
    image_size: int | None = None,
    *,
    preprocess: str = "crop",
    steps: int | None = None,
    binning: Binning = "time",
    window_us: int | None = None,
) -> Data:
    """A data set by name, or any folder of images.

    In memory: ``digits`` (scikit-learn's 1797 images of 8x8, no download; in the order of the file
    the first 1437 are trained on and the last 360 held out, which is harder than a random split,
    because neighbours are by the same hand), ``mnist``, ``fashion_mnist``, ``cifar10`` and
    ``cifar100`` (torchvision's files and splits; downloaded when absent).

    From files, decoded as they are needed: ``caltech101`` (101 classes, without
    ``BACKGROUND_Google``) and ``caltech256`` (257 classes, with ``257.clutter``), whose classes
    are counted as torchvision and the HAS-8 paper count them; they lie in torchvision's folders,
    downloaded when absent, or as class folders in ``ROOT/caltech101`` and ``ROOT/caltech256``.
    ``imagenet`` lies in ``ROOT/imagenet`` with ``train/`` and ``val/``, each with a folder for
    each wnid, as torchvision unpacks it; it is never downloaded. Where only a part of the classes
    is there, in the same place or in ``ROOT/NAME_N``, the name of the data says how many:
    ``caltech101_64``.

    Recordings of event cameras, as spikes in steps (:func:`has8.data.bin_events`): ``nmnist``
    (2 x 34 x 34 pixels) and ``dvs_gesture`` (2 x 128 x 128), which tonic downloads and reads where
    it is installed; N-MNIST's own files are read without it, see
    :func:`has8.data.recordings.load_events`. Their batches are ``[T, B, C, H, W]``.

    Any other folder holds either ``train/`` and ``test/`` (or ``val/``; in any case, see
    :func:`has8.data.listing.list_images`), each with one folder of images for each class, or the
    class folders themselves. Class folders alone, such as both Caltech sets, have no split: a fifth
    of each class is held out, chosen by the hash of the file name, so that it is the same
    everywhere. No image of such a folder is in both parts.

    A file ``.npy`` or ``.npz`` holds arrays, see :func:`has8.data.files.read_arrays`. It has no
    split: both parts are all of it.

    Args:
        name: one of the names, or the path of a folder or of a file of arrays.
        root: where named data lie; by default ``$HAS8_DATA``, else ``~/.cache/has8/data``.
        image_size: side in pixels to which images are resized; by default images in memory keep
            theirs, and those from files become 224 x 224.
        preprocess: for image files only. "crop" takes the centre square. "paper" resizes the
            whole image to a square. It stands for the HAS-8 authors' Resize(224), which keeps the
            aspect ratio, so that images of different shapes could not be batched.
            "bicubic-0.875" takes the centre square of 0.875 of the shorter side, as encoders of
            :func:`has8.pretrained` ask for; "bilinear" and other parts as well.
        steps: T, for recordings of events, which need it.
        binning: for events: steps by "time" or by "count"; see :func:`has8.data.bin_events`.
        window_us: for events by time: microseconds of a step; None for a T-th of each recording.

    Raises:
        UnknownName: if it is neither a name nor a folder or such a file.
        BadInput: if files are missing and cannot be downloaded, a folder does not hold what
            :func:`has8.data.listing.list_images` asks for, or another argument is out of range.
    """
    name = str(path(name, "a folder, or the name of a data set"))
    if root is not None:
        root = path(root, "the folder of named data")
    if image_size is not None:
        image_size = whole(image_size, "image_size", 1)
    check_preprocess(preprocess)
    if name in EVENTS:
        return _events(name, _root(root), image_size, preprocess, steps, binning, window_us)
    if steps is not None or binning != "time" or window_us is not None:
        raise BadInput(
            f"steps, binning and window_us are for recordings of events ({', '.join(EVENTS)}), and "
            f"{name} holds images: leave them out"
        )
    if name in ARRAYS:
        train, test, class_names = _arrays(name, _root(root), image_size)
    elif name in FOLDERS:
        train, test, class_names = read_folder(
            _known_folder(name, _root(root)),
            image_size,
            preprocess,
            without=FOLDERS[name].without,
            distinct=False,  # their splits are as they were published
        )
        if len(class_names) != FOLDERS[name].classes:
            name = f"{name}_{len(class_names)}"
    elif is_array_file(name):
        train, class_names = read_arrays(Path(name), image_size)
        test, stem = train, Path(name).stem
        name = Path(name).name if _is_known(stem) else stem
    elif _is_dir(Path(name)):
        train, test, class_names = read_folder(Path(name), image_size, preprocess)
        folder = Path(name).resolve().name
        name = f"{folder}/" if _is_known(folder) else folder
    elif len(Path(name).parts) > 1:
        raise BadInput(
            f"{name} is no folder: name a folder of images or one of {', '.join(data_names())}"
        )
    else:
        raise UnknownName("data set", name, [*data_names(), *event_names()])
    channels, height, width = train[0][0].shape
    return Data(name, train, test, (channels, height, width), class_names, preprocess)


def _is_known(name: str) -> bool:
    """Whether own data of this name would later be taken for a data set that has8 knows."""
    return name in [*data_names(), *event_names()]


def _events(
    name: str,
    root: Path,
    size: int | None,
    preprocess: str,
    steps: int | None,
    binning: Binning,
    window_us: int | None,
) -> Data:
    if steps is None:
        raise BadInput(f"{name} holds events, which become spikes in steps: say how many (steps)")
    steps, binning = whole(steps, "steps", 1), value(binning, Binning, "binning")
    train, test, class_names = load_events(name, root, steps, binning, window_us, size)
    return Data(name, train, test, train.shape, class_names, preprocess, steps)


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def _root(root: str | Path | None) -> Path:
    chosen = Path(root or os.environ.get("HAS8_DATA") or "~/.cache/has8/data")
    try:
        return chosen.expanduser()
    except RuntimeError:  # a user without a home; what lies there is missing then, by that name
        return chosen


_Split = tuple[ImageDataset, ImageDataset, tuple[str, ...]]


def _arrays(name: str, root: Path, size: int | None) -> _Split:
    """Training images, held-out images and class names of a data set that is held in memory."""
    kind, flip = ARRAYS[name].torchvision, ARRAYS[name].flip
    if kind is None:
        return _digits(size)
    parts = [_files(kind, root, train=train) for train in (True, False)]
    train, test = (
        ArrayImages(_as_uint8(part.data), torch.as_tensor(part.targets), flip=flip, size=size)
        for part in parts
    )
    return train, test, tuple(parts[0].classes)


def _digits(size: int | None) -> _Split:
    """What scikit-learn's ``load_digits`` reads, without the second that its import takes."""
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(file), np.uint8, delimiter=",")
    images = torch.from_numpy(rows[:, :-1].reshape(-1, 1, 8, 8))
    labels = torch.from_numpy(rows[:, -1].astype(np.int64))
    train, test = (
        ArrayImages(images[part], labels[part], levels=16, size=size)
        for part in (slice(DIGITS_TRAIN), slice(DIGITS_TRAIN, None))
    )
    return train, test, tuple("0123456789")


_FAILURES = (RuntimeError, OSError, ValueError, AssertionError, ImportError)


def _files(kind: str, root: Path, *, train: bool) -> Any:
    """The torchvision data set; its files are downloaded only when they are absent."""
    from torchvision import datasets  # takes as long to import as torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old pickles inside CIFAR's files
        try:
            return getattr(datasets, kind)(root, train=train, download=False)
        except _FAILURES:
            return _download(kind, root, train=train)


def _download(kind: str, root: Path, **options: Any) -> Any:
    from torchvision import datasets

    try:
        with redirect_stdout(sys.stderr):
            return getattr(datasets, kind)(root, download=True, **options)
    except _FAILURES as error:
        raise BadInput(
            f"no whole files of {kind} are in {root} and their download failed "
            f"({(str(error) or repr(error)).splitlines()[0]}): put them there, or name the folder "
            "that holds them with --data-root or HAS8_DATA"
        ) from error


def _known_folder(name: str, root: Path) -> Path:
    """Where a data set of class folders lies; it is downloaded when it is absent and can be."""
    folder = find_known(name, root)
    if folder is None and (kind := FOLDERS[name].torchvision):
        _download(kind, root)
        folder = find_known(name, root)
    if folder is None:
        raise BadInput(
            f"{name} is not in {root / name} and cannot be downloaded: put its class folders "
            "there (imagenet: in train/ and val/), or name the folder above with --data-root or "
            "HAS8_DATA"
        )
    return folder


def _as_uint8(images: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """``[N, H, W]`` or ``[N, H, W, C]`` as ``[N, C, H, W]``."""
    tensor = torch.as_tensor(images)
    return tensor.unsqueeze(1) if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)
