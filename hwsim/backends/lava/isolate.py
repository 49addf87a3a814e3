"""Work that runs in a fresh interpreter: plain data in, arrays out, no process left behind.

The interpreter may be one of another Python, with other packages. So the worker is given copies of
the files that it needs, instead of the folder in which they lie among this Python's packages. Both
ends import this file, and the worker's end must not import torch: neither does this file.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from has8.errors import BackendError

Array = NDArray[Any]

GRACE_S = 2.0
"""Seconds that a stopped worker's processes may take to clean up their shared memory."""

ANSWER_S = 60.0
"""Seconds that an interpreter may take to say whether it has a package."""


def interpreter_with(package: str, python: str) -> str:
    """The absolute path of an interpreter that has a package.

    Args:
        package: its importable name, "lava.magma".
        python: the interpreter as the user names it, a path or a command.

    Raises:
        BackendError: if it is missing, no Python, or lacks the package.
    """
    found = shutil.which(python)
    if found is None:
        raise BackendError(f"there is no program {python!r}")
    path = str(Path(found).absolute())  # its links are kept: they tell Python its environment
    code = f"print('Python', flush=True); import {package}"
    try:
        with subprocess.Popen(
            [path, "-c", code],
            cwd=Path(path).anchor,  # or a folder here could pass for the package
            env=_environment(path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as asked:
            try:
                answer, _ = asked.communicate(timeout=ANSWER_S)
            finally:
                _end_group(asked)
        is_python, has_package = answer.strip() == b"Python", asked.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        is_python = has_package = False
    if not (is_python and has_package):
        reason = f"cannot import {package}" if is_python else "is no Python"
        raise BackendError(f"{python!r} {reason}")
    return path


def run_isolated(
    module: str,
    job: Mapping[str, Any],
    timeout_s: float,
    what: str,
    python: str = sys.executable,
    *,
    code: Sequence[str] = (),
) -> list[Array]:
    """Run a module's function ``work`` on a job, in a fresh interpreter.

    Args:
        module: importable by name; may import this file, ``code``, NumPy and what ``python`` has.
            Its ``work`` gets the job (its sequences are lists) and returns arrays.
        job: mappings with names as keys, sequences, numbers, text and arrays.
        timeout_s: seconds after which the worker and all its processes are ended.
        what: the work in words, to begin an error message with.
        python: the absolute path of the interpreter.
        code: modules and packages of ours that the worker is given beside ``module``.

    Returns:
        The arrays that the function made.

    Raises:
        BackendError: if the worker dies or takes longer than ``timeout_s``.
    """
    with tempfile.TemporaryDirectory(prefix="has8-") as name:
        folder = Path(name)
        _copy_code(folder, [__name__, module, *code])
        _write(folder, job)
        with (folder / "log.txt").open("w+") as log:
            _run([python, "-m", __name__, module, name], log, timeout_s, what)
        with np.load(folder / "result.npz") as result:
            return [result[str(place)] for place in range(len(result.files))]


def serve(module: str, folder: str) -> None:
    """Be the worker: read the job, do the module's work, write what it returns."""
    if os.getpgrp() == os.getpid():  # started by run_isolated, in a group of its own
        threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    try:
        arrays = importlib.import_module(module).work(_read(Path(folder)))
        result = {str(place): array for place, array in enumerate(arrays)}
        np.savez(Path(folder) / "result.npz", **cast(Any, result))
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # a plain exit would wait for children that may be stuck


def _end_with_parent(folder: str) -> None:
    """End this process group as soon as the parent, at the other end of stdin, is gone.

    What would have tidied up is gone with it: a child outside of the group does that.
    """
    os.read(0, 1)
    group = os.getpgrp()
    if os.fork():
        return
    os.setsid()
    os.killpg(group, signal.SIGTERM)
    time.sleep(GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _write(folder: Path, job: Mapping[str, Any]) -> None:
    arrays: dict[str, Array] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays[str(len(arrays))] = value
            return {"array": str(len(arrays) - 1)}
        return dict(value) if isinstance(value, Mapping) else value.item()

    (folder / "job.json").write_text(json.dumps(job, default=plain))
    np.savez(folder / "job.npz", **cast(Any, arrays))


def _read(folder: Path) -> dict[str, Any]:
    def revive(found: dict[str, Any]) -> Any:
        return arrays[found["array"]] if found.keys() == {"array"} else found

    with np.load(folder / "job.npz") as arrays:
        job: dict[str, Any] = json.loads((folder / "job.json").read_text(), object_hook=revive)
    return job


def _copy_code(folder: Path, names: Sequence[str]) -> None:
    """Put modules and packages, and the packages that they lie in, into the worker's folder."""
    for name in names:
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            spec = importlib.util.find_spec(".".join(parts[:count]))
            assert spec is not None and spec.origin is not None, f"{name} has no file"
            place = folder.joinpath(*parts[:count])
            if spec.submodule_search_locations is None:
                shutil.copyfile(spec.origin, place.with_suffix(".py"))
                continue
            place.mkdir(exist_ok=True)
            whole = count == len(parts)
            for file in Path(spec.origin).parent.glob("*.py" if whole else "__init__.py"):
                shutil.copyfile(file, place / file.name)


def _environment(python: str) -> dict[str, str]:
    """The environment variables of a worker; other interpreters see none of this one's packages."""
    # The worker has many processes; threads in each of them would only stand in the way.
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    found = os.environ | single | {"PYTHONWARNINGS": "ignore"}
    if python != sys.executable:
        for name in ("PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__"):
            found.pop(name, None)
    return found


def _run(command: Sequence[str], log: IO[str], timeout_s: float, what: str) -> None:
    """Run the worker to its end, in the folder of ``log``, to which goes what it prints."""
    folder = str(Path(log.name).parent)
    environment = _environment(command[0])
    path = [folder, environment.get("PYTHONPATH", "")]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment | {"PYTHONPATH": os.pathsep.join(filter(None, path))},
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    ) as worker:
        try:
            code = worker.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise BackendError(
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
        raise BackendError(f"{what} ended with code {code}: {reason or 'it said nothing'}")


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


if __name__ == "__main__":
    serve(*sys.argv[1:])
