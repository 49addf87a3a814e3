"""What must hold for a placement: the same for one that was made and one that was read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from has8.errors import BadInput
from mapping.chip.segment import ChipSegment
from mapping.chip.wiring import shape3
from mapping.cores.allocate import Tile, blocks_of
from mapping.cores.need import axon_types
from mapping.cores.placement import Placement, place, seated, seats_of
from mapping.cores.tilings import Layer, Tiling, layers_of
from mapping.targets.schema import CoreLimits, Target


def check_placement(placement: Placement, segments: Iterable[ChipSegment], target: Target) -> None:
    """Tiles need what they say, each neuron is on one of them, and cores hold theirs.

    Args:
        placement: any.
        segments: with the integers that it places.
        target: whose limits hold.

    Raises:
        BadInput: with the first thing that is wrong, in one sentence.
    """
    segments = tuple(segments)
    _check_tiles(placement.tiles, segments, target)
    seats = seats_of(placement, target)
    if seated(place(placement.tiles, segments, target), seats, target) != placement:
        raise BadInput("the cores of the placement are not those that its tiles are on")
    for number, core in enumerate(placement.cores):
        tiles = sorted((placement.tiles[at] for at in core.tiles), key=lambda tile: tile.offset)
        ends = [0, *(tile.offset + tile.compartments for tile in tiles)]
        if [tile.offset for tile in tiles] != ends[:-1]:
            raise BadInput(f"the neurons of core {number} do not follow one another")
        if len({tile.segment for tile in tiles}) > 1:
            raise BadInput(f"core {number} holds tiles of several segments")


def _check_tiles(tiles: Sequence[Tile], segments: Sequence[ChipSegment], target: Target) -> None:
    """Count anew what each tile needs."""
    core = target.core
    waiting = iter(tiles)
    for segment in segments:
        layers = layers_of(segment, target.registers)
        cuts = {layer.name: _cut(layer, tiles, segment.name, core) for layer in layers}
        for block in blocks_of(layers, cuts, core):
            tile = next(waiting, None)
            if tile is None or (tile.segment, tile.population, tile.start, tile.stop) != (
                segment.name,
                block.layer.name,
                *block.place,
            ):
                raise BadInput(f"the tiles of {block.layer.name!r} are not equal blocks in order")
            if dict(tile.need) != block.need(core, tile.offset):
                raise BadInput(f"a tile of {tile.population!r} needs other resources than it says")
            if tile.axons != block.axons:
                raise BadInput(f"a tile of {tile.population!r} has other axons than its layer")
    if next(waiting, None) is not None:
        raise BadInput("there are more tiles than the segments have blocks")


def _cut(layer: Layer, tiles: Sequence[Tile], segment: str, core: CoreLimits) -> Tiling:
    """How a layer was cut, by its first tile."""
    first = next((t for t in tiles if (t.segment, t.population) == (segment, layer.name)), None)
    axes = len(layer.population.shape)
    if first is None or first.start != (0,) * axes or len(first.stop) != axes:
        raise BadInput(f"there is no tile with the first neuron of {layer.name!r}")
    if not all(0 < n <= e for n, e in zip(first.stop, layer.population.shape, strict=True)):
        raise BadInput(f"the first tile of {layer.name!r} is not within it")
    names = [synapse.name for synapse in layer.population.synapses]
    if list(first.axons) != names or not all(
        first.axons[name] in axon_types(wires, source, core.axons)
        for name, wires, source in zip(names, layer.wires, layer.sources, strict=True)
    ):
        raise BadInput(f"the axons of {layer.name!r} cannot serve its synapses")
    return Tiling(shape3(first.stop), tuple(first.axons.values()), 0, 0)
