"""A run on a real local Ray with two workers, one of which is killed, equals one process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from apart import wait_until
from builders import with_constants
from click.testing import CliRunner

import mapping
from has8 import calibrate, create_model, load_checkpoint
from has8.cli.commands import has8
from has8.errors import BackendError, BadInput, DoesNotFit, UnknownName
from hwsim import simulate
from hwsim.backends.fast.backend import Fast
from hwsim.experiments import cluster
from hwsim.experiments.cluster import _cluster, simulate_on_ray
from mapping.chip.segment import ChipSegment

ROOT = Path(__file__).parent.parent
IMAGES, BATCH = 75, 10
SHARDS = [20, 20, 20, 15]
"""Two batches each, as for four shards there are seven whole batches and a part."""


def servers() -> list[str]:
    """Ray's servers that this process, or a process of its, has started."""
    shown = subprocess.run(["ps", "-ewwo", "pid,ppid,args"], capture_output=True, text=True)
    lines = [line.split(None, 2) for line in shown.stdout.splitlines()[1:]]
    ours = {str(os.getpid())}
    for pid, parent, _ in lines * 3:  # children, and theirs
        ours |= {pid} if parent in ours else set()
    return [args for pid, _, args in lines if pid in ours and "/ray/" in args]


def needs_ray() -> None:
    """Skip where Ray is missing; importing it is left to the code, which sets it up first."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Any]:
    """Started as simulate_on_ray does where there are two cores."""
    needs_ray()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
        with _cluster(None) as ray:
            assert ray.cluster_resources()["CPU"] == 2
            assert any("raylet" in args for args in servers())
            yield ray
    assert not ray.is_initialized()
    assert not servers()


@pytest.fixture(scope="module")
def mapped(digits):
    torch.manual_seed(0)
    model = create_model("has8_vgg", num_classes=10, in_channels=1, base=6, depth=2, head=(24,))
    found = mapping.map_model(calibrate(model, digits), calibration=digits)
    return replace(found, chip_segments=tuple(map(lively, found.chip_segments)))


def lively(chip: ChipSegment) -> ChipSegment:
    """With thresholds so low that neurons fire though nobody trained them."""
    layers = (with_constants(p, threshold=p.neuron.threshold // 20) for p in chip.populations)
    return replace(chip, populations=tuple(layers))


def wrapped(act: Any) -> Any:
    """A backend whose runs begin with ``act(first)``; local, so that it is pickled whole."""

    class Wrapped:
        name = "wrapped"

        def unavailable(self):
            return None

        def compile(self, segment, registers):
            execute = Fast().compile(segment, registers)

            def run(inputs, *, first=0, **options):
                act(first)
                return execute(inputs, first=first, **options)

            return run

    return Wrapped()


def check_equal(one: Any, two: Any) -> None:
    """Every bit, whatever the nesting; dtypes too."""
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            check_equal(one[key], two[key])
    elif isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype and torch.equal(one, two)
    elif isinstance(one, np.ndarray):
        assert one.dtype == two.dtype and np.array_equal(one, two)
    else:
        assert one == two


def test_a_cluster_that_is_not_there(mapped, digits):
    needs_ray()
    for address, reason in (("nowhere", "ValueError"), ("127.0.0.1:1", "ConnectionRefusedError")):
        with pytest.raises(
            BackendError, match=f"cannot join the Ray cluster '{address}': {reason}"
        ):
            simulate_on_ray(mapped, digits[:1], address=address)


def test_equals_one_process_though_a_worker_is_killed(two_workers, mapped, digits, tmp_path):
    killed = tmp_path / "killed"

    def kill_once(first: int) -> None:
        if first == 30 and not killed.exists():  # in the middle of the second shard
            killed.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)

    progress: list[tuple[int, int]] = []
    images = digits[:IMAGES]
    got = simulate_on_ray(
        mapped,
        images,
        wrapped(kill_once),
        batch_size=BATCH,
        record=("spikes",),
        on_progress=lambda *done: progress.append(done),
    )
    assert int(killed.read_text()) != os.getpid()
    want = simulate(mapped, images, "fast", batch_size=BATCH, record=("spikes",))
    check_equal(want.logits, got.logits)
    assert all(spikes.any() for segment in want.spikes.values() for spikes in segment.values())
    for kept in ("spikes", "inputs"):
        check_equal(getattr(want, kept), getattr(got, kept))
    for counted in ("samples", "events", "updated", "overflows"):
        check_equal(getattr(want.activity, counted), getattr(got.activity, counted))
    steps = np.diff([0, *(done for done, _ in progress)])
    assert sorted(steps) == sorted(SHARDS) and {total for _, total in progress} == {IMAGES}


def test_the_command_says_the_same_of_shards_and_of_one_process(two_workers, digits, tmp_path):
    """Faults by chance among them, which must not depend on who runs a sample."""
    checkpoint = load_checkpoint(ROOT / "examples/models/digits.pt")
    mapped = mapping.map_model(checkpoint.model, calibration=digits, provenance={"data": "digits"})
    artefact = mapping.save(mapped, tmp_path / "digits.h8")
    options = ["--samples", "75", "--batch-size", "10", "--json", "--quiet"]
    options += ["--inject", "dropped-spikes=0.1", "--severity", "0,1"]
    one = CliRunner().invoke(has8, ["simulate", str(artefact), *options])
    shards = CliRunner().invoke(has8, ["simulate", str(artefact), *options, "--ray"])
    assert shards.exit_code == one.exit_code == 0, shards.output
    assert json.loads(shards.stdout) == json.loads(one.stdout)
    assert len({point["accuracy"] for point in json.loads(one.stdout)["severities"]}) == 2

    kept = ["--record", "spikes", "--out", str(tmp_path / "x.npz"), "--ray"]
    refused = CliRunner().invoke(has8, ["simulate", str(artefact), *kept])
    assert isinstance(refused.exception, BadInput) and "leave out --ray" in str(refused.exception)


def test_workers_take_as_many_threads(two_workers, mapped, digits, tmp_path):
    """Sums of floats may be rounded otherwise with another number."""
    seen = tmp_path / "threads"
    look = wrapped(lambda first: seen.write_text(str(torch.get_num_threads())))
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):  # three are more than a worker can have cores
            torch.set_num_threads(threads)
            simulate_on_ray(mapped, digits[:1], look)
            assert seen.read_text() == str(threads)
    finally:
        torch.set_num_threads(before)


def test_a_worker_that_always_dies_is_given_up(two_workers, mapped, digits):
    die = wrapped(lambda first: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(BackendError, match="the run on Ray failed: WorkerCrashedError: The worker"):
        simulate_on_ray(mapped, digits[:1], die, retries=0)


def test_errors_come_back_as_they_are(two_workers, mapped, digits, tmp_path):
    """And are not tried again."""
    tried = tmp_path / "tried"

    def refuse(first: int) -> None:
        tried.open("a").write("x")
        raise DoesNotFit("conv", "bits", need=2, have=1, hint="take fewer")

    message = r"^layer 'conv' does not fit on a core: .* a core has 1; take fewer$"
    with pytest.raises(DoesNotFit, match=message):
        simulate_on_ray(mapped, digits[:1], wrapped(refuse))
    assert tried.read_text() == "x"
    with pytest.raises(BadInput, match="must be at least one"):
        simulate_on_ray(mapped, digits[:0])

    def fault(first: int) -> None:
        tried.open("a").write("y")
        raise RuntimeError("a fault\nand more")

    with pytest.raises(BackendError, match=r"^the run on Ray failed: RuntimeError: a fault$"):
        simulate_on_ray(mapped, digits[:1], wrapped(fault))
    assert tried.read_text() == "xy"


def test_says_what_is_missing(mapped, digits, monkeypatch):
    with pytest.raises(UnknownName, match="unknown backend 'fats'"):
        simulate_on_ray(mapped, digits[:1], "fats")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        BackendError, match=r"Ray is not installed; run `pip install 'has8\[ray\]'`"
    ):
        simulate_on_ray(mapped, digits[:1])


def test_a_server_that_does_not_answer_or_is_no_ray(mapped, digits, monkeypatch):
    """It accepts connections, and Ray would wait for minutes."""
    needs_ray()
    monkeypatch.setattr(cluster, "ANSWER_S", 0.5)
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # another test may have joined one,
    monkeypatch.setattr("ray.shutdown", lambda: None)  # and goes on with it
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def fails() -> str:
            with pytest.raises(BackendError, match="^cannot join the Ray cluster") as caught:
                simulate_on_ray(mapped, digits[:1], address=address)
            return str(caught.value)

        assert "timed out" in fails()

        def answer() -> None:
            for _ in range(2):  # the first one has left
                connection, _ = server.accept()
                with connection, contextlib.suppress(OSError):
                    connection.sendall(b"HTTP/1.1 400 Bad Request")

        thread = threading.Thread(target=answer)
        thread.start()
        assert "what listens there is no Ray" in fails()
        thread.join()


def test_a_worker_that_is_stopped_ends_the_run(two_workers, mapped, digits, tmp_path, monkeypatch):
    """It would never answer, nor die."""
    pid = tmp_path / "pid"

    def stop(first: int) -> None:
        (tmp_path / "new").write_text(str(os.getpid()))
        (tmp_path / "new").rename(pid)
        os.kill(os.getpid(), signal.SIGSTOP)

    wait = two_workers.wait

    def waits(*tasks: Any, **options: Any) -> Any:
        """Its time begins when the worker has started, which may take long."""
        assert wait_until(pid.exists)
        return wait(*tasks, **options)

    monkeypatch.setattr(two_workers, "wait", waits)
    with pytest.raises(BackendError, match=r"finished no shard in 0\.5 s: see whether"):
        simulate_on_ray(mapped, digits[:1], wrapped(stop), timeout_s=0.5)
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(pid.read_text()), signal.SIGKILL)
