"""What every neuron of a run did, in one ``.npz`` file."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from has8.errors import BadInput
from has8.files import write_whole
from has8.values import value, whole
from hwsim.names import RECORDS
from hwsim.program import Run, checked_mapping
from mapping import Mapped

MOST_MEMORY = 0.5
"""The part of the free memory that a recording may take."""


@dataclass(frozen=True, slots=True)
class _Array:
    """``kind[T, N, *shape]``, or ``kind[N, *shape]`` without steps."""

    name: str
    steps: int | None
    shape: tuple[int, ...]
    kind: np.dtype[Any]

    @property
    def bytes_each(self) -> int:
        """Bytes of one sample."""
        return (self.steps or 1) * math.prod(self.shape) * self.kind.itemsize

    def zeros(self, samples: int) -> NDArray[Any]:
        return np.zeros((*([self.steps] if self.steps else []), samples, *self.shape), self.kind)


class Recording:
    """Arrays for a run of known length, filled batch by batch.

    By their names in the file: ``SEGMENT/inputs/PORT`` and ``SEGMENT/spikes/POPULATION``,
    ``bool[T, N, *shape]``, or payloads in whole numbers, if spikes are recorded;
    ``SEGMENT/membranes/POPULATION``, ``int32[T, N, *shape]`` (int64 where registers have more than
    32 bits), if membranes are; always ``logits`` and ``float_logits``, ``float32[N, classes]``,
    time first if the model's output has steps, and ``labels``, ``int64[N]``, -1 where they are not
    known.

    Args:
        mapped: what runs.
        samples: N.
        record: what to keep, of :data:`hwsim.names.RECORDS`.
        first: the number of the first sample.

    Attributes:
        arrays: by name.
        bytes: what they take, in memory and on disk.

    Raises:
        BadInput: for something that cannot be recorded, or more than half of the free memory.
    """

    def __init__(
        self, mapped: Mapped, samples: int, record: Collection[str], *, first: int = 0
    ) -> None:
        checked_mapping(mapped)
        samples, first = whole(samples, "samples", 1), whole(first, "first", 0)
        record = value(record, list[str], "record")
        if unknown := sorted(set(record) - set(RECORDS)):
            raise BadInput(f"only {' and '.join(RECORDS)} can be recorded, not {unknown[0]!r}")
        self.record, self.samples, self.first = frozenset(record), samples, first
        planned = list(_planned(mapped, self.record))
        self.bytes = samples * sum(array.bytes_each for array in planned)
        free = _free_memory()
        if free is not None:
            self._check_room(int(free * MOST_MEMORY), "memory")
        self.arrays = {array.name: array.zeros(samples) for array in planned}
        self._timed = {array.name for array in planned if array.steps}

    def check_disk(self, path: str | Path) -> None:
        """Refuse a recording for which the disk of ``path`` has no room.

        Raises:
            BadInput: if there is too little.
        """
        there = next(folder for folder in Path(path).absolute().parents if folder.is_dir())
        self._check_room(shutil.disk_usage(there).free, f"disk at {there}")

    def add(self, run: Run, float_logits: Tensor, labels: Tensor | None, first: int) -> None:
        """Keep a batch.

        Args:
            run: with what is to be kept recorded.
            float_logits: of the float graph.
            labels: ``int64[B]`` if they are known.
            first: the number of the batch's first sample.
        """
        batch = run.activity.samples
        self._put("logits", run.logits, first, batch)
        self._put("float_logits", float_logits, first, batch)
        self._put("labels", -1 if labels is None else labels, first, batch)
        for what, segments in (
            ("inputs", run.inputs if "spikes" in self.record else {}),
            ("spikes", run.spikes if "spikes" in self.record else {}),
            ("membranes", run.membranes),
        ):
            for segment, tensors in segments.items():
                for name, tensor in tensors.items():
                    self._put(f"{segment}/{what}/{name}", tensor, first, batch)

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            BadInput: if it cannot be written.
        """
        write_whole(path, lambda file: np.savez(file, **cast(Any, self.arrays)))

    def _put(self, name: str, values: Tensor | int, first: int, batch: int) -> None:
        here = slice(first - self.first, first - self.first + batch)
        where = (slice(None), here) if name in self._timed else (here,)
        self.arrays[name][where] = values.cpu().numpy() if isinstance(values, Tensor) else values

    def _check_room(self, room: int, where: str) -> None:
        if self.bytes > room:
            what = " and ".join(what for what in RECORDS if what in self.record)
            raise BadInput(
                f"recording {what} of {self.samples:,} samples takes {_gigabytes(self.bytes)}, and "
                f"{_gigabytes(room)} of {where} can be used for it: record less of each sample, or "
                f"at most {self.samples * room // self.bytes:,} samples"
            )


def _planned(mapped: Mapped, record: Collection[str]) -> Iterator[_Array]:
    for chip in mapped.chip_segments:
        if "spikes" in record:
            for port in chip.inputs:
                name = f"{chip.name}/inputs/{port.name}"
                if port.kind == "bias":
                    yield _Array(name, None, port.shape, np.dtype(np.int64))
                else:
                    yield _Array(name, chip.steps, port.shape, np.dtype(port.payload.kind))
        for population in chip.populations:
            name, shape = population.name, population.shape
            if "spikes" in record:
                sent = np.dtype(population.payload.kind)
                yield _Array(f"{chip.name}/spikes/{name}", chip.steps, shape, sent)
            if "membranes" in record:
                kind = np.dtype(np.int32 if mapped.target.registers.state_bits <= 32 else np.int64)
                yield _Array(f"{chip.name}/membranes/{name}", chip.steps, shape, kind)
    output = mapped.graph.output.type
    for name in ("logits", "float_logits"):
        yield _Array(name, output.steps, output.shape, np.dtype(np.float32))
    yield _Array("labels", None, (), np.dtype(np.int64))


def _free_memory() -> int | None:
    """Bytes that this process may still take, of the machine and of its control group.

    None where the system does not say (it is no Linux).
    """
    try:
        free = _entry(Path("/proc/meminfo"), "MemAvailable:") * 1024
    except (OSError, StopIteration):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())  # "max" where there is none
        return min(free, limit - _entry(group / "memory.stat", "anon"))
    except (OSError, StopIteration, ValueError):
        return free


def _entry(file: Path, name: str) -> int:
    """The number behind a name in one of the kernel's tables."""
    rows = (line.split() for line in file.read_text().splitlines())
    return next(int(row[1]) for row in rows if row[0] == name)


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:,.3g} GB" if number >= 1e6 else f"{number:,} bytes"
