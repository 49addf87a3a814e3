"""Tiles as Intel's compiler for Loihi 2 cuts them: whole columns, by powers of two.

Its rules are not published; these give the cores of each layer in what it printed of two networks,
and the tiles of the first: PilotNet, 74, and YOLO-KP, 574, whose tiles a later version cut in rows
as well (lava-nc/lava-dl at d825ac5, ``pilotnet_snn/benchmark.ipynb`` and ``yolo_kp/run.ipynb``
below ``tutorials/lava/lib/dl/netx``): as many channels as have room for their
kernels, halved until they do; all rows, halved while one column has too many neurons; and of
columns the largest power of two for which there is room. A layer without rows is on one core, and
cut into as many times more parts as it exceeds what a core lacks most, until it fits even if each
of its synapses had an index (the log has 15 bits a synapse). Each tile has a core of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from has8.errors import BadInput, DoesNotFit
from mapping.chip.segment import ChipSegment
from mapping.chip.wiring import Shape3
from mapping.cores.allocate import Tile, blocks_of
from mapping.cores.lists import list_words
from mapping.cores.need import sources
from mapping.cores.tilings import Layer, Tiling, axon_choices, axons_in, classes, held, layers_of
from mapping.targets.schema import CoreLimits, Target

ALTERNATIVE = "let has8 choose other tiles (allocation 'cores')"


def check_compiled(target: Target) -> None:
    """Refuse a target that no compiler of Intel's with these rules is for.

    Raises:
        BadInput: if it does not say how many neurons that compiler puts on a core.
    """
    if target.core.compiled_neurons is None:
        raise BadInput(
            f"allocation 'intel' cuts as Intel's compiler does for loihi2: {target.name} does not "
            "say how many neurons that puts on a core (core.compiled_neurons), so choose another"
        )


def columns(segments: Iterable[ChipSegment], target: Target) -> tuple[Tile, ...]:
    """Tiles of all populations, each on a core of its own.

    The arguments and the result are those of :func:`mapping.cores.allocate.allocate`.

    Raises:
        BadInput: if no such compiler is for the target.
        DoesNotFit: if a layer fits on no core, cut so.
    """
    check_compiled(target)
    tiles: list[Tile] = []
    core = target.core
    for segment in segments:
        layers = layers_of(segment, target.registers)
        cuts = {layer.name: _cut(layer, core) for layer in layers}
        for block in blocks_of(layers, cuts, core):
            need = block.need(core, 0)
            _check(block.layer.name, need, core)
            start, stop = block.place
            tiles.append(
                Tile(
                    segment=segment.name,
                    population=block.layer.name,
                    start=start,
                    stop=stop,
                    axons=block.axons,
                    need=need,
                    core=len(tiles),
                    offset=0,
                )
            )
    return tuple(tiles)


def _cut(layer: Layer, core: CoreLimits) -> Tiling:
    axons = next(axon_choices(layer, core))
    flat = len(layer.population.shape) == 1
    block = _parts(layer, axons, core) if flat else _columns(layer, axons, core)
    return Tiling(block, axons, 0, 0)


def _parts(layer: Layer, axons: tuple[str, ...], core: CoreLimits) -> Shape3:
    """Neurons of a layer without rows, in equal parts."""
    size, limits = layer.shape[0], _limits(core)
    parts = 1
    while True:
        block = (-(-size // parts), 1, 1)
        need = {**_most(layer, block, axons, core), "synapse_bits": _indexed(layer, block, core)}
        times = max(-(-amount // limits[name]) for name, amount in need.items())
        if times <= 1 or block[0] == 1:
            return block
        parts = min(parts * times, size)


def _indexed(layer: Layer, block: Shape3, core: CoreLimits) -> int:
    """Bits of a tile's lists where each synapse has an index beside its weight."""
    packing = core.packing
    needed = (layer.shape[0] - 1).bit_length()
    index = next(bits for bits in packing.index_bits if bits >= needed)
    count, words = np.array([block[0]]), 0
    every = zip(layer.wires, layer.population.synapses, layer.waits, strict=True)
    for wires, synapse, wait in every:
        bits = synapse.weight_bits + wait.bit_length() + index
        each = list_words(count, bits, packing.header_bits, packing)
        words += int(each[0]) * sources(wires, (0, 0, 0), block)
    return words * packing.word_bits


def _columns(layer: Layer, axons: tuple[str, ...], core: CoreLimits) -> Shape3:
    """Channels, rows and columns of a tile."""
    channels, rows, width = layer.shape

    def lacks(*block: int) -> set[str]:
        c, h, w = block
        need = _most(layer, (c, h, w), axons, core)
        return {name for name, amount in need.items() if amount > _limits(core)[name]}

    while channels > 1 and lacks(channels, 1, 1):
        channels = -(-channels // 2)
    while rows > 1 and lacks(channels, rows, 1):
        rows = -(-rows // 2)
    wide = 1
    while 2 * wide <= width and not lacks(channels, rows, 2 * wide):
        wide *= 2
    return channels, rows, wide


def _most(
    layer: Layer, block: Shape3, axons: tuple[str, ...], core: CoreLimits
) -> Mapping[str, int]:
    """What the tile that needs most takes of each resource, but for output axons."""
    needs = [
        {**held(layer, *place, 0, core), "input_axons": axons_in(layer, axons, *place, core)}
        for place in classes(layer, block)
    ]
    return {name: max(need[name] for need in needs) for name in needs[0]}


def _limits(core: CoreLimits) -> Mapping[str, int]:
    """Those of a core, with the neurons that the compiler puts on it."""
    return {**core.limits, "neurons": core.compiled_neurons or core.neurons}


def _check(name: str, need: Mapping[str, int], core: CoreLimits) -> None:
    for resource, amount in need.items():
        have = _limits(core)[resource]
        if amount > have:
            what = resource.replace("_", " ")
            raise DoesNotFit(name, what, need=amount, have=have, hint=ALTERNATIVE)
