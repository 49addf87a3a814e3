"""A placement as a plan to look at: each chip's cores where they lie, with the layers they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from mapping.cores.placement import Core, Placement
from mapping.targets.schema import Chip
from mapping.targets.topology import Topology


@dataclass(frozen=True, slots=True)
class PlanLayer:
    """A layer on the chip, as a legend names it.

    Args:
        label: letters: A to Z, then AA, AB and so on, in the order of the layers.
        segment: the chip segment's name.
        name: the population's name.
        cores: cores that hold neurons of it.
        shared: those of them that hold neurons of other layers, too.
        neurons: of the layer.
        resource: that the fullest of its cores has least left of.
        share: of that resource that this core uses, 0..1.
    """

    label: str
    segment: str
    name: str
    cores: int
    shared: int
    neurons: int
    resource: str
    share: float


@dataclass(frozen=True, slots=True)
class PlanCell:
    """A core of a chip.

    Args:
        layer: place in ``FloorPlan.layers`` of the layer with most neurons on it; None where the
            core is free.
        shared: whether other layers have neurons on it, too.
        core: place in ``Placement.cores``; None where the core is free.
    """

    layer: int | None = None
    shared: bool = False
    core: int | None = None


FREE = PlanCell()
Row = tuple[tuple[PlanCell | None, ...], ...]
"""The cores of each router of a row, from west to east."""


@dataclass(frozen=True, slots=True)
class FloorPlan:
    """The chips that a mapping uses.

    Args:
        layers: in the order of execution.
        chips: by the chip's number: rows of routers from north to south, in each the routers from
            west to east, at each its cores; None is a core that the chip has and does not offer.
    """

    layers: tuple[PlanLayer, ...]
    chips: dict[int, tuple[Row, ...]]


def floor_plan(placement: Placement, chip: Chip) -> FloorPlan:
    """Draw a placement up.

    Args:
        placement: which core holds what.
        chip: of the target.
    """
    topology = Topology.of(chip)
    layers = layers_on(placement)
    at = {(layer.segment, layer.name): number for number, layer in enumerate(layers)}
    cells: dict[int, dict[int, PlanCell]] = {}
    for number, core in enumerate(placement.cores):
        neurons = neurons_on(core, placement)
        ((most, _),) = neurons.most_common(1)
        cell = PlanCell(at[most], len(neurons) > 1, number)
        cells.setdefault(core.chip, {})[core.index] = cell
    offered = {place.on_chip for place in map(topology.position, range(chip.cores))}
    free = dict.fromkeys(offered, FREE)
    chips = {number: _rows({**free, **cells[number]}, topology) for number in sorted(cells)}
    return FloorPlan(layers, chips)


def _rows(cells: dict[int, PlanCell], topology: Topology) -> tuple[Row, ...]:
    """A chip's cores by row, router and slot; its first row is the northern one."""
    width, slots = topology.mesh_width, topology.cores_per_tile
    return tuple(
        tuple(
            tuple(cells.get(slots * (y * width + x) + slot) for slot in range(slots))
            for x in range(width)
        )
        for y in reversed(range(topology.mesh_height))
    )


def neurons_on(core: Core, placement: Placement) -> Counter[tuple[str, str]]:
    """The neurons that a core holds of each layer, by segment and population."""
    neurons: Counter[tuple[str, str]] = Counter()
    for tile in (placement.tiles[place] for place in core.tiles):
        neurons[tile.segment, tile.population] += tile.size
    return neurons


def layers_on(placement: Placement) -> tuple[PlanLayer, ...]:
    """The layers of a placement, in the order of execution."""
    return tuple(_layers(placement))


def _layers(placement: Placement) -> Iterator[PlanLayer]:
    held: dict[tuple[str, str], list[int]] = {}
    neurons: Counter[tuple[str, str]] = Counter()
    for tile in placement.tiles:
        key = tile.segment, tile.population
        held.setdefault(key, []).append(tile.core)
        neurons[key] += tile.size
    alone = [
        len({placement.tiles[at].population for at in core.tiles}) == 1 for core in placement.cores
    ]
    for number, ((segment, name), places) in enumerate(held.items()):
        numbers = dict.fromkeys(places)
        share, resource = max(_fullest(placement.cores[at], placement) for at in numbers)
        yield PlanLayer(
            letters(number),
            segment,
            name,
            len(numbers),
            sum(not alone[at] for at in numbers),
            neurons[segment, name],
            resource,
            share,
        )


def _fullest(core: Core, placement: Placement) -> tuple[float, str]:
    """The largest share of a resource that a core uses, and the resource."""
    return max((core.used[name] / limit, name) for name, limit in placement.limits.items())


def letters(number: int) -> str:
    """A to Z, then AA, AB and so on, as spreadsheets name columns."""
    text = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        text = chr(ord("A") + letter) + text
    return text
