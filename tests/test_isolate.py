"""A worker in a fresh interpreter: what comes back, and that nothing is left behind."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from apart import PATIENCE_S, wait_until
from builders import linear, population, segment

from has8.errors import BackendError
from hwsim.backends.lava import guard, isolate
from hwsim.backends.lava.isolate import interpreter_with, run_isolated
from mapping.chip.serial import pack

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")

Worker = Callable[[str], str]


@pytest.fixture(autouse=True)
def little_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that have ended seem to be there until somebody reaps them, which not every init does.

    The one test of what grace is for is about another process, whose grace is as long as ever.
    """
    monkeypatch.setattr(guard, "GRACE_S", 0.1)


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


# The worker and a child of it write their process ids and sleep.
HANG = "os.fork(); print(os.getpid(), file=(here / 'pids').open('a'), flush=True); time.sleep(600)"


def test_a_segment_and_arrays_travel_both_ways(worker):
    """The worker has the very types of the chip's integers."""
    weight = np.arange(-3, 3).reshape(2, 3) * 2
    synapse = linear("w", "x", (3,), weight, exp=3)
    layer = population("y", (2,), synapse, threshold=5, bias=[1, -1])
    plain, arrays = pack(segment(layer, inputs={"x": (3,)}, name="s"))
    body = (
        "from mapping.chip import serial; "
        "s = serial.unpack(job['segment'], job['arrays']).populations[0].synapses[0]; "
        "return [s.weight << s.weight_exp, np.array(s.wiring.groups), job['more'][0], "
        "np.array(serial.__file__.startswith(os.getcwd() + '/'))]"
    )
    job = {"segment": plain, "arrays": arrays, "more": [np.ones((2, 1), dtype=bool)]}
    code = ("has8.lazy", "has8.errors", "has8.text", "mapping.chip")
    shifted, groups, more, own = run_isolated(worker(body), job, PATIENCE_S, "the test", code=code)
    assert (shifted.reshape(2, 3) == weight * 8).all() and shifted.dtype == np.int64
    assert groups == 1
    assert more.dtype == bool and more.shape == (2, 1)
    assert own  # the code is a copy that the worker was given


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
    for timeout_s in (0.5, 2, 8, 32):  # until it is long enough for both to have started
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


def test_a_dead_parent_leaves_no_shared_memory_and_no_folder(worker, tmp_path):
    """Told to stop or killed, while a worker's child has shared memory."""
    body = (
        "from multiprocessing import Process, shared_memory; "
        "memory = shared_memory.SharedMemory(create=True, size=8); "
        "(here / 'name').write_text(memory.name); "
        "child = Process(target=time.sleep, args=(600,)); child.start(); "
        "print(os.getpid(), child.pid, file=(here / 'pids').open('a'), flush=True); child.join()"
    )
    call = (
        "from hwsim.backends.lava.isolate import run_isolated; "
        f"run_isolated({worker(body)!r}, {{}}, 600, '')"
    )
    for number in (signal.SIGTERM, signal.SIGKILL):
        parent = subprocess.Popen([sys.executable, "-c", call], start_new_session=True)
        assert wait_until(lambda: len(pids(tmp_path / "pids")) == 2)
        os.killpg(parent.pid, number)  # with all of its group, as a terminal does
        parent.wait()
        assert wait_until(lambda: not any(map(alive, pids(tmp_path / "pids"))))
        assert wait_until(lambda: not list(tmp_path.glob("has8-*")))
        name = (tmp_path / "name").read_text().lstrip("/")
        assert wait_until(lambda name=name: not Path("/dev/shm", name).exists())
        (tmp_path / "pids").unlink()


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(3)"])
def test_a_dead_child_ends_the_work_at_once(worker, end):
    """Not only when the time is up, which is what who waits for the child would do."""
    body = (
        "from multiprocessing import get_context; fork = get_context('fork'); "
        "queue = fork.Queue(); "
        f"child = fork.Process(target=lambda: {end}); child.start(); queue.get()"
    )
    with pytest.raises(BackendError, match=r"the test ended with code 1: .* died with code"):
        run_isolated(worker(body), {}, 60, "the test")


def test_children_that_end_as_they_should_end_nothing(worker):
    body = (
        "from multiprocessing import get_context; fork = get_context('fork'); "
        "child = fork.Process(target=time.sleep, args=(0.3,)); child.start(); child.join(); "
        "other = fork.Process(target=time.sleep, args=(600,)); other.start(); time.sleep(0.3); "
        "other.terminate(); time.sleep(0.5); child.close(); "
        "return [np.arange(3)]"
    )
    (found,) = run_isolated(worker(body), {}, PATIENCE_S, "the test")
    assert found.tolist() == [0, 1, 2]


FLOOD = 'import sys; [sys.stdout.write("x" * 1000000) for _ in range(200)]'
LIES = {
    "says nothing": "exit 0",
    "leaves text": 'echo no > "$4/result.npz"',
    "leaves a pipe": 'mkfifo "$4/result.npz"',
    "floods": f"exec '{sys.executable}' -c '{FLOOD}'",
    "claims too much": (
        f"exec '{sys.executable}' -c 'import sys, zipfile, numpy as np; "
        'f = zipfile.ZipFile(sys.argv[1] + "/result.npz", "w"); h = f.open("0.npy", "w"); '
        "np.lib.format.write_array_header_1_0(h, dict(shape=(1 << 50,), "
        'fortran_order=False, descr="|b1")); h.close(); f.close()\' "$4"'
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_interpreter_that_lies_is_told(worker, tmp_path, lie):
    """In bounded memory, and whatever it leaves."""
    liar = program(tmp_path / "liar", LIES[lie])
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BackendError, match="^the test left no result that can be read"):
        run_isolated(worker("pass"), {}, PATIENCE_S, "the test", liar)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
    assert grown < 100_000  # kilobytes
    assert not list(tmp_path.glob("has8-*"))


def test_an_answer_is_bounded_too(tmp_path):
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BackendError, match="is no Python$"):
        interpreter_with("numpy", program(tmp_path / "liar", LIES["floods"]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start < 100_000


def test_a_full_folder_is_told(worker, monkeypatch, tmp_path):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    name = worker("pass")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(isolate, "_write", full)
    with pytest.raises(BackendError, match=r"cannot be prepared in .*No space left.*set TMPDIR"):
        run_isolated(name, {}, PATIENCE_S, "the test")
    assert not list(tmp_path.glob("has8-*"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(BackendError, match=r"cannot be prepared in .*No such file"):
        run_isolated(name, {}, PATIENCE_S, "the test")
