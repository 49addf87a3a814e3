"""Reading files that anybody may have made: nothing hangs, and no more memory than they hold."""

from __future__ import annotations

import errno
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from has8.errors import CheckpointError

_BINARY = getattr(os, "O_BINARY", 0)  # Windows


class NotRegular(OSError):
    """A folder, a pipe or a device: it could keep its reader waiting, or have no end."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file that has an end, to read its bytes.

    Raises:
        NotRegular: if it is something else.
        OSError: if it cannot be opened.
    """
    # Without O_NONBLOCK opening a pipe waits for someone who writes.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise NotRegular(errno.EINVAL, "it is no regular file")
    return os.fdopen(handle, "rb")


@contextmanager
def regular_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a regular file to read; a pipe or a device, which could hang or never end, is refused.

    Raises:
        CheckpointError: if it is missing, a folder, no regular file, or cannot be opened.
    """
    try:
        if Path(path).is_dir():
            raise CheckpointError(f"{path} is a folder: name the file in it")
        file = open_regular(path)
    except PermissionError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except NotRegular:
        raise CheckpointError(f"{path} is a pipe or a device: name a regular file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"there is no file {path} ({reason}): check it") from None
    with file:
        yield file


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
