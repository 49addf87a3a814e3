"""Time and memory, measured so that what else happens on the machine hits all alike."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch

MEBIBYTE = 2**20


def in_turn(
    work: Mapping[str, Callable[[], None]],
    rounds: int,
    device: str,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Milliseconds, by a clock of seconds, of each piece of work in each round after a first."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(-1, rounds):
        for name, function in work.items():
            wait(device)
            start = clock()
            function()
            wait(device)
            if number >= 0:
                times[name].append(1e3 * (clock() - start))
    return times


def wait(device: str) -> None:
    """Until a GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def resident(key: str) -> int | None:
    """Bytes of this process's memory, from Linux's status file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(key)), None)


def forget_peak() -> None:
    """Give unused memory back and let ``resident("VmHWM")`` begin anew, where Linux allows it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
