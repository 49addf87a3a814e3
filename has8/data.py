"""Image classification data behind one function: :func:`load_data`.

Images arrive as float32 in [0, 1], ``[C, H, W]``, without normalisation: the range of the
first encoder belongs to the model. What is small is held in memory as uint8.
"""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from has8.errors import BadInput, UnknownName

Batch = tuple[Tensor, Tensor]

FOLDER_SIZE = 224
"""Side of an image from a folder in pixels, unless the caller names another."""
IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
CACHE_BYTES = 1 << 30
"""An image folder whose decoded images fit here is decoded once and kept."""
DIGITS_TRAIN = 1437
READ_AT_ONCE = 128
CROP_PADDING = 4
CROP_FROM = 32
"""Random crops start at images of this side, in pixels: smaller ones would lose too much."""


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images and labels that can be read in batches.

    Attributes:
        flip: whether an image keeps its class when mirrored left to right (digits do not).
    """

    flip: bool

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, chunks: Iterable[Tensor]) -> Iterator[Batch]:
        """For each ``int64[B]`` of indices: images ``float32[B, C, H, W]``, labels ``int64[B]``."""

    def tensors(self, count: int | None = None) -> Batch:
        """``count`` images and labels, spread evenly over the data set; all where it has fewer.

        Returns:
            Images ``float32[N, C, H, W]`` in [0, 1] and labels ``int64[N]``.
        """
        chosen = torch.arange(len(self))
        if count is not None and count < len(self):
            chosen = torch.linspace(0, len(self) - 1, count).round().long()
        parts = list(self.read(chosen.split(READ_AT_ONCE)))
        return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        images, labels = next(iter(self.read([torch.tensor([index % len(self)])])))
        return images[0], int(labels[0])


class ArrayImages(ImageDataset):
    """Images held in memory.

    Args:
        images: ``uint8[N, C, H, W]``, 0..levels.
        labels: ``int64[N]``.
        levels: the integer that stands for 1.0.
        flip: whether an image keeps its class when mirrored.
        size: side to which images are resized when read (bilinear, antialiased); None keeps it.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        levels: int = 255,
        flip: bool = False,
        size: int | None = None,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(labels):
            raise BadInput(
                f"images must be uint8[N, C, H, W] with N labels, not {images.dtype} "
                f"{tuple(images.shape)} with {len(labels)} labels"
            )
        self.images, self.labels = images.contiguous(), labels.long()
        self.levels, self.flip, self.size = levels, flip, size

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, chunks: Iterable[Tensor]) -> Iterator[Batch]:
        """See :meth:`ImageDataset.read`."""
        for indices in chunks:
            images = self.images[indices].float().div_(self.levels)
            if self.size is not None and images.shape[-2:] != (self.size, self.size):
                images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
            yield images, self.labels[indices]


class FolderImages(ImageDataset):
    """Image files, decoded by threads one batch ahead, as RGB.

    The centre square is resized to ``size`` (bilinear, antialiased).

    Args:
        files: the images.
        labels: one for each file.
        size: side in pixels.
        flip: whether an image keeps its class when mirrored.
    """

    def __init__(
        self, files: Sequence[Path], labels: Sequence[int], *, size: int, flip: bool = True
    ) -> None:
        self.files, self.labels = tuple(files), torch.tensor(labels, dtype=torch.int64)
        self.size, self.flip = size, flip
        self._decoded: dict[int, Tensor] = {}
        self._keep = len(self.files) * 3 * size * size <= CACHE_BYTES

    def __len__(self) -> int:
        return len(self.files)

    def read(self, chunks: Iterable[Tensor]) -> Iterator[Batch]:
        """See :meth:`ImageDataset.read`.

        Raises:
            BadInput: for a file that cannot be decoded.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            waiting: deque[tuple[Tensor, list[Future[Tensor]]]] = deque()
            for indices in chunks:
                waiting.append((indices, [pool.submit(self._image, i) for i in indices.tolist()]))
                if len(waiting) > 1:
                    yield self._batch(*waiting.popleft())
            while waiting:
                yield self._batch(*waiting.popleft())

    def _batch(self, indices: Tensor, images: list[Future[Tensor]]) -> Batch:
        stacked = torch.stack([image.result() for image in images])
        return stacked.float().div_(255), self.labels[indices]

    def _image(self, index: int) -> Tensor:
        image = self._decoded.get(index)
        if image is None:
            image = _decode(self.files[index], self.size)
            if self._keep:
                self._decoded[index] = image
        return image


@dataclass(frozen=True, slots=True)
class Data:
    """A data set, ready for training.

    Args:
        name: the registered name, or the folder's.
        train: images to learn from.
        test: held-out images.
        input_shape: ``(C, H, W)`` of one image.
        class_names: one for each label.
    """

    name: str
    train: ImageDataset
    test: ImageDataset
    input_shape: tuple[int, int, int]
    class_names: tuple[str, ...]


def load_data(
    name: str = "digits", root: str | Path | None = None, image_size: int | None = None
) -> Data:
    """A data set by name, or any folder of images.

    Names: ``digits`` (scikit-learn's 1797 images of 8x8, no download; in the order of the file
    the first 1437 are trained on and the last 360 held out, which is harder than a random split,
    because neighbours are by the same hand), ``mnist``, ``fashion_mnist``, ``cifar10`` and
    ``cifar100`` (torchvision's files and splits; downloaded when absent).

    A folder holds either ``train/`` and ``test/`` (or ``val/``), each with one folder of images
    for each class, or the class folders themselves; then a fifth of each class is held out,
    chosen by the hash of the file name, so that it is the same everywhere.

    Args:
        name: one of the names, or the path of a folder.
        root: where downloaded files lie; by default ``$HAS8_DATA``, else ``~/.cache/has8/data``.
        image_size: side in pixels to which images are resized; by default images keep theirs,
            and those of a folder become 224 x 224.

    Raises:
        UnknownName: if it is neither a name nor a folder.
        BadInput: if files are missing and cannot be downloaded, or a folder holds no images.
    """
    if image_size is not None and image_size < 1:
        raise BadInput(f"image size must be at least 1 pixel, not {image_size}")
    if name in _NAMED:
        train, test, class_names = _NAMED[name](_root(root), image_size)
    elif _is_dir(Path(name)):
        train, test, class_names = _folder(Path(name), image_size or FOLDER_SIZE)
        name = Path(name).resolve().name
    elif len(Path(name).parts) > 1:
        raise BadInput(
            f"{name} is no folder: name a folder of images or one of {', '.join(_NAMED)}"
        )
    else:
        raise UnknownName("data set", name, _NAMED)
    channels, height, width = train[0][0].shape
    return Data(name, train, test, (channels, height, width), class_names)


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def data_names() -> list[str]:
    """The names that :func:`load_data` takes beside folders."""
    return sorted(_NAMED)


def batches(
    dataset: ImageDataset,
    batch_size: int,
    *,
    indices: Tensor | None = None,
    shuffle_seed: int | None = None,
    augment: bool = False,
) -> Iterator[Batch]:
    """The data set in batches: images ``float32[B, C, H, W]`` in [0, 1], labels ``int64[B]``.

    The last batch may be smaller. The same arguments give the same batches.

    Args:
        dataset: what to read.
        batch_size: images in a batch, B.
        indices: ``int64[N]``, the images to read; None for all.
        shuffle_seed: seeds order and augmentation; None keeps the order.
        augment: mirror at random where ``dataset.flip`` allows it, and from 32 x 32 pixels on
            shift by up to 4 pixels (a random crop after zero padding).
    """
    generator = torch.Generator().manual_seed(shuffle_seed or 0)
    order = torch.arange(len(dataset)) if indices is None else indices
    if shuffle_seed is not None:
        order = order[torch.randperm(len(order), generator=generator)]
    for images, labels in dataset.read(torch.split(order, batch_size) if len(order) else ()):
        if augment:
            images = _augmented(images, dataset.flip, generator)
        yield images, labels


def _augmented(images: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    if flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    if min(height, width) >= CROP_FROM:
        offsets = torch.randint(2 * CROP_PADDING + 1, (2, count, 1), generator=generator)
        rows, columns = offsets[0] + torch.arange(height), offsets[1] + torch.arange(width)
        padded = F.pad(images, (CROP_PADDING,) * 4).permute(0, 2, 3, 1)
        sample = torch.arange(count)[:, None, None]
        images = padded[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return images.contiguous()


_Split = tuple[ImageDataset, ImageDataset, tuple[str, ...]]


def _root(root: str | Path | None) -> Path:
    chosen = root or os.environ.get("HAS8_DATA") or Path("~/.cache/has8/data")
    return Path(chosen).expanduser()


def _digits(_: Path, size: int | None) -> _Split:
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()
    images = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target)
    train, test = (
        ArrayImages(images[part], labels[part], levels=16, size=size)
        for part in (slice(DIGITS_TRAIN), slice(DIGITS_TRAIN, None))
    )
    return train, test, tuple(map(str, bunch.target_names))


def _torchvision(kind: str, *, flip: bool) -> Callable[[Path, int | None], _Split]:
    def load(root: Path, size: int | None) -> _Split:
        from torchvision import datasets  # takes as long to import as torch

        parts = [_files(getattr(datasets, kind), root, train=train) for train in (True, False)]
        train, test = (
            ArrayImages(_as_uint8(part.data), torch.as_tensor(part.targets), flip=flip, size=size)
            for part in parts
        )
        return train, test, tuple(parts[0].classes)

    return load


def _files(kind: Any, root: Path, *, train: bool) -> Any:
    """The torchvision data set; its files are downloaded only when they are absent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old pickles inside CIFAR's files
        try:
            return kind(root, train=train, download=False)
        except (RuntimeError, OSError, ValueError, AssertionError):
            pass
        try:
            with redirect_stdout(sys.stderr):
                return kind(root, train=train, download=True)
        except (RuntimeError, OSError, ValueError, AssertionError) as error:
            raise BadInput(
                f"no whole files of {kind.__name__} are in {root} and their download failed "
                f"({str(error).splitlines()[0]}): put them there, or name the folder that holds "
                "them with --data-root or HAS8_DATA"
            ) from error


def _as_uint8(images: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """``[N, H, W]`` or ``[N, H, W, C]`` as ``[N, C, H, W]``."""
    tensor = torch.as_tensor(images)
    return tensor.unsqueeze(1) if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)


def _folder(folder: Path, size: int) -> _Split:
    held_out = next((p for p in (folder / "test", folder / "val") if p.is_dir()), None)
    if (folder / "train").is_dir() and held_out is not None:
        train, test = _classes(folder / "train"), _classes(held_out)
        if strange := sorted(set(test) - set(train)):
            raise BadInput(
                f"{held_out} holds the class {strange[0]!r}, which {folder / 'train'} lacks"
            )
    else:
        train, test = {}, {}
        for name, files in _classes(folder).items():
            ordered = sorted(files, key=lambda file: hashlib.sha256(file.name.encode()).digest())
            cut = round(len(ordered) / 5)
            train[name], test[name] = ordered[cut:], ordered[:cut]
    names = tuple(sorted(train))
    if len(names) < 2 or not any(test.values()):
        raise BadInput(
            f"{folder} does not hold enough images to learn from: expected train/ and test/ with "
            "at least two class folders each, or class folders with several images each"
        )
    parts = (
        FolderImages(
            [file for name in names for file in part.get(name, ())],
            [label for label, name in enumerate(names) for _ in part.get(name, ())],
            size=size,
        )
        for part in (train, test)
    )
    return next(parts), next(parts), names


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class folder that has any, sorted."""
    found = {
        entry.name: sorted(p for p in entry.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }
    return {name: files for name, files in found.items() if files}


def _decode(file: Path, size: int) -> Tensor:
    """``uint8[3, size, size]``."""
    try:
        with Image.open(file) as opened:
            square = ImageOps.fit(opened.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"{file} cannot be read as an image: remove or replace it") from error
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


_NAMED: dict[str, Callable[[Path, int | None], _Split]] = {
    "digits": _digits,
    "mnist": _torchvision("MNIST", flip=False),
    "fashion_mnist": _torchvision("FashionMNIST", flip=True),
    "cifar10": _torchvision("CIFAR10", flip=True),
    "cifar100": _torchvision("CIFAR100", flip=True),
}
