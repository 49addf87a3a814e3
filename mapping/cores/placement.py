"""Tiles' cores onto chips: who sits where.

Cores are first put one after another along a snake through the mesh, in the order of the layers, so
that layers that talk are near each other; chips are filled one after another. Then they can change
places (:mod:`mapping.cores.descent`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from has8.errors import BadInput
from mapping.chip.segment import ChipSegment
from mapping.cores.allocate import Tile
from mapping.cores.pack import LONGEST, joined
from mapping.targets.schema import Target
from mapping.targets.topology import Topology


@dataclass(frozen=True, slots=True)
class Core:
    """A neuron core that is used.

    Args:
        chip: counted from 0.
        index: of the core on its chip: ``cores_per_tile * (y * mesh_width + x) + slot`` with
            its x on the chip.
        x: of its router from west to east, counted over all chips.
        y: of its router from south to north, counted over all chips.
        tiles: what it holds, as places in ``Placement.tiles``.
        used: what these take of each resource.
    """

    chip: int
    index: int
    x: int
    y: int
    tiles: tuple[int, ...]
    used: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CoresBound:
    """Cores that tiles take at least, however they are packed; none by default.

    Args:
        cores: of all segments together.
        resource: that most of them are short of.
        by_resource: cores that each resource alone asks for.
    """

    cores: int = 0
    resource: str = ""
    by_resource: Mapping[str, int] = field(default_factory=dict)


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
        return self.routers_of(range(self.cores_used))

    def routers_of(self, cores: Iterable[int]) -> int:
        """The same of some cores, given by their places in ``cores``."""
        some = [self.cores[number] for number in cores]
        routers = {(core.chip, core.x, core.y) for core in some}
        return max(Counter(chip for chip, _, _ in routers).values(), default=0)

    @property
    def cores_bound(self) -> CoresBound:
        """Cores that these tiles take at least.

        A segment's tiles need as much of each resource as they need in sum, and two segments never
        share a core. Cut otherwise, layers may need less of anything but neurons.
        """
        total: dict[str, dict[str, int]] = {}
        for tile in self.tiles:
            need = total.setdefault(tile.segment, dict.fromkeys(self.limits, 0))
            for name, amount in tile.need.items():
                need[name] += 0 if name == LONGEST else amount
        cores = {
            segment: {name: -(-need[name] // limit) for name, limit in self.limits.items()}
            for segment, need in total.items()
        }
        short = {name: sum(each[name] for each in cores.values()) for name in self.limits}
        least = sum(max(each.values()) for each in cores.values())
        return CoresBound(least, max(short, key=lambda name: short[name]), short)

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


def place(tiles: Sequence[Tile], segments: Iterable[ChipSegment], target: Target) -> Placement:
    """Give each core that the tiles use a place on a chip, along the snake.

    Args:
        tiles: from :func:`mapping.cores.allocate.allocate`.
        segments: that they were cut from.
        target: whose chips to use.

    Raises:
        BadInput: if the tiles do not hold every neuron of the segments exactly once, ask more of a
            core than it has, or take more chips than the target's board has.
    """
    _check_neurons(tiles, segments)
    held: dict[int, list[int]] = {}
    for at, tile in enumerate(tiles):
        held.setdefault(tile.core, []).append(at)
    if sorted(held) != list(range(len(held))):
        raise BadInput("the cores of the tiles must count from 0 without gaps")
    limits, topology = target.core.limits, Topology.of(target.chip)
    _check_chips(len(held), target)
    cores = []
    for number in range(len(held)):
        used = joined(tiles[at].need for at in held[number])
        over = [name for name, amount in used.items() if amount > limits[name]]
        if over:
            raise BadInput(f"core {number} has too few {over[0].replace('_', ' ')} for its tiles")
        where = topology.position(number)
        cores.append(Core(*where, tuple(held[number]), used))
    return Placement(tuple(tiles), tuple(cores), limits)


def seated(placement: Placement, seats: Iterable[int], target: Target) -> Placement:
    """The same cores in other places.

    Args:
        placement: of the cores.
        seats: the place of each core, a number for ``Topology.position``.
        target: whose chips to use.
    """
    topology = Topology.of(target.chip)
    cores = []
    for core, seat in zip(placement.cores, seats, strict=True):
        chip, index, x, y = topology.position(int(seat))
        cores.append(replace(core, chip=chip, index=index, x=x, y=y))
    return replace(placement, cores=tuple(cores))


def seats_of(placement: Placement, target: Target) -> list[int]:
    """The place of each core, a number for ``Topology.position``.

    Raises:
        BadInput: if they do not take the first places, as many as there are cores.
    """
    topology = Topology.of(target.chip)
    numbers = {topology.position(number): number for number in range(placement.cores_used)}
    seats = [numbers.pop((c.chip, c.index, c.x, c.y), None) for c in placement.cores]  # type: ignore[call-overload]
    if None in seats:
        raise BadInput("the cores of the placement are not on the first places of its chips")
    return seats


def _check_chips(cores: int, target: Target) -> None:
    """There must be no more chips than on the board, if one was chosen."""
    board, chips = target.chip.board, -(-cores // target.chip.cores)
    if board is not None and chips > target.chip.boards[board].chips:
        raise BadInput(
            f"the network needs {chips:,} chips and board {board!r} has "
            f"{target.chip.boards[board].chips}: take a larger board, or keep layers on the host"
        )


def _check_neurons(tiles: Sequence[Tile], segments: Iterable[ChipSegment]) -> None:
    """Each neuron must be on exactly one tile."""
    once = "the tiles must hold each neuron of {!r} exactly once"
    seen: dict[tuple[str, str], NDArray[np.bool_]] = {
        (segment.name, population.name): np.zeros(population.shape, dtype=bool)
        for segment in segments
        for population in segment.populations
    }
    for tile in tiles:
        key = tile.segment, tile.population
        if key not in seen:
            raise BadInput(f"a tile belongs to population {tile.population!r}, which is unknown")
        block = seen[key][tuple(map(slice, tile.start, tile.stop))]
        if block.any():
            raise BadInput(once.format(tile.population))
        block[...] = True
    for (_, name), there in seen.items():
        if not there.all():
            raise BadInput(once.format(name))
