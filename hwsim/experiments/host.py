"""A host that is measured while it runs a mapping's layers, in place of a profile's figures."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from functools import partial
from pathlib import Path
from time import perf_counter, sleep

import msgspec
import numpy as np
import torch
from torch import Tensor

from has8.encoders import numbered
from has8.errors import BackendError, BadInput
from has8.values import described
from has8.values import seconds as checked_seconds
from hwsim.experiments.meters import Meter, nvml, rapl
from hwsim.program import checked_mapping, checked_samples, sample_axis
from mapping.graph.evaluate import evaluate_nodes, moved
from mapping.graph.ir import Node
from mapping.hosts.schema import ALONE, DEFAULT_HOST, Host, Measured, load_host
from mapping.mapped import Mapped
from mapping.targets.figures import Figure

WINDOWS = 3
"""How often watts are measured for each thing that runs."""
WARM_UP, LEAST = 3, 5
"""Runs that do not count, and the fewest that do."""

Parts = Mapping[str, Callable[[], object]]
"""What a host runs, by name."""


def measure_host(
    mapped: Mapped,
    x: Tensor,
    host: str | Path | Host = DEFAULT_HOST,
    *,
    device: str | torch.device | None = None,
    seconds: float = 1.0,
) -> Host:
    """Measure this machine as the host of a mapping, for :func:`hwsim.estimate`.

    Runs each host segment of the mapping, and all layers of its model in floating point, over and
    over with one sample: the wall time of each run, and the power of the device meanwhile and while
    nothing runs, before and behind. That takes some ten seconds, in which nothing else should run.
    Power is read by NVML on an NVIDIA GPU (package ``nvidia-ml-py``), by RAPL on a CPU; where
    neither shows it, times are measured and power stays the profile's, which the result's caveats
    say.

    Args:
        mapped: from :func:`mapping.map_model`.
        x: its input, as :func:`hwsim.simulate` takes it; the first sample runs.
        host: the profile whose figures stand for what is not measured.
        device: "cpu" or a CUDA device; None is "cuda" where there is one.
        seconds: of each measurement, above 0; below 1 a counter of energy may stand still.

    Returns:
        The profile with :attr:`~mapping.hosts.schema.Host.measured` times (median, 5 % and 95 %
        quantiles) and, if power shows, its watts; good for this mapping alone.

    Raises:
        BadInput: if the samples do not fit the mapping, or there is no such device.
        UnknownName, TargetError: if the profile cannot be read.
        BackendError: if what shows power ceases to.
    """
    checked_mapping(mapped)
    x = checked_samples(mapped, x, 1, (), 0, None)
    profile = host if isinstance(host, Host) else load_host(host)
    window_s, place = checked_seconds(seconds, "seconds"), _device(device)
    name, meter, why = _meter(place)
    parts = _parts(mapped, x.narrow(sample_axis(mapped), 0, 1).to(place))
    alone = {ALONE: parts.pop(ALONE)}
    if same := not mapped.chip_segments and len(parts) == 1:
        alone = {}
    idle = [_watts(meter, lambda: sleep(window_s))] if meter else []
    here = f"measured on {name}, {date.today().isoformat()}"
    measured = {
        part: took
        for running in (parts, alone)
        for part, took in _took(running, place, meter, window_s, here)
    }
    if same:
        (measured[ALONE],) = measured.values()
    if meter is None:
        return msgspec.structs.replace(
            profile,
            name=f"{name} with the power of {profile.name}",
            description=name,
            caveats=(f"Its power is that of {profile.name}, since {why}.",),
            measured=measured,
        )
    idle.append(_watts(meter, lambda: sleep(window_s)))
    power = max((took.w for took in measured.values() if took.w is not None), key=float)
    caveats = [f"Its power is that of {meter.covers}: what else the machine draws is left out."]
    if max(idle) > power.value:
        caveats.append("It drew as much while it waited as while it worked: did anything else run?")
    waited = [min(each, power.low) for each in idle]
    idle_w = _figure(waited, "W", f"{here}: {meter.how}, before and behind")
    return msgspec.structs.replace(
        profile,
        name=name,
        description=f"{name}, measured",
        caveats=tuple(caveats),
        power_w=power,
        idle_w=idle_w,
        launching_w=Figure(
            (idle_w.value + power.value) / 2,
            idle_w.low,
            power.high,
            "W",
            f"{here}: halfway between what it draws while it waits and while it works",
            "M",
        ),
        measured=measured,
    )


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not isinstance(device, str | torch.device):
        raise BadInput(f"expected 'cpu' or 'cuda' as the device, not {described(device)}")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise BadInput(f"{device!r} is no device: name 'cpu' or 'cuda'") from None
    devices = {"cpu": 1, "cuda": torch.cuda.device_count()}.get(place.type, 0)
    if (place.index or 0) >= devices:
        raise BadInput(f"there is no device {place} to measure here: name 'cpu' or 'cuda'")
    return place


def _meter(place: torch.device) -> tuple[str, Meter | None, str]:
    """The device's name, what measures its energy, and why nothing does."""
    try:
        if place.type == "cpu":
            return _cpu(), rapl(), ""
        device = torch.cuda.get_device_properties(place)
        return device.name, nvml(f"GPU-{device.uuid}"), ""
    except BackendError as error:
        name = _cpu() if place.type == "cpu" else torch.cuda.get_device_name(place)
        return name, None, str(error)


def _cpu() -> str:
    """What the processor is called."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(models), "") or platform.processor() or platform.machine()


def _parts(mapped: Mapped, x: Tensor) -> dict[str, Callable[[], object]]:
    """Each host segment, and all layers of the model, ready to run one sample."""
    graph, values = mapped.graph, {mapped.graph.input.name: x}
    everything = moved(graph, (node.name for node in graph), x)
    with numbered(0):
        evaluate_nodes(graph, everything, values)

    def run(nodes: tuple[Node, ...], fed: Mapping[str, Tensor]) -> None:
        with numbered(0):
            evaluate_nodes(graph, nodes, dict(fed))

    parts: dict[str, Callable[[], object]] = {}
    for segment in mapped.partition.on_host:
        fed = {name: values[name] for name in (graph.input.name, *segment.inputs)}
        parts[segment.name] = partial(run, moved(graph, segment.nodes, x), fed)
    parts[ALONE] = partial(run, everything, {graph.input.name: x})
    return parts


def _took(
    parts: Parts, place: torch.device, meter: Meter | None, window_s: float, here: str
) -> Iterator[tuple[str, Measured]]:
    """What each of some parts took that ran in turns."""
    if not parts:
        return
    times: dict[str, list[float]] = {name: [] for name in parts}
    _window(parts, place, {name: [] for name in parts}, 0.0, WARM_UP)
    work = partial(_window, parts, place, times, window_s, LEAST)
    w = None
    if meter is None:
        work()
    else:
        watts = [_watts(meter, work) for _ in range(WINDOWS)]
        w = _figure(watts, "W", f"{here}: {meter.how}")
    threads = f" by {torch.get_num_threads()} threads" if place.type == "cpu" else ""
    for name, each in times.items():
        us = np.quantile(each, (0.05, 0.5, 0.95)).tolist()
        source = f"{here}: {len(each):,} runs{threads}, median, 5 and 95 % quantiles"
        yield name, Measured(us=_figure(us, "µs", source), w=w)


def _window(
    parts: Parts, place: torch.device, times: dict[str, list[float]], seconds: float, least: int
) -> None:
    """Run all parts one after another, again and again."""
    end, runs = perf_counter() + seconds, 0
    while runs < least or perf_counter() < end:
        for name, run in parts.items():
            start = perf_counter()
            run()
            if place.type == "cuda":
                torch.cuda.synchronize(place)
            times[name].append((perf_counter() - start) * 1e6)
        runs += 1


def _watts(meter: Meter, work: Callable[[], object]) -> float:
    """The mean power while something runs."""
    start = perf_counter()
    watts = meter.joules(work) / (perf_counter() - start)
    if watts <= 0:
        raise BackendError(f"{meter.how} of {meter.covers} stood still: measure for more seconds")
    return watts


def _figure(values: list[float], unit: str, source: str) -> Figure:
    """The median of some measurements, with the lowest and the highest."""
    value = float(np.median(values))
    return Figure(value, min(values), max(values), unit, source, "P")
