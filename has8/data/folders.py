"""Images in class folders: the known data sets that are kept so, and any other folder."""

from __future__ import annotations

from pathlib import Path

from has8.data.images import FolderImages
from has8.data.listing import list_images, subfolders
from has8.data.names import FOLDERS

FOLDER_SIZE = 224
"""Side of an image from a folder in pixels, unless the caller names another."""


def find_known(name: str, root: Path) -> Path | None:
    """The folder of a known data set below the data root, or of the largest part ``NAME_N``."""
    for place in FOLDERS[name].places:
        if subfolders(root / place):
            return root / place
    parts = {
        int(count): folder
        for folder in root.glob(f"{name}_*")
        if (count := folder.name.removeprefix(f"{name}_")).isdecimal() and subfolders(folder)
    }
    return parts[max(parts)] if parts else None


def read_folder(
    folder: Path, size: int | None, preprocess: str, *, without: str = "", distinct: bool = True
) -> tuple[FolderImages, FolderImages, tuple[str, ...]]:
    """Training images, held-out images and class names of a folder; see ``load_data``.

    Args:
        folder: what :func:`has8.data.listing.list_images` takes.
        size: side in pixels; None for 224.
        preprocess: see :class:`has8.data.FolderImages`.
        without: a class folder to leave out.
        distinct: whether no image may be in both parts.

    Raises:
        BadInput: as :func:`has8.data.listing.list_images` does.
    """
    found = list_images(folder, without=without, distinct=distinct)
    train, test = (
        FolderImages(
            [file.path for name in found.classes for file in part.get(name, ())],
            [label for label, name in enumerate(found.classes) for _ in part.get(name, ())],
            size=size or FOLDER_SIZE,
            preprocess=preprocess,
        )
        for part in (found.train, found.test)
    )
    return train, test, found.classes
