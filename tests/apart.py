"""Functions of test files that run in processes of their own, and waiting for processes."""

import os
import time
from collections.abc import Callable
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

PATIENCE_S = 200.0
"""Seconds that something may take on a machine that is busy with something else."""


def wait_until(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true before patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def run_apart(said: Path, function: Callable[..., None], *arguments: Any) -> int:
    """Run a function of a test file in a new process; its exit code.

    The process is forked from a server that has imported what takes long and done nothing else.

    Args:
        said: a file for what the process prints.
        function: of a test file's outer level.
        arguments: that can be pickled.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["lightning_fabric", "has8.training.fit"])
    place = Path(function.__code__.co_filename).stem, function.__name__
    process = context.Process(target=_run, args=(said, *place, arguments))
    process.start()
    process.join(PATIENCE_S)
    if process.exitcode is None:
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def _run(said: Path, module: str, function: str, arguments: tuple[Any, ...]) -> None:
    stream = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    torch.set_num_threads(1)
    getattr(import_module(module), function)(*arguments)
