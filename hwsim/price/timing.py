"""How long runs on the chip and host segments take: busiest cores, barriers, operations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from hwsim.names import Timing
from hwsim.price.counts import FREE, LayerCounts
from hwsim.price.traffic import NEURONS, Link, SegmentLoad
from mapping.graph.ir import Node, loops_of
from mapping.graph.ops import OPS
from mapping.graph.pooling import OR
from mapping.mapped import Mapped
from mapping.partition.segments import Side
from mapping.targets.arithmetic import FigureArray, interpolate, largest
from mapping.targets.figures import Figure
from mapping.targets.prices import Accounting, Event
from mapping.targets.schema import Target

NO_TIME = Figure.exact(0.0, "µs")


@dataclass(frozen=True, slots=True)
class SegmentTime:
    """The time of one host segment or one run on the chip for one sample, in microseconds.

    Args:
        name: the segment; of a run that is of several, all their names.
        side: "host" or "chip".
        steps: chip steps, those that fill the pipeline included; 0 on the host.
        work_us: the busiest core or link of each step, the mean over samples, or the host's layers;
            None where the host's speed is not known.
        at_mean_us: the same at the mean of their counts, which is never more; 0 on the host.
        barrier_us: the barriers that end the chip's steps, on top of the work.
        management_us: what the embedded processors add to each of these steps.
        launching_us: the host's starting of operations, which is part of its work; None where the
            host's speed is not known.
    """

    name: str
    side: Side
    steps: int
    work_us: Figure | None
    barrier_us: Figure = NO_TIME
    management_us: Figure = NO_TIME
    launching_us: Figure | None = NO_TIME
    at_mean_us: Figure = NO_TIME


def chip_time(
    mapped: Mapped,
    load: SegmentLoad,
    samples: int,
    accounting: Accounting,
    timing: TimingModel | None = None,
) -> SegmentTime:
    """The time of one run on the chip for one sample.

    A step lasts as long as the model of timing says, plus the barrier over the routers that take
    part and all chips that the mapping uses. By an accounting whose stages overlap it lasts as long
    as the longer of the two, and the work is what goes beyond the barrier.
    """
    target = mapped.target
    busiest = (timing or MeanTiming()).step_ns(load, samples, accounting, target)
    at_mean = at_mean_ns(load, samples, accounting, target) if load.apart else busiest
    steps = load.steps + load.depth
    barrier = barrier_ns(target, accounting, load.routers, mapped.placement.chips_used)
    if accounting.read_ns is not None:  # all stages run while the barrier does
        busiest, at_mean = (largest(ns, 0 * ns + barrier) - barrier for ns in (busiest, at_mean))
    work_us, barrier_us = busiest.sum() / 1e3, steps * barrier / 1e3
    return SegmentTime(
        load.segment,
        "chip",
        steps,
        work_us.with_unit("µs"),
        barrier_us.with_unit("µs"),
        steps * target.link.step_us,
        at_mean_us=(at_mean.sum() / 1e3).with_unit("µs"),
    )


class TimingModel(Protocol):
    """How long the steps of a run on the chip are, and what they wait for, barriers left out.

    Attributes:
        name: one of :data:`hwsim.names.TIMINGS`.
    """

    name: ClassVar[Timing]

    def step_ns(
        self, load: SegmentLoad, samples: int, accounting: Accounting, target: Target
    ) -> FigureArray:
        """Nanoseconds of each chip step, the mean over samples: figures ``[steps + depth]``."""

    def waits_ns(
        self, load: SegmentLoad, samples: int, accounting: Accounting, target: Target
    ) -> Sequence[Mapping[str, float]]:
        """Of each chip step what it waits for, and about how many nanoseconds for each."""


class MeanTiming:
    """A step lasts as long as its busiest core or link, plus the longest way of a message."""

    name: ClassVar[Timing] = "mean"

    def step_ns(
        self, load: SegmentLoad, samples: int, accounting: Accounting, target: Target
    ) -> FigureArray:
        """As :func:`step_ns` says."""
        return step_ns(load, samples, accounting, target)

    def waits_ns(
        self, load: SegmentLoad, samples: int, accounting: Accounting, target: Target
    ) -> tuple[Mapping[str, float], ...]:
        """The core or link that is busiest at the mean of all counts, and the longest way."""
        rows = _stages_ns(load, accounting, target)
        names, ns = list(rows), np.array(list(rows.values())) / samples
        steps = self.step_ns(load, samples, accounting, target).value
        way = _longest_way(load, accounting).value
        return tuple(
            {names[n]: float(steps[step]) - way, "way": way} for step, n in enumerate(ns.argmax(0))
        )


def _stages_ns(
    load: SegmentLoad, accounting: Accounting, target: Target
) -> Mapping[str, NDArray[np.float64]]:
    """Nanoseconds of each core and link in each step, by the names that reports have for them."""
    if accounting.read_ns is None:
        rows = {f"core {n}": row for n, row in enumerate(_cores_ns(load, accounting).value)}
    else:
        rows = {
            f"core {n} {stage}": row
            for stage, ns in _core_stages(load, accounting).items()
            for n, row in enumerate((ns * accounting.time_error).value)
        }
    return {**rows, **{link_name(*at): ns.value for at, ns in _links_ns(load, target).items()}}


def link_name(start: tuple[int, int], end: tuple[int, int]) -> str:
    """What reports call the link from one router, at x and y, to another."""
    return f"link {start[0]},{start[1]} to {end[0]},{end[1]}"


def step_ns(load: SegmentLoad, samples: int, accounting: Accounting, target: Target) -> FigureArray:
    """Nanoseconds of each chip step without its barrier, figures of shape ``[steps + depth]``.

    Where some samples are counted apart, each step is longer than at the mean of all counts by as
    much as the mean of their busiest cores' times is longer than the time at the mean of theirs.
    """
    even = _busiest_ns(load, accounting, target) / samples
    uneven = even * _unevenness(load, accounting, target)
    return uneven + _longest_way(load, accounting)


def at_mean_ns(
    load: SegmentLoad, samples: int, accounting: Accounting, target: Target
) -> FigureArray:
    """The same at the mean of all counts."""
    return step_ns(replace(load, apart=()), samples, accounting, target)


def _longest_way(load: SegmentLoad, accounting: Accounting) -> Figure:
    """Nanoseconds that a message needs for the longest way that any took, where that adds up."""
    if accounting.read_ns is not None:
        return Figure.exact(0.0, "ns")
    x_ns = accounting.events["hop_east_west"].ns
    y_ns = accounting.events["hop_north_south"].ns
    ways = [x * x_ns + y * y_ns for x, y in load.ways]
    return largest(*ways) if ways else Figure.exact(0.0, "ns")


def _unevenness(
    load: SegmentLoad, accounting: Accounting, target: Target
) -> NDArray[np.float64] | float:
    """The mean of samples' maxima by the maximum of their means, step by step; at least 1."""
    if not load.apart:
        return 1.0
    maxima = _busiest_ns(load.each, accounting, target).value.sum(0)
    means = _busiest_ns(load.joint, accounting, target).value
    return np.divide(maxima, means, out=np.ones_like(means), where=means > 0).clip(1)


def _busiest_ns(load: SegmentLoad, accounting: Accounting, target: Target) -> FigureArray:
    """Nanoseconds of the busiest core or link in each step, summed over the samples."""
    return largest(_cores_ns(load, accounting).max(-2), *_links_ns(load, target).values())


def _cores_ns(load: SegmentLoad, accounting: Accounting) -> FigureArray:
    """Nanoseconds of each core in each step, ``[cores, steps + depth]``, summed over samples."""
    stages = _core_stages(load, accounting)
    if accounting.read_ns is not None:
        cores = largest(*stages.values())
    else:
        neurons, messages = stages["neurons"], stages["synapses"]
        cores = largest(neurons, messages) if accounting.overlaps else neurons + messages
    return cores * accounting.time_error


def _core_stages(load: SegmentLoad, accounting: Accounting) -> dict[str, FigureArray]:
    """Nanoseconds of a core's neurons, of its synapses with their messages, and of its memory."""
    price = accounting.events

    def time(events: Iterable[Event]) -> FigureArray:
        first, *others = (load.by_core[event] * price[event].ns for event in events)
        return sum(others, first)

    stages = {
        "neurons": time(NEURONS),
        "synapses": time(event for event in load.by_core if event not in NEURONS),
    }
    if accounting.read_ns is not None and load.reads is not None:
        stages["memory"] = load.reads * accounting.read_ns
    return stages


def _links_ns(load: SegmentLoad, target: Target) -> Mapping[Link, FigureArray]:
    """Nanoseconds of each link that is counted in each step, ``[steps + depth]``."""
    chip = target.chip
    message = (1 / chip.tile_spikes_per_ns).with_unit("ns")
    slow = (chip.chip_link_slowdown / chip.tile_spikes_per_ns).with_unit("ns")
    return {
        **{link: counts * message for link, counts in load.mesh_links.items()},
        **{link: counts * slow for link, counts in load.chip_links.items()},
    }


def barrier_ns(target: Target, accounting: Accounting, tiles: int, chips: int = 1) -> Figure:
    """Nanoseconds of the barrier that ends a step, read off the tables.

    Between two entries of a table the value is interpolated linearly; outside it is the nearest
    entry's. With several chips it lies between one chip's and the smallest system in the table.

    Args:
        target: whose systems of many chips were timed.
        accounting: whose table of active tiles holds.
        tiles: active router tiles of the busiest chip, at least 1.
        chips: chips in use.
    """
    on_chip = interpolate(accounting.barrier_ns, tiles)
    if chips == 1:
        return on_chip
    return interpolate({1: on_chip, **target.chip_barrier_ns}, chips)


def host_macs(layers: Iterable[LayerCounts]) -> Mapping[str, int]:
    """Multiply-accumulates of one sample by host segment; a host does not skip zeros."""
    macs: dict[str, int] = {}
    for layer in layers:
        if layer.side == "host":
            macs[layer.segment] = macs.get(layer.segment, 0) + layer.host_macs
    return macs


def launches_of(nodes: Iterable[Node]) -> int:
    """How many operations a host starts.

    One for each node; a neuron's, and all of a loop's, anew in every step. Maxima, which a chip has
    as a layer and neurons without memory, start once.
    """
    started = 0
    for part in loops_of(tuple(nodes)):
        for node in part:
            if node.op in FREE or node.attrs == OR:
                continue
            stepped = len(part) > 1 or OPS[node.op].role == "neuron"
            started += (node.type.steps or 1) if stepped else 1
    return started
