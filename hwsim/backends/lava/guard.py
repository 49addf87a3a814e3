"""A process that outlives whoever started it, in order to tidy up behind it.

Run as a file, with the name of a folder, by whom it is to watch: at the other end of its stdin,
where process groups are named, one a line. When that end is closed without the word "done", the
groups are ended and the folder is removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable

GRACE_S = 2.0
"""Seconds that a stopped group may take to clean up its shared memory."""
DONE = "done"


def end_group(
    group: int, grace_s: float = GRACE_S, reap: Callable[[], object] = lambda: None
) -> None:
    """End a process group, with time to free its shared memory.

    Args:
        group: its number.
        grace_s: how much time.
        reap: called meanwhile, to see whether a child that leads the group has ended.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
        end = time.monotonic() + grace_s
        while time.monotonic() < end:
            reap()
            os.killpg(group, 0)
            time.sleep(0.01)
        os.killpg(group, signal.SIGKILL)


def watch(folder: str) -> None:
    """Wait for the end of stdin, then tidy up unless that was done."""
    lines = sys.stdin.read().split()
    if DONE in lines:
        return
    for line in lines:
        end_group(int(line))
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    watch(sys.argv[1])
