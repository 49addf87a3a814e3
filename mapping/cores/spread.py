"""Tiles on more cores than they need: those of the chips that are on anyway, to end steps sooner.

A step lasts as long as its busiest core. What a core does in one is estimated from what is known
before anything runs: its neurons, and, where each source fires in :data:`RATE` of the steps, its
synapses and messages. That is one more limit of a core, which falls until the cores are used up;
and since a spike from the host is a message for each tile that it reaches, cuts that cost more
messages than they save work are left out, even if the host's neurons fire in every step: encoders
may be dense.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from has8.errors import DoesNotFit
from mapping.chip.segment import ChipSegment
from mapping.chip.wiring import Wiring, shape3
from mapping.cores.allocate import Tile, allocate
from mapping.cores.need import sources
from mapping.cores.tilings import WORK, Work, Working
from mapping.targets.schema import Target

RATE = 0.05
"""Spikes of a neuron in a step, as the comparison with measurements assumes (docs/prices.md)."""
LESS = 0.7
"""Each next cut allows a core so much of the work that the busiest one had."""
ENDLESS = 2**40
"""More picoseconds than any core works."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to lay a segment on cores.

    Args:
        cores: that it takes.
        time_us: of the busiest core and of messages from the host, estimated, of a sample.
        tiles: with what they need.
        busiest: picoseconds that the busiest core works in a step.
    """

    cores: int
    time_us: float
    tiles: tuple[Tile, ...]
    busiest: int


def spread(segments: Iterable[ChipSegment], target: Target) -> tuple[Tile, ...]:
    """Tiles on up to all cores of the chips that :func:`allocate` needs.

    The arguments and the result are those of :func:`mapping.cores.allocate.allocate`. Of all ways
    to deal the cores out to the segments, whose options are the cuts under falling limits of work,
    this one has the least estimated time.

    Raises:
        DoesNotFit: if a layer fits on no core, however it is cut.
    """
    segments = tuple(segments)
    first = [_option(segment, target, ENDLESS) for segment in segments]
    chips = -(-sum(option.cores for option in first) // target.chip.cores)
    free = chips * target.chip.cores
    options = [_options(s, one, target, free) for s, one in zip(segments, first, strict=True)]
    tiles: list[Tile] = []
    cores = 0
    for option in least_time(options, free):
        for tile in option.tiles:
            need = {name: amount for name, amount in tile.need.items() if name != WORK}
            tiles.append(replace(tile, core=tile.core + cores, need=need))
        cores += option.cores
    return tuple(tiles)


def least_time(options: Sequence[Sequence[Option]], free: int) -> tuple[Option, ...]:
    """One option of each segment: the least time in all on so many cores (exact, by their number).

    Args:
        options: of each segment; the first of each must fit together.
        free: cores that they may take.
    """
    best: dict[int, tuple[float, tuple[Option, ...]]] = {0: (0.0, ())}
    for of_segment in options:
        found: dict[int, tuple[float, tuple[Option, ...]]] = {}
        for taken, (time, chosen) in best.items():
            for option in of_segment:
                cores, total = taken + option.cores, time + option.time_us
                if cores <= free and (cores not in found or total < found[cores][0]):
                    found[cores] = total, (*chosen, option)
        best = found
    return min(best.items(), key=lambda item: (item[1][0], item[0]))[1][1]


def _options(segment: ChipSegment, first: Option, target: Target, free: int) -> list[Option]:
    """Cuts under falling limits of work, until they take more cores than there are."""
    found = [first]
    most = first.busiest
    while most > 1:
        most = int(LESS * min(most, found[-1].busiest))
        try:
            option = _option(segment, target, max(1, most))
        except DoesNotFit:
            break
        if option.cores > free:
            break
        found.append(option)
    return found


def _option(segment: ChipSegment, target: Target, most: int) -> Option:
    """The fewest cores of which none works longer than so many picoseconds in a step."""
    ns = {event: cost.ns.value for event, cost in target.accounting().events.items()}
    work = Work(
        most,
        neuron=1000 * (ns["neuron_access"] + ns["neuron_update"] + RATE * ns["neuron_spike"]),
        synapse=1000 * RATE * ns["synop_conv"],
        message=1000 * RATE * ns["message_in"],
    )
    limits = {name: getattr(target.core, name) for name in target.core.__struct_fields__}
    tiles = allocate([segment], msgspec.structs.replace(target, core=Working(**limits, work=work)))
    cores: dict[int, int] = {}
    for tile in tiles:
        cores[tile.core] = cores.get(tile.core, 0) + tile.need[WORK]
    busiest = max(cores.values(), default=0)
    sent = _from_host(segment, tiles) * target.link.message_us.value
    return Option(len(cores), segment.steps * (busiest / 1e6 + sent), tiles, busiest)


def _from_host(segment: ChipSegment, tiles: Iterable[Tile]) -> int:
    """Pairs of a neuron on the host and a tile that its spikes reach."""
    ports = {port.name for port in segment.inputs}
    wires: dict[str, list[Wiring]] = {
        layer.name: [s.wiring for s in layer.synapses if s.source in ports]
        for layer in segment.populations
    }
    return sum(
        sources(wiring, tile.corner, shape3(tile.stop))
        for tile in tiles
        for wiring in wires[tile.population]
    )
