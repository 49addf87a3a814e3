"""What a data set holds, as one short text: equal for equal data, wherever they lie."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from has8.data.images import READ_AT_ONCE, ArrayImages, FolderImages, ImageDataset
from has8.data.sources import Data
from has8.errors import BadInput
from has8.files import cache_folder, write_whole

SETTLED_NS = 2_000_000_000
"""A file that changed more lately than this may change again and keep its time of change."""
FILES_AT_ONCE = 4096
"""Files that wait for the threads that read them."""


def digest(data: Data) -> str:
    """SHA-256 of a data set, in hexadecimal: its class names, its labels and its images.

    Of images in a folder it covers names and content of the files, in the order of the labels. Each
    file is read once: the result is kept in ``$HAS8_CACHE/data`` until a file's path, size or time
    changes.

    Args:
        data: the training images and the held-out ones.

    Raises:
        BadInput: if a file cannot be read.
    """
    total = hashlib.sha256(repr(data.class_names).encode(errors="surrogateescape"))
    for dataset in (data.train, data.test):
        for part in _parts(dataset):
            total.update(hashlib.sha256(part).digest())
    return total.hexdigest()


def _parts(dataset: ImageDataset) -> Iterator[Any]:
    """All that tells a part of the data from others."""
    if type(dataset) is FolderImages:
        yield _bytes(dataset.labels)
        yield _files(dataset.files)
    elif type(dataset) is ArrayImages:
        yield repr((tuple(dataset.images.shape), dataset.levels)).encode()
        yield _bytes(dataset.labels)
        yield _bytes(dataset.images)
    else:
        for images, labels in dataset.read(torch.arange(len(dataset)).split(READ_AT_ONCE)):
            yield repr(tuple(images.shape)).encode()
            yield _bytes(labels)
            yield _bytes(images)


def _bytes(tensor: Tensor) -> Any:
    """The memory of a tensor."""
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _files(files: Sequence[Path]) -> bytes:
    """A digest of the files' names below their folder and of their content; kept for next time."""
    listing = [(str(file.absolute()), *_facts(file)) for file in files]
    newest = max((max(times) for _, _, *times in listing), default=0)
    settled = time.time_ns() - newest > SETTLED_NS
    kept = _kept(listing)
    if kept and settled and (known := _known(kept)):
        return known
    top = os.path.commonpath([path for path, *_ in listing]) if listing else ""
    total = hashlib.sha256()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(listing), FILES_AT_ONCE):
            paths = [path for path, *_ in listing[first : first + FILES_AT_ONCE]]
            for path, content in zip(paths, pool.map(_content, paths), strict=True):
                total.update(hashlib.sha256(os.fsencode(os.path.relpath(path, top))).digest())
                total.update(content)
    if kept and settled:
        with suppress(BadInput):  # a cache that cannot be written to
            write_whole(kept, lambda file: file.write(total.digest()))
    return total.digest()


def _facts(file: Path) -> tuple[int, int, int]:
    """What changes with a file: its size, and the times of its content and of its entry."""
    try:
        found = file.stat()
    except OSError as error:
        raise BadInput(f"{file} cannot be read ({error.strerror}): remove or replace it") from error
    if not stat.S_ISREG(found.st_mode):
        raise BadInput(f"{file} is no ordinary file: remove or replace it")
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _content(path: str) -> bytes:
    """SHA-256 of a file."""
    content = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                content.update(block)
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}): remove or replace it") from error
    return content.digest()


def _kept(listing: Sequence[tuple[object, ...]]) -> Path | None:
    """Where the digest of files with these names, sizes and times is kept; None without a cache."""
    try:
        return (
            cache_folder("data")
            / hashlib.sha256(repr(listing).encode(errors="surrogateescape")).hexdigest()
        )
    except OSError:
        return None


def _known(kept: Path) -> bytes | None:
    """The digest that was kept, if one was."""
    with suppress(OSError):
        known = kept.read_bytes()
        if len(known) == hashlib.sha256().digest_size:
            return known
    return None
