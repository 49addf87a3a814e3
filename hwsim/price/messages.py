"""Every message of one sample, and what its sender and its destination do for it.

A core goes through its neurons in the order of its tiles and, in each, of the neurons' numbers. One
that fires sends its messages at once, one for each tile that it reaches; then come those for the
host. What the host sends is there when a step begins. All counts are those of
:mod:`hwsim.price.traffic`, message by message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwsim.activity import Counts
from hwsim.price.traffic import CORE_EVENTS, reached_by
from hwsim.price.turns import Part
from mapping.chip.segment import Synapse
from mapping.chip.wiring import Ints
from mapping.cores.allocate import Tile
from mapping.cores.placement import Placement
from mapping.cores.routes import Route
from mapping.graph.ops import synapse_of
from mapping.mapped import Mapped
from mapping.targets.prices import EVENTS, Event


@dataclass(frozen=True, eq=False, slots=True)
class Messages:
    """The messages of some chip steps in compressed rows: of each step, core by core in order.

    Behind the messages of a core stands one for the neurons that are left; it goes nowhere.

    Args:
        first: where each step begins, and where the last ends, ``int64[steps + 1]``.
        sender: the core that sends, a place in ``Placement.cores``; one past the last for the host.
        dest: the core that it reaches; -1 for the host, or where it is none.
        events: what the sender does since its message before, and the destination for it,
            ``int64[messages]`` by event.
    """

    first: Ints
    sender: Ints
    dest: Ints
    events: Mapping[Event, Ints]


def messages_of(
    mapped: Mapped, parts: Mapping[str, Part], ways: Iterable[Route], steps: range
) -> Messages:
    """The messages of some chip steps of a run.

    Args:
        mapped: the mapping that ran.
        parts: what takes part, of one sample, by segment.
        ways: all routes, from :func:`mapping.cores.routes.routes`.
        steps: chip steps.
    """
    neurons = _Neurons(mapped.placement, parts, steps)
    cores = mapped.placement.cores_used
    sent = [*_between(mapped, parts, ways, steps, neurons), *_to_host(parts, steps, neurons)]
    sent.append(neurons.ends())
    step, column, dest, kind, synops = (np.concatenate(one) for one in zip(*sent, strict=True))
    sender = np.where(column < 0, cores, neurons.core[column])
    real = kind != _END
    order = np.lexsort((~real, column, sender, step))
    step, column, dest, kind, synops, sender, real = (
        one[order] for one in (step, column, dest, kind, synops, sender, real)
    )
    on_chip = column >= 0
    since: dict[Event, Ints] = {
        "neuron_access": neurons.visits[column],
        "neuron_update": neurons.updates[step, column],
        "neuron_spike": neurons.spikes[step, column],
    }
    again = np.append(False, (step[1:] == step[:-1]) & (sender[1:] == sender[:-1]))
    events: dict[Event, Ints] = dict.fromkeys(CORE_EVENTS, np.zeros(len(step), np.int64))
    for of_neurons, so_far in since.items():
        before = np.append(0, so_far[:-1]) * again
        events[of_neurons] = np.where(on_chip, so_far - before, 0)
    events["message_out"] = (on_chip & real).astype(np.int64)
    events["message_in"] = (dest >= 0).astype(np.int64)
    for number, event in enumerate(_prices(mapped, parts)):
        events[event] = np.where(kind == number, synops, 0)
    first = np.searchsorted(step, np.arange(len(steps) + 1))
    return Messages(first, sender, dest, events)


_END, _HOST = -1, -2
"""In place of the kind of a message's synapses: none, since it is only left work, or the host's."""

_Sent = tuple[Ints, Ints, Ints, Ints, Ints]
"""Of some messages: step, column of the neuron (-1 for the host's), destination, kind, synapses."""


class _Neurons:
    """All neurons that take part, core by core in the order in which these go through them.

    Attributes:
        core: of each neuron, ``int64[N]``.
        column: the place of each neuron of a population in this order, by segment and population.
        visits: visits of the neuron's core up to its last one, ``int64[N]``.
        updates: updates likewise, ``int64[steps, N]``.
        spikes: spikes likewise, of the same shape.
    """

    def __init__(self, placement: Placement, parts: Mapping[str, Part], steps: range) -> None:
        tiles = [tile for tile in placement.tiles if tile.segment in parts]
        tiles.sort(key=lambda tile: tile.core)
        total = sum(tile.size for tile in tiles)
        self.core, self.visits = np.zeros(total, np.int64), np.zeros(total, np.int64)
        self.updates = np.zeros((len(steps), total), np.int64)
        self.spikes = np.zeros((len(steps), total), np.int64)
        self.column: dict[tuple[str, str], Ints] = {}
        self.steps, stop = steps, 0
        for tile in tiles:
            start, stop = stop, stop + tile.size
            self._add(tile, parts[tile.segment], slice(start, stop))
        self.last = np.flatnonzero(np.diff(self.core, append=-1))
        for counts in (self.visits, self.updates, self.spikes):
            self._accumulate(counts)

    def _add(self, tile: Tile, part: Part, here: slice) -> None:
        name, shape = tile.population, part.events[tile.population].shape[1:]
        block = tuple(map(slice, tile.start, tile.stop))
        every = (slice(None), *block)
        each, self.core[here] = tile.compartments // tile.size, tile.core
        column = self.column.setdefault((tile.segment, name), np.zeros(np.prod(shape), np.int64))
        box = column.reshape(shape)[block]
        box[...] = np.arange(here.start, here.stop).reshape(box.shape)
        self.visits[here] = each
        rows, spikes = _rows(part, part.events, name, self.steps)
        self.spikes[rows, here] = spikes[every].reshape(-1, tile.size)
        updated = _rows(part, part.updated, name, self.steps)[1] if name in part.updated else None
        self.updates[rows, here] = (
            each if updated is None else each * updated[every].reshape(-1, tile.size)
        )

    def _accumulate(self, counts: Ints) -> None:
        """Sums along the neurons of each core, in place."""
        np.cumsum(counts, -1, out=counts)
        ends = counts[..., self.last]
        sizes = np.diff(self.last, prepend=-1)
        before = np.concatenate([np.zeros_like(ends[..., :1]), ends[..., :-1]], -1)
        counts -= np.repeat(before, sizes, axis=-1)

    def ends(self) -> _Sent:
        """What is left of each core behind its last message, in each step."""
        step, last = (x.ravel() for x in np.indices((len(self.steps), len(self.last))))
        nothing = np.full(len(step), _END)
        return step, self.last[last], nothing, nothing, np.zeros_like(step)


def _rows(
    part: Part, counts: Mapping[str, Counts], name: str, steps: range
) -> tuple[slice, NDArray[np.int64]]:
    """Where in ``steps`` a population or port has its own, and its counts there."""
    window = part.windows[name]
    start, stop = max(window.start, steps.start), min(window.stop, steps.stop)
    stop = max(start, stop)
    rows = slice(start - steps.start, stop - steps.start)
    return rows, counts[name][start - window.start : stop - window.start]


def _synapses(parts: Mapping[str, Part]) -> dict[str, Synapse]:
    return {s.name: s for part in parts.values() for _, s in part.chip.synapses()}


def _prices(mapped: Mapped, parts: Mapping[str, Part]) -> Sequence[Event]:
    """The prices that synapses have, in the order of the numbers of their kinds."""
    some = {synapse_of(mapped.graph[name]).price for name in _synapses(parts)}
    return [event for event in EVENTS if event in some]


def _between(
    mapped: Mapped,
    parts: Mapping[str, Part],
    ways: Iterable[Route],
    steps: range,
    neurons: _Neurons,
) -> Iterator[_Sent]:
    """What neurons and ports send to tiles."""
    synapses, prices = _synapses(parts), _prices(mapped, parts)
    kinds = {name: prices.index(synapse_of(mapped.graph[name]).price) for name in synapses}
    for way in ways:
        part = parts.get(way.segment)
        if part is None or way.source not in part.windows:
            continue
        rows, events = _rows(part, part.events, way.source, steps)
        own = np.ix_(np.arange(len(events)), *way.indices)
        step, *at = np.nonzero(events.reshape(-1, *way.shape)[own])
        if not len(step):
            continue
        tile = mapped.placement.tiles[way.destination]
        places = [along[i] for along, i in zip(way.indices, at, strict=True)]
        flat, wires = np.ravel_multi_index(tuple(places), way.shape), synapses[way.synapse].wiring
        reached = reached_by(wires, tile.start, tile.stop)
        inside = np.unravel_index(flat, wires.in_shape)
        synops = np.prod([n[i] for n, i in zip(reached, inside, strict=True)], axis=0)
        column = np.full(len(flat), -1)
        if way.sender is not None:
            column = neurons.column[way.segment, way.source][flat]
        kind = np.full(len(flat), kinds[way.synapse])
        yield step + rows.start, column, np.full(len(flat), tile.core), kind, synops


def _to_host(parts: Mapping[str, Part], steps: range, neurons: _Neurons) -> Iterator[_Sent]:
    """Spikes that leave the chip: their cores send them, and nobody on the chip waits for them."""
    for part in parts.values():
        for name in part.chip.outputs:
            if (part.chip.name, name) not in neurons.column:  # a membrane, which the host reads
                continue
            rows, events = _rows(part, part.events, name, steps)
            step, flat = np.nonzero(events.reshape(-1, part.chip.population(name).size))
            nowhere, none = np.full(len(flat), -1), np.full(len(flat), _HOST)
            column = neurons.column[part.chip.name, name][flat]
            yield step + rows.start, column, nowhere, none, np.zeros(len(flat), np.int64)
