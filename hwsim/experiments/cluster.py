"""A long run spread over a Ray cluster: shards of samples, equal to one process bit for bit."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout, suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from has8 import given
from has8.errors import BackendError, Has8Error
from has8.values import seconds, value, whole
from hwsim.activity import Activity
from hwsim.backends.protocol import Backend
from hwsim.backends.registry import named_backend
from hwsim.experiments.fidelity import Agreement, agreements, joined_agreements, paired
from hwsim.names import RAY_TIMEOUT_S
from hwsim.program import OnProgress, Run, checked_samples, joined, sample_axis, simulate
from mapping import Mapped

MOST_BATCHES = 8
"""Batches in a shard: enough that making a backend ready costs little, few enough to retry."""

SHARDS_A_WORKER = 2
"""Shards on their way for each worker, so that none waits and the driver's memory is bounded."""

ANSWER_S = 10.0
"""Seconds that a cluster may take to answer at all."""

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""How a client of HTTP/2, on which Ray's servers talk, begins; they answer with a frame of type 4,
settings."""

NOTHING = Activity(0, {}, {}, {})


def simulate_on_ray(
    mapped: Mapped,
    x: Tensor,
    backend: str | Backend = "fast",
    *,
    address: str | None = None,
    batch_size: int = 128,
    record: Collection[str] = (),
    on_progress: OnProgress | None = None,
    retries: int = 3,
    timeout_s: float = RAY_TIMEOUT_S,
) -> Run:
    """What :func:`hwsim.simulate` does, by the workers of a Ray cluster.

    Samples are cut where one process would begin a new batch, and a worker takes as many of torch's
    threads as this process has. So on machines of one kind the result equals that of
    ``simulate`` in every bit; between kinds, sums of floats on the host may be rounded otherwise.
    A worker has a core for each of its threads: for one worker a core, set torch to one thread.

    Args:
        mapped: from :func:`mapping.map_model`.
        x: ``float32[N, *input_shape]``, as the model takes it.
        backend: a name of :mod:`hwsim.names`, or a backend that can be pickled.
        address: of a cluster whose nodes have has8, "auto" for the one that runs here, or None to
            start one on this machine and end it afterwards. Without effect where this process has
            joined one already.
        batch_size: samples at a time in a worker.
        record: what to keep in the result, of :data:`hwsim.names.RECORDS`.
        on_progress: called after each shard with (samples done, samples in all).
        retries: how often a shard is run again whose worker was killed.
        timeout_s: seconds in which the cluster must finish a shard, whatever becomes of its
            workers.

    Raises:
        Has8Error: whatever ``simulate`` raises in a worker.
        BackendError: if Ray is missing, the cluster cannot be reached, or workers keep dying.
    """
    x = checked_samples(mapped, x, batch_size, record, 0, on_progress)
    axis = sample_axis(mapped)
    found = _spread(
        _simulate,
        (mapped, _named(backend), batch_size, tuple(record)),
        lambda size: ((part,) for part in x.split(size, axis)),
        x.shape[axis],
        batch_size,
        address,
        on_progress,
        retries,
        timeout_s,
    )
    parts: list[Run] = []
    activity = NOTHING
    for part in found:
        activity += part.activity
        parts.append(replace(part, activity=NOTHING))
    return replace(joined(mapped, parts), activity=activity)


def agreements_on_ray(
    mapped: Mapped,
    shards: Callable[[int], Iterable[tuple[Tensor, ...]]],
    backends: Sequence[str | Backend],
    *,
    total: int,
    address: str | None = None,
    batch_size: int = 128,
    on_progress: OnProgress | None = None,
    retries: int = 3,
    timeout_s: float = RAY_TIMEOUT_S,
) -> tuple[Agreement, ...]:
    """What :func:`hwsim.experiments.fidelity.agreements` does, by the workers of a Ray cluster.

    Args:
        mapped: from :func:`mapping.map_model`.
        shards: given a size, cuts the samples into so many images each, with their labels if these
            are known; they are read as workers become free.
        backends: at least one; names, or backends that can be pickled.
        total: how many samples there are.
        address, batch_size, on_progress, retries, timeout_s: as for :func:`simulate_on_ray`.

    Raises:
        Has8Error: whatever ``agreements`` raises in a worker.
        BackendError: if Ray is missing, the cluster cannot be reached, or workers keep dying.
    """
    shared = (mapped, tuple(map(_named, backends)), batch_size)
    parts = _spread(
        _agreements, shared, shards, total, batch_size, address, on_progress, retries, timeout_s
    )
    return tuple(map(joined_agreements, zip(*parts, strict=True)))


def _named(backend: str | Backend) -> str | Backend:
    named_backend(backend)  # what is none is refused before a cluster is started
    return backend


def _simulate(
    x: Tensor,
    *,
    first: int,
    shared: tuple[Mapped, str | Backend, int, tuple[str, ...]],
) -> Run:
    mapped, backend, batch_size, record = shared
    return simulate(mapped, x, backend, batch_size=batch_size, record=record, first=first)


def _agreements(
    x: Tensor,
    labels: Tensor | None = None,
    *,
    first: int,
    shared: tuple[Mapped, tuple[str | Backend, ...], int],
) -> tuple[Agreement, ...]:
    mapped, backends, batch_size = shared
    batches = paired(mapped, x, labels, batch_size)
    return agreements(mapped, batches, backends, total=x.shape[sample_axis(mapped)], first=first)


def _spread(
    work: Callable[..., Any],
    shared: tuple[Any, ...],
    shards: Callable[[int], Iterable[tuple[Tensor, ...]]],
    total: int,
    batch_size: int,
    address: str | None,
    on_progress: OnProgress | None,
    retries: int,
    timeout_s: float,
) -> list[Any]:
    """The results of all shards, in the order of their samples."""
    whole(batch_size, "batch_size", 1)
    whole(retries, "retries", 0)
    seconds(timeout_s, "timeout_s")
    value(address, str | None, "address")
    given.callback(on_progress)
    with _cluster(address) as ray:
        try:
            workers = _Workers(ray, retries, timeout_s)
            size = _shard_size(total, batch_size, workers.count)
            done, parts, axis = 0, dict[int, Any](), sample_axis(shared[0])
            with closing(workers.run(work, ray.put(shared), shards(size), axis)) as results:
                for first, samples, part in results:
                    parts[first] = part
                    done += samples
                    if on_progress is not None:
                        on_progress(done, total)
        except ray.exceptions.RayError as error:
            raise BackendError(f"the run on Ray failed: {_reason(error)}") from error
    return [parts[first] for first in sorted(parts)]


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected; a cluster that was started here is ended again.

    Raises:
        BackendError: if Ray is missing or the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Else, under `uv run`, each worker gets a copy of the folder and an environment built anew.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise BackendError("Ray is not installed; run `pip install 'has8[ray]'`") from None
    if ray.is_initialized():
        yield ray
        return
    settings: dict[str, Any] = {"address": address}
    if address is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        settings |= {"address": "local", "num_cpus": cores, "include_dashboard": False}
    with redirect_stdout(sys.stderr):  # Ray prints on stdout when a worker dies
        try:
            _join(ray, settings)
            yield ray
        finally:
            ray.shutdown()


def _join(ray: Any, settings: dict[str, Any]) -> None:
    address = settings["address"]
    try:
        if address != "local":
            _reach(address)
        ray.init(**settings, logging_level="ERROR", log_to_driver=False)
    except Exception as error:  # Ray has no class of its own for this
        what = "start a local Ray" if address == "local" else f"join the Ray cluster {address!r}"
        raise BackendError(f"cannot {what}: {_reason(error)}") from error


def _reach(address: str) -> None:
    """Knock at HOST:PORT, where Ray would try for minutes.

    Raises:
        OSError: if nobody answers, or not as Ray does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        place = host.strip("[]"), int(port)
        with socket.create_connection(place, timeout=ANSWER_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "1":
                return
            connection.sendall(HELLO)
            if connection.recv(9, socket.MSG_WAITALL)[3:4] != b"\x04":
                raise OSError("what listens there is no Ray")


class _Workers:
    """The workers of a connected cluster.

    Raises:
        BackendError: if it has no cores.
    """

    def __init__(self, ray: Any, retries: int, timeout_s: float) -> None:
        self.ray, self.threads, self.timeout_s = ray, torch.get_num_threads(), timeout_s
        cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        if max(cores, default=0) < 1:
            raise BackendError("the Ray cluster has no cores: start nodes with at least one")
        reserved = min(self.threads, max(cores))
        self.count = sum(n // reserved for n in cores)
        self.remote = ray.remote(_run_shard).options(num_cpus=reserved, max_retries=retries)

    def run(
        self, work: Callable[..., Any], shared: Any, shards: Iterable[tuple[Tensor, ...]], axis: int
    ) -> Generator[tuple[int, int, Any], None, None]:
        """Each shard's first sample, its samples, and what came out, as they finish."""
        waiting, start = iter(shards), 0
        running: dict[Any, tuple[int, int]] = {}
        try:
            while True:
                for tensors in islice(waiting, SHARDS_A_WORKER * self.count - len(running)):
                    # Copies: a view would be pickled with all the samples behind it.
                    copies = tuple(tensor.clone() for tensor in tensors)
                    task = self.remote.remote(work, shared, copies, start, self.threads)
                    samples = tensors[0].shape[axis]
                    running[task] = (start, samples)
                    start += samples
                if not running:
                    return
                found, _ = self.ray.wait(list(running), num_returns=1, timeout=self.timeout_s)
                if not found:
                    raise BackendError(
                        f"the Ray cluster finished no shard in {self.timeout_s:g} s: see whether "
                        "its workers run, or raise timeout_s (--ray-timeout)"
                    )
                (ready,) = found
                (first, samples), part = running.pop(ready), self.ray.get(ready)
                if isinstance(part, Has8Error):
                    raise part
                yield first, samples, part
        finally:
            for left in running:
                with suppress(self.ray.exceptions.RayError):
                    self.ray.cancel(left, force=True)


def _run_shard(
    work: Callable[..., Any],
    shared: Any,
    tensors: tuple[Tensor, ...],
    first: int,
    threads: int,
) -> Any:
    """The work of one task, or the error that it ended in."""
    torch.set_num_threads(threads)
    try:
        return work(*tensors, first=first, shared=shared)
    except Has8Error as error:
        return error


def _shard_size(samples: int, batch_size: int, workers: int) -> int:
    """Samples of a shard: whole batches, few enough that there are shards for all the workers."""
    batches = -(-samples // batch_size)
    return batch_size * max(1, min(MOST_BATCHES, batches // (SHARDS_A_WORKER * workers)))


def _reason(error: Any) -> str:
    """The gist of an error of Ray's, which may hold a traceback and advice."""
    cause = getattr(error, "cause", error)  # what a task raised
    first = str(cause).strip().partition("\n")[0]
    return f"{type(cause).__name__}: {first}" if first else type(cause).__name__
