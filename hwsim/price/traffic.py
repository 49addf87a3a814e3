"""What each core of a chip segment has to do in each step, and what travels between cores.

A spike is one message for each tile that it reaches. A segment runs its layers as a pipeline: a
layer ``depth`` connections behind the host handles a sample's step t in chip step ``t + depth``.
A message leaves in the chip step in which its neuron fires. It arrives and its synapses are read in
the same step, whose barrier waits for it (SANA-FE, whose times were regressed so on a board), and
they act on the target's neurons in the next step or later: on Loihi a delay is a field of the
synapse's word (nengo-loihi), and longer ones leave their target's core fewer compartments (Davies
et al. 2018), so the weight waits there. A shortcut's does too, for the layers that it skips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hwsim.activity import Activity
from mapping.chip.segment import ChipSegment
from mapping.chip.wiring import Axis, Ints, Shape3, Wiring, shape3, taps
from mapping.cores.routes import Route, routes
from mapping.graph.ops import synapse_of
from mapping.mapped import Mapped
from mapping.targets.prices import Event
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

ChipLink = tuple[tuple[int, int], tuple[int, int]]
"""A link between neighbouring chips: x and y of the router that it leaves, and that it enters."""


@dataclass(frozen=True, slots=True)
class SegmentLoad:
    """The events of one chip segment, summed over the samples of a run; all exact.

    Args:
        segment: its name.
        steps: steps of one sample.
        depth: connections on the longest way through it; it runs ``steps + depth`` chip steps.
        by_core: what each core in use does in each chip step, ``int64[cores, steps + depth]``
            for each of :data:`CORE_EVENTS`; cores of other segments only visit their neurons.
        from_host: messages that spikes from the host make.
        between_tiles: messages between the segment's tiles.
        to_host: messages that spikes for the host make.
        hops_east_west: routers that the messages between tiles pass along x.
        hops_north_south: routers that they pass along y.
        chip_crossings: how often they leave a chip; these are among ``hops_east_west``.
        ways: (routers along x, routers along y) of every way that a message took.
        chip_links: messages over each link between chips in each chip step.
    """

    segment: str
    steps: int
    depth: int
    by_core: Mapping[Event, Ints]
    from_host: int = 0
    between_tiles: int = 0
    to_host: int = 0
    hops_east_west: int = 0
    hops_north_south: int = 0
    chip_crossings: int = 0
    ways: frozenset[tuple[int, int]] = frozenset()
    chip_links: Mapping[ChipLink, Ints] = field(default_factory=dict)

    @property
    def messages(self) -> int:
        """All messages."""
        return self.from_host + self.between_tiles + self.to_host

    def times(self, activity: float) -> SegmentLoad:
        """The same with so many times the spikes; visits of neurons stay."""

        def more(counts: Ints) -> Ints:
            scaled: Ints = np.rint(counts * activity).astype(np.int64)
            return scaled

        numbers = ("from_host", "between_tiles", "to_host", "hops_east_west", "hops_north_south")
        return replace(
            self,
            by_core={
                event: counts if event == "neuron_access" else more(counts)
                for event, counts in self.by_core.items()
            },
            chip_links={link: more(counts) for link, counts in self.chip_links.items()},
            chip_crossings=round(self.chip_crossings * activity),
            **{name: round(getattr(self, name) * activity) for name in numbers},
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


def segment_loads(mapped: Mapped, activity: Activity) -> tuple[SegmentLoad, ...]:
    """What each chip segment did, core by core and step by step.

    Args:
        mapped: the mapping that ran.
        activity: of the run.

    Raises:
        KeyError: if the activity is not that of this mapping.
        BadInput: if a loop has fewer steps of delay than connections, so that no chip is in time.
    """
    tallies = {chip.name: _Tally(mapped, chip, activity) for chip in mapped.chip_segments}
    for route in routes(mapped.placement, mapped.chip_segments):
        tallies[route.segment].add(route)
    return tuple(tally.load() for tally in tallies.values())


class _Tally:
    """The counts of one segment while its routes are walked."""

    def __init__(self, mapped: Mapped, chip: ChipSegment, activity: Activity) -> None:
        self.chip, self.placement, self.activity = chip, mapped.placement, activity
        self.topology, placement = Topology.of(mapped.target.chip), mapped.placement
        self.synapses = {synapse.name: synapse for _, synapse in chip.synapses()}
        self.prices = {name: synapse_of(mapped.graph[name]).price for name in self.synapses}
        self.depth = chip.depths()
        self.deepest = max(self.depth.values())
        shape = (placement.cores_used, chip.steps + self.deepest)
        self.by_core: dict[Event, Ints] = {
            event: np.zeros(shape, np.int64) for event in (*CORE_EVENTS, *self.prices.values())
        }
        for tile in placement.tiles:  # every compartment is visited in every step
            self.by_core["neuron_access"][tile.core] += tile.compartments * activity.samples
        self.from_host = self.between = self.to_host = 0
        self.hops = np.zeros(3, np.int64)
        self.ways: set[tuple[int, int]] = set()
        self.chip_links: dict[ChipLink, Ints] = {}
        for place, tile in enumerate(placement.tiles):
            if tile.segment == chip.name:
                self._add_neurons(place)

    def _window(self, population: str) -> slice:
        """The chip steps in which a layer works on the sample."""
        return slice(self.depth[population], self.depth[population] + self.chip.steps)

    def _add_neurons(self, place: int) -> None:
        tile = self.placement.tiles[place]
        row, window = tile.core, self._window(tile.population)
        block = (slice(None), *map(slice, tile.start, tile.stop))
        visits = np.full(self.chip.steps, tile.compartments * self.activity.samples, np.int64)
        updated = self.activity.updated.get(tile.population)
        each = tile.compartments // tile.size
        spikes = _over_neurons(self.activity.events[tile.population][block])
        self.by_core["neuron_update"][row, window] += (
            visits if updated is None else each * _over_neurons(updated[block])
        )
        self.by_core["neuron_spike"][row, window] += spikes
        if tile.population in self.chip.outputs:
            self.by_core["message_out"][row, window] += spikes
            self.to_host += int(spikes.sum())

    def add(self, route: Route) -> None:
        """Count the messages of one route and the synapses that they reach."""
        synapse, tile = self.synapses[route.synapse], self.placement.tiles[route.destination]
        events = self.activity.events[route.source]
        messages, synops = _arrivals(synapse.wiring, events, route.indices, tile.start, tile.stop)
        row, window = tile.core, self._window(route.source)
        self.by_core["message_in"][row, window] += messages
        self.by_core[self.prices[synapse.name]][row, window] += synops
        if route.sender is None:
            self.from_host += int(messages.sum())
        elif messages.any():
            self._send(route, messages)

    def _send(self, route: Route, messages: Ints) -> None:
        """Count a route between two tiles of the chip at its sender and along its way."""
        assert route.sender is not None
        numbers = [self.placement.tiles[place].core for place in (route.sender, route.destination)]
        start, end = (self.placement.cores[number] for number in numbers)
        window = self._window(route.source)
        links, count = self.topology.route(start, end), int(messages.sum())
        crossings = [link for link in links if link.chips is not None]
        along_x = sum(link.along == "x" for link in links)
        self.by_core["message_out"][numbers[0], window] += messages
        self.between += count
        self.hops += count * np.array((along_x, len(links) - along_x, len(crossings)))
        self.ways.add((along_x, len(links) - along_x))
        for link in crossings:
            empty = np.zeros(self.chip.steps + self.deepest, np.int64)
            self.chip_links.setdefault((link.start, link.end), empty)[window] += messages

    def load(self) -> SegmentLoad:
        """What was counted."""
        east_west, north_south, crossings = map(int, self.hops)
        return SegmentLoad(
            self.chip.name,
            self.chip.steps,
            self.deepest,
            self.by_core,
            self.from_host,
            self.between,
            self.to_host,
            east_west,
            north_south,
            crossings,
            frozenset(self.ways),
            self.chip_links,
        )


def _arrivals(
    wires: Wiring,
    events: Ints,
    indices: tuple[Ints, Ints, Ints],
    start: tuple[int, ...],
    stop: tuple[int, ...],
) -> tuple[Ints, Ints]:
    """Messages and synaptic operations that some source neurons cause in a tile.

    Args:
        wires: between source and population.
        events: spikes of the source, ``int64[T, *shape]``.
        indices: channels, rows and columns of the neurons that send.
        start: of the tile.
        stop: of the tile.

    Returns:
        Messages and synaptic operations, ``int64[T]`` each.
    """
    source = (wires.channels_in, wires.rows.size_in, wires.cols.size_in)
    spikes = events.reshape(-1, *source)
    for axis, picked in enumerate(indices, 1):
        spikes = spikes[(slice(None),) * axis + (_as_slice(picked),)]
    first, last = _block(start, stop)
    per_col = _targets(wires.cols, first[2], last[2])[indices[2]]
    per_row = _targets(wires.rows, first[1], last[1])[indices[1]]
    per_channel = _channel_targets(wires, first[0], last[0])[indices[0]]
    synops: Ints = ((spikes @ per_col) @ per_row) @ per_channel
    return _over_neurons(spikes), synops


def _block(start: tuple[int, ...], stop: tuple[int, ...]) -> tuple[Shape3, Shape3]:
    """A tile's first neuron, and one past its last, in three axes."""
    channel, row, col = (*start, 0, 0)[:3]
    return (channel, row, col), shape3(stop)


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


def _over_neurons(counts: NDArray[np.int64]) -> Ints:
    """The sum over all axes but the first."""
    summed: Ints = counts.reshape(len(counts), -1).sum(1, dtype=np.int64)
    return summed
