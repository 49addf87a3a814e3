"""Tiles on more cores than they need: those of the chips that are on anyway, to end steps sooner.

A step lasts as long as its busiest core. What a core does in one is estimated from what is known
before anything runs: its neurons, and, where each source fires in :data:`RATE` of the steps, its
synapses and messages. That is one more limit of a core, which falls until the cores are used up;
and since a spike from the host is a message for each tile that it reaches, cuts that cost more
messages than they save work are left out, even if the host's neurons fire in every step: encoders
may be dense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from has8.errors import DoesNotFit
from mapping.chip.segment import ChipSegment
from mapping.chip.wiring import shape3
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
        messages_uj: microjoules of all its messages, estimated, of a sample.
    """

    cores: int
    time_us: float
    tiles: tuple[Tile, ...]
    busiest: int
    messages_uj: float = 0.0


def spread(
    segments: Iterable[ChipSegment],
    target: Target,
    objective: Literal["latency", "energy"] = "latency",
) -> tuple[Tile, ...]:
    """Tiles on up to all cores of the chips that :func:`allocate` needs.

    The result is that of :func:`mapping.cores.allocate.allocate`. Of all ways to deal the cores out
    to the segments, whose options are the cuts under falling limits of work, this one has the least
    estimated time or energy. The energy is what the chips draw for that time, and of messages,
    which more tiles make more; a host that waits is not in it.

    Args:
        segments: those on the chip.
        target: with its cores.
        objective: what is to be least.

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
    power = target.power
    draw_mw = chips * (power.static_mw.value + power.embedded_mw.value)

    def energy_uj(option: Option) -> float:
        return draw_mw * option.time_us * 1e-3 + option.messages_uj

    cost = energy_uj if objective == "energy" else _time_us
    for option in least(options, free, cost):
        for tile in option.tiles:
            need = {name: amount for name, amount in tile.need.items() if name != WORK}
            tiles.append(replace(tile, core=tile.core + cores, need=need))
        cores += option.cores
    return tuple(tiles)


def _time_us(option: Option) -> float:
    return option.time_us


def least(
    options: Sequence[Sequence[Option]], free: int, cost: Callable[[Option], float] = _time_us
) -> tuple[Option, ...]:
    """One option of each segment: the least cost in all on so many cores (exact, by their number).

    Args:
        options: of each segment; the first of each must fit together.
        free: cores that they may take.
        cost: of an option; its time unless given.
    """
    best: dict[int, tuple[float, tuple[Option, ...]]] = {0: (0.0, ())}
    for of_segment in options:
        found: dict[int, tuple[float, tuple[Option, ...]]] = {}
        for taken, (before, chosen) in best.items():
            for option in of_segment:
                cores, total = taken + option.cores, before + cost(option)
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
    prices = target.accounting().events
    ns = {event: price.ns.value for event, price in prices.items()}
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
    from_host, on_chip = _messages(segment, tiles)
    sent_us, link = from_host * target.link.message_us.value, target.link
    crossing_pj = 2 * link.bits_per_message.value * link.pj_per_bit.value
    passing_pj = prices["message_out"].pj.value + prices["message_in"].pj.value
    step_pj = from_host * crossing_pj + RATE * on_chip * passing_pj
    return Option(
        len(cores),
        segment.steps * (busiest / 1e6 + sent_us),
        tiles,
        busiest,
        segment.steps * step_pj * 1e-6,
    )


def _messages(segment: ChipSegment, tiles: Iterable[Tile]) -> tuple[int, int]:
    """Pairs of a neuron and a tile that its spikes reach: neurons on the host, and on the chip."""
    ports = {port.name for port in segment.inputs}
    layers = {layer.name: layer for layer in segment.populations}
    counts = [0, 0]
    for tile in tiles:
        for synapse in layers[tile.population].synapses:
            reached = sources(synapse.wiring, tile.corner, shape3(tile.stop))
            counts[synapse.source not in ports] += reached
    return counts[0], counts[1]
