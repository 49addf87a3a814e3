"""Tiles' cores onto chips: who sits where on the mesh, and who sends to whom.

Cores are filled one after another along a snake through the mesh, in the order of the layers, so
that layers that talk are near each other; chips are filled one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from has8.errors import BadInput
from mapping.chip.segment import ChipSegment, Synapse
from mapping.chip.wiring import Ints, Shape3, reach, shape3, wiring
from mapping.cores.allocate import Tile
from mapping.cores.pack import joined
from mapping.targets.schema import Chip, Target


@dataclass(frozen=True, slots=True)
class Core:
    """A neuron core that is used.

    Args:
        chip: counted from 0.
        index: of the core on its chip: ``cores_per_tile * (y * mesh_width + x) + slot`` with
            its x on the chip.
        x: of its router from west to east. Chips lie in a row, so x goes on from chip to chip.
        y: of its router from south to north.
        tiles: what it holds, as places in ``Placement.tiles``.
        used: what these take of each resource.
    """

    chip: int
    index: int
    x: int
    y: int
    tiles: tuple[int, ...]
    used: Mapping[str, int]


class Hops(NamedTuple):
    """The way between two cores: first east or west, then north or south.

    Args:
        east_west: routers passed along x.
        north_south: routers passed along y.
        chip_links: how often it leaves a chip; these are among ``east_west``.
    """

    east_west: int
    north_south: int
    chip_links: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Which core holds what.

    Args:
        tiles: all tiles; a tile's ``core`` is a place in ``cores``.
        cores: those that are used.
        limits: what one core has of each resource.
    """

    tiles: tuple[Tile, ...]
    cores: tuple[Core, ...]
    limits: Mapping[str, int]

    @property
    def cores_used(self) -> int:
        """How many cores."""
        return len(self.cores)

    @property
    def chips_used(self) -> int:
        """How many chips."""
        return len({core.chip for core in self.cores})

    @property
    def active_routers(self) -> int:
        """Routers with a used core, on the chip that has the most of them."""
        routers = {(core.chip, core.x, core.y) for core in self.cores}
        chips = [chip for chip, _, _ in routers]
        return max((chips.count(chip) for chip in set(chips)), default=0)

    @property
    def utilisation(self) -> dict[str, float]:
        """The share of each resource that is used, mean over the used cores."""
        cores = max(1, self.cores_used)
        return {
            name: sum(core.used[name] for core in self.cores) / (cores * limit)
            for name, limit in self.limits.items()
        }

    @property
    def peak_utilisation(self) -> dict[str, float]:
        """The share of each resource that the fullest core uses."""
        return {
            name: max((core.used[name] for core in self.cores), default=0) / limit
            for name, limit in self.limits.items()
        }


@dataclass(frozen=True, slots=True)
class Route:
    """The source neurons that send their spikes to one tile, through one synapse.

    Each spike of each of them is one message.

    Args:
        segment: the segment's name.
        synapse: the synapse's name.
        source: the name of the port or population.
        sender: the tile that holds them, as a place in ``Placement.tiles``; None for a port,
            whose spikes come from the host.
        destination: the tile that they reach, as a place in ``Placement.tiles``.
        indices: their channels, rows and columns; all combinations of these send.
    """

    segment: str
    synapse: str
    source: str
    sender: int | None
    destination: int
    indices: tuple[Ints, Ints, Ints]

    @property
    def neurons(self) -> int:
        """How many neurons send."""
        return prod(map(len, self.indices))

    def messages(self, spikes: NDArray[np.int64]) -> int:
        """How many messages go this way.

        Args:
            spikes: the spikes of each neuron of the source, ``int64[*shape]``.
        """
        return int(spikes.reshape(shape3(spikes.shape))[np.ix_(*self.indices)].sum())


def place(tiles: Sequence[Tile], segments: Iterable[ChipSegment], target: Target) -> Placement:
    """Give each core that the tiles use a place on a chip.

    Args:
        tiles: from :func:`mapping.cores.allocate.allocate`.
        segments: that they were cut from.
        target: whose chips to use.

    Raises:
        BadInput: if the tiles do not hold every neuron of the segments exactly once, or ask
            more of a core than it has.
    """
    _check_neurons(tiles, segments)
    held: dict[int, list[int]] = {}
    for at, tile in enumerate(tiles):
        held.setdefault(tile.core, []).append(at)
    if sorted(held) != list(range(len(held))):
        raise BadInput("the cores of the tiles must count from 0 without gaps")
    limits = target.core.limits
    cores = []
    for number in range(len(held)):
        used = joined(tiles[at].need for at in held[number])
        over = [name for name, amount in used.items() if amount > limits[name]]
        if over:
            raise BadInput(f"core {number} has too few {over[0].replace('_', ' ')} for its tiles")
        chip, index, x, y = _position(number, target.chip)
        cores.append(Core(chip, index, x, y, tuple(held[number]), used))
    return Placement(tuple(tiles), tuple(cores), limits)


def hops(a: Core, b: Core) -> Hops:
    """The way of a message from one core to another, X first and then Y."""
    return Hops(abs(a.x - b.x), abs(a.y - b.y), abs(a.chip - b.chip))


def routes(placement: Placement, segments: Iterable[ChipSegment]) -> Iterator[Route]:
    """Who sends to whom: a route for each synapse, tile that it feeds and tile that feeds it.

    Two tiles of one core have axons of their own, so they are two destinations.

    Args:
        placement: of the segments.
        segments: with the synapses.
    """
    for segment in segments:
        grids = {
            population.name: _Grid(placement.tiles, segment.name, population.name)
            for population in segment.populations
        }
        for population in segment.populations:
            for synapse in population.synapses:
                for destination in grids[population.name].places.values():
                    masks = _masks(segment, synapse, placement.tiles[destination])
                    grid = grids.get(synapse.source)
                    for sender, indices in grid.split(masks) if grid else [(None, masks)]:
                        yield Route(
                            segment.name,
                            synapse.name,
                            synapse.source,
                            sender,
                            destination,
                            indices,
                        )


class _Grid:
    """The tiles of one population by their first neurons."""

    def __init__(self, tiles: Sequence[Tile], segment: str, population: str) -> None:
        self.places = {
            _corner(tile): at
            for at, tile in enumerate(tiles)
            if (tile.segment, tile.population) == (segment, population)
        }
        self.starts = [np.unique([start[axis] for start in self.places]) for axis in range(3)]

    def split(
        self, indices: tuple[Ints, Ints, Ints]
    ) -> Iterator[tuple[int, tuple[Ints, Ints, Ints]]]:
        """The indices that fall into each tile, for tiles with any."""
        parts = []
        for starts, along in zip(self.starts, indices, strict=True):
            pieces = np.split(along, np.searchsorted(along, starts[1:]))
            parts.append([(int(s), p) for s, p in zip(starts, pieces, strict=True) if len(p)])
        for (c, channels), (h, rows), (w, cols) in product(*parts):
            yield self.places[c, h, w], (channels, rows, cols)


def _masks(segment: ChipSegment, synapse: Synapse, tile: Tile) -> tuple[Ints, Ints, Ints]:
    """Channels, rows and columns of the source that reach a tile."""
    shape = segment.shape_of(synapse.source)
    wires = wiring(synapse.kind, synapse.attrs, synapse.weight.shape, shape)
    channels, rows, cols = reach(wires, _corner(tile), shape3(tile.stop))
    return np.flatnonzero(channels), np.flatnonzero(rows), np.flatnonzero(cols)


def _corner(tile: Tile) -> Shape3:
    """The first neuron of a tile, in three axes."""
    c, h, w = tile.start if len(tile.start) == 3 else (tile.start[0], 0, 0)
    return c, h, w


def _check_neurons(tiles: Sequence[Tile], segments: Iterable[ChipSegment]) -> None:
    """Each neuron must be on exactly one tile."""
    seen: dict[tuple[str, str], NDArray[np.int64]] = {
        (segment.name, population.name): np.zeros(population.shape, dtype=np.int64)
        for segment in segments
        for population in segment.populations
    }
    for tile in tiles:
        key = tile.segment, tile.population
        if key not in seen:
            raise BadInput(f"a tile belongs to population {tile.population!r}, which is unknown")
        seen[key][tuple(map(slice, tile.start, tile.stop))] += 1
    for (_, name), times in seen.items():
        if (times != 1).any():
            raise BadInput(f"the tiles must hold each neuron of {name!r} exactly once")


def _position(number: int, chip: Chip) -> tuple[int, int, int, int]:
    """Chip, core, x and y of the ``number``-th core along the snake.

    It goes up the first column of routers, down the second and so on, so that it leaves the
    chip in the east, where the next chip lies.
    """
    which, on_chip = divmod(number, chip.cores)
    router, slot = divmod(on_chip, chip.cores_per_tile)
    x, y = divmod(router, chip.mesh_height)
    if x % 2:
        y = chip.mesh_height - 1 - y
    index = chip.cores_per_tile * (y * chip.mesh_width + x) + slot
    return which, index, which * chip.mesh_width + x, y
