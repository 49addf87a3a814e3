"""A worker in a fresh interpreter: what comes back, and that nothing is left behind."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from builders import linear, population, segment

from has8.errors import BackendError
from hwsim.backends.lava import isolate
from hwsim.backends.lava.isolate import interpreter_with, run_isolated
from mapping.chip.serial import pack

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")

Worker = Callable[[str], str]

PATIENCE_S = 200.0
"""Seconds that something may take on a machine that is busy with something else."""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """Writes a worker module with a given body of ``work(job)``; returns the module's name."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # a killed parent leaves its folder

    def write(body: str) -> str:
        source = (
            "import os, pathlib, sys, time\n"
            "import numpy as np\n"
            f"here = pathlib.Path({str(tmp_path)!r})\n"
            "def work(job):\n"
            f"    {body}\n"
        )
        (tmp_path / "the_worker.py").write_text(source)
        importlib.invalidate_caches()
        return "the_worker"

    return write


def pids(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def alive(pid: int) -> bool:
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return shown.stdout.strip()[:1] not in ("", "Z")


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


# The worker and a child of it write their process ids and sleep.
HANG = "os.fork(); print(os.getpid(), file=(here / 'pids').open('a'), flush=True); time.sleep(600)"


def test_a_segment_and_arrays_travel_both_ways(worker):
    """The worker has the very types of the chip's integers."""
    weight = np.arange(-3, 3).reshape(2, 3) * 2
    synapse = linear("w", "x", (3,), weight, exp=3)
    layer = population("y", (2,), synapse, threshold=5, bias=[1, -1])
    plain, arrays = pack(segment(layer, inputs={"x": (3,)}, name="s"))
    body = (
        "from mapping.chip.serial import unpack; "
        "s = unpack(job['segment'], job['arrays']).populations[0].synapses[0]; "
        "return [s.weight << s.weight_exp, np.array(s.wiring.groups), job['more'][0]]"
    )
    job = {"segment": plain, "arrays": arrays, "more": [np.ones((2, 1), dtype=bool)]}
    code = ("has8.lazy", "has8.errors", "has8.text", "mapping.chip")
    shifted, groups, more = run_isolated(worker(body), job, PATIENCE_S, "the test", code=code)
    assert (shifted.reshape(2, 3) == weight * 8).all() and shifted.dtype == np.int64
    assert groups == 1
    assert more.dtype == bool and more.shape == (2, 1)


def test_the_worker_is_clean(worker, tmp_path):
    """No torch, one thread for each process, and no folder left behind."""
    body = (
        "(here / 'folder').write_text(os.getcwd()); "
        "return [np.array(['torch' in sys.modules, os.environ['OMP_NUM_THREADS'] == '1'])]"
    )
    (result,) = run_isolated(worker(body), {}, PATIENCE_S, "the test")
    assert result.tolist() == [False, True]
    assert not Path((tmp_path / "folder").read_text()).exists()


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_another_python_sees_the_worker_alone(worker, tmp_path):
    """Not the packages of this one: they lie beside ours, and may be of another version."""
    other = program(tmp_path / "python", f'exec "{sys.executable}" "$@"')
    body = (
        "import hwsim, the_worker; "
        "files = [f.__file__ for f in (hwsim, sys.modules['__main__'], the_worker)]; "
        "return [np.array([f.startswith(os.getcwd() + '/') for f in files]"
        " + [os.environ['PYTHONPATH'] == os.getcwd()])]"
    )
    (found,) = run_isolated(worker(body), {}, PATIENCE_S, "the test", other)
    assert found.tolist() == [True] * 4
    (found,) = run_isolated(worker(body), {}, PATIENCE_S, "the test")
    assert found.tolist() == [True] * 3 + [False]  # here the user's own path counts as well


def test_finds_an_interpreter_with_a_package(tmp_path, monkeypatch):
    assert interpreter_with("numpy", sys.executable) == sys.executable
    other = program(tmp_path / "some-python", f'exec "{sys.executable}" "$@"')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert interpreter_with("numpy", "some-python") == other
    monkeypatch.chdir(tmp_path)
    assert interpreter_with("numpy", "./some-python") == other
    (tmp_path / "nopackage").mkdir()  # a folder here is no package of theirs
    with pytest.raises(BackendError, match=r"some-python' cannot import nopackage$"):
        interpreter_with("nopackage", "./some-python")
    with pytest.raises(BackendError, match=r"^there is no program 'none'$"):
        interpreter_with("numpy", "none")
    hang = f'echo $$ >> "{tmp_path}/pids"; sleep 600 & echo $! >> "{tmp_path}/pids"; wait'
    for script in ("exit 0", "echo Python 2; exit 1"):
        with pytest.raises(BackendError, match="is no Python$"):
            interpreter_with("numpy", program(tmp_path / "no-python", script))
    for answer_s in (0.5, 2, 8, 32):  # until it is long enough for both to have started
        (tmp_path / "pids").unlink(missing_ok=True)
        monkeypatch.setattr(isolate, "ANSWER_S", answer_s)
        with pytest.raises(BackendError, match="is no Python$"):
            interpreter_with("numpy", program(tmp_path / "no-python", hang))
        if len(pids(tmp_path / "pids")) == 2:
            break
    assert len(pids(tmp_path / "pids")) == 2
    assert wait_until(lambda: not any(map(alive, pids(tmp_path / "pids"))))


def test_a_failure_says_why(worker):
    with pytest.raises(BackendError, match=r"^the test ended with code 1: ValueError: no such"):
        run_isolated(worker("raise ValueError('no such thing')"), {}, PATIENCE_S, "the test")
    with pytest.raises(BackendError, match=r"^the test ended with code -9: it said nothing$"):
        run_isolated(worker("os.kill(os.getpid(), 9)"), {}, PATIENCE_S, "the test")


def test_a_timeout_leaves_no_process(worker, tmp_path):
    for timeout_s in (1, 2, 4, 8, 16, 32):  # until it is long enough for both to have started
        (tmp_path / "pids").unlink(missing_ok=True)
        with pytest.raises(BackendError, match=rf"^the test took longer than {timeout_s} s and"):
            run_isolated(worker(HANG), {}, timeout_s, "the test")
        started = pids(tmp_path / "pids")
        if len(started) == 2:
            break
    assert len(started) == 2
    assert wait_until(lambda: not any(map(alive, started)))


def test_a_dead_worker_leaves_no_process(worker, tmp_path):
    body = (
        "child = os.fork(); "
        "(here / 'pids').write_text(str(child)) if child else time.sleep(600); "
        "os.kill(os.getpid(), 9)"
    )
    with pytest.raises(BackendError, match="code -9"):
        run_isolated(worker(body), {}, PATIENCE_S, "the test")
    assert wait_until(lambda: not any(map(alive, pids(tmp_path / "pids"))))


def test_a_dead_parent_leaves_no_process(worker, tmp_path):
    """Killed hard, so that it cannot clean up itself."""
    call = (
        "from hwsim.backends.lava.isolate import run_isolated; "
        f"run_isolated({worker(HANG)!r}, {{}}, 600, '')"
    )
    parent = subprocess.Popen([sys.executable, "-c", call])
    assert wait_until(lambda: len(pids(tmp_path / "pids")) == 2)
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not any(map(alive, pids(tmp_path / "pids"))))
