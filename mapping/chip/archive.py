"""The container of ``name.h8``: a zip of ``manifest.json`` and NumPy arrays, with its digest.

The same content gives the same bytes: entries carry no time and are sorted. ``numpy.load`` opens it
too; the digest tells an edited file from the one that was written.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from has8.errors import CheckpointError, Has8Error
from has8.reading import open_regular, zip_archive

FORMAT, VERSION = "has8-mapped", 7
MANIFEST, DIGEST = "manifest.json", "sha256"
SUFFIX = ".npy"


def write(file: BinaryIO, manifest: bytes, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an archive.

    Args:
        file: to write to.
        manifest: JSON with the keys "format" and "version" among others.
        arrays: by name.
    """
    entries = {MANIFEST: manifest}
    for name in sorted(arrays):
        content = io.BytesIO()
        np.save(content, np.asarray(arrays[name], order="C"), allow_pickle=False)
        entries[f"{name}{SUFFIX}"] = content.getvalue()
    entries[DIGEST] = digest(entries).encode()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # dated 1980


def read(
    path: Path, kind: str = FORMAT, newest: int = VERSION
) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """The manifest and the arrays of an archive.

    Args:
        path: the file.
        kind: the format that it must be of.
        newest: the version of it that is read.

    Raises:
        OSError: if the file cannot be read.
        Exception: whatever else a foreign file can lead to; ValueError, with a sentence, if it is
            of another format or version, or is not as it was written.
    """
    with open_regular(path) as file, zip_archive(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    head = json.loads(entries[MANIFEST])
    found, version = head.get("format"), head.get("version")
    if (found, version) != (kind, newest):
        raise ValueError(
            f"{found!r} version {version}, and this has8 reads version {newest} of {kind!r}"
        )
    if entries.pop(DIGEST, b"").decode() != digest(entries):
        raise ValueError("its content is not what was written")
    arrays = {
        name[: -len(SUFFIX)]: np.load(io.BytesIO(data), allow_pickle=False)
        for name, data in entries.items()
        if name.endswith(SUFFIX)
    }
    return entries[MANIFEST], arrays


@contextmanager
def reading(path: Path, what: str, remedy: str) -> Iterator[None]:
    """A body that reads an archive: whatever it raises becomes one sentence.

    Args:
        path: the file.
        what: what it should be, in words.
        remedy: what to do about one that is not.

    Raises:
        CheckpointError: for any error.
    """
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"cannot read a {what}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except Exception as error:  # a broken archive can raise anything
        said = isinstance(error, Has8Error | ValueError | zipfile.BadZipFile)
        reason = error if said else "its content is in another form than has8 writes"
        raise CheckpointError(
            f"{str(path)!r} is no {what} or is damaged ({reason}): {remedy}"
        ) from None


def digest(entries: Mapping[str, bytes]) -> str:
    """SHA-256 over the names and contents of all entries, whatever their order."""
    total = sha256()
    for name in sorted(entries):
        for part in (name.encode(), entries[name]):
            total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()
