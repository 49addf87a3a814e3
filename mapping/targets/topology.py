"""Where cores lie, and which links a message takes: meshes of routers on chips, chips on boards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from mapping.targets.schema import Chip


class Place(Protocol):
    """Anything that has a router: a position, or a core in use."""

    @property
    def x(self) -> int:
        """Its router from west to east, counted over all chips."""

    @property
    def y(self) -> int:
        """Its router from south to north, counted over all chips."""


class Position(NamedTuple):
    """Where a core lies.

    Args:
        chip: counted from 0.
        on_chip: the core on its chip: ``cores_per_tile * (y * mesh_width + x) + slot`` with x
            and y counted on the chip.
        x: of its router from west to east, counted over all chips.
        y: of its router from south to north, counted over all chips.
    """

    chip: int
    on_chip: int
    x: int
    y: int


class Link(NamedTuple):
    """A step of a message from one router to the next.

    Args:
        along: "x" for east or west, "y" for north or south.
        start: x and y of the router that it leaves.
        end: x and y of the router that it enters.
        chips: the chip that it leaves and the chip that it enters; None within a chip.
    """

    along: str
    start: tuple[int, int]
    end: tuple[int, int]
    chips: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Topology:
    """Chips of a mesh of routers, on a grid that is filled column by column.

    Args:
        mesh_width: routers of a chip from west to east.
        mesh_height: routers of a chip from south to north.
        cores_per_tile: cores at one router.
        board_height: chips from south to north; at 1 the chips lie in a row.
        usable_cores: the first cores of a chip, which are used; None where all are.
    """

    mesh_width: int
    mesh_height: int
    cores_per_tile: int
    board_height: int = 1
    usable_cores: int | None = None

    @staticmethod
    def of(chip: Chip) -> Topology:
        """The topology of a target's chips."""
        return Topology(
            chip.mesh_width,
            chip.mesh_height,
            chip.cores_per_tile,
            chip.board_height,
            chip.usable_cores,
        )

    def position(self, number: int) -> Position:
        """The place of the ``number``-th core, counted from 0.

        Within a chip the order is a snake up the first column of routers, down the second and so
        on, so that it leaves the chip in the east.
        """
        cores = self.usable_cores or self.mesh_width * self.mesh_height * self.cores_per_tile
        chip, on_chip = divmod(number, cores)
        router, slot = divmod(on_chip, self.cores_per_tile)
        x, y = divmod(router, self.mesh_height)
        if x % 2:
            y = self.mesh_height - 1 - y
        index = self.cores_per_tile * (y * self.mesh_width + x) + slot
        column, row = divmod(chip, self.board_height)
        return Position(chip, index, column * self.mesh_width + x, row * self.mesh_height + y)

    def chip_at(self, x: int, y: int) -> int:
        """The chip that holds a router."""
        return x // self.mesh_width * self.board_height + y // self.mesh_height

    def route(self, a: Place, b: Place) -> tuple[Link, ...]:
        """The links that a message passes from one core to another: along x, then along y."""
        return _route(self, (a.x, a.y), (b.x, b.y))


@lru_cache(maxsize=1 << 16)
def _route(topology: Topology, start: tuple[int, int], end: tuple[int, int]) -> tuple[Link, ...]:
    links = []
    (x, y), (to_x, to_y) = start, end
    while (x, y) != (to_x, to_y):
        along = "x" if x != to_x else "y"
        ahead = (
            (x + (1 if to_x > x else -1), y) if along == "x" else (x, y + (1 if to_y > y else -1))
        )
        chips = topology.chip_at(x, y), topology.chip_at(*ahead)
        links.append(Link(along, (x, y), ahead, chips if chips[0] != chips[1] else None))
        x, y = ahead
    return tuple(links)
