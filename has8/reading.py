"""Reading files that anybody may have made: nothing hangs, and no more memory than they hold."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from has8.errors import CheckpointError


@contextmanager
def regular_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a regular file to read; a pipe or a device, which could hang or never end, is refused.

    Raises:
        CheckpointError: if it is missing, a folder, no regular file, or cannot be opened.
    """
    try:
        if Path(path).is_dir():
            raise CheckpointError(f"{path} is a folder: name the file in it")
        # Opening a pipe waits for a writer unless told not to.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    except PermissionError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"there is no file {path} ({reason}): check it") from None
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise CheckpointError(f"{path} is a pipe or a device: name a regular file")
        yield file


_BINARY = getattr(os, "O_BINARY", 0)  # Windows


@contextmanager
def zip_archive(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Open a zip whose entries are as large as they say, and no larger together than the file.

    Raises:
        zipfile.BadZipFile: if it is no zip.
        ValueError: if entries are compressed, encrypted, of one name, or say that they hold more
            than the file does.
    """
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("its entries say that they hold more than the file does")
        if any(
            entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries
        ):
            raise ValueError("its entries are compressed or encrypted")
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("it has two entries of one name")
        yield archive
