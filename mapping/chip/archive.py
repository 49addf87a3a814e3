"""The container of ``name.h8``: a zip of ``manifest.json`` and NumPy arrays, with its digest.

The same content gives the same bytes: entries carry no time and are sorted. ``numpy.load`` opens it
too; the digest tells an edited file from the one that was written.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from has8.reading import open_regular, zip_archive

FORMAT, VERSION = "has8-mapped", 4
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


def read(path: Path) -> tuple[bytes, dict[str, NDArray[Any]]]:
    """The manifest and the arrays of an archive.

    Raises:
        OSError: if the file cannot be read.
        Exception: whatever else a foreign file can lead to; ValueError, with a sentence, if it is
            of another format or version, or is not as it was written.
    """
    with open_regular(path) as file, zip_archive(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    head = json.loads(entries[MANIFEST])
    kind, version = head.get("format"), head.get("version")
    if (kind, version) != (FORMAT, VERSION):
        raise ValueError(f"{kind!r} version {version}, and this has8 reads version {VERSION}")
    if entries.pop(DIGEST, b"").decode() != digest(entries):
        raise ValueError("its content is not what was written")
    arrays = {
        name[: -len(SUFFIX)]: np.load(io.BytesIO(data), allow_pickle=False)
        for name, data in entries.items()
        if name.endswith(SUFFIX)
    }
    return entries[MANIFEST], arrays


def digest(entries: Mapping[str, bytes]) -> str:
    """SHA-256 over the names and contents of all entries, whatever their order."""
    total = sha256()
    for name in sorted(entries):
        for part in (name.encode(), entries[name]):
            total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()
