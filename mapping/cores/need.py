"""What a block of a layer's neurons asks of a core: axons and synapse memory, counted exactly.

Neurons of a block stand on the core in the order of channels, rows, columns, or of rows, columns,
channels, in which the targets of a list are closer together, but bases larger. Each source neuron
that reaches the block has a list of synapses there. Source neurons of one channel that use the
same taps of the kernel have the same list, moved by a base, and share it as long as their bases
are within the packing's limit of each other. Where a chip shares kernels, each tap of an input
channel has one list of the output channels, wherever it is used. Weights of zero are stored like
all others. How lists are written is in :mod:`mapping.cores.lists`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np

from mapping.chip.wiring import Axis, Ints, Patterns, Shape3, Wiring, patterns, taps
from mapping.cores.lists import Lists, Memory, list_words, written, written_in_runs
from mapping.targets.schema import AxonType, Packing

Order = Literal["chw", "hwc"]
"""Of a block's neurons on a core: channels, rows, columns, or rows, columns, channels."""


@lru_cache(maxsize=1 << 14)
def memory(
    wires: Wiring, synapse_bits: int, start: Shape3, stop: Shape3, offset: int, packing: Packing
) -> Memory:
    """The memory that one synapse needs for a block of outputs: dense lists, and sparse ones.

    Args:
        wires: the synapse's wiring.
        synapse_bits: bits of one stored weight and of its delay.
        start: first output of the block, ``(C, H, W)``.
        stop: one past the last.
        offset: compartments on the core in front of the block.
        packing: the target's rule.
    """
    rows = patterns(wires.rows, start[1], stop[1])
    cols = patterns(wires.cols, start[2], stop[2])
    if not len(rows.reached) or not len(cols.reached):
        return Memory(0, 0, 0, "")
    if packing.shared_kernels:
        lowest, highest = _channels(wires, start[0], stop[0])
        used = _taps(wires.rows, start[1], stop[1]) * _taps(wires.cols, start[2], stop[2])
        words = list_words(highest - lowest + 1, synapse_bits, packing.header_bits, packing)
        total = int(words.sum()) * used * (wires.channels_in // wires.groups)
        return Memory(total, int(words.max()), 1, "dense")
    lists = _lists(wires, start, stop, offset, "chw", packing.shared_base_max)
    return _of_all_inputs(written(lists, synapse_bits, packing), wires)


@lru_cache(maxsize=1 << 14)
def forms(
    wires: Wiring,
    synapse_bits: int,
    start: Shape3,
    stop: Shape3,
    offset: int,
    packing: Packing,
    order: Order,
) -> tuple[Memory, ...]:
    """The same with the block's neurons in an order, for each form that the lists may have.

    The target must not share kernels.
    """
    if not sources(wires, start, stop):
        return (Memory(0, 0, 0, ""),)
    lists = _lists(wires, start, stop, offset, order, packing.shared_base_max)
    found = [written(lists, synapse_bits, packing)]
    if packing.step_bits and not lists.dense.all():
        found += written_in_runs(lists, synapse_bits, packing)
    return tuple(_of_all_inputs(part, wires) for part in found)


def _of_all_inputs(one: Memory, wires: Wiring) -> Memory:
    return replace(one, words=one.words * (wires.channels_in // wires.groups))


def _lists(
    wires: Wiring, start: Shape3, stop: Shape3, offset: int, order: Order, limit: int
) -> Lists:
    """The lists of a block whose neurons stand in an order."""
    rows = patterns(wires.rows, start[1], stop[1])
    cols = patterns(wires.cols, start[2], stop[2])
    lowest, highest = _channels(wires, start[0], stop[0])
    channels, height, width = (b - a for a, b in zip(start, stop, strict=True))
    last = order == "hwc"
    pitch = (1, width * channels, channels) if last else (height * width, width, 1)
    copies, beyond = _copies(rows, cols, offset, pitch, limit)
    return Lists(rows, cols, highest - lowest + 1, highest, pitch, copies, beyond)


def _taps(axis: Axis, start: int, stop: int) -> int:
    """How many taps of a window the outputs of a block use."""
    output = taps(axis)
    return int(((output >= start) & (output < stop)).any(0).sum())


def input_axons(wires: Wiring, start: Shape3, stop: Shape3, axon: AxonType) -> int:
    """Input axons that a block needs: one for each source neuron, or pixel, that reaches it."""
    if axon.input_per == "neuron":
        return sources(wires, start, stop)
    rows = patterns(wires.rows, start[1], stop[1])
    cols = patterns(wires.cols, start[2], stop[2])
    return len(rows.reached) * len(cols.reached)


def sources(wires: Wiring, start: Shape3, stop: Shape3) -> int:
    """How many source neurons reach a block."""
    rows = patterns(wires.rows, start[1], stop[1])
    cols = patterns(wires.cols, start[2], stop[2])
    first, last = wires.groups_of(start[0], stop[0])
    pixels = len(rows.reached) * len(cols.reached)
    return pixels * (last - first) * (wires.channels_in // wires.groups)


def synapses(wires: Wiring, start: Shape3, stop: Shape3) -> int:
    """How many synapses end in a block."""
    pixels = 1
    for axis, begin, end in zip((wires.rows, wires.cols), start[1:], stop[1:], strict=True):
        found = patterns(axis, begin, end)
        pixels *= int(found.count[found.pattern].sum())
    return pixels * (stop[0] - start[0]) * (wires.channels_in // wires.groups)


def axon_types(wires: Wiring, source: Shape3, axons: Mapping[str, AxonType]) -> tuple[str, ...]:
    """Names of the axon types that can serve a synapse.

    A pixel's channels share one axon as the atoms of a population, so all of them must reach
    whatever one reaches: that rules out groups, and another shape than the source's own.

    Args:
        wires: the synapse's wiring.
        source: the shape of its source.
        axons: the target's.
    """

    def serves(axon: AxonType) -> bool:
        alike = wires.groups == 1 and wires.in_shape == source
        whole = "pixel" not in (axon.input_per, axon.output_per) or alike
        return whole and (axon.max_atoms is None or wires.channels_in <= axon.max_atoms)

    return tuple(name for name, axon in axons.items() if serves(axon))


def _channels(wires: Wiring, start: int, stop: int) -> tuple[Ints, Ints]:
    """First and last channel of each group within the block, counted from the block's start."""
    first, last = wires.groups_of(start, stop)
    size = wires.channels_out // wires.groups
    begin = np.arange(first, last) * size
    lowest: Ints = np.maximum(begin, start) - start
    highest: Ints = np.minimum(begin + size, stop) - 1 - start
    return lowest, highest


def _copies(
    rows: Patterns, cols: Patterns, offset: int, pitch: Shape3, limit: int
) -> tuple[Ints, Ints]:
    """How often the list of each pair of patterns is stored, and its base beyond the limit.

    Source neurons whose bases differ by no more than the limit share a copy; what the largest of
    them has beyond it is added to the copy's indices.
    """
    shape = len(rows.count), len(cols.count)
    bases = rows.first[:, None] * pitch[1] + cols.first * pitch[2]
    if offset + bases.max() <= limit:
        return np.ones(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    at = tuple(np.broadcast_arrays(rows.pattern[:, None], cols.pattern))
    least, most = np.full(shape, bases.max()), np.zeros(shape, dtype=np.int64)
    np.minimum.at(least, at, bases)
    np.maximum.at(most, at, bases)
    window = (bases - least[at]) // (limit + 1)
    pair = np.ravel_multi_index(at, shape)
    distinct = np.unique(np.stack([pair.ravel(), window.ravel()]), axis=1)[0]
    copies = np.bincount(distinct, minlength=least.size).reshape(shape)
    return copies, np.maximum(0, offset + most - limit)
