"""Who sends spikes to whom: the routes between tiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from mapping.chip.segment import ChipSegment, Population, Synapse
from mapping.chip.wiring import Ints, Shape3, reach, shape3
from mapping.cores.allocate import Tile
from mapping.cores.placement import Placement


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
        shape: of the source, as the indices count: that of the wiring, or ``(N, 1, 1)``.
        indices: their channels, rows and columns; all combinations of these send.
    """

    segment: str
    synapse: str
    source: str
    sender: int | None
    destination: int
    shape: Shape3
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
        return int(spikes.reshape(self.shape)[np.ix_(*self.indices)].sum())


def routes(placement: Placement, segments: Iterable[ChipSegment]) -> Iterator[Route]:
    """Who sends to whom: a route for each synapse, tile that it feeds and tile that feeds it.

    Two tiles of one core have axons of their own, so they are two destinations.

    Args:
        placement: of the segments.
        segments: with the synapses.
    """
    for segment in segments:
        grids = {
            population.name: _Grid(placement.tiles, segment.name, population)
            for population in segment.populations
        }
        for population in segment.populations:
            for synapse in population.synapses:
                for destination in grids[population.name].places.values():
                    masks = _masks(synapse, placement.tiles[destination])
                    shape, grid = synapse.wiring.in_shape, grids.get(synapse.source)
                    split = [(None, masks)] if grid is None else grid.split(masks)
                    if grid is not None and grid.shape != shape:
                        split, shape = grid.split_flat(masks, shape), (prod(shape), 1, 1)
                    for sender, indices in split:
                        yield Route(
                            segment.name,
                            synapse.name,
                            synapse.source,
                            sender,
                            destination,
                            shape,
                            indices,
                        )


class _Grid:
    """The tiles of one population by their first neurons."""

    def __init__(self, tiles: Sequence[Tile], segment: str, population: Population) -> None:
        self.shape = shape3(population.shape)
        self.places = {
            tile.corner: at
            for at, tile in enumerate(tiles)
            if (tile.segment, tile.population) == (segment, population.name)
        }
        self.starts = [np.unique([start[axis] for start in self.places]) for axis in range(3)]

    def split(
        self, indices: tuple[Ints, Ints, Ints]
    ) -> Iterator[tuple[int, tuple[Ints, Ints, Ints]]]:
        """The indices that fall into each tile, for tiles with any."""
        parts = []
        for starts, along in zip(self.starts, indices, strict=True):
            if not len(along):
                return
            first, last = np.searchsorted(starts, along[[0, -1]], "right").tolist()
            near = starts[first - 1 : last]  # all others have none
            pieces = np.split(along, np.searchsorted(along, near[1:]))
            parts.append([(int(s), p) for s, p in zip(near, pieces, strict=True) if len(p)])
        for (c, channels), (h, rows), (w, cols) in product(*parts):
            yield self.places[c, h, w], (channels, rows, cols)

    def split_flat(
        self, indices: tuple[Ints, Ints, Ints], shape: Shape3
    ) -> Iterator[tuple[int, tuple[Ints, Ints, Ints]]]:
        """The same for indices in another shape of the population; gives them in ``(N, 1, 1)``."""
        flat = np.ravel_multi_index(np.ix_(*indices), shape).reshape(-1)
        corners = [
            starts[np.searchsorted(starts, along, "right") - 1]
            for starts, along in zip(self.starts, np.unravel_index(flat, self.shape), strict=True)
        ]
        found, of_tile = np.unique(np.stack(corners), axis=1, return_inverse=True)
        first = np.zeros(1, np.int64)
        for place, (c, h, w) in enumerate(found.T.tolist()):
            yield self.places[c, h, w], (flat[of_tile.reshape(-1) == place], first, first)


def _masks(synapse: Synapse, tile: Tile) -> tuple[Ints, Ints, Ints]:
    """Channels, rows and columns of the source that reach a tile."""
    channels, rows, cols = reach(synapse.wiring, tile.corner, shape3(tile.stop))
    return np.flatnonzero(channels), np.flatnonzero(rows), np.flatnonzero(cols)
