"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from has8.errors import BadInput


def write_whole(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that at any moment its name holds the old content or the new, never a part.

    Raises:
        BadInput: if the folder cannot be written to.
    """
    target = Path(path)
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(
            f"cannot write {target} ({error.strerror or error}): choose another place"
        ) from error
