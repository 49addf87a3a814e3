"""A layer in blocks: the ways to cut it, and what each block takes of a core.

What a block takes depends on its place only through the borders of the layer and the constants of
its neurons, so a cut is judged by one block of each class. Output axons depend on how the layers
behind are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import get_args

import numpy as np

from has8.errors import DoesNotFit
from mapping.chip.segment import ChipSegment, Population
from mapping.chip.wiring import (
    Ints,
    Shape3,
    Wiring,
    channel_multiplicity,
    multiplicity,
    patterns,
    shape3,
)
from mapping.cores.lists import Memory
from mapping.cores.need import Order, axon_types, forms, input_axons, memory, sources, synapses
from mapping.cores.pack import LONGEST
from mapping.partition.segments import KEEP
from mapping.targets.schema import CoreLimits, Packing, Registers

WORK = "work"
"""The name of a core's work in a step among its resources, where that is limited."""


@dataclass(frozen=True, slots=True)
class Work:
    """How long a core may work in a step, and how long it does, in picoseconds.

    Args:
        most: that it may.
        neuron: for each of its neurons.
        synapse: for each synapse that ends there, on average.
        message: for each source neuron that reaches it, on average.
    """

    most: int
    neuron: float
    synapse: float
    message: float

    def of(self, layer: Layer, start: Shape3, stop: Shape3) -> int:
        """Of a block."""
        time = self.neuron * prod(b - a for a, b in zip(start, stop, strict=True))
        for wires in layer.wires:
            time += self.synapse * synapses(wires, start, stop)
            time += self.message * sources(wires, start, stop)
        return round(time)


class Working(CoreLimits, frozen=True, kw_only=True):
    """What one neuron core holds, and how long it may work in a step.

    Args:
        work: of the core.
    """

    work: Work

    @property
    def limits(self) -> dict[str, int]:
        """The limit of each resource, work among them."""
        return {**super().limits, WORK: self.work.most}


@dataclass(frozen=True, slots=True)
class Layer:
    """A population, and the wiring of its synapses.

    Args:
        population: with its integers.
        wires: the wiring of each synapse.
        sources: the shape of the source of each.
        compartments: that one of its neurons takes.
        to_host: whether its spikes leave the chip.
        kinds: a number for each place along each axis, equal where the constants of the neurons
            are that a core keeps in tables; empty along an axis that has no part in them.
        waits: steps by which each synapse delays spikes on the chip.
    """

    population: Population
    wires: tuple[Wiring, ...]
    sources: tuple[Shape3, ...]
    compartments: int
    to_host: bool
    kinds: tuple[tuple[int, ...], ...]
    waits: tuple[int, ...]

    @property
    def name(self) -> str:
        """The population's name."""
        return self.population.name

    @property
    def shape(self) -> Shape3:
        """The population's shape in three axes."""
        return shape3(self.population.shape)


@dataclass(frozen=True, slots=True)
class Tiling:
    """One way to cut a layer.

    Args:
        block: channels, rows and columns of a block; the last along an axis may be smaller.
        axons: the name of an axon type for each synapse.
        room: compartments that its blocks keep from others; see :func:`room`.
        messages: pairs of a source neuron and a block that it reaches.
    """

    block: Shape3
    axons: tuple[str, ...]
    room: int
    messages: int


def layers_of(segment: ChipSegment, registers: Registers) -> list[Layer]:
    """The populations of a segment, in its order, and what a target with such registers asks.

    Raises:
        DoesNotFit: if spikes have to wait in a synapse for longer than the target delays them.
    """
    waits, most = segment.waits(), registers.delay_max
    for (_, synapse), steps in waits.items():
        if steps > most:
            hint = f"shorten the longer way to it, or {KEEP.format(synapse)}"
            raise DoesNotFit(synapse, "steps of delay", need=steps, have=most, hint=hint)
    return [
        Layer(
            population,
            tuple(synapse.wiring for synapse in population.synapses),
            tuple(shape3(segment.shape_of(synapse.source)) for synapse in population.synapses),
            population.neuron.compartments(registers),
            population.name in segment.outputs,
            tuple(_kinds(population, axis) for axis in range(3)),
            tuple(waits[population.name, synapse.name] for synapse in population.synapses),
        )
        for population in segment.populations
    ]


def _kinds(population: Population, axis: int) -> tuple[int, ...]:
    """The kind of each place along an axis; see :class:`Layer`."""
    names = [name for table in population.neuron.tables.values() for name in table]
    parts = [
        np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        for values in (getattr(population.neuron, name) for name in names)
        if values.ndim > axis and values.shape[axis] > 1
    ]
    if not parts:
        return ()
    _, kinds = np.unique(np.concatenate(parts, axis=1), axis=0, return_inverse=True)
    return tuple(kinds.reshape(-1).tolist())


def tilings(
    layer: Layer, compartments: int, share: bool, unit: int = 1
) -> list[tuple[int, int, Shape3]]:
    """Room, messages and block of each cut into blocks of at most so many, best first.

    Blocks are equal, but for the last along an axis: as many of them along each axis as there can
    be, or, where smaller ones share cores, as long along one axis as a core allows. A block of one
    neuron is always among them. The room is that of :func:`room`, if only compartments are short;
    cuts are compared by how many units of it they keep, then by their messages.
    """
    most = compartments // layer.compartments
    sizes = [sorted({-(-extent // n) for n in range(1, extent + 1)}) for extent in layer.shape]
    blocks = {shape3(block) for block in product(*sizes) if prod(block) <= max(1, most)}
    for axis, extent in enumerate(layer.shape) if share else ():
        for block in product(*sizes[:axis], [1], *sizes[axis + 1 :]):
            longest = min(extent, most // prod(block))
            if longest:
                blocks.add(shape3((*block[:axis], longest, *block[axis + 1 :])))

    def needed(size: Shape3) -> int:
        return prod(size) * layer.compartments if share else compartments

    found = [
        (
            room(layer, block, needed, compartments),
            sum(_messages(wires, block) for wires in layer.wires),
            block,
        )
        for block in blocks
    ]
    return sorted(found, key=lambda cut: (-(-cut[0] // unit), *cut[1:]))


def room(layer: Layer, block: Shape3, needed: Callable[[Shape3], int], compartments: int) -> int:
    """Compartments that the blocks of a cut keep from others.

    A block keeps a whole core, unless it is smaller than the others: of such a kind as many share a
    core as it has room for, and each keeps its part of it (harmonic weights: Lee and Lee, A simple
    on-line bin-packing algorithm, J. ACM 32(3), 1985).

    Args:
        layer: that is cut.
        block: of the cut.
        needed: compartments that a smaller block needs, by its size.
        compartments: of a core.
    """
    parts = [
        [(extent // size, size)] + [(1, extent % size)] * (extent % size > 0)
        for extent, size in zip(layer.shape, block, strict=True)
    ]
    kept = 0
    for along in product(*parts):
        size = shape3([size for _, size in along])
        least = compartments if size == block else min(needed(size), compartments)
        kept += prod(count for count, _ in along) * (compartments // (compartments // least))
    return kept


def _messages(wires: Wiring, block: Shape3) -> int:
    """Pairs of a source neuron and a block that it reaches."""
    channels = channel_multiplicity(wires, block[0]).sum()
    rows, cols = multiplicity(wires.rows, block[1]), multiplicity(wires.cols, block[2])
    return int(channels * rows.sum() * cols.sum())


def axon_choices(layer: Layer, core: CoreLimits) -> Iterator[tuple[str, ...]]:
    """Axon types for the layer's synapses, those that need the fewest input axons first."""
    options = [
        sorted(
            axon_types(wires, source, core.axons),
            key=lambda n: core.axons[n].input_per == "neuron",
        )
        for wires, source in zip(layer.wires, layer.sources, strict=True)
    ]
    return product(*options)


def classes(layer: Layer, block: Shape3) -> Iterator[tuple[Shape3, Shape3]]:
    """Start and stop of one block of each class; blocks of a class take the same."""
    spans = [dict.fromkeys(along.values()) for along in alike(layer, block)]
    for (c0, c1), (h0, h1), (w0, w1) in product(*spans):
        yield (c0, h0, w0), (c1, h1, w1)


def alike(layer: Layer, block: Shape3) -> list[Mapping[int, tuple[int, int]]]:
    """For each axis, start and stop of the first block of the same class, by each block's start."""
    return [
        _alike(layer.wires, layer.kinds[axis], axis, extent, size)
        for axis, (extent, size) in enumerate(zip(layer.shape, block, strict=True))
    ]


@lru_cache(maxsize=8192)
def _alike(
    wires: tuple[Wiring, ...], kinds: tuple[int, ...], axis: int, extent: int, size: int
) -> Mapping[int, tuple[int, int]]:
    """What :func:`alike` gives for one axis."""
    found: dict[object, tuple[int, int]] = {}
    of: dict[int, tuple[int, int]] = {}
    for start in range(0, extent, size):
        stop = min(start + size, extent)
        key: list[object] = [stop - start, frozenset(kinds[start:stop])]
        for w in wires:
            if axis == 0:
                key.append(start % (w.channels_out // w.groups) if w.groups > 1 else 0)
            else:
                key.append(patterns((w.rows, w.cols)[axis - 1], start, stop).key)
        of[start] = found.setdefault(tuple(key), (start, stop))
    return of


def held(
    layer: Layer, start: Shape3, stop: Shape3, offset: int, core: CoreLimits
) -> dict[str, int]:
    """What a block takes of each resource, axons aside, behind ``offset`` other compartments.

    Of neurons that take several, those that synapses reach stand in front, in order.
    """
    parts = stored(layer, start, stop, offset, core)[1]
    tables = layer.population.neuron.tables
    neurons = prod(b - a for a, b in zip(start, stop, strict=True)) * layer.compartments
    words = sum(part.words for part in parts)
    shared = core.memory
    return {
        "neurons": neurons,
        "synapse_bits": words * core.packing.word_bits,
        **({} if shared is None else {"memory_words": neurons * shared.neuron_words + words}),
        LONGEST: max((part.longest for part in parts), default=0),
        "synapse_formats": sum(part.formats for part in parts),
        **{table: _entries(layer, names, start, stop) for table, names in tables.items()},
        **({WORK: core.work.of(layer, start, stop)} if isinstance(core, Working) else {}),
    }


def stored(
    layer: Layer, start: Shape3, stop: Shape3, offset: int, core: CoreLimits
) -> tuple[Order, list[Memory]]:
    """How a block's neurons stand on a core, and what each synapse's lists need.

    Where synapses take no larger part of a core than neurons, channels stand first, and lists are
    dense or sparse. Else the order and the forms of the lists are those that take the fewest words
    and no more synapse formats.
    """
    packing = core.packing
    every = zip(layer.wires, layer.population.synapses, layer.waits, strict=True)
    synapses = [
        (wires, synapse.weight_bits + wait.bit_length(), start, stop)
        for wires, synapse, wait in every
    ]
    plain = [memory(*synapse, 0, packing) for synapse in synapses]
    neurons = prod(b - a for a, b in zip(start, stop, strict=True)) * layer.compartments
    binds = sum(part.words for part in plain) * core.neurons > neurons * core.synapse_words
    over = any(part.longest > packing.list_words for part in plain)
    if offset:
        plain = [memory(*synapse, offset, packing) for synapse in synapses]
    dense = packing.shared_kernels or all(part.form == "dense" for part in plain)
    if dense or not packing.step_bits or not (binds or over):
        return "chw", plain
    found: list[tuple[Order, list[Memory]]] = [("chw", plain)]
    for order in get_args(Order):
        fitting = [
            [form for form in forms(*synapse, offset, packing, order) if _fits(form, part, packing)]
            for synapse, part in zip(synapses, plain, strict=True)
        ]
        if all(fitting):
            found.append((order, [min(some, key=lambda form: form.words) for some in fitting]))
    return min(found, key=lambda option: sum(part.words for part in option[1]))


def _fits(form: Memory, plain: Memory, packing: Packing) -> bool:
    return form.formats <= plain.formats and form.longest <= packing.list_words


def _entries(layer: Layer, names: Sequence[str], start: Shape3, stop: Shape3) -> int:
    """Different values that some constants of the neurons take together within a block."""
    neuron, axes = layer.population.neuron, len(layer.population.shape)
    block = tuple(slice(a, b) for a, b in zip(start[:axes], stop[:axes], strict=True))
    parts = []
    for name in names:
        values = getattr(neuron, name)
        here = zip(values.shape, block, strict=False)
        parts.append(values[tuple(slice(None) if n == 1 else part for n, part in here)])
    if all(part.size == 1 for part in parts):
        return 1
    rows = np.stack([part.reshape(-1) for part in np.broadcast_arrays(*parts)])
    return int(np.unique(rows, axis=1).shape[1])


def axons_in(
    layer: Layer, axons: Sequence[str], start: Shape3, stop: Shape3, core: CoreLimits
) -> int:
    """Input axons that a block needs, with the given axon type for each synapse."""
    return sum(
        input_axons(wires, start, stop, core.axons[name])
        for wires, name in zip(layer.wires, axons, strict=True)
    )


def axons_out(
    layer: Layer,
    block: Shape3,
    layers: Sequence[Layer],
    cuts: Mapping[str, Tiling],
    core: CoreLimits,
) -> Ints:
    """Output axons of each block of a layer, given the cuts of the layers that it feeds.

    Layers that it feeds and that have no cut yet are left out.

    Returns:
        ``int64[blocks of channels, of rows, of columns]``.
    """

    def total(each: Ints, axis: int) -> Ints:
        at = np.arange(0, layer.shape[axis], block[axis])
        summed: Ints = np.add.reduceat(each, at, axis=axis if each.ndim > 1 else 0)
        return summed

    ones = [total(np.ones(extent, dtype=np.int64), axis) for axis, extent in enumerate(layer.shape)]
    needed: Ints = np.einsum("c,h,w->chw", *ones) * layer.to_host
    for other in layers:
        for place, synapse in enumerate(other.population.synapses):
            if synapse.source == layer.name and other.name in cuts:
                wires, cut = other.wires[place], cuts[other.name]
                axon = core.axons[cut.axons[place]]
                if wires.in_shape != layer.shape:  # then each neuron has axons of its own
                    each = _blocks_reached(wires, cut.block).reshape(layer.shape)
                    needed += axon.output_slots * total(total(total(each, 0), 1), 2)
                    continue
                channels = channel_multiplicity(wires, cut.block[0])
                rows = total(multiplicity(wires.rows, cut.block[1]), 1)
                cols = total(multiplicity(wires.cols, cut.block[2]), 2)
                if axon.output_per == "pixel":  # all its channels reach the same tiles
                    of_tile = np.full_like(ones[0], channels[0])
                else:
                    of_tile = total(channels, 0)
                needed += axon.output_slots * np.einsum("c,h,w->chw", of_tile, rows, cols)
    return needed


def _blocks_reached(wires: Wiring, block: Shape3) -> Ints:
    """How many blocks each source neuron reaches, in the wiring's shape."""
    channels = channel_multiplicity(wires, block[0])
    rows, cols = multiplicity(wires.rows, block[1]), multiplicity(wires.cols, block[2])
    copies: Ints = np.einsum("c,h,w->chw", channels, rows, cols)
    return copies
