"""Images in class folders: the known data sets that are kept so, and any other folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from has8.data.images import FolderImages
from has8.data.names import FOLDERS
from has8.errors import BadInput

FOLDER_SIZE = 224
"""Side of an image from a folder in pixels, unless the caller names another."""
IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def find_known(name: str, root: Path) -> Path | None:
    """The folder of a known data set below the data root, or of the largest part ``NAME_N``."""
    for place in FOLDERS[name].places:
        if _subfolders(root / place):
            return root / place
    parts = {
        int(count): folder
        for folder in root.glob(f"{name}_*")
        if (count := folder.name.removeprefix(f"{name}_")).isdecimal() and _subfolders(folder)
    }
    return parts[max(parts)] if parts else None


def read_folder(
    folder: Path, size: int | None, preprocess: str, without: str = ""
) -> tuple[FolderImages, FolderImages, tuple[str, ...]]:
    """Training images, held-out images and class names of a folder; see ``load_data``.

    Args:
        folder: holds ``train/`` and ``test/`` or ``val/``, or class folders.
        size: side in pixels; None for 224.
        preprocess: see :class:`has8.data.FolderImages`.
        without: a class folder to leave out.

    Raises:
        BadInput: if there are fewer than two classes, nothing to hold out, or a held-out class
            that training lacks.
    """
    held_out = next((p for p in (folder / "test", folder / "val") if _subfolders(p)), None)
    if (folder / "train").is_dir() and held_out is not None:
        train, test = _classes(folder / "train"), _classes(held_out)
        if strange := sorted(set(test) - set(train)):
            raise BadInput(
                f"{held_out} holds the class {strange[0]!r}, which {folder / 'train'} lacks"
            )
    else:
        train, test = {}, {}
        for name, files in _classes(folder, without).items():
            ordered = sorted(files, key=lambda file: hashlib.sha256(file.name.encode()).digest())
            cut = round(len(ordered) / 5)
            train[name], test[name] = ordered[cut:], ordered[:cut]
    names = tuple(sorted(train))
    if len(names) < 2 or not any(test.values()):
        raise BadInput(
            f"{folder} does not hold enough images to learn from: expected train/ and test/ (or "
            "val/) with at least two class folders each, or class folders with several images each"
        )
    parts = (
        FolderImages(
            [file for name in names for file in part.get(name, ())],
            [label for label, name in enumerate(names) for _ in part.get(name, ())],
            size=size or FOLDER_SIZE,
            preprocess=preprocess,
        )
        for part in (train, test)
    )
    return next(parts), next(parts), names


def _classes(folder: Path, without: str = "") -> dict[str, list[Path]]:
    """The image files of each class folder that has any, sorted."""
    folders = (entry for entry in _subfolders(folder) if entry.name != without)
    return {entry.name: files for entry in folders if (files := _images(entry))}


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


def _subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones; none where it is no folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    return [folder / name for name in sorted(names)]
