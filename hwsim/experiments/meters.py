"""What a device draws while something runs: NVML for NVIDIA's GPUs, RAPL for CPUs that show it.

Neither is needed to install or import has8. NVML is asked through the package ``nvidia-ml-py``,
RAPL by reading Linux's files in ``/sys/class/powercap``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import Any

from has8.errors import BackendError

POWERCAP = Path("/sys/class/powercap")
SAMPLED_S = 0.02
"""Seconds between two readings of a power."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters of energy, read before and after.

    Args:
        how: in a few words.
        covers: the parts of the machine whose energy it is.
        counters: each one's reading in joules, and the reading behind which it begins anew from 0;
            None where it does not.
    """

    how: str
    covers: str
    counters: Sequence[tuple[Callable[[], float], float | None]]

    def joules(self, work: Callable[[], object]) -> float:
        """The energy meanwhile; a counter may begin anew once."""
        before = [read() for read, _ in self.counters]
        work()
        total = 0.0
        for start, (read, most) in zip(before, self.counters, strict=True):
            end = read()
            total += end - start + (most if most is not None and end < start else 0.0)
        return total


@dataclass(frozen=True, slots=True)
class Sampled:
    """A power that is read all the time.

    Args:
        how: in a few words.
        covers: the parts of the machine whose power it is.
        watts: reads it.
    """

    how: str
    covers: str
    watts: Callable[[], float]

    def joules(self, work: Callable[[], object]) -> float:
        """The energy meanwhile: the power between two readings is their mean."""
        done = Event()

        def watch() -> list[tuple[float, float]]:
            found = [(perf_counter(), self.watts())]
            while not done.wait(SAMPLED_S):
                found.append((perf_counter(), self.watts()))
            return [*found, (perf_counter(), self.watts())]

        with ThreadPoolExecutor(1) as pool:
            watched = pool.submit(watch)
            try:
                work()
            finally:
                done.set()
        found = watched.result()
        return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(found))


Meter = Counters | Sampled
"""What measures a device's energy."""


def rapl(folder: Path = POWERCAP) -> Counters:
    """The energy counters of the processor packages and, where there are any, of their memory.

    Args:
        folder: Linux's, with a folder for each zone.

    Raises:
        BackendError: if there are none, or they may not be read.
    """
    found: dict[str, tuple[Callable[[], float], float]] = {}
    for zone in sorted(folder.glob("intel-rapl:*")):
        name = _text(zone / "name")
        if name.startswith("package") or name == "dram":
            file = zone / "energy_uj"
            _microjoules(file)  # so that what cannot be read is told at once
            most = _microjoules(zone / "max_energy_range_uj")
            found[f"{zone.name} {name}"] = partial(_microjoules, file), most
    if not found:
        raise BackendError(
            f"there are no energy counters (RAPL) in {folder}; virtual machines seldom show them"
        )
    memory = " and memory" if any(name.endswith("dram") for name in found) else ""
    return Counters("RAPL's energy counters", f"the processors{memory}", [*found.values()])


def _microjoules(file: Path) -> float:
    """A file with a number of microjoules, in joules."""
    text = _text(file)
    if not text.isdecimal():
        raise BackendError(f"{file} should hold a number of microjoules, and not {text[:20]!r}")
    return int(text) * 1e-6


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except PermissionError:
        raise BackendError(
            f"{file} may be read by root alone: allow it with 'sudo chmod a+r "
            f"{file.parent.parent}/intel-rapl:*/energy_uj', until the machine starts anew"
        ) from None
    except OSError as error:
        raise BackendError(f"{file} cannot be read ({error.strerror})") from None


def nvml(uuid: str) -> Meter:
    """The energy counter of a GPU, or where it has none its power.

    Args:
        uuid: of the GPU, as NVML has it: ``GPU-`` and so on.

    Raises:
        BackendError: if nvidia-ml-py is missing, or NVML does not answer or shows neither.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library: Any = import_module("pynvml")
    except ImportError:
        raise BackendError("NVML is not asked without 'pip install nvidia-ml-py'") from None

    def asked(question: Callable[..., Any], *about: object) -> Any:
        try:
            return question(*about)
        except library.NVMLError as error:
            raise BackendError(f"NVML does not answer for {uuid} ({error})") from None

    asked(library.nvmlInit)
    handle = asked(library.nvmlDeviceGetHandleByUUID, uuid)

    def joules() -> float:
        return float(asked(library.nvmlDeviceGetTotalEnergyConsumption, handle)) * 1e-3

    def watts() -> float:
        return float(asked(library.nvmlDeviceGetPowerUsage, handle)) * 1e-3

    try:
        joules()
    except BackendError:  # older than Volta
        watts()
        return Sampled(f"NVML's power every {SAMPLED_S * 1e3:.0f} ms", "the GPU", watts)
    return Counters("NVML's energy counter", "the GPU", [(joules, None)])
