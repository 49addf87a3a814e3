"""How long steps are if every message of some samples is followed: the timing model "events".

Cores and links are queues (:mod:`hwsim.price.queues`); what the samples say is how much longer each
step is than at the mean of their counts, and what it waited for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from has8.errors import BadInput
from hwsim.activity import Activity
from hwsim.names import RunMode, Timing
from hwsim.price.messages import Messages, messages_of
from hwsim.price.queues import ENDLESS, Floats, Jobs, Network, Times, times
from hwsim.price.timing import at_mean_ns, link_name
from hwsim.price.traffic import NEURONS, SegmentLoad
from hwsim.price.turns import Part, turns
from mapping.chip.wiring import Ints
from mapping.cores.routes import Route, routes
from mapping.mapped import Mapped
from mapping.targets.arithmetic import FigureArray
from mapping.targets.prices import Accounting
from mapping.targets.schema import Target
from mapping.targets.topology import Topology

AT_ONCE = 1 << 22
"""Messages and neurons times steps that are in memory at a time, about."""

NO_PAUSE_NS = 1e-6
"""What is not longer is rounding."""

Waits = tuple[Mapping[str, float], ...]


@dataclass(frozen=True, eq=False, slots=True)
class EventTiming:
    """Steps that are as much longer than at the mean of all counts as in the samples followed.

    Args:
        longer: how much longer each step is, ``float64[steps + depth]``, by the accounting's
            description and by what has its sample.
        waits: nanoseconds of what the steps waited for, by the same.
    """

    name: ClassVar[Timing] = "events"

    longer: Mapping[tuple[str, str], Floats]
    waits: Mapping[tuple[str, str], Waits]

    def step_ns(
        self, load: SegmentLoad, samples: int, accounting: Accounting, target: Target
    ) -> FigureArray:
        """Nanoseconds of each chip step; ranges and draws of prices scale what was followed."""
        longer = self.longer[accounting.description, load.segment]
        return at_mean_ns(load, samples, accounting, target) * longer

    def waits_ns(
        self, load: SegmentLoad, samples: int, accounting: Accounting, target: Target
    ) -> Waits:
        """Of each step its longest chain of events, by core and link, mean over the samples."""
        return self.waits[accounting.description, load.segment]


def event_timing(
    mapped: Mapped,
    loads: Sequence[SegmentLoad],
    apart: Sequence[Activity],
    run_mode: RunMode,
) -> EventTiming:
    """Follow every message of some samples, by the prices of each of the target's accountings.

    Args:
        mapped: the mapping that ran.
        loads: of its runs on the chip, with those of these samples alone.
        apart: of single samples.
        run_mode: how chip segments take turns.

    Raises:
        BadInput: if there is no sample.
    """
    if not apart:
        raise BadInput(
            "timing 'events' follows the messages of single samples, and none was run alone: "
            "simulate with apart=8, or take timing 'mean'"
        )
    ways, target = tuple(routes(mapped.placement, mapped.chip_segments)), mapped.target
    longer: dict[tuple[str, str], Floats] = {}
    waits: dict[tuple[str, str], Waits] = {}
    for turn, load in zip(turns(mapped, run_mode), loads, strict=True):
        found = [followed(mapped, turn.parts(one), turn.steps, ways) for one in apart]
        joint = load.joint
        for name, accounting in target.accountings.items():
            key = accounting.description, load.segment
            even = at_mean_ns(joint, len(apart), accounting, target).value
            ends = np.mean([one[name].ends for one in found], axis=0)
            longer[key] = np.divide(ends, even, out=np.ones_like(even), where=even > 0)
            waits[key] = tuple(
                _mean([one[name].waits[step] for one in found]) for step in range(turn.steps)
            )
    return EventTiming(longer, waits)


def _mean(waits: Sequence[Mapping[str, float]]) -> Mapping[str, float]:
    total: defaultdict[str, float] = defaultdict(float)
    for one in waits:
        for name, ns in one.items():
            total[name] += ns
    return {name: ns / len(waits) for name, ns in total.items()}


@dataclass(frozen=True, eq=False, slots=True)
class Followed:
    """How one run of one sample went.

    Args:
        ends: when each step had nothing left to do, nanoseconds, ``float64[steps]``.
        waits: of each step its longest chain of events, nanoseconds by core and link.
    """

    ends: Floats
    waits: Waits


def followed(
    mapped: Mapped, parts: Mapping[str, Part], steps: int, ways: Sequence[Route]
) -> dict[str, Followed]:
    """How one run of one sample goes, by accounting.

    Args:
        mapped: the mapping that ran.
        parts: what takes part, of one sample.
        steps: chip steps of the run.
        ways: all routes.
    """
    ends: defaultdict[str, list[Floats]] = defaultdict(list)
    waits: defaultdict[str, list[Mapping[str, float]]] = defaultdict(list)
    for messages in _in_pieces(mapped, parts, steps, ways):
        for name, accounting in mapped.target.accountings.items():
            network, jobs = network_of(mapped, accounting), jobs_of(messages, accounting)
            went = times(network, jobs)
            ends[name].append(went.ends(jobs))
            some = range(len(messages.first) - 1)
            waits[name] += [longest_chain(network, jobs, went, step) for step in some]
    return {name: Followed(np.concatenate(ends[name]), tuple(waits[name])) for name in ends}


def journeys(
    mapped: Mapped, activity: Activity, run_mode: RunMode, accounting: Accounting
) -> Iterator[tuple[Network, tuple[tuple[Jobs, Times], ...]]]:
    """When each message of one sample was where, run by run on the chip and step by step.

    Args:
        mapped: the mapping that ran.
        activity: of one sample.
        run_mode: how chip segments take turns.
        accounting: one of the target's.
    """
    ways = tuple(routes(mapped.placement, mapped.chip_segments))
    network = network_of(mapped, accounting)
    for turn in turns(mapped, run_mode):
        pieces = _in_pieces(mapped, turn.parts(activity), turn.steps, ways)
        every = (jobs_of(messages, accounting) for messages in pieces)
        yield network, tuple(step for jobs in every for step in _steps(network, jobs))


def _steps(network: Network, jobs: Jobs) -> Iterator[tuple[Jobs, Times]]:
    """Each step's messages, and when they were where."""
    went = times(network, jobs)
    for start, stop in pairwise(jobs.first.tolist()):
        here = slice(start, stop)
        alone = Jobs(
            np.array([0, stop - start]),
            jobs.sender[here],
            jobs.dest[here],
            jobs.gap[here],
            jobs.service[here],
        )
        moments = (went.ready, went.sent, went.arrived, went.done)
        yield alone, Times(*(moment[here] for moment in moments))


def _in_pieces(
    mapped: Mapped, parts: Mapping[str, Part], steps: int, ways: Sequence[Route]
) -> Iterator[Messages]:
    """The messages of a run, of as many steps at a time as memory shall hold."""
    neurons = sum(tile.size for tile in mapped.placement.tiles if tile.segment in parts)
    count = max(1, AT_ONCE // max(1, neurons))
    for start in range(0, steps, count):
        yield messages_of(mapped, parts, ways, range(start, min(start + count, steps)))


def jobs_of(messages: Messages, accounting: Accounting) -> Jobs:
    """Messages with the times that an accounting gives to their events."""
    price, error = accounting.events, accounting.time_error.value
    service, gap = np.zeros(len(messages.sender)), np.zeros(len(messages.sender))
    for event, counts in messages.events.items():
        into = gap if event in NEURONS else service
        into += counts * (price[event].ns.value * error)
    return Jobs(messages.first, messages.sender, messages.dest, gap, service)


def network_of(mapped: Mapped, accounting: Accounting) -> Network:
    """The routers between the cores in use, with an accounting's times of hops."""
    chip, cores, price = mapped.target.chip, mapped.placement.cores, accounting.events
    topology = Topology.of(chip)
    width = max((core.x for core in cores), default=0) + 1
    height = max((core.y for core in cores), default=0) + 1
    y, x = (along.ravel() for along in np.indices((height, width)))
    hold = np.full((height * width, 4), 1 / chip.tile_spikes_per_ns.value)
    for direction, (to_x, to_y) in enumerate(((1, 0), (-1, 0), (0, 1), (0, -1))):
        crosses = topology.chip_at(x, y) != topology.chip_at(x + to_x, y + to_y)
        hold[crosses, direction] *= chip.chip_link_slowdown.value
    hops = [price["hop_east_west"].ns.value] * 2 + [price["hop_north_south"].ns.value] * 2
    return Network(
        width,
        np.array([core.y * width + core.x for core in cores], np.int64),
        hold.ravel(),
        np.tile(hops, height * width),
        chip.link_buffer or ENDLESS,
        accounting.overlaps,
    )


def longest_chain(network: Network, jobs: Jobs, went: Times, step: int) -> dict[str, float]:
    """What the end of a step waited for, one after another: its critical path.

    Seen from the end: a core that took messages in without a pause, back to the first of these; the
    way of that one; its sender, whose messages had to wait until there was room.
    """
    some = slice(int(jobs.first[step]), int(jobs.first[step + 1]))
    if some.start == some.stop:
        return {}
    sender, dest, done = jobs.sender[some], jobs.dest[some], went.done[some]
    sent, held = went.sent[some], went.sent[some] - went.ready[some]
    path: defaultdict[str, float] = defaultdict(float)
    last = int(done.argmax())
    if dest[last] >= 0:
        own = np.flatnonzero(dest == dest[last])
        own = own[np.argsort(done[own], kind="stable")]
        paused = np.flatnonzero((done - jobs.service[some])[own][1:] > done[own][:-1] + NO_PAUSE_NS)
        first = int(own[paused[-1] + 1 if len(paused) else 0])
        arrived = float(went.arrived[some][first])
        path[f"core {dest[last]}"] += float(done[last]) - arrived
        last = first
        if sender[last] == len(network.where):
            return dict(path)
        path[_busiest_link(network, sender, dest, last)] += arrived - float(sent[last])
    before = np.flatnonzero(sender == sender[last])
    before = before[before <= last]
    stopped = float(held[before].sum())
    path[f"core {sender[last]}"] += float(sent[last]) - stopped
    if stopped > NO_PAUSE_NS:
        longest = int(before[held[before].argmax()])
        path[_busiest_link(network, sender, dest, longest)] += stopped
    return dict(path)


def _busiest_link(network: Network, sender: Ints, dest: Ints, message: int) -> str:
    """Of the links that a message passes the one that most of the step's pass; its core if none."""
    on_chip = (sender < len(network.where)) & (dest >= 0)
    ends = (network.where[of[on_chip]] for of in (sender, dest))
    (y, x), (to_y, to_x) = (np.divmod(end, network.width) for end in ends)
    at = int(on_chip[:message].sum())
    counts: dict[str, int] = {}
    here = [int(x[at]), int(y[at])]
    for axis, start, stop, line in ((0, x, to_x, y), (1, y, to_y, to_x)):
        step = 1 if stop[at] > start[at] else -1
        for place in range(int(start[at]), int(stop[at]), step):
            passes = (step * start <= step * place) & (step * place < step * stop)
            before = here[0], here[1]
            here[axis] += step
            name = link_name(before, (here[0], here[1]))
            counts[name] = int((passes & (line == line[at])).sum())
    return max(counts, key=lambda name: counts[name], default=f"core {dest[message]}")
