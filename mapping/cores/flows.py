"""How many messages run between cores, and how many routers they pass where the cores lie.

A hop is one router further. Messages between cores at one router take none, and those from and to
the host are not counted: no chip's sheet says where they enter the mesh.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapping.chip.segment import ChipSegment
from mapping.chip.wiring import Ints
from mapping.cores.placement import Placement
from mapping.cores.routes import routes
from mapping.targets.topology import Topology


@dataclass(frozen=True, slots=True)
class Flows:
    """Messages between different cores, in both directions together.

    Args:
        cores: how many cores there are.
        ones: a core of each pair, ``int64[2 * pairs]``, ascending; each pair is there both ways.
        others: the other one, ``int64[2 * pairs]``, ascending for each of ``ones``.
        messages: between the two, ``int64[2 * pairs]``.
    """

    cores: int
    ones: Ints
    others: Ints
    messages: Ints

    @staticmethod
    def of(cores: int, pairs: Mapping[tuple[int, int], int]) -> Flows:
        """Messages by pairs of cores; those of a core to itself are left out."""
        ends = np.array(list(pairs), np.int64).reshape(-1, 2)
        return Flows.joined(cores, ends[:, 0], ends[:, 1], np.array([*pairs.values()], np.int64))

    @staticmethod
    def joined(cores: int, senders: Ints, destinations: Ints, messages: Ints) -> Flows:
        """Messages from core to core, any pair any number of times, ``int64[*]`` each."""
        apart = senders != destinations
        one, other = senders[apart], destinations[apart]
        both = np.concatenate([one * cores + other, other * cores + one])
        order = np.argsort(both, kind="stable")
        keys = both[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        counts = np.concatenate([messages[apart]] * 2)[order]
        sums: Ints = np.add.reduceat(counts, first) if len(first) else counts
        ones, others = np.divmod(keys[first], cores)
        return Flows(cores, ones, others, sums)

    @property
    def starts(self) -> Ints:
        """Where the pairs of each core begin, and where the last's end, ``int64[cores + 1]``."""
        found: Ints = np.searchsorted(self.ones, np.arange(self.cores + 1)).astype(np.int64)
        return found

    @property
    def busy(self) -> int:
        """Cores that send to another or hear from one."""
        return len(np.unique(self.ones))


def flows_of(
    placement: Placement,
    segments: Iterable[ChipSegment],
    spikes: Mapping[str, NDArray[np.int64]] | None = None,
) -> Flows:
    """The messages between cores, wherever these lie.

    Args:
        placement: of the segments.
        segments: with the synapses.
        spikes: of each neuron of each population by name, ``int64[*shape]``; without them every
            neuron counts 1.
    """
    tiles = placement.tiles
    found = array("q")
    for route in routes(placement, segments):
        if route.sender is not None:
            messages = route.neurons if spikes is None else route.messages(spikes[route.source])
            ends = tiles[route.sender].core, tiles[route.destination].core
            found.extend((*ends, messages))
    rows = np.frombuffer(found, np.int64).reshape(-1, 3)
    return Flows.joined(placement.cores_used, rows[:, 0], rows[:, 1], rows[:, 2])


def routers(topology: Topology, cores: int) -> Ints:
    """x and y of the router at each of the first places of a board, ``int64[2, cores]``."""
    places = [topology.position(number) for number in range(cores)]
    return np.array([[p.x for p in places], [p.y for p in places]], np.int64).reshape(2, cores)


def hops(flows: Flows, where: Ints, seats: Ints) -> int:
    """Messages times routers that they pass.

    Args:
        flows: between cores.
        where: x and y of each place, ``int64[2, cores]``.
        seats: the place of each core, ``int64[cores]``.
    """
    x, y = where[:, seats]
    far = np.abs(x[flows.ones] - x[flows.others]) + np.abs(y[flows.ones] - y[flows.others])
    return int((flows.messages * far).sum()) // 2


def hops_at_random(flows: Flows, where: Ints) -> float:
    """The mean of :func:`hops` over all ways to put the cores on these places."""
    if flows.cores < 2:
        return 0.0
    rank = 2.0 * np.arange(flows.cores) - flows.cores + 1
    total = sum(float(rank @ np.sort(along)) for along in where)  # of all pairs of places
    return float(flows.messages.sum()) / 2 * total / (flows.cores * (flows.cores - 1) / 2)


def hops_bound(flows: Flows, topology: Topology, where: Ints) -> int:
    """What no way to put the cores on these places can go below.

    No core has more neighbours within some distance than one in the middle of the mesh, and each
    has at best those near that it exchanges most with.
    """
    if not len(flows.ones):
        return 0
    width, height = where.max(1) + 1
    x, y = np.abs(np.arange(width) - width // 2), np.abs(np.arange(height) - height // 2)
    near = np.sort(np.repeat(np.add.outer(x, y), topology.cores_per_tile, axis=None))[1:]
    order = np.lexsort((-flows.messages, flows.ones))
    rank = np.arange(len(order)) - flows.starts[flows.ones]
    twice = int((flows.messages[order] * near[rank]).sum())
    return -(-twice // 2)


@dataclass(frozen=True, slots=True)
class Hops:
    """Messages times routers that they pass, of one placement and of others beside it.

    Args:
        placed: as the cores lie.
        snake: in the order of the layers, along a snake.
        random: the mean over all ways to put them on the same places.
        bound: what none of these ways can go below.
    """

    placed: int
    snake: int
    random: float
    bound: int


def hops_of(
    placement: Placement,
    segments: Iterable[ChipSegment],
    topology: Topology,
    spikes: Mapping[str, NDArray[np.int64]] | None = None,
) -> Hops:
    """The hops of a placement, and of others of the same cores.

    The arguments are those of :func:`flows_of`, and where the cores may lie.
    """
    flows = flows_of(placement, segments, spikes)
    places = routers(topology, flows.cores)
    here = np.array([[core.x for core in placement.cores], [core.y for core in placement.cores]])
    row = np.arange(flows.cores)
    return Hops(
        placed=hops(flows, here.astype(np.int64), row),
        snake=hops(flows, places, row),
        random=hops_at_random(flows, places),
        bound=hops_bound(flows, topology, places),
    )
