"""A data set in batches: in order or shuffled, as it is or augmented, the same for one seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from has8.data.images import Batch, ImageDataset
from has8.data.names import AUGMENTATIONS
from has8.errors import BadInput

CROP_PADDING = 4
"""Pixels of zeros at each side of an image before it is cropped, and so its largest shift."""
CROP_FROM = 32
"""Side in pixels from which on images are shifted: smaller ones would lose too much."""
RESIZED_AREA = (0.08, 1.0)
"""Range of a resized crop's area as a part of the image's (Szegedy et al. 2015, arXiv 1409.4842,
section 6)."""
RESIZED_ASPECT = (3 / 4, 4 / 3)
"""Range of a resized crop's width over its height, from the same section."""


def batches(
    dataset: ImageDataset,
    batch_size: int,
    *,
    indices: Tensor | None = None,
    shuffle_seed: int | None = None,
    augment: str = "none",
    first: int = 0,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """The data set in batches: images ``float32[B, C, H, W]`` in [0, 1], labels ``int64[B]``.

    Recordings of events come as spikes ``float32[T, B, C, H, W]``.

    The last batch may be smaller. The same arguments give the same batches, and
    ``batches(..., first=k)`` gives what ``batches(...)`` gives after its first k.

    Args:
        dataset: what to read.
        batch_size: images in a batch, B.
        indices: ``int64[N]``, the images to read; None for all.
        shuffle_seed: at least 0, seeds order and augmentation; None keeps the order.
        augment: "none"; "flip" mirrors at random where ``dataset.flip`` allows it; "crop" also
            shifts images from 32 x 32 pixels on by up to 4 pixels (a crop after zero padding);
            "resized" mirrors and stretches a random part of the image, 8 % to 100 % of its area
            and 3/4 to 4/3 in aspect, over the whole: for large images. It works on the images
            as the data set gives them, so its small parts are coarser than the files.
        first: batches to leave out at the start; they are not read.
        part: (r, n) reads every n-th image of each batch, from the r-th on, augmented as in the
            whole batch: n processes together have what one has. Parts of a batch of fewer than n
            images can be empty.

    Raises:
        BadInput: for an augmentation of another name, or a number out of range.
    """
    if augment not in AUGMENTATIONS:
        raise BadInput(f"augment must be one of {', '.join(AUGMENTATIONS)}, not {augment!r}")
    if augment != "none" and dataset.batch_axis:
        raise BadInput(f"augment={augment!r} is for images, and these are spikes in steps")
    if batch_size < 1 or first < 0 or (shuffle_seed or 0) < 0:
        raise BadInput(
            "batches need a size of at least 1, a first batch and a seed of at least 0, not "
            f"{batch_size}, {first} and {shuffle_seed}"
        )
    order = torch.arange(len(dataset)) if indices is None else indices
    if shuffle_seed is not None:
        generator = torch.Generator().manual_seed(shuffle_seed)
        order = order[torch.randperm(len(order), generator=generator)]
    chunks = torch.split(order, batch_size)[first:] if len(order) else ()
    chosen = slice(part[0], None, part[1])
    return _read(dataset, chunks, augment, shuffle_seed or 0, first, chosen)


def _read(
    dataset: ImageDataset,
    chunks: Sequence[Tensor],
    augment: str,
    seed: int,
    first: int,
    part: slice,
) -> Iterator[Batch]:
    stream = dataset.read(chunk[part] for chunk in chunks)
    for number, ((images, labels), chunk) in enumerate(zip(stream, chunks, strict=True), first):
        if augment != "none":
            # Each batch has a generator of its own, so that none depends on those before it.
            key = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(key[0]))
            # It draws for the whole batch, so that a part is augmented as within the whole.
            mirrored = (torch.rand(len(chunk), generator=generator) < 0.5)[part] & dataset.flip
            if augment == "resized":
                draws = torch.rand(4, len(chunk), generator=generator)[:, part]
                images = _resized(images, mirrored, draws)
            else:
                margin = _margin(images) if augment == "crop" else 0
                size = (2, len(chunk))
                offsets = torch.randint(2 * margin + 1, size, generator=generator)[:, part]
                images = _shifted(images, mirrored, margin, offsets)
        yield images, labels


def _margin(images: Tensor) -> int:
    return CROP_PADDING if min(images.shape[-2:]) >= CROP_FROM else 0


def _shifted(images: Tensor, mirrored: Tensor, margin: int, offsets: Tensor) -> Tensor:
    """Some images mirrored, and each shifted by its own offset."""
    height, width = images.shape[-2:]
    padded = F.pad(images, (margin,) * 4).numpy()
    moved = np.empty(images.shape, np.float32)
    # Copying windows one by one is faster than one gather over all pixels.
    places = zip(padded, moved, *offsets.tolist(), mirrored.tolist(), strict=True)
    for source, target, top, left, mirror in places:
        window = source[:, top : top + height, left : left + width]
        target[...] = window[:, :, ::-1] if mirror else window
    return torch.from_numpy(moved)


def _resized(images: Tensor, mirrored: Tensor, draws: Tensor) -> Tensor:
    """A random rectangle of each image stretched over the whole, and some mirrored."""
    count, _, height, width = images.shape
    area, aspect, across, down = draws
    area = RESIZED_AREA[0] + area * (RESIZED_AREA[1] - RESIZED_AREA[0])
    low, high = map(math.log, RESIZED_ASPECT)
    aspect = (low + aspect * (high - low)).exp() * height / width
    # Sides are parts of the image's; a rectangle that would stand out is cut to fit.
    sides = torch.stack([area * aspect, area / aspect]).sqrt().clamp(max=1)
    x, y = (2 * torch.stack([across, down]) - 1) * (1 - sides)
    wide, tall = sides[0].where(~mirrored, -sides[0]), sides[1]
    zero = torch.zeros(count)
    affine = torch.stack([wide, zero, x, zero, tall, y], 1).view(count, 2, 3)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    # This only magnifies, so that bilinear sampling needs no filter against aliasing.
    stretched = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return stretched.clamp_(0, 1)  # rounding may step over 1
