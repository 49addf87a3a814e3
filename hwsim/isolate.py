"""Work that runs in a fresh interpreter: plain data in, arrays out, no process left behind.

Both ends import this file, and the worker's end must not import torch: neither does this file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

GRACE_S = 2.0
"""Seconds that a stopped worker's processes may take to clean up their shared memory."""


def run_isolated(module: str, job: Mapping[str, Any], timeout_s: float, what: str) -> list[Array]:
    """Run ``python -m module FOLDER`` on a job; the module hands FOLDER to :func:`serve`.

    Args:
        module: the worker, importable by name.
        job: dataclasses, mappings with names as keys, sequences, numbers, text and arrays.
        timeout_s: seconds after which the worker and all its processes are ended.
        what: the work in words, to begin an error message with.

    Returns:
        The arrays that the worker's function made.

    Raises:
        BackendError: if the worker dies or takes longer than ``timeout_s``.
    """
    with tempfile.TemporaryDirectory(prefix="has8-") as name:
        folder = Path(name)
        _write(folder, job)
        with (folder / "log.txt").open("w+") as log:
            _run(module, folder, log, timeout_s, what)
        with np.load(folder / "result.npz") as result:
            return [result[str(place)] for place in range(len(result.files))]


def serve(folder: str, work: Callable[[dict[str, Any]], Sequence[Array]]) -> None:
    """Be the worker: read the job, do the work, write what it returns.

    Args:
        folder: the worker's argument.
        work: gets the job as plain data: what has a name is a namespace, sequences are lists.
    """
    if os.getpgrp() == os.getpid():  # started by run_isolated, in a group of its own
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        arrays = work(_read(Path(folder)))
        result = {str(place): array for place, array in enumerate(arrays)}
        np.savez(Path(folder) / "result.npz", **cast(Any, result))
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # a plain exit would wait for children that may be stuck


def _end_with_parent() -> None:
    """End this process group as soon as the parent, at the other end of stdin, is gone."""
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def _write(folder: Path, job: Mapping[str, Any]) -> None:
    arrays: dict[str, Array] = {}

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return {field.name: getattr(value, field.name) for field in fields(value)}
        if isinstance(value, np.ndarray):
            arrays[str(len(arrays))] = value
            return {"array": str(len(arrays) - 1)}
        return dict(value) if isinstance(value, Mapping) else value.item()

    (folder / "job.json").write_text(json.dumps(job, default=plain))
    np.savez(folder / "job.npz", **cast(Any, arrays))


def _read(folder: Path) -> dict[str, Any]:
    def revive(found: dict[str, Any]) -> Any:
        if found.keys() == {"array"}:
            return arrays[found["array"]]
        return SimpleNamespace(**found) if "name" in found else found

    with np.load(folder / "job.npz") as arrays:
        job: dict[str, Any] = json.loads((folder / "job.json").read_text(), object_hook=revive)
    return job


def _run(module: str, folder: Path, log: IO[str], timeout_s: float, what: str) -> None:
    """Run the worker to its end; what it prints goes to ``log``."""
    path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    quiet = {"PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONWARNINGS": "ignore"}
    # The worker has many processes; threads in each of them would only stand in the way.
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with subprocess.Popen(
        [sys.executable, "-m", module, str(folder)],
        cwd=folder,
        env=os.environ | quiet | single,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    ) as worker:
        try:
            code = worker.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise _failure(
                f"{what} took longer than {timeout_s:g} s and was stopped; run fewer samples or "
                "raise the time limit"
            ) from None
        finally:
            _end_group(worker)
    if code != 0:
        log.seek(0)
        lines = [line.strip() for line in log.read().splitlines()]
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
        reason = " / ".join((errors or lines)[-3:])
        raise _failure(f"{what} ended with code {code}: {reason or 'it said nothing'}")


def _failure(message: str) -> Exception:
    from has8.errors import BackendError  # not at the top: the package imports torch

    return BackendError(message)


def _end_group(worker: subprocess.Popen[bytes]) -> None:
    """End what is left of a worker's process group, with time to free shared memory if it broke."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, signal.SIGTERM)
        end = time.monotonic() + (GRACE_S if worker.poll() != 0 else 0)
        while time.monotonic() < end:
            worker.poll()
            os.killpg(worker.pid, 0)
            time.sleep(0.01)
        os.killpg(worker.pid, signal.SIGKILL)
