"""Files that appear whole or not at all, and folders that one process at a time writes to."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from has8.errors import BadInput

_LOCKS = sys.platform != "win32"
if _LOCKS:
    import fcntl

_DRAFT = re.compile(r"\.has8-[0-9a-f]{16}\.tmp")


def write_whole(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that at any moment its name holds the old content or the new, never a part.

    The content goes to a draft beside the file, under a name that nobody can know in advance, and
    is on disk before the draft takes the file's name. Drafts that killed processes left in the
    folder are removed. A symbolic link stays one, and the file that it names is written; a file
    that is there keeps its permissions, a new one has those of :func:`open`.

    Args:
        path: of the file; folders are made as needed.
        write: writes the content to the draft, which is open.

    Raises:
        BadInput: if it cannot be written, or the path is that of a folder or a device.
    """
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        mode = _mode(target)
        sweep_drafts(target.parent)
        with _draft(target.parent) as (file, draft):
            write(file)
            file.flush()
            if mode is not None and hasattr(os, "fchmod"):  # Windows has other permissions
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
            draft.replace(target)
        _sync(target.parent)
    except (OSError, RuntimeError) as error:
        # torch.save turns what the system says into a RuntimeError.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise BadInput(
            f"cannot write {path} ({reason.strerror or reason}): choose another place"
        ) from error


def cache_folder(name: str) -> Path:
    """A folder in ``$HAS8_CACHE``, by default in ``~/.cache/has8``; it may be absent.

    Args:
        name: of the folder.

    Raises:
        FileNotFoundError: if the user has no home, or the current folder is gone.
    """
    chosen = os.environ.get("HAS8_CACHE") or "~/.cache/has8"
    try:
        return Path(chosen).expanduser().absolute() / name
    except RuntimeError as error:
        raise FileNotFoundError(f"there is no home folder for {chosen}") from error


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder while the body runs, and leave nothing behind.

    The system lets go of the folder when this process ends, however it ends. Where there are no
    locks (NFS has none on folders), nothing is kept out, and a warning says so.

    Args:
        folder: where the body writes; it is made as needed.

    Raises:
        BadInput: if another process or thread holds the folder, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = None if not _LOCKS else os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise BadInput(
            f"cannot write to {folder} ({error.strerror}): choose another place"
        ) from error
    try:
        if handle is not None and not _lock_or_warn(handle, folder):
            raise BadInput(
                f"another process is at work in {folder}: wait for its end, or choose another place"
            )
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock_or_warn(handle: int, folder: Path) -> bool:
    """Lock an open folder; False if another has. Where that cannot be told, warn and go on."""
    try:
        return _lock(handle)
    except OSError as error:
        warnings.warn(  # Python shows the same words once
            f"{folder} cannot be locked ({error.strerror or error}): see to it that no other "
            "process writes there",
            RuntimeWarning,
            stacklevel=4,
        )
    return True


def _lock(handle: int) -> bool:
    """Lock an open file or folder; False if another has.

    Raises:
        OSError: where there are no locks.
    """
    if not _LOCKS:
        raise OSError(errno.ENOTSUP, "this system has no such locks")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _mode(target: Path) -> int | None:
    """The permissions of the file that is there, if one is."""
    try:
        status = target.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is no ordinary file")
    return stat.S_IMODE(status.st_mode)


@contextlib.contextmanager
def _draft(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file, locked while it is written; gone unless it was renamed."""
    handle, draft = new_draft(folder)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file, draft
    finally:
        draft.unlink(missing_ok=True)


def new_draft(folder: Path, *, base: int | None = None, mode: int = 0o666) -> tuple[int, Path]:
    """Create a file under a name that nobody can know in advance, and hold it while it is open.

    Args:
        folder: where it is made.
        base: the descriptor of the open folder that a relative ``folder`` starts from.
        mode: its permissions, less the umask.

    Returns:
        Its descriptor and its path.
    """
    while True:
        draft = folder / f".has8-{token_hex(8)}.tmp"
        # O_EXCL follows no link that somebody planted, and opens nobody else's file.
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, dir_fd=base)
        held = True
        with contextlib.suppress(OSError):
            held = _lock(handle)
        if held and os.fstat(handle).st_nlink:  # else another has swept it away before it was held
            return handle, draft
        os.close(handle)


def sweep_drafts(folder: Path, *, base: int | None = None) -> None:
    """Remove the drafts that no process holds; where locks are missing, all of them stay.

    Args:
        folder: where they are.
        base: the descriptor of the open folder that is swept instead.
    """
    if not _LOCKS:
        return
    with os.scandir(folder if base is None else base) as entries:
        names = [entry.name for entry in entries if _DRAFT.fullmatch(entry.name)]
    for name in names:
        with contextlib.suppress(OSError):
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
            handle = os.open(folder / name, flags, dir_fd=base)
            try:
                if _lock(handle):
                    os.unlink(folder / name, dir_fd=base)
            finally:
                os.close(handle)


def _sync(folder: Path) -> None:
    """Put a folder's names to disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
