"""What frozen layers make of images: computed once, in memory or on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from has8 import given
from has8.data import Batch, Data, ImageDataset
from has8.data.digest import digest
from has8.errors import BadInput
from has8.files import cache_folder, write_whole
from has8.models.pretrained import Encoder, Saturation
from has8.values import described

PART = 64
"""Images whose embeddings are kept in one file."""
AT_ONCE = 8
"""Images that are run at once: their activations stay in a processor's cache, twice as fast."""


class Features(ImageDataset):
    """What layers have made of the images of a data set, in memory.

    Args:
        features: ``float32[N, ...]``, in the shape that the layers gave.
        labels: ``int64[N]``.
    """

    flip = False

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, chunks: Iterable[Tensor]) -> Iterator[Batch]:
        """See :meth:`has8.data.ImageDataset.read`; features have the shape that layers gave."""
        for indices in chunks:
            yield self.features.index_select(0, indices), self.labels[indices]


def made_by(
    front: nn.Module,
    images: ImageDataset,
    batch: int,
    device: torch.device,
    chosen: Tensor | None = None,
) -> Features:
    """What layers in evaluation mode make of images of a data set, all or the chosen, in order."""
    made, labels = [], []
    indices = torch.arange(len(images)) if chosen is None else chosen
    with torch.no_grad():
        for x, known in images.read(indices.split(batch)):
            made.append(front(x.to(device)).cpu())
            labels.append(known)
    return Features(torch.cat(made), torch.cat(labels))


def embed(
    data: Data, encoder: Encoder, on_progress: Callable[[int, int], None] | None = None
) -> Data:
    """The embeddings of a data set's images as a data set, each computed once and kept on disk.

    They lie in ``$HAS8_CACHE/features``, by default in ``~/.cache/has8``, under a digest of the
    encoder's weights and of the images as they were prepared. What was interrupted goes on.

    Args:
        data: images ``[3, size, size]``, prepared as the encoder asks.
        encoder: from :func:`has8.pretrained`; it is run where it is.
        on_progress: called with images behind it, and images in all.

    Returns:
        Data of ``input_shape`` (N, 1, 1), whose batches are embeddings ``float32[B, N, 1, 1]`` as
        the encoder gives them, of any size.

    Raises:
        BadInput: if the images have another shape, or one cannot be read.
    """
    if not isinstance(data, Data) or not isinstance(encoder, Encoder):
        raise BadInput(
            f"embed takes the data of has8.load_data and an encoder of has8.pretrained, not "
            f"{described(data)} and {described(encoder)}"
        )
    given.callback(on_progress)
    shape = (3, encoder.size, encoder.size)
    if data.input_shape != shape:
        raise BadInput(
            f"{encoder.name} takes images {shape}, not {tuple(data.input_shape)}: load them with "
            f"image_size={encoder.size} and preprocess={encoder.preprocess!r}"
        )
    facts = f"{encoder.digest()} {digest(data)} {shape} {data.preprocess} {PART}"
    folder: Path | None = None
    with suppress(OSError):
        folder = cache_folder("features") / hashlib.sha256(facts.encode()).hexdigest()
    parts, done, total = [], 0, len(data.train) + len(data.test)
    for name, images in (("train", data.train), ("test", data.test)):
        found = []
        for indices in torch.arange(len(images)).split(PART):
            file = folder and folder / f"{name}-{int(indices[0])}.npz"
            found.append(
                _kept(file, len(indices), encoder) or _made(file, images, indices, encoder)
            )
            done += len(indices)
            if on_progress is not None:
                on_progress(done, total)
        rows, labels = (torch.cat(part) for part in zip(*found, strict=True))
        parts.append(Features(rows[:, :, None, None], labels))
    return replace(data, train=parts[0], test=parts[1], input_shape=(encoder.features, 1, 1))


def saturated(data: Data, top: float) -> Data:
    """Embeddings as values in [0, 1], of which ``top`` and all above it become 1."""
    into = Saturation(top)
    train, test = (
        made_by(into, part, 1024, torch.device("cpu")) for part in (data.train, data.test)
    )
    return replace(data, train=train, test=test)


def _made(file: Path | None, images: ImageDataset, indices: Tensor, encoder: Encoder) -> Batch:
    device = next(encoder.parameters()).device
    x, labels = next(iter(images.read([indices])))
    batches = x.contiguous(memory_format=torch.channels_last).split(AT_ONCE)
    with torch.no_grad():
        rows = torch.cat([encoder(batch.to(device)).cpu() for batch in batches])
    if file is not None:
        arrays = {"features": rows.numpy(), "labels": labels.numpy()}
        with suppress(BadInput):  # a cache that cannot be written to
            write_whole(file, lambda out: np.savez(out, **arrays))
    return rows, labels


def _kept(file: Path | None, count: int, encoder: Encoder) -> Batch | None:
    """What an earlier run has kept; None if nothing, or nothing whole, is there."""
    with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile):
        if file is not None:
            with file.open("rb") as raw, np.load(raw, allow_pickle=False) as kept:
                rows, labels = (torch.from_numpy(kept[name]) for name in ("features", "labels"))
            if rows.shape == (count, encoder.features) and labels.shape == (count,):
                return rows, labels
    return None
