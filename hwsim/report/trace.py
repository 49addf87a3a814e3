"""A sample's timeline for Perfetto (ui.perfetto.dev), in Chrome's JSON trace event format.

Tracks are what the host does, its link, the steps of the chips with what each waits for, and two
of each core: its neurons, and the messages that it takes in. The timing model "events" places them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hwsim.price.cost import CostReport
from hwsim.price.event_timing import NO_PAUSE_NS, journeys, longest_chain
from hwsim.price.queues import Floats, Jobs, Network, Times
from hwsim.price.timing import SegmentTime, barrier_ns
from hwsim.price.traffic import SegmentLoad
from mapping.mapped import Mapped

HOST, LINK, STEPS, MESH, CHIPS = range(1, 6)
"""Numbers of the processes: of the chips the first one's, which the others' follow."""

PROCESSES = {
    HOST: "host",
    LINK: "link to the host",
    STEPS: "chip steps",
    MESH: "messages under way",
}


@dataclass
class Trace:
    """Slices on tracks, in microseconds, sample after sample.

    Args:
        slices: Chrome's complete events ("X").
        tracks: the name of each (process, thread).
        now: where the next slice of the host, its link or a step begins.
    """

    slices: list[dict[str, Any]] = field(default_factory=list)
    tracks: dict[tuple[int, int], str] = field(default_factory=dict)
    now: float = 0.0

    def add(self, cost: CostReport) -> None:
        """A sample behind those that are there.

        Args:
            cost: of one sample by the timing "events", from :func:`hwsim.estimate`.
        """
        work, time = cost.work, cost.price.latency
        accounting, each = work.mapped.target.accounting(), len(cost.loads)
        runs = dict(zip((load.segment for load in cost.loads), cost.loads, strict=True))
        went = journeys(work.mapped, work.activity, cost.run_mode, accounting)
        resets, link = each if cost.run_mode == "reset" else 1, work.mapped.target.link
        segments, end = {one.name: one for one in time.segments}, self.now + time.total_us.value
        if each:
            self._last(STEPS, 0, "steps", "start and reset", link.sample_us.value)
        start = self.now
        began = 0
        for slot in time.slots:
            self.now = start + slot.start
            if slot.side == "host":
                self._last(HOST, 0, "host", slot.name, slot.end - slot.start)
                continue
            segment, load = segments[slot.name], runs[slot.name]
            coming, leaving = crossing(cost, load)
            if 0 < began < resets:
                self._last(STEPS, 0, "steps", "start and reset", link.sample_us.value)
            began += 1
            self._last(LINK, 0, "link", "exchange", link.exchange_us.value)
            inside = coming * link.message_us.value
            self._last(LINK, 0, "link", "messages in", inside, messages=coming)
            self._run(cost, segment, load, *next(went))
            outside = leaving * link.message_us.value
            self._last(LINK, 0, "link", "messages out", outside, messages=leaving)
        self.now = end

    def to_dict(self) -> dict[str, Any]:
        """What Perfetto opens, as plain dictionaries, lists, strings and numbers."""
        chips = {pid: f"chip {pid - CHIPS}" for pid, _ in self.tracks if pid >= CHIPS}
        names = {**PROCESSES, **chips}
        used = sorted({pid for pid, _ in self.tracks})
        about = [_named("process_name", pid, 0, name=names[pid]) for pid in used]
        about += [_named("process_sort_index", pid, 0, sort_index=pid) for pid in used]
        for (pid, tid), name in sorted(self.tracks.items()):
            about.append(_named("thread_name", pid, tid, name=name))
            about.append(_named("thread_sort_index", pid, tid, sort_index=tid))
        return {"traceEvents": [*about, *self.slices], "displayTimeUnit": "ns"}

    def _slice(
        self, pid: int, tid: int, track: str, name: str, start: float, us: float, **args: Any
    ) -> None:
        """A slice of a track, unless it lasts no time."""
        if us > 0:
            self.tracks[pid, tid] = track
            place = {"pid": pid, "tid": tid, "ts": start, "dur": us}
            self.slices.append({"name": name, "ph": "X", **place, "args": args})

    def _last(self, pid: int, tid: int, track: str, name: str, us: float, **args: Any) -> None:
        """A slice that everything behind it waits for."""
        self._slice(pid, tid, track, name, self.now, us, **args)
        self.now += us

    def _run(
        self,
        cost: CostReport,
        segment: SegmentTime,
        load: SegmentLoad,
        network: Network,
        steps: Sequence[tuple[Jobs, Times]],
    ) -> None:
        """One run on the chip, step by step."""
        mapped = cost.work.mapped
        chips, cores, names = mapped.placement.chips_used, mapped.placement.cores, _names(mapped)
        barrier = barrier_ns(mapped.target, mapped.target.accounting(), load.routers, chips)
        for number, (jobs, went) in enumerate(steps):
            end = float(went.ends(jobs)[0]) / 1e3
            for core, name in enumerate(names):
                self._core(CHIPS + cores[core].chip, core, name, jobs, went)
            self._mesh(network, jobs, went)
            chain, at = longest_chain(network, jobs, went, 0), self.now
            for name, ns in reversed(chain.items()):
                self._slice(STEPS, 1, "longest chain", name, at, ns / 1e3)
                at += ns / 1e3
            about = {
                "segment": segment.name,
                "step": number,
                "messages": int((jobs.dest >= 0).sum()),
            }
            self._last(STEPS, 0, "steps", f"step {number}", end, **about)
            over = barrier.value / 1e3
            if mapped.target.accounting().read_ns is not None:  # it runs while all others do
                over = max(0.0, over - end)
            self._last(STEPS, 0, "steps", "barrier", over)
            self._last(STEPS, 0, "steps", "management", mapped.target.link.step_us.value)

    def _core(self, pid: int, core: int, name: str, jobs: Jobs, went: Times) -> None:
        """What a core does in a step: its neurons, and the messages that it takes in."""
        own = np.flatnonzero(jobs.sender == core)
        starts, ends = (went.ready - jobs.gap)[own], went.ready[own]
        for start, end, _ in _joined(starts, ends):
            place = self.now + start / 1e3, (end - start) / 1e3
            self._slice(pid, 2 * core, f"{name} neurons", "neurons", *place)
        own = np.flatnonzero(jobs.dest == core)
        own = own[np.argsort(went.done[own], kind="stable")]
        starts, ends = (went.done - jobs.service)[own], went.done[own]
        for start, end, messages in _joined(starts, ends):
            place = self.now + start / 1e3, (end - start) / 1e3
            track = f"{name} messages"
            self._slice(pid, 2 * core + 1, track, "messages", *place, messages=messages)

    def _mesh(self, network: Network, jobs: Jobs, went: Times) -> None:
        """When a router's cores have messages under way, those that wait for room included."""
        on_chip = (jobs.sender < len(network.where)) & (jobs.dest >= 0)
        routers = np.where(on_chip, network.where[np.where(on_chip, jobs.sender, 0)], -1)
        for router in np.unique(routers[on_chip]).tolist():
            own = np.flatnonzero(routers == router)
            own = own[np.argsort(went.ready[own], kind="stable")]
            y, x = divmod(router, network.width)
            for start, end, messages in _joined(went.ready[own], went.arrived[own]):
                place = self.now + start / 1e3, (end - start) / 1e3
                track = f"from router {x},{y}"
                self._slice(MESH, router, track, "under way", *place, messages=messages)


def _names(mapped: Mapped) -> list[str]:
    """What each core is called, with its layers."""
    layers: list[dict[str, None]] = [{} for _ in mapped.placement.cores]
    for tile in mapped.placement.tiles:
        layers[tile.core][tile.population] = None
    return [f"core {core} ({', '.join(own)})" for core, own in enumerate(layers)]


def _joined(starts: Floats, ends: Floats) -> Iterator[tuple[float, float, int]]:
    """Intervals that meet or overlap as one, in the order of their starts, and how many each is."""
    if not len(starts):
        return
    reach = np.maximum.accumulate(ends)
    first = np.flatnonzero(np.append(True, starts[1:] > reach[:-1] + NO_PAUSE_NS))
    stops = np.append(first[1:], len(starts))
    for start, stop in zip(first.tolist(), stops.tolist(), strict=True):
        yield float(starts[start]), float(reach[stop - 1]), stop - start


def crossing(cost: CostReport, load: SegmentLoad) -> tuple[int, int]:
    """Messages between host and chip of one run, in and out, over its samples."""
    own = [one for one in cost.boundaries if one.segment in load.segments]
    coming = load.from_host + load.controls + sum(one.writes for one in own)
    return coming, load.to_host + sum(one.reads for one in own)


def _named(what: str, pid: int, tid: int, **args: Any) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": args}
