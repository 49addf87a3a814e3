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
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from has8.errors import BackendError
from has8.text import printable
from hwsim.backends.lava import guard

Array = NDArray[Any]

ANSWER_S = 60.0
"""Seconds that an interpreter may take to say whether it has a package."""

RESULT = "result.npz"
"""Where a worker puts its arrays."""

LINE = 300
"""Most characters of a line of a process's words in a message."""

LOG_BYTES = 1 << 16
"""How much is kept, from the end, of what a process prints."""

RESULT_BYTES = 1 << 30
"""Most bytes of a result, unless the caller knows better."""

LOOK_S = 0.2
"""Seconds between two looks at whether the worker's own processes are alive."""


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
    anchor = Path(path).anchor  # in another folder, something could pass for the package
    try:
        with _tidied_up() as (_, entered):
            ended, answer = _run(
                [path, "-c", code], anchor, _environment(path), ANSWER_S, entered, errors=False
            )
        is_python, has_package = answer.strip() == "Python", ended == 0
    except OSError:
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
    most_bytes: int = RESULT_BYTES,
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
        most_bytes: the most that the arrays may have in all.

    Returns:
        The arrays that the function made.

    Raises:
        BackendError: if the worker or a process of its own dies, takes longer than ``timeout_s``,
            or leaves no such arrays.
    """
    with _tidied_up() as (folder, entered):
        try:
            folder.mkdir(mode=0o700)
            _copy_code(folder, [__name__, guard.__name__, module, *code])
            _write(folder, job)
        except OSError as error:
            raise BackendError(
                f"{what} cannot be prepared in {folder.parent} ({error.strerror}): free space "
                "there, or set TMPDIR to another folder"
            ) from error
        environment = _environment(python)
        path = [str(folder), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        command = [python, "-m", __name__, module, str(folder)]
        try:
            ended, said = _run(command, str(folder), environment, timeout_s, entered)
        except OSError as error:
            raise BackendError(f"{what} cannot start ({error.strerror or error})") from error
        if ended is None:
            raise BackendError(
                f"{what} took longer than {timeout_s:g} s and was stopped; run fewer samples or "
                "raise the time limit"
            )
        if ended != 0:
            raise BackendError(f"{what} ended with code {ended}: {_reason(said)}")
        try:
            return _results(folder / RESULT, most_bytes)
        except Exception as error:  # a foreign interpreter can have left anything
            raise BackendError(
                f"{what} left no result that can be read ({type(error).__name__}): {_reason(said)}"
            ) from error


def serve(module: str, folder: str) -> None:
    """Be the worker: read the job, do the module's work, write what it returns."""
    working = threading.Event()
    working.set()
    threading.Thread(target=_end_with, args=(_started(), working), daemon=True).start()
    try:
        arrays = importlib.import_module(module).work(_read(Path(folder)))
        working.clear()
        result = {str(place): array for place, array in enumerate(arrays)}
        np.savez(Path(folder) / RESULT, **cast(Any, result))
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # a plain exit would wait for children that may be stuck


def _started() -> list[BaseProcess]:
    """The child processes of this one, to which all that are started from now on are added."""
    children: list[BaseProcess] = []
    start = BaseProcess.start

    def noted(self: BaseProcess) -> None:
        start(self)
        children.append(self)

    BaseProcess.start = noted  # type: ignore[method-assign]
    return children


def _end_with(children: list[BaseProcess], working: threading.Event) -> None:
    """End this process if a child of it dies while it works: what waits for the child would hang.

    A child that SIGTERM ended is one that was stopped on purpose.
    """
    while working.is_set():
        for child in list(children):
            try:
                code = _exit_code(child)
            except ValueError:  # joined and closed
                code = 0
            if code is not None:
                children.remove(child)
            if code not in (None, 0, -signal.SIGTERM) and working.is_set():
                print(f"ProcessError: its process {child.name} died with code {code}", flush=True)
                os._exit(1)
        time.sleep(LOOK_S)


def _exit_code(child: BaseProcess) -> int | None:
    """A child's exit code, None while it runs; it is left to be reaped by whoever waits for it."""
    if hasattr(os, "waitid"):
        with contextlib.suppress(ChildProcessError):  # reaped: its code is known
            found = os.waitid(os.P_PID, cast(int, child.pid), os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                return None
            return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
    return child.exitcode


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


@contextlib.contextmanager
def _tidied_up() -> Iterator[tuple[Path, Callable[[int], None]]]:
    """Yield the name of a new folder, and what is told of each process group that is started.

    Afterwards the folder is removed. If this process is killed, another one does that, and ends
    the groups.
    """
    folder = Path(tempfile.gettempdir()).absolute() / f"has8-{secrets.token_hex(8)}"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(guard.__file__), str(folder)],
        cwd=folder.anchor,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    ) as watching:
        assert watching.stdin is not None

        def tell(word: object) -> None:
            with contextlib.suppress(BrokenPipeError):
                print(word, file=watching.stdin, flush=True)

        ended = False
        try:
            yield folder, tell
            ended = True
        except Exception:
            ended = True
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if ended:  # else an interrupt may have come before a group could be ended here
                tell(guard.DONE)


def _run(
    command: Sequence[str],
    folder: str,
    environment: Mapping[str, str],
    timeout_s: float,
    entered: Callable[[int], None],
    *,
    errors: bool = True,
) -> tuple[int | None, str]:
    """Run a process to its end: its exit code, None after ``timeout_s``, and what it said last."""
    said = bytearray()

    def listen(stream: IO[bytes]) -> None:
        while part := os.read(stream.fileno(), LOG_BYTES):
            said.extend(part)
            del said[:-LOG_BYTES]

    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if errors else subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        code: int | None = None
        try:
            entered(process.pid)
            assert process.stdout is not None
            listener = threading.Thread(target=listen, args=(process.stdout,), daemon=True)
            listener.start()
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            broke = process.poll() != 0  # else nothing is left that would need time
            guard.end_group(process.pid, guard.GRACE_S if broke else 0, process.poll)
        listener.join(guard.GRACE_S)
    return code, said.decode(errors="replace")


def _reason(said: str) -> str:
    """The gist of what a process printed."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    words = " / ".join(line[:LINE] for line in (errors or lines)[-3:])
    return printable(words) or "it said nothing"


def _results(path: Path, most_bytes: int) -> list[Array]:
    """The arrays that a worker wrote; nothing is read that is larger than it may be."""
    if not path.is_file():
        raise FileNotFoundError(path)
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > most_bytes + LOG_BYTES:
            raise ValueError("it is too large")
        for entry in archive.infolist():
            with archive.open(entry) as file:
                version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
                read = {
                    (1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0,
                }[version]
                shape, _, dtype = read(file)  # type: ignore[no-untyped-call]
                if prod(shape) * dtype.itemsize > entry.file_size:
                    raise ValueError("it is cut off")
    with np.load(path, allow_pickle=False) as result:
        return [result[str(place)] for place in range(len(result.files))]


if __name__ == "__main__":
    serve(*sys.argv[1:])
