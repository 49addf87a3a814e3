"""What each core has to do in each step of a run on the chip, and what travels between cores.

A spike is one message for each tile that it reaches. A segment runs its layers as a pipeline: a
layer ``depth`` connections behind the host handles a sample's step t in chip step ``t + depth``.
A message leaves in the chip step in which its neuron fires. It arrives and its synapses are read in
the same step, whose barrier waits for it (SANA-FE, whose times were regressed so on a board), and
they act on the target's neurons in the next step or later: on Loihi a delay is a field of the
synapse's word (nengo-loihi), and longer ones leave their target's core fewer compartments (Davies
et al. 2018), so the weight waits there. A shortcut's does too, for the layers that it skips.

:mod:`hwsim.price.turns` says who works in which of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from hwsim.activity import Activity
from hwsim.names import DEFAULT_RUN_MODE, RunMode
from hwsim.price.turns import Turn, turns
from mapping.chip.segment import ChipSegment, Synapse
from mapping.chip.wiring import Axis, Ints, Wiring, shape3, taps
from mapping.cores.allocate import Tile
from mapping.cores.lists import list_words
from mapping.cores.placement import Placement
from mapping.cores.routes import Route, routes
from mapping.graph.ops import synapse_of
from mapping.mapped import Mapped
from mapping.targets.prices import Event
from mapping.targets.schema import Packing
from mapping.targets.topology import Topology

CORE_EVENTS: tuple[Event, ...] = (
    "synop_conv",
    "synop_dense",
    "neuron_access",
    "neuron_update",
    "neuron_spike",
    "message_in",
    "message_out",
)
"""Events that take a core's time."""

NEURONS: tuple[Event, ...] = ("neuron_access", "neuron_update", "neuron_spike", "message_out")
"""Of these, the events of a core's neurons; the others are of the messages that reach it."""

Link = tuple[tuple[int, int], tuple[int, int]]
"""A link between neighbours: x and y of the router that it leaves, and that it enters."""


@dataclass(frozen=True)
class SegmentLoad:
    """The events of one run on the chip, summed over the samples; all exact.

    Args:
        segments: that have their sample, one but in the mode "pipeline".
        steps: steps of one sample.
        depth: connections on the longest way through; it takes ``steps + depth`` chip steps.
        by_core: what each core in use does in each chip step, ``int64[cores, steps + depth]``
            for each of :data:`CORE_EVENTS`.
        routers: those with a core that takes part, on the chip that has the most of them.
        controls: what the host writes to start and stop cores, or to take back biases.
        idle: updates and spikes of neurons that have no sample, by population.
        from_ports: messages that spikes from the host make, by segment and port.
        between_tiles: messages between tiles.
        to_host: messages that spikes for the host make.
        graded: how many of those from and to the host carry a payload.
        hops_east_west: routers that the messages between tiles pass along x.
        hops_north_south: routers that they pass along y.
        chip_crossings: how often they leave a chip; these are among ``hops_east_west``.
        ways: (routers along x, routers along y) of every way that a message took.
        chip_links: messages over each link between chips in each chip step.
        reads: words of synapse memory that each core reads in each chip step, as ``by_core``; None
            where no accounting asks.
        mesh_links: messages over each link on a chip in each chip step; none where none asks.
        apart: the same of some samples alone.
    """

    segments: tuple[str, ...]
    steps: int
    depth: int
    by_core: Mapping[Event, Ints]
    routers: int
    controls: int = 0
    idle: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    from_ports: Mapping[tuple[str, str], int] = field(default_factory=dict)
    between_tiles: int = 0
    to_host: int = 0
    graded: int = 0
    hops_east_west: int = 0
    hops_north_south: int = 0
    chip_crossings: int = 0
    ways: frozenset[tuple[int, int]] = frozenset()
    chip_links: Mapping[Link, Ints] = field(default_factory=dict)
    reads: Ints | None = None
    mesh_links: Mapping[Link, Ints] = field(default_factory=dict)
    apart: tuple[SegmentLoad, ...] = ()

    @property
    def segment(self) -> str:
        """The name of what has its sample."""
        return " and ".join(self.segments)

    @property
    def from_host(self) -> int:
        """Messages that spikes from the host make: one for each tile that a spike reaches."""
        return sum(self.from_ports.values())

    @property
    def messages(self) -> int:
        """All messages of spikes."""
        return self.from_host + self.between_tiles + self.to_host

    def times(self, activity: float) -> SegmentLoad:
        """The same with so many times the spikes; visits of neurons stay."""

        def more(counts: Ints) -> Ints:
            scaled: Ints = np.rint(counts * activity).astype(np.int64)
            return scaled

        numbers = ("between_tiles", "to_host", "graded", "hops_east_west", "hops_north_south")
        return replace(
            self,
            by_core={
                event: counts if event == "neuron_access" else more(counts)
                for event, counts in self.by_core.items()
            },
            chip_links={link: more(counts) for link, counts in self.chip_links.items()},
            mesh_links={link: more(counts) for link, counts in self.mesh_links.items()},
            reads=None if self.reads is None else more(self.reads),
            chip_crossings=round(self.chip_crossings * activity),
            from_ports={port: round(sent * activity) for port, sent in self.from_ports.items()},
            apart=tuple(one.times(activity) for one in self.apart),
            **{name: round(getattr(self, name) * activity) for name in numbers},
        )

    @cached_property
    def each(self) -> SegmentLoad:
        """Work of the samples that are counted apart, whose axis stands in front in all counts."""
        return self._work(np.stack)

    @cached_property
    def joint(self) -> SegmentLoad:
        """The work of cores and links of the samples that are counted apart, together."""
        ways = frozenset().union(*(one.ways for one in self.apart))
        return replace(self._work(_sum), ways=ways)

    def _work(self, put: Callable[[Sequence[Ints]], Ints]) -> SegmentLoad:
        """This load with the work of the samples that are counted apart, put together somehow."""
        idle = np.zeros(self.steps + self.depth, np.int64)

        def of(links: str) -> Mapping[Link, Ints]:
            each: list[Mapping[Link, Ints]] = [getattr(one, links) for one in self.apart]
            names = dict.fromkeys(link for one in each for link in one)
            return {link: put([one.get(link, idle) for one in each]) for link in names}

        reads = [one.reads for one in self.apart if one.reads is not None]
        return replace(
            self,
            by_core={e: put([one.by_core[e] for one in self.apart]) for e in self.by_core},
            chip_links=of("chip_links"),
            mesh_links=of("mesh_links"),
            reads=put(reads) if reads else None,
            apart=(),
        )

    def events(self) -> dict[Event, int]:
        """How often each event happened; spikes from the host are sent like any other."""
        found = {event: int(counts.sum()) for event, counts in self.by_core.items()}
        found["message_out"] += self.from_host
        return {
            **found,
            "hop_east_west": self.hops_east_west,
            "hop_north_south": self.hops_north_south,
        }


def sent_by_port(loads: Iterable[SegmentLoad]) -> Counter[tuple[str, str]]:
    """Messages that spikes from the host make, by segment and port; 0 for others."""
    sent: Counter[tuple[str, str]] = Counter()
    for load in loads:
        sent.update(load.from_ports)
    return sent


def segment_loads(
    mapped: Mapped,
    activity: Activity,
    run_mode: RunMode = DEFAULT_RUN_MODE,
    apart: Sequence[Activity] = (),
) -> tuple[SegmentLoad, ...]:
    """What each run on the chip did, core by core and step by step.

    Args:
        mapped: the mapping that ran.
        activity: of the run.
        run_mode: how chip segments take turns.
        apart: of some of its samples alone.

    Raises:
        KeyError: if the activity is not that of this mapping.
        BadInput: if a loop has fewer steps of delay than connections, so that no chip is in time,
            or if the host has to work between chip segments of one pipeline.
    """
    runs = turns(mapped, run_mode)
    ways = tuple(routes(mapped.placement, mapped.chip_segments))

    def load(turn: Turn, happened: Activity) -> SegmentLoad:
        tally = _Tally(mapped, happened, turn)
        for way in ways:
            tally.add(way)
        return tally.load(_controls(mapped, happened, turn.chips, run_mode, len(runs)))

    return tuple(
        replace(load(turn, activity), apart=tuple(load(turn, alone) for alone in apart))
        for turn in runs
    )


def _controls(
    mapped: Mapped, activity: Activity, run: Iterable[ChipSegment], run_mode: RunMode, runs: int
) -> int:
    """What the host writes for one run so that others do not disturb it."""
    if runs == 1:
        return 0
    if run_mode == "gated":  # each core is started and stopped
        names = {chip.name for chip in run}
        return 2 * activity.samples * len(_cores(mapped.placement, names))
    ports = [port for chip in run for port in chip.inputs if port.kind == "bias"]
    return sum(int(activity.events[port.name].sum()) for port in ports)


def _cores(placement: Placement, segments: Container[str]) -> set[int]:
    return {tile.core for tile in placement.tiles if tile.segment in segments}


class _Tally:
    """The counts of one run while its routes are walked."""

    def __init__(self, mapped: Mapped, activity: Activity, turn: Turn) -> None:
        self.run, self.placement, self.samples = turn.chips, mapped.placement, activity.samples
        self.topology, placement = Topology.of(mapped.target.chip), mapped.placement
        self.parts = turn.parts(activity)
        self.synapses = {
            synapse.name: synapse
            for part in self.parts.values()
            for _, synapse in part.chip.synapses()
        }
        self.prices = {name: synapse_of(mapped.graph[name]).price for name in self.synapses}
        self.shape = (placement.cores_used, turn.steps)
        self.by_core: dict[Event, Ints] = {
            event: np.zeros(self.shape, np.int64) for event in (*CORE_EVENTS, *self.prices.values())
        }
        self.from_ports: Counter[tuple[str, str]] = Counter()
        self.between = self.to_host = self.graded = 0
        self.idle: dict[str, tuple[int, int]] = {}
        self.hops = np.zeros(3, np.int64)
        self.ways: set[tuple[int, int]] = set()
        self.chip_links: dict[Link, Ints] = {}
        asked = any(one.read_ns is not None for one in mapped.target.accountings.values())
        self.packing = mapped.target.core.packing
        self.reads = np.zeros(self.shape, np.int64) if asked else None
        self.mesh_links: dict[Link, Ints] = {}
        for place, tile in enumerate(placement.tiles):
            if tile.segment in self.parts:
                self._add_neurons(place)

    def _add_neurons(self, place: int) -> None:
        tile = self.placement.tiles[place]
        part, row = self.parts[tile.segment], tile.core
        window = part.windows[tile.population]
        block = (slice(None), *map(slice, tile.start, tile.stop))
        visits = tile.compartments * self.samples
        self.by_core["neuron_access"][row] += visits  # every compartment, in every step
        updated = part.updated.get(tile.population)
        each = tile.compartments // tile.size
        spikes = _over_neurons(part.events[tile.population][block])
        updates = np.full(len(spikes), visits, np.int64)
        if updated is not None:
            updates = each * _over_neurons(updated[block])
        self.by_core["neuron_update"][row, window] += updates
        self.by_core["neuron_spike"][row, window] += spikes
        if tile.population in part.chip.outputs:
            self.by_core["message_out"][row, window] += spikes
            self._to_host(int(spikes.sum()), part.chip, tile.population)
        if part.chip not in self.run:
            before = self.idle.get(tile.population, (0, 0))
            self.idle[tile.population] = (
                before[0] + int(updates.sum()),
                before[1] + int(spikes.sum()),
            )

    def _to_host(self, count: int, chip: ChipSegment, population: str) -> None:
        self.to_host += count
        self.graded += count if chip.payload_of(population).graded else 0

    def add(self, route: Route) -> None:
        """Count the messages of one route and the synapses that they reach, if they are sent."""
        part = self.parts.get(route.segment)
        if part is None or route.source not in part.windows:
            return
        synapse, tile = self.synapses[route.synapse], self.placement.tiles[route.destination]
        events, window = part.events[route.source], part.windows[route.source]
        messages, synops, reads = _arrivals(synapse, events, route, tile, self.packing)
        self.by_core["message_in"][tile.core, window] += messages
        self.by_core[self.prices[synapse.name]][tile.core, window] += synops
        if self.reads is not None:
            self.reads[tile.core, window] += reads
        if route.sender is None:
            count = int(messages.sum())
            self.from_ports[route.segment, route.source] += count
            self.graded += count if part.chip.payload_of(route.source).graded else 0
        elif messages.any():
            self._send(route, messages, window)

    def _send(self, route: Route, messages: Ints, window: slice) -> None:
        """Count a route between two tiles of the chip at its sender and along its way."""
        assert route.sender is not None
        numbers = [self.placement.tiles[place].core for place in (route.sender, route.destination)]
        start, end = (self.placement.cores[number] for number in numbers)
        links, count = self.topology.route(start, end), int(messages.sum())
        crossings = [link for link in links if link.chips is not None]
        along_x = sum(link.along == "x" for link in links)
        self.by_core["message_out"][numbers[0], window] += messages
        self.between += count
        self.hops += count * np.array((along_x, len(links) - along_x, len(crossings)))
        self.ways.add((along_x, len(links) - along_x))
        for link in crossings if self.reads is None else links:
            held = self.mesh_links if link.chips is None else self.chip_links
            empty = np.zeros(self.shape[1], np.int64)
            held.setdefault((link.start, link.end), empty)[window] += messages

    def load(self, controls: int) -> SegmentLoad:
        """What was counted.

        Args:
            controls: what the host writes to keep others from disturbing.
        """
        east_west, north_south, crossings = map(int, self.hops)
        steps = max(chip.steps for chip in self.run)
        return SegmentLoad(
            tuple(chip.name for chip in self.run),
            steps,
            self.shape[1] - steps,
            self.by_core,
            self.placement.routers_of(_cores(self.placement, self.parts)),
            controls,
            self.idle,
            self.from_ports,
            self.between,
            self.to_host,
            self.graded,
            east_west,
            north_south,
            crossings,
            frozenset(self.ways),
            self.chip_links,
            self.reads,
            self.mesh_links,
        )


def _arrivals(
    synapse: Synapse, events: Ints, route: Route, tile: Tile, packing: Packing
) -> tuple[Ints, Ints, Ints]:
    """What some source neurons cause in a tile.

    Args:
        synapse: between source and population.
        events: spikes of the source, ``int64[T, *shape]``.
        route: of the neurons that send.
        tile: that they reach.
        packing: by whose rule memory is read: where kernels are shared, the list of each tap.

    Returns:
        Messages, synaptic operations and words of memory read, ``int64[T]`` each.
    """
    spikes = events.reshape(-1, *route.shape)
    for axis, picked in enumerate(route.indices, 1):
        spikes = spikes[(slice(None),) * axis + (_as_slice(picked),)]
    wires = synapse.wiring
    channels, rows, cols = reached_by(wires, tile.start, tile.stop)
    words = list_words(channels, synapse.weight_bits, packing.header_bits, packing)
    synops: Ints
    reads: Ints
    if route.shape == wires.in_shape:
        c, h, w = route.indices
        near = (spikes @ cols[w]) @ rows[h]
        synops, reads = near @ channels[c], near @ words[c]
    else:  # no combination of rows and columns
        sent, picked = spikes[:, :, 0, 0], route.indices[0]
        synops, reads = (
            sent @ np.einsum("c,h,w->chw", along, rows, cols).reshape(-1)[picked]
            for along in (channels, words)
        )
    return _over_neurons(spikes), synops, reads


def reached_by(
    wires: Wiring, start: tuple[int, ...], stop: tuple[int, ...]
) -> tuple[Ints, Ints, Ints]:
    """How many channels, rows and columns of a tile each of the source's reaches.

    Args:
        wires: between source and population.
        start: of the tile.
        stop: of the tile.
    """
    (channel, row, col), (end, low, right) = (*start, 0, 0)[:3], shape3(stop)
    channels = _channel_targets(wires, channel, end)
    return channels, _targets(wires.rows, row, low), _targets(wires.cols, col, right)


@lru_cache(maxsize=4096)
def _targets(axis: Axis, start: int, stop: int) -> Ints:
    """How many outputs in ``start..stop`` each source along one axis reaches."""
    output = taps(axis)
    counts: Ints = ((output >= start) & (output < stop)).sum(1, dtype=np.int64)
    return counts


@lru_cache(maxsize=4096)
def _channel_targets(wires: Wiring, start: int, stop: int) -> Ints:
    """How many of the output channels ``start..stop`` each source channel reaches."""
    size = wires.channels_out // wires.groups
    first = np.arange(wires.channels_in) // (wires.channels_in // wires.groups) * size
    counts: Ints = np.clip(np.minimum(first + size, stop) - np.maximum(first, start), 0, None)
    return counts


def _as_slice(indices: Ints) -> slice | Ints:
    """Indices that follow one another as a slice, which copies nothing."""
    if len(indices) and indices[-1] - indices[0] == len(indices) - 1:
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices


def _sum(counts: Iterable[Ints]) -> Ints:
    first, *others = counts
    return sum(others, first)


def _over_neurons(counts: NDArray[np.int64]) -> Ints:
    """The sum over all axes but the first."""
    summed: Ints = counts.reshape(len(counts), -1).sum(1, dtype=np.int64)
    return summed
