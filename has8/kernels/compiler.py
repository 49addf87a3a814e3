"""The machine's own C compiler, called so that whatever it does harms nobody.

It may fail, hang, write without end or make something else than a library. The answer is a library
that could be loaded, or an error.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

from has8.kernels.libraries import LARGEST, own_file, private_folder

SECONDS = 120.0
"""How long all tries for one library may take together."""

_TRIAL = """
import sys
sys.path = [path for path in sys.path if path]
import ctypes
try:
    for library in sys.argv[1:]:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
except OSError:
    pass
"""
"""A program that survives what is not a library, but not half of one."""

_LIMITED = 'ulimit -f "$1" 2> /dev/null; shift; exec "$@"'
"""A shell program: the words behind the first one, which may write files of so many half KiB."""


def compiled(
    words: Sequence[str],
    flags: Sequence[str],
    source: Path,
    companions: Sequence[Path],
    start: float,
) -> bytes:
    """Compile a library, in two steps, since linking with -fopenmp would bring a second OpenMP.

    Args:
        words: the words that call the compiler.
        flags: the flags of the step that compiles.
        source: the file to compile.
        companions: libraries that it needs, which the process has loaded.
        start: when the first try began, by ``time.monotonic()``.

    Returns:
        The library's bytes. Another process has loaded it and has survived.

    Raises:
        OSError: if the compiler cannot be called or has made no file.
        subprocess.SubprocessError: if the compiler fails, the time is over, or what was made kills.
    """
    deadline = start + SECONDS
    with _held_back() as signals, private_folder() as folder:
        part, whole = folder / "kernels.o", folder / "kernels.so"
        _run([*words, *flags, "-c", str(source), "-o", str(part)], deadline, signals)
        _run([*words, "-shared", str(part), "-o", str(whole), "-lm"], deadline, signals)
        library = own_file(whole)
        if sys.executable and not getattr(sys, "frozen", False):
            paths = map(str, (*companions, whole))
            _run([sys.executable, "-S", "-c", _TRIAL, *paths], deadline, signals)
        return library


@contextmanager
def _held_back() -> Iterator[list[int]]:
    """Collect the signals that end a program, and raise them again when all is cleared away."""
    signals: list[int] = []
    before: dict[signal.Signals, Any] = {}
    if current_thread() is main_thread():  # the only one that signals interrupt
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                before[number] = signal.signal(number, lambda received, _: signals.append(received))
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for received in signals:
            signal.raise_signal(received)


def _run(command: Sequence[str], deadline: float, signals: Sequence[int]) -> None:
    """Run a command without input and output; all that it has started ends with it.

    Raises:
        FileNotFoundError: if there is no such command.
        subprocess.TimeoutExpired: if the deadline or a signal comes first.
        subprocess.CalledProcessError: if it fails.
    """
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"there is no command {command[0]}")
    process = subprocess.Popen(
        ["/bin/sh", "-c", _LIMITED, "sh", str(LARGEST // 512), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        umask=0o077,
    )
    try:
        while process.poll() is None:
            if signals or time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(command, SECONDS)
            time.sleep(0.005)
    finally:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
    if status:
        raise subprocess.CalledProcessError(status, command)
