"""Folders of images as people have them: which files are images, of which part and which class."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from has8.errors import BadInput
from has8.reading import NotRegular, open_regular

SUFFIXES = frozenset(
    (
        *(".apng", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pfm"),
        *(".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    )
)
"""How the names of images end, in any case: the formats of :mod:`has8.data.pictures`."""
UNREAD = frozenset({".avif", ".heic", ".heif", ".jp2", ".jxl", ".tga"})
"""Pictures of other formats, which are refused by name: to leave them out would be silent."""
NO_DATA = frozenset({"__macosx", "@eadir", "lost+found", "$recycle.bin"})
"""Folders that systems make, beside those whose names begin with a dot."""
TRAIN, TEST, VALID = ("train", "training"), ("test", "testing"), ("valid", "validation", "val")
"""What the parts of a data set are called, in any case."""
EXCERPT = 4096
"""Bytes from the middle of a file that are compared before whole files are."""


class ImageFile(NamedTuple):
    """An image file and its size in bytes."""

    path: Path
    size: int


Classes = Mapping[str, tuple[ImageFile, ...]]
"""The image files of each class."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The images of a folder.

    Args:
        classes: their names, sorted; a label is a place in it.
        train: images to learn from, of every class.
        test: held-out images, of some classes.
    """

    classes: tuple[str, ...]
    train: Classes
    test: Classes


def list_images(folder: Path, *, without: str = "", distinct: bool = True) -> Listing:
    """Find the images of a folder.

    It holds a folder for each class, or parts that do: ``train`` (or ``training``) and, to hold
    out, ``test`` (``testing``) or else ``valid`` (``validation``, ``val``), in any case. A class
    may have folders within. Where nothing is held out, a fifth of each class is, chosen by the
    hash of the file name. One folder may be wrapped around all of it. Hidden files and folders are
    no data, nor are files with other endings than those of images. Links are followed, and
    each file is taken once in a part, however many links lead to it.

    Args:
        folder: where to look.
        without: a class folder to leave out.
        distinct: see that no image is in both parts, byte for byte. Copies in a folder without a
            held-out part are all learned from; where there is one they are refused.

    Raises:
        BadInput: for a class without images, what cannot be read, an image that is a pipe or a
            device or of a format that has8 does not read, copies of an image in both parts, a
            held-out class that training lacks, and where fewer than two classes or nothing to
            hold out is found.
    """
    top = _unwrapped(folder)
    parts = _parts(top)
    if parts is None:
        train, test = _split(_classes(top, without))
    elif parts[1] is None:
        train, test = _split(_classes(parts[0]))
    else:
        train, test = _classes(parts[0]), _classes(parts[1])
        if strange := sorted(set(test) - set(train)):
            raise BadInput(
                f"{parts[1]} holds the class {strange[0]!r}, which {parts[0]} lacks: add it there, "
                "or remove it"
            )
    if distinct and (pairs := list(_copies(train, test))):
        if parts is not None and parts[1] is not None:
            (learned, held), *_ = pairs
            raise BadInput(
                f"{held.path} is a copy of {learned.path}, and so are {len(pairs)} held-out images "
                "of images to learn from: remove one of each pair"
            )
        train, test = _moved(train, test, {held for _, held in pairs})
    if len(train) < 2 or not any(test.values()):
        raise BadInput(
            f"{folder} does not hold enough images to learn from: expected train/ and test/ (or "
            "val/) with at least two class folders each, or class folders with several different "
            "images each"
        )
    return Listing(tuple(sorted(train)), train, test)


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder that may hold data, sorted; none where it is no folder."""
    return [Path(entry.path) for entry in _scan(folder)[0]] if folder.is_dir() else []


def open_image(path: Path) -> BinaryIO:
    """Open an image's file to read it.

    Raises:
        BadInput: if it is a pipe or a device.
        OSError: if it cannot be opened.
    """
    try:
        return open_regular(path)
    except NotRegular:
        raise _not_regular(path) from None


_Entries = list["os.DirEntry[str]"]


def _scan(place: Path) -> tuple[_Entries, _Entries]:
    """The folders in a folder, and what else it holds, sorted by name, without what is no data."""
    try:
        with os.scandir(place) as entries:
            seen = [
                e for e in entries if not e.name.startswith(".") and e.name.lower() not in NO_DATA
            ]
    except OSError as error:
        raise BadInput(
            f"{place} cannot be read ({error.strerror}): make it readable, or remove it"
        ) from error
    seen.sort(key=lambda entry: entry.name)
    # Path.is_dir takes a link that leads round in a circle for no folder, where an entry raises.
    parted: tuple[_Entries, _Entries] = [], []
    for entry in seen:
        folder = Path(entry).is_dir() if entry.is_symlink() else entry.is_dir()
        parted[not folder].append(entry)
    return parted


def _unwrapped(folder: Path) -> Path:
    """The folder, or the only folder in it, as long as that holds folders itself."""
    while True:
        folders, files = _scan(folder)
        if len(folders) != 1 or any(map(_is_image, files)):
            return folder
        inner = Path(folders[0].path)
        if _part_of(inner.name) or _leads_up(inner, os.path.realpath(folder)):
            return folder
        if not _scan(inner)[0]:
            return folder
        folder = inner


def _parts(folder: Path) -> tuple[Path, Path | None] | None:
    """The part to learn from and the one to hold out, if any; None where there are no parts."""
    found: dict[tuple[str, ...], list[Path]] = {TRAIN: [], TEST: [], VALID: []}
    for sub in subfolders(folder):
        if part := _part_of(sub.name):
            found[part].append(sub)
    if not any(found.values()):
        return None
    train = _only(found[TRAIN])
    if train is None or not subfolders(train):
        word = next(sub for subs in found.values() for sub in subs)
        raise BadInput(
            f"{word} has the name of a part of a data set, and {folder} has no train/ that holds a "
            "folder for each class: add one, or rename the folder if it is a class"
        )
    for part in (TEST, VALID):
        held_out = _only(found[part])
        if held_out is not None and subfolders(held_out):
            return train, held_out
    if unsorted := found[TEST] + found[VALID]:
        raise BadInput(
            f"{unsorted[0]} holds no class folders: sort its images into one for each class, or "
            "remove it to hold out a fifth of the other images"
        )
    return train, None


def _part_of(name: str) -> tuple[str, ...] | None:
    return next((part for part in (TRAIN, TEST, VALID) if name.lower() in part), None)


def _only(folders: list[Path]) -> Path | None:
    if len(folders) > 1:
        raise BadInput(
            f"{folders[0]} and {folders[1]} both have the name of one part of a data set: keep one"
        )
    return folders[0] if folders else None


def _classes(folder: Path, without: str = "") -> dict[str, tuple[ImageFile, ...]]:
    """The image files of each class folder, sorted."""
    tops = [sub for sub in subfolders(folder) if sub.name != without]
    ends, walked = {os.path.realpath(top) for top in tops}, set[str]()
    found = {top.name: list(_walk(top, ends, walked)) for top in tops}
    linked: set[str] = set()
    classes = {}
    for top in tops:
        images = [_image(e) for e in found[top.name] if not _again(e, walked, linked)]
        if not images:
            raise BadInput(
                f"the class folder {top} holds no images of its own: add some, or remove it"
            )
        classes[top.name] = tuple(sorted(images))
    return classes


def _walk(top: Path, ends: set[str], walked: set[str]) -> Iterator[os.DirEntry[str]]:
    """The images below a folder; each real folder is entered once, and none of ``ends``."""
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in walked or (folder != top and real in ends):
            continue
        walked.add(real)
        folders, files = _scan(folder)
        waiting += [Path(e.path) for e in folders if not _leads_up(Path(e.path), real)]
        yield from filter(_is_image, files)


def _leads_up(folder: Path, real: str) -> bool:
    """Whether it is a link to the folder that it lies in, whose real path is given, or above."""
    return folder.is_symlink() and Path(real).is_relative_to(os.path.realpath(folder))


def _again(entry: os.DirEntry[str], walked: set[str], linked: set[str]) -> bool:
    """Whether it is a link to an image that is found without it, or by an earlier link."""
    if not entry.is_symlink():
        return False
    real = os.path.realpath(entry.path)
    folder, name = os.path.split(real)
    if real in linked or (folder in walked and _names_image(name)):
        return True
    linked.add(real)
    return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    if Path(entry.name).suffix.lower() in UNREAD:
        raise BadInput(f"{entry.path} is of a format that has8 does not read: save it as PNG")
    return _names_image(entry.name)


def _names_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES


def _image(entry: os.DirEntry[str]) -> ImageFile:
    try:
        found = entry.stat()
    except OSError as error:
        raise BadInput(
            f"{entry.path} cannot be read ({error.strerror}): restore it, or remove it"
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise _not_regular(Path(entry.path))
    return ImageFile(Path(entry.path), found.st_size)


def _not_regular(path: Path) -> BadInput:
    return BadInput(f"{path} is no ordinary file: put an image there, or remove it")


def _split(classes: Classes) -> tuple[Classes, Classes]:
    """A fifth of each class held out; the hash of the name chooses the same ones everywhere."""
    train, test = {}, {}
    for name, files in classes.items():
        ordered = sorted(
            files, key=lambda file: hashlib.sha256(os.fsencode(file.path.name)).digest()
        )
        cut = round(len(ordered) / 5)
        train[name], test[name] = tuple(ordered[cut:]), tuple(ordered[:cut])
    return train, test


def _moved(train: Classes, test: Classes, files: set[ImageFile]) -> tuple[Classes, Classes]:
    """The parts with some held-out files among those to learn from."""
    moved = {
        name: (*kept, *(file for file in test.get(name, ()) if file in files))
        for name, kept in train.items()
    }
    return moved, {
        name: tuple(file for file in held if file not in files) for name, held in test.items()
    }


def _copies(train: Classes, test: Classes) -> Iterator[tuple[ImageFile, ImageFile]]:
    """Each held-out file that holds the bytes of one to learn from, after that one."""
    groups = [([f for fs in train.values() for f in fs], [f for fs in test.values() for f in fs])]
    # Few files agree in size, and fewer in an excerpt, so that few are read as a whole.
    for key in (_size, _excerpt, _digest):
        groups = [group for pair in groups for group in _alike(key, *pair)]
    for learned, held in groups:
        yield from ((learned[0], file) for file in held)


def _alike(
    key: Callable[[ImageFile], object], train: Iterable[ImageFile], test: Iterable[ImageFile]
) -> Iterator[tuple[list[ImageFile], list[ImageFile]]]:
    """Files of both parts in groups that share a key."""
    groups: dict[object, tuple[list[ImageFile], list[ImageFile]]] = {}
    for file in test:
        groups.setdefault(key(file), ([], []))[1].append(file)
    for file in train:
        if (group := groups.get(key(file))) is not None:
            group[0].append(file)
    return (group for group in groups.values() if group[0])


def _size(file: ImageFile) -> object:
    return file.size


def _excerpt(file: ImageFile) -> object:
    return _read(file, lambda opened: (opened.seek(file.size // 2), opened.read(EXCERPT)))


def _digest(file: ImageFile) -> object:
    def digest(opened: BinaryIO) -> bytes:
        found = hashlib.sha256()
        while block := opened.read(1 << 20):
            found.update(block)
        return found.digest()

    return _read(file, digest)


def _read(file: ImageFile, read: Callable[[BinaryIO], object]) -> object:
    try:
        with open_image(file.path) as opened:
            return read(opened)
    except OSError as error:
        raise BadInput(
            f"{file.path} cannot be read ({error.strerror}): make it readable, or remove it"
        ) from error
