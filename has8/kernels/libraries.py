"""Compiled libraries, kept in a folder of this user alone.

A library is code, so that none is loaded unless it is known to be what has8 has put there. It lies
in ``$HAS8_CACHE/kernels``, by default ``~/.cache/has8/kernels``, and its digest behind it in the
same file. The folder and the file must belong to this user and be closed to all others, the digest
must be that of the library under its name, and a private copy of the bytes that were checked is
what is loaded: whatever becomes of the file later does not matter.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from has8.files import cache_folder, new_draft, sweep_drafts

LARGEST = 2**26
"""No library has more bytes, by far; a larger file is not read."""


def read(name: str) -> bytes | None:
    """The library that was kept under a name; None if there is none that can be trusted."""
    try:
        with _folder() as folder:
            content = own_file(name, folder)
    except OSError:
        return None
    size = hashlib.sha256().digest_size
    library, digest = content[:-size], content[-size:]
    return library if digest == _digest(name, library) else None


def keep(name: str, library: bytes) -> None:
    """Keep a library under a name, which at any moment holds a whole library.

    What processes that were killed have left of theirs is removed.

    Raises:
        OSError: if it cannot be kept, or the folder is not this user's alone.
    """
    cache = cache_folder("kernels")
    cache.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        cache.mkdir(mode=0o700)
    with _folder() as folder:
        sweep_drafts(Path(), base=folder)
        descriptor, draft = new_draft(Path(), base=folder, mode=0o600)
        try:
            _write(descriptor, library + _digest(name, library))
            os.fsync(descriptor)
            os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft, dir_fd=folder)
            raise
        finally:
            os.close(descriptor)
        with suppress(OSError):  # some file systems cannot do this to a folder
            os.fsync(folder)


def opened(library: bytes) -> ctypes.CDLL:
    """Load a private copy of a library.

    Raises:
        OSError: if it is not a library, or there is no place for the copy.
    """
    if hasattr(os, "memfd_create"):
        with suppress(OSError):
            return _opened_in_memory(library)
    with private_folder() as folder:
        copy = folder / "library.so"
        copy.write_bytes(library)
        return ctypes.CDLL(str(copy))


def _opened_in_memory(library: bytes) -> ctypes.CDLL:
    """Load a library from a file without a name, which only Linux has."""
    descriptor = os.memfd_create("has8")
    try:
        _write(descriptor, library)
        # It stays open: the loader knows a library by its path, which must not come again.
        return ctypes.CDLL(f"/proc/self/fd/{descriptor}")
    except OSError:
        os.close(descriptor)
        raise


@contextmanager
def private_folder() -> Iterator[Path]:
    """A temporary folder of this user alone, which is removed in the end.

    Raises:
        OSError: if there is no place for one, or only one where others could exchange it.
    """
    parent = Path(tempfile.gettempdir())
    mode = parent.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise PermissionError(f"in {parent} anybody can exchange files: set TMPDIR, or chmod +t it")
    with tempfile.TemporaryDirectory(
        prefix="has8-", dir=parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def own_file(path: str | Path, folder: int | None = None) -> bytes:
    """Read a regular file that is this user's alone.

    Args:
        path: the file's path.
        folder: the descriptor of the open folder that a relative path starts from.

    Raises:
        OSError: for a symbolic link and for anything else that is no such file, or too large.
    """
    with _own(path, os.O_RDONLY, folder) as descriptor:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            raise OSError(f"{path} is no file, or too large for a library")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(status.st_size)


@contextmanager
def _folder() -> Iterator[int]:
    """The open folder where libraries are kept; it stays the same, whoever renames it."""
    with _own(cache_folder("kernels"), os.O_RDONLY | os.O_DIRECTORY) as folder:
        yield folder


@contextmanager
def _own(path: str | Path, flags: int, folder: int | None = None) -> Iterator[int]:
    """Open a file or folder that is this user's alone, without waiting and following no link."""
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise PermissionError(
                f"{path} must be yours and closed to others: chmod 700, or remove it"
            )
        yield descriptor
    finally:
        os.close(descriptor)


def _digest(name: str, library: bytes) -> bytes:
    """SHA-256 of a library and its name, so that none is taken for another."""
    return hashlib.sha256(name.encode() + b"\0" + library).digest()


def _write(descriptor: int, content: bytes) -> None:
    """Write all of the content."""
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
