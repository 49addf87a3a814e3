"""Images that can be read in batches: from memory as uint8, or from files as they are needed."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from has8 import given
from has8.data.names import PREPROCESSES, crop_of
from has8.data.pictures import read_square
from has8.errors import BadInput
from has8.values import described

Batch = tuple[Tensor, Tensor]
"""Images ``float32[B, C, H, W]`` in [0, 1], and their labels ``int64[B]``."""
CACHE_BYTES = 1 << 30
"""A folder whose decoded images take no more than this is decoded once and kept in memory."""
READ_AT_ONCE = 128
"""Images of one batch where a caller asks for many without naming a batch size."""


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images and labels that can be read in batches.

    Attributes:
        flip: whether an image keeps its class when mirrored left to right (digits do not).
        batch_axis: the axis of the samples in a batch: 1 behind a time axis, else 0.
    """

    flip: bool
    batch_axis = 0

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
        parts = list(self.read(spread(len(self), count).split(READ_AT_ONCE)))
        return torch.cat([x for x, _ in parts], self.batch_axis), torch.cat([y for _, y in parts])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        images, labels = next(iter(self.read([torch.tensor([index % len(self)])])))
        return images.select(self.batch_axis, 0), int(labels[0])


class ArrayImages(ImageDataset):
    """Images held in memory.

    Args:
        images: ``uint8[N, C, H, W]``, 0..levels, or ``float32[N, C, H, W]`` in [0, 1].
        labels: ``int64[N]``.
        levels: the byte that stands for 1.0.
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
        kinds = torch.uint8, torch.float32
        if not isinstance(images, Tensor) or images.dtype not in kinds or images.ndim != 4:
            raise BadInput(
                "images must be a tensor uint8[N, C, H, W], or float32 of numbers from 0 to 1, not "
                f"{described(images)}"
            )
        self.images, self.labels = images.contiguous(), given.labels(labels, len(images), None)
        self.levels, self.flip, self.size = levels, flip, size

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, chunks: Iterable[Tensor]) -> Iterator[Batch]:
        """See :meth:`ImageDataset.read`."""
        for indices in chunks:
            # index_select copies whole images, twice as fast as indexing.
            images = self.images.index_select(0, indices)
            if not images.is_floating_point():
                images = images.float().div_(self.levels)
            if self.size is not None and images.shape[-2:] != (self.size, self.size):
                images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
                images.clamp_(0, 1)  # rounding may step over 1
            yield images, self.labels[indices]


class FolderImages(ImageDataset):
    """Image files, decoded by threads one batch ahead, as RGB; see :mod:`has8.data.pictures`.

    Args:
        files: the images.
        labels: one for each file.
        size: side in pixels.
        flip: whether an image keeps its class when mirrored.
        preprocess: "crop" resizes the centre square; "paper" resizes the whole image, which
            squeezes its longer side; "bicubic-0.875" and the like are in
            :func:`has8.data.names.crop_of`. All are antialiased.
    """

    def __init__(
        self,
        files: Sequence[Path],
        labels: Sequence[int],
        *,
        size: int,
        flip: bool = True,
        preprocess: str = "crop",
    ) -> None:
        check_preprocess(preprocess)
        self.files = tuple(files)
        self.labels = given.labels(labels, len(self.files), None)
        self.size, self.flip, self.preprocess = size, flip, preprocess
        self._decoded: dict[int, Tensor] = {}
        self._keep = len(self.files) * 3 * size * size <= CACHE_BYTES

    def __len__(self) -> int:
        return len(self.files)

    def read(self, chunks: Iterable[Tensor]) -> Iterator[Batch]:
        """See :meth:`ImageDataset.read`.

        Raises:
            BadInput: for a file that is no whole picture, or too large.
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
        found = [image.result() for image in images]
        if any(image.is_floating_point() for image in found):
            return torch.stack([_unit(image) for image in found]), self.labels[indices]
        return torch.stack(found).float().div_(255), self.labels[indices]

    def _image(self, index: int) -> Tensor:
        image = self._decoded.get(index)
        if image is None:
            image = read_square(self.files[index], self.size, self.preprocess)
            if self._keep:
                self._decoded[index] = image
        return image


def channel_statistics(
    dataset: ImageDataset, limit: int = 10_000
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, for images in [0, 1].

    Args:
        dataset: what to read, without augmentation.
        limit: read so many images, spread evenly over the data set; all where it has fewer.

    Returns:
        ``(mean, std)``, C floats each; the deviation of a channel that never varies is 0.

    Raises:
        BadInput: if the data set is empty or the limit is below 1.
    """
    if limit < 1 or len(dataset) < 1:
        raise BadInput(
            f"channel statistics need at least one image, not {min(limit, len(dataset))}"
        )
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for images, _ in dataset.read(spread(len(dataset), limit).split(READ_AT_ONCE)):
        pixels = images.double().transpose(0, 1).flatten(1)
        count += pixels.shape[1]
        total, squares = total + pixels.sum(1), squares + pixels.square().sum(1)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


def check_preprocess(preprocess: str) -> None:
    """Refuse what is no way to prepare an image.

    Raises:
        BadInput: for what :func:`has8.data.names.crop_of` does not know.
    """
    if not isinstance(preprocess, str) or crop_of(preprocess) is None:
        raise BadInput(
            f"preprocess must be {', '.join(PREPROCESSES)} or a filter and a part such as "
            f"bicubic-0.875, not {described(preprocess)}"
        )


def spread(total: int, count: int | None) -> Tensor:
    """``int64[N]``: ``count`` of the indices below ``total``, evenly apart, the ends included."""
    if count is None or count >= total:
        return torch.arange(total)
    return torch.linspace(0, total - 1, count).round().long()


def _unit(image: Tensor) -> Tensor:
    """In [0, 1]: bytes stand for 255ths."""
    return image if image.is_floating_point() else image.float().div_(255)
