"""Layers to tiles that fit cores: as few cores as a search over tilings finds.

Every population is cut into equal blocks of channels, rows and columns. What a block takes of a
core is counted exactly (:mod:`mapping.cores.need`); its output axons depend on how the layers that
it feeds are cut, so the search goes from the outputs to the inputs, and a beam keeps the best cuts
of the layers behind it. It runs with blocks that each keep a whole core, and with smaller ones that
keep their part of one; and with room counted in compartments, or in cores, of which more cuts take
as many, so that those with fewer messages are kept. In the end small tiles share a core where all
limits hold: the fewest cores win, at equal cores the fewest messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from itertools import chain, islice, product
from math import prod

import numpy as np

from has8.errors import DoesNotFit
from mapping.chip.segment import ChipSegment
from mapping.chip.wiring import Shape3, shape3
from mapping.cores.pack import LONGEST, first_fit
from mapping.cores.tilings import (
    Layer,
    Tiling,
    alike,
    axon_choices,
    axons_in,
    axons_out,
    classes,
    held,
    layers_of,
    room,
    tilings,
)
from mapping.partition.segments import KEEP
from mapping.targets.schema import CoreLimits, Target

BEAM = 8
"""How many cuts of the layers behind the search keeps, and how many of each layer it tries."""

HINTS = {
    "input_axons": "make the layer before it smaller, or ",
    "output_axons": "make the layers that it feeds smaller, or ",
    "synapse_bits": "lower the weight bits, make the layer smaller, or ",
    "memory_words": "lower the weight bits, make the layer smaller, or ",
    LONGEST: "lower the weight bits, or ",
}


@dataclass(frozen=True, slots=True)
class Tile:
    """A block of a population's neurons on a core.

    Args:
        segment: the chip segment's name.
        population: the population's name.
        start: first neuron, ``(C, H, W)`` or ``(N,)`` as the population's shape.
        stop: one past the last.
        axons: the axon type of each of the population's synapses, by the synapse's name.
        need: what it takes of each resource; the names are those of ``CoreLimits.limits``.
        core: the core it is on, counted over all segments.
        offset: compartments in front of it on that core.
    """

    segment: str
    population: str
    start: tuple[int, ...]
    stop: tuple[int, ...]
    axons: Mapping[str, str]
    need: Mapping[str, int]
    core: int
    offset: int

    @property
    def size(self) -> int:
        """How many neurons."""
        return prod(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def corner(self) -> Shape3:
        """Its first neuron, in three axes."""
        c, h, w = (*self.start, 0, 0)[:3]
        return c, h, w

    @property
    def compartments(self) -> int:
        """How many compartments its neurons take."""
        return self.need["neurons"]


def allocate(segments: Iterable[ChipSegment], target: Target) -> tuple[Tile, ...]:
    """Cut all populations into tiles, and put the tiles on cores.

    Args:
        segments: in the order of execution; two segments never share a core.
        target: whose limits hold.

    Returns:
        The tiles, in the order of segments, populations and blocks. Cores are counted from 0 in
        the order of their first tiles.

    Raises:
        DoesNotFit: if a layer fits on no core, however it is cut.
    """
    tiles: list[Tile] = []
    cores = 0
    for segment in segments:
        layers, core = layers_of(segment, target.registers), target.core
        needed = sum(layer.population.size * layer.compartments for layer in layers)
        best: tuple[int, int, list[Tile]] | None = None  # cores, messages
        known: dict[object, Mapping[str, int]] = {}
        searches = (cuts_of(layers, core, *how) for how in product((False, True), repeat=2))
        for cuts in chain.from_iterable(searches):
            messages = sum(cut.messages for cut in cuts.values())
            if best and best[0] * core.neurons < needed + core.neurons and messages >= best[1]:
                continue  # no cut needs fewer cores
            packed = _tiles(segment.name, blocks_of(layers, cuts, core), core, known)
            found = _cores(packed), messages, packed
            best = min(best or found, found, key=lambda one: one[:2])
        if best is None:
            continue
        tiles += [replace(tile, core=tile.core + cores) for tile in best[2]]
        cores += best[0]
    return tuple(tiles)


def _cores(tiles: Iterable[Tile]) -> int:
    return 1 + max((tile.core for tile in tiles), default=-1)


@dataclass(frozen=True, slots=True)
class _State:
    """The cuts of the layers behind."""

    room: int = 0
    messages: int = 0
    cuts: Mapping[str, Tiling] = field(default_factory=dict)

    def plus(self, name: str, cut: Tiling) -> _State:
        cuts = {**self.cuts, name: cut}
        return _State(self.room + cut.room, self.messages + cut.messages, cuts)


class _Replay:
    """An iterable that pulls from an iterator once, however often it is walked."""

    def __init__(self, source: Iterator[Tiling]) -> None:
        self._source = source
        self._seen: list[Tiling] = []

    def __iter__(self) -> Iterator[Tiling]:
        place = 0
        while True:
            if place == len(self._seen):
                self._seen.extend(islice(self._source, 1))
                if place == len(self._seen):
                    return
            yield self._seen[place]
            place += 1


def cuts_of(
    layers: Sequence[Layer], core: CoreLimits, share: bool, whole: bool = False
) -> list[Mapping[str, Tiling]]:
    """The best cuts of all layers that a search finds, best first.

    Args:
        layers: of a segment.
        core: whose limits hold.
        share: whether blocks that are smaller than the others of their layer keep no more than
            their part of a core; else each block keeps a whole one, so that there are few.
        whole: whether cuts of a layer whose blocks keep as many whole cores are equal, so that the
            one with the fewest messages is tried first.

    Raises:
        DoesNotFit: if a layer fits on no core, however it is cut.
    """
    unit = core.neurons if whole else 1

    def cost(state: _State) -> tuple[int, int]:
        return -(-state.room // unit), state.messages

    states = [_State()]
    for place in reversed(range(len(layers))):
        layer, ahead = layers[place], {layer.name for layer in layers[:place]}
        candidates = _Replay(_candidates(layer, core, share, unit))
        found: dict[object, _State] = {}
        for state in states:
            tried = (state.plus(layer.name, cut) for cut in candidates)
            fitting = (new for new in tried if _sends(layer, layers, new, core))
            for new in islice(fitting, BEAM):
                bound = (o for o in layers if _fed(o, ahead) or _feeds(o, ahead, layers))
                key = tuple(new.cuts.get(other.name) for other in (bound if place else layers))
                if key not in found or cost(new) < cost(found[key]):
                    found[key] = new
        if not found:
            raise _does_not_fit(layer, layers, states, core)
        states = sorted(found.values(), key=cost)[:BEAM]
    return [state.cuts for state in states]


def _fed(layer: Layer, names: set[str]) -> bool:
    return any(synapse.source in names for synapse in layer.population.synapses)


def _candidates(layer: Layer, core: CoreLimits, share: bool, unit: int) -> Iterator[Tiling]:
    """The cuts whose tiles fit as far as the layer alone decides, least room in units first."""
    waiting: list[tuple[int, int, int, Shape3, list[tuple[str, ...]]]] = []
    for least, messages, block in tilings(layer, core.neurons, share, unit):
        units = -(-least // unit)
        while waiting and waiting[0][:2] <= (units, messages):  # what follows keeps more
            _, sent, kept, cut, choices = heappop(waiting)
            yield from (Tiling(cut, axons, kept, sent) for axons in choices)
        places = list(classes(layer, block))
        if all(_within(held(layer, *place, 0, core), core.limits) for place in places):
            choices = [
                axons
                for axons in axon_choices(layer, core)
                if all(axons_in(layer, axons, *p, core) <= core.input_axons for p in places)
            ]
            kept = least
            if share:
                needed = _needed(layer, block, places, core)
                kept = room(layer, block, needed.__getitem__, core.neurons)
            heappush(waiting, (-(-kept // unit), messages, kept, block, choices))
    for _, sent, kept, cut, choices in sorted(waiting):
        yield from (Tiling(cut, axons, kept, sent) for axons in choices)


def _needed(
    layer: Layer, block: Shape3, places: Iterable[tuple[Shape3, Shape3]], core: CoreLimits
) -> dict[Shape3, int]:
    """Compartments that smaller blocks need, by size: as large a part as of what they lack most.

    They stand behind as many others as there can be, where synapses take most memory.
    """
    found: dict[Shape3, int] = {}
    for start, stop in places:
        size = shape3([b - a for a, b in zip(start, stop, strict=True)])
        if size == block:
            continue
        others = core.neurons - prod(size) * layer.compartments
        need = held(layer, start, stop, max(0, others), core)
        part = max(-(-n * core.neurons // core.limits[name]) for name, n in need.items())
        found[size] = max(part, found.get(size, 0))
    return found


def _within(need: Mapping[str, int], limits: Mapping[str, int]) -> bool:
    return all(amount <= limits[name] for name, amount in need.items())


def _feeds(layer: Layer, names: set[str], layers: Sequence[Layer]) -> bool:
    """Whether a layer closes a loop: whether it feeds some layers in front of it."""
    return any(other.name in names and _fed(other, {layer.name}) for other in layers)


def _sends(layer: Layer, layers: Sequence[Layer], state: _State, core: CoreLimits) -> bool:
    """Whether the output axons of each tile fit, of all layers that the newest cut bears on."""
    return all(needed <= core.output_axons for needed in _sent(layer, layers, state, core).values())


def _sent(layer: Layer, layers: Sequence[Layer], state: _State, core: CoreLimits) -> dict[str, int]:
    """The output axons of the tile that needs most, of each layer that the newest cut bears on.

    These are the layer that was cut and, where it closes a loop, those behind that feed it.
    """
    senders = [layer, *(o for o in layers if o.name in state.cuts and _fed(layer, {o.name}))]
    return {
        s.name: int(axons_out(s, state.cuts[s.name].block, layers, state.cuts, core).max(initial=0))
        for s in senders
    }


def _does_not_fit(
    layer: Layer, layers: Sequence[Layer], states: Sequence[_State], core: CoreLimits
) -> DoesNotFit:
    """The error for a layer without any cut that fits: the cut that comes closest, and why not."""
    limits = core.limits
    # Its axon types bear on no more than its own inputs, unless it closes a loop.
    closes = _fed(layer, {layer.name, *states[0].cuts})
    choices = list(islice(axon_choices(layer, core), None if closes else 1))
    best: tuple[float, int, str, str] | None = None
    for kept, messages, block in tilings(layer, core.neurons, False):
        places = list(classes(layer, block))
        parts = [held(layer, *place, 0, core) for place in places]
        need = {name: max(part[name] for part in parts) for name in parts[0]}
        for axons in choices:
            need["input_axons"] = max(axons_in(layer, axons, *place, core) for place in places)
            cut = Tiling(block, axons, kept, messages)
            sent = min(
                (_sent(layer, layers, state.plus(layer.name, cut), core) for state in states),
                key=lambda needed: max(needed.values()),
            )
            need["output_axons"], sender = max((amount, name) for name, amount in sent.items())
            worst = max((n / limits[name], n, name, sender) for name, n in need.items())
            best = min(best or worst, worst)
    assert best is not None, "a block of one neuron is always tried"
    _, amount, name, sender = best
    synapses = layer.population.synapses
    at_fault = synapses[0].name if synapses else layer.name
    named = sender if name == "output_axons" else at_fault
    return DoesNotFit(
        named,
        name.replace("_", " "),
        need=amount,
        have=limits[name],
        hint=HINTS.get(name, "") + KEEP.format(named),
    )


@dataclass(frozen=True, slots=True)
class Block:
    """A tile that has no core yet.

    Args:
        layer: that it is a part of.
        cut: of the layer.
        start: its first neuron, ``(C, H, W)``.
        stop: one past its last.
        like: start and stop of the first block that takes the same.
        output_axons: that it needs.
    """

    layer: Layer
    cut: Tiling
    start: Shape3
    stop: Shape3
    like: tuple[Shape3, Shape3]
    output_axons: int

    @property
    def place(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First neuron and one past the last, in the axes of the population."""
        axes = len(self.layer.population.shape)
        return self.start[:axes], self.stop[:axes]

    @property
    def axons(self) -> dict[str, str]:
        """The axon type of each synapse, by the synapse's name."""
        names = (synapse.name for synapse in self.layer.population.synapses)
        return dict(zip(names, self.cut.axons, strict=True))

    def need(self, core: CoreLimits, offset: int) -> dict[str, int]:
        """What it takes of a core behind ``offset`` other compartments."""
        return {
            **held(self.layer, self.start, self.stop, offset, core),
            "input_axons": axons_in(self.layer, self.cut.axons, self.start, self.stop, core),
            "output_axons": self.output_axons,
        }


def blocks_of(layers: Sequence[Layer], cuts: Mapping[str, Tiling], core: CoreLimits) -> list[Block]:
    """All blocks of a segment, in the order of layers and places.

    Args:
        layers: of the segment.
        cuts: of each layer by name.
        core: whose axon types the cuts use.
    """
    found = []
    for layer in layers:
        cut = cuts[layer.name]
        sent, likes = axons_out(layer, cut.block, layers, cuts, core), alike(layer, cut.block)
        for place in np.ndindex(*sent.shape):
            start = [at * size for at, size in zip(place, cut.block, strict=True)]
            stop = [min(a + n, e) for a, n, e in zip(start, cut.block, layer.shape, strict=True)]
            (c0, c1), (h0, h1), (w0, w1) = (of[a] for of, a in zip(likes, start, strict=True))
            like = (c0, h0, w0), (c1, h1, w1)
            found.append(Block(layer, cut, shape3(start), shape3(stop), like, int(sent[place])))
    return found


def _tiles(
    segment: str,
    blocks: Sequence[Block],
    core: CoreLimits,
    known: dict[object, Mapping[str, int]],
) -> list[Tile]:
    """The blocks on as few cores as first fit finds, counted from 0.

    What blocks were found to need is kept in ``known``.
    """

    def need(block: Block, offset: int) -> Mapping[str, int]:
        key = block.layer.name, block.cut, block.like, block.output_axons, offset
        if key not in known:
            known[key] = block.need(core, offset)
        return known[key]

    seats = first_fit([partial(need, block) for block in blocks], core.limits)
    tiles = []
    for block, seat in zip(blocks, seats, strict=True):
        start, stop = block.place
        tiles.append(
            Tile(
                segment=segment,
                population=block.layer.name,
                start=start,
                stop=stop,
                axons=block.axons,
                need=seat.need,
                core=seat.core,
                offset=seat.offset,
            )
        )
    return tiles
