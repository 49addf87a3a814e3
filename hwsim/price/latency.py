"""How long one sample takes: its segments, exchanges and messages, less what overlaps.

Host and chips work at once where the network lets them: :mod:`hwsim.price.timeline` says when.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from hwsim.price.counts import LayerCounts
from hwsim.price.timeline import Floats, Task, Timeline, tasks_of, timeline
from hwsim.price.timing import (
    NO_TIME,
    SegmentTime,
    TimingModel,
    chip_time,
    host_macs,
    launches_of,
)
from hwsim.price.traffic import SegmentLoad
from mapping.hosts.schema import Host
from mapping.mapped import Mapped
from mapping.partition.segments import Side
from mapping.targets.arithmetic import largest
from mapping.targets.figures import Figure, computed
from mapping.targets.prices import Accounting


@dataclass(frozen=True, slots=True)
class Overlap:
    """The time in which the host computes while the chips have the sample, in microseconds.

    It is part of the time of both, so that what others last decides how much it takes off.

    Args:
        us: by the best figures.
        low: where all times are the lowest.
        high: where all are the highest.
        least: where the host's are the highest and all others the lowest.
        most: where the host's are the lowest and all others the highest.
    """

    us: float = 0.0
    low: float = 0.0
    high: float = 0.0
    least: float = 0.0
    most: float = 0.0


@dataclass(frozen=True, slots=True)
class Slot:
    """When something is done, in microseconds from the start of a sample, by the best figures.

    Args:
        name: a run's segment, or a node on the host; of a loop over steps its first.
        side: who does it.
        start, end: of it.
    """

    name: str
    side: Side
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Latency:
    """The time of one sample, from its arrival at the host to the logits, in microseconds.

    Args:
        segments: in the order of execution.
        messages_us: spikes, written biases and read membranes between host and chip.
        exchange_us: exchanges between host and chip, however many messages they have.
        sample_us: starting and resetting the chip, as often as it is.
        overlap: what the host does meanwhile.
        slots: what is done when, once the chip is started.
    """

    segments: tuple[SegmentTime, ...]
    messages_us: Figure
    exchange_us: Figure
    sample_us: Figure
    overlap: Overlap = Overlap()
    slots: tuple[Slot, ...] = ()

    @property
    def chip_us(self) -> Figure:
        """Work of all chip segments, without barriers."""
        times = (s.work_us for s in self.segments if s.side == "chip")
        return sum((time for time in times if time is not None), NO_TIME)

    @property
    def barrier_us(self) -> Figure:
        """All barriers."""
        return sum((s.barrier_us for s in self.segments), NO_TIME)

    @property
    def management_us(self) -> Figure:
        """All that embedded processors add to steps."""
        return sum((s.management_us for s in self.segments), NO_TIME)

    @property
    def launching_us(self) -> Figure | None:
        """The host's starting of operations, part of its work; None if that is not known."""
        times = [s.launching_us for s in self.segments]
        return None if None in times else sum((t for t in times if t is not None), NO_TIME)

    @property
    def waiting_us(self) -> Figure:
        """The time in which the host waits: all that is not its own."""
        parts, overlap = {**self.parts_us, "host": None, "overlap": None}, self.overlap
        others = sum((part for part in parts.values() if part is not None), NO_TIME)
        return _less(others, overlap.us, overlap.least, overlap.most)

    @property
    def host_us(self) -> Figure | None:
        """Work of all host segments; None if the host's speed is not known."""
        total = NO_TIME
        for segment in self.segments:
            if segment.side == "host":
                if segment.work_us is None:
                    return None
                total += segment.work_us
        return total

    @property
    def parts_us(self) -> dict[str, Figure | None]:
        """The parts by name; they add up to the total."""
        return {
            "chip": self.chip_us,
            "barrier": self.barrier_us,
            "management": self.management_us,
            "host": self.host_us,
            "messages": self.messages_us,
            "exchange": self.exchange_us,
            "sample": self.sample_us,
            "overlap": self.overlap_us,
        }

    @property
    def overlap_us(self) -> Figure:
        """The time in which the host computes while the chips have the sample, less than 0.

        Both have it among their times, so that it is taken off once.
        """
        found, cited = self.overlap, frozenset[Figure]()
        if found == Overlap():
            return NO_TIME
        for part in (self.host_us, self.messages_us, self.exchange_us, self.chip_us):
            cited |= frozenset() if part is None else part.cited
        ends = found.us, found.low, found.high, found.least, found.most
        return computed(-found.us, -max(ends), -min(ends), "µs", cited)

    @property
    def busy_us(self) -> dict[str, Figure | None]:
        """How long a sample keeps each part of the board: the host, its link, and the chips."""
        parts = self.parts_us
        chips = self.chip_us + self.barrier_us + self.management_us + self.sample_us
        return {"host": parts["host"], "link": self.messages_us + self.exchange_us, "chips": chips}

    @property
    def period_us(self) -> Figure | None:
        """The time from one sample to the next if each part begins with the next one at once.

        Samples then overlap: while the chips have one, the host and its link have others. It is the
        time of the part that is busy longest; None if the host's speed is not known.
        """
        first, *others = (self.busy_us[part] for part in ("chips", "link", "host"))
        if first is None or None in others:
            return None
        return largest(first, *(part for part in others if part is not None))

    @property
    def bound_by(self) -> str:
        """The part of the board that is busy longest, of those that are known."""
        known = {name: part.value for name, part in self.busy_us.items() if part is not None}
        return max(known, key=lambda name: known[name])

    @property
    def meanwhile_us(self) -> dict[str, float]:
        """How long the host is at each of its nodes while the chips have the sample.

        By the best figures; nodes that are never computed meanwhile are left out.
        """
        runs = [slot for slot in self.slots if slot.side == "chip"]
        found = {}
        for slot in self.slots:
            if slot.side == "host":
                both = (min(slot.end, run.end) - max(slot.start, run.start) for run in runs)
                found[slot.name] = sum(us for us in both if us > 0)
        return {name: us for name, us in found.items() if us}

    @property
    def total_us(self) -> Figure:
        """All parts that are known; what overlaps counts once."""
        parts, overlap = {**self.parts_us, "overlap": None}, self.overlap
        known = sum((part for part in parts.values() if part is not None), NO_TIME)
        return _less(known, overlap.us, overlap.low, overlap.high)


def _less(figure: Figure, us: float, low: float, high: float) -> Figure:
    """A figure less what is taken off at its value and at both ends of its range."""
    if not (us or low or high):
        return figure
    value = figure.value - us
    ends = min(value, figure.low - low), max(value, figure.high - high)  # but for rounding
    return computed(value, *ends, figure.unit, figure.cited)


def latency(
    mapped: Mapped,
    loads: Sequence[SegmentLoad],
    layers: Sequence[LayerCounts],
    samples: int,
    accounting: Accounting,
    host: Host,
    messages: Sequence[Figure | int],
    resets: int = 1,
    timing: TimingModel | None = None,
    tasks: Sequence[Task] | None = None,
) -> Latency:
    """The mean time of one sample; at the mean activity, where no samples are counted apart.

    Args:
        mapped: the mapping that ran.
        loads: of its runs, from :func:`hwsim.price.traffic.segment_loads`.
        layers: of the run, from :func:`hwsim.price.counts.layer_counts`.
        samples: of the run.
        accounting: one of the target's.
        host: runs the host segments.
        messages: between host and chip of each run, over all samples.
        resets: how often the chip is started and reset for a sample.
        timing: how long a step is; None is :class:`MeanTiming`.
        tasks: what :func:`run_tasks` gives, where it is known already.
    """
    runs = {load.segments[0]: load for load in loads}
    macs = host_macs(layers)
    times = []
    for segment in mapped.partition.segments:
        if segment.name in runs:
            times.append(chip_time(mapped, runs[segment.name], samples, accounting, timing))
        elif segment.side == "host":
            launches = launches_of(mapped.graph[name] for name in segment.nodes)
            work = host.latency_us(macs.get(segment.name, 0), launches, segment.name)
            starting = None if work is None else host.launching_us(launches)
            times.append(SegmentTime(segment.name, "host", 0, work, launching_us=starting))
    link = mapped.target.link
    alone = Latency(
        tuple(times),
        messages_us=sum(messages) / samples * link.message_us,
        exchange_us=len(loads) * link.exchange_us,
        sample_us=resets * link.sample_us if loads else NO_TIME,
    )
    tasks = run_tasks(mapped, loads) if tasks is None else tasks
    on_host = _host_us(mapped, tasks, layers, alone.segments, host)
    lasting: dict[str, Floats] = {}
    crossed = (count / samples * link.message_us for count in messages)
    on_chip = {time.name: time for time in times if time.side == "chip"}
    for at, (load, crossing) in enumerate(zip(loads, crossed, strict=True)):
        time = on_chip[load.segment]
        assert time.work_us is not None
        run = time.work_us + time.barrier_us + time.management_us + crossing + link.exchange_us
        run += link.sample_us if 0 < at < resets else 0.0  # the first is before anything begins
        lasting[load.segment] = np.array([run.value, run.low, run.high])
    by_side = {"host": on_host, "chip": lasting}
    us = np.array([by_side[task.side].get(task.name, np.zeros(3)) for task in tasks])
    host_high = np.array([[task.side == "host"] for task in tasks])
    value, low, high = us.T[:, :, None]
    ways = value, low, high, np.where(host_high, high, low), np.where(host_high, low, high)
    done = timeline(tasks, np.hstack(ways))
    return replace(alone, overlap=Overlap(*done.overlap.tolist()), slots=_slots(tasks, done))


def run_tasks(mapped: Mapped, loads: Iterable[SegmentLoad]) -> tuple[Task, ...]:
    """What host and chips do for a sample, for :func:`latency`."""
    nodes = {segment.name: segment.nodes for segment in mapped.partition.segments}
    runs = {
        load.segment: [name for part in load.segments for name in nodes[part]] for load in loads
    }
    return tasks_of(mapped.graph, runs)


def node_us(tasks: Iterable[Task], macs: Mapping[str, int], host: Host) -> dict[str, Floats]:
    """What each task on the host takes by its profile, by name: value, low and high, in µs.

    Args:
        tasks: from :func:`hwsim.price.timeline.tasks_of`.
        macs: multiply-accumulates of a sample by node.
        host: the host; where its speed is not known, the result is empty.
    """
    profile = msgspec.structs.replace(host, measured={})
    start, multiply = profile.latency_us(0, 1), profile.latency_us(1, 0)
    if start is None or multiply is None:
        return {}
    launch, mac = (np.array([unit.value, unit.low, unit.high]) for unit in (start, multiply))
    return {
        task.name: launches_of(task.nodes) * launch
        + sum(macs.get(node.name, 0) for node in task.nodes) * mac
        for task in tasks
        if task.side == "host"
    }


def _host_us(
    mapped: Mapped,
    tasks: Iterable[Task],
    layers: Iterable[LayerCounts],
    times: Iterable[SegmentTime],
    host: Host,
) -> dict[str, Floats]:
    """The same of nodes in host segments; of a measured host their parts of the segment's time."""
    macs = {layer.name: layer.host_macs for layer in layers if layer.side == "host"}
    where = {n: s.name for s in mapped.partition.on_host for n in s.nodes}
    found = {name: us for name, us in node_us(tasks, macs, host).items() if name in where}
    if not host.measured:
        return found
    found = {name: us[:1] for name, us in found.items()}
    whole: dict[str, Floats] = {}
    for name, us in found.items():
        whole[where[name]] = whole.get(where[name], np.zeros(1)) + us
    took = {
        time.name: np.array([time.work_us.value, time.work_us.low, time.work_us.high])
        for time in times
        if time.side == "host" and time.work_us is not None
    }
    return {
        name: took[where[name]] * (us / whole[where[name]])
        for name, us in found.items()
        if whole[where[name]] > 0
    }


def _slots(tasks: Iterable[Task], done: Timeline) -> tuple[Slot, ...]:
    """The tasks that take time, in the order of their starts."""
    ends = zip(tasks, done.starts.tolist(), done.ends.tolist(), strict=True)
    found = [Slot(task.name, task.side, a, b) for task, a, b in ends if b > a]
    return tuple(sorted(found, key=lambda slot: slot.start))
