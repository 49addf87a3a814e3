"""What a block of a layer's neurons asks of a core: axons and synapse memory, counted exactly.

Neurons of a block stand on the core in the order of channels, rows, columns. Each source neuron
that reaches the block has a list of synapses there. Source neurons of one channel that use the
same taps of the kernel have the same list, moved by a base, and share it as long as the base is
within the packing's limit. Where a chip shares kernels, each tap of an input channel has one list
of the output channels, wherever it is used. Weights of zero are stored like all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mapping.chip.wiring import Axis, Ints, Patterns, Shape3, Wiring, patterns, taps
from mapping.targets.schema import AxonType, Packing


@dataclass(frozen=True, slots=True)
class Memory:
    """What the lists of one synapse need on a core.

    Args:
        words: memory words of all lists.
        longest: words of the longest list.
        formats: synapse formats.
    """

    words: int
    longest: int
    formats: int


def memory(
    wires: Wiring, synapse_bits: int, start: Shape3, stop: Shape3, offset: int, packing: Packing
) -> Memory:
    """The memory that one synapse needs for a block of outputs.

    A list whose targets follow one another is dense, one whose targets do not is sparse and has
    an index for each synapse; the indices of one format are as wide as the largest needs.

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
        return Memory(0, 0, 0)
    height, width = stop[1] - start[1], stop[2] - start[2]
    lowest, highest = _channels(wires, start[0], stop[0])
    outputs = highest - lowest + 1
    inputs = wires.channels_in // wires.groups
    if packing.shared_kernels:
        used = _taps(wires.rows, start[1], stop[1]) * _taps(wires.cols, start[2], stop[2])
        words = list_words(outputs, synapse_bits, packing.header_bits, packing)
        return Memory(int(words.sum()) * inputs * used, int(words.max()), 1)

    # axes of the arrays: patterns of rows, patterns of columns, groups of channels
    count = rows.count[:, None, None] * cols.count[None, :, None] * outputs
    corner = ((rows.span - 1)[:, None] * width + cols.span - 1)[:, :, None]
    dense = count == (outputs - 1) * height * width + corner + 1
    copies, beyond = _copies(rows, cols, offset, height, width, packing.shared_base_max)
    index = beyond[:, :, None] + highest * height * width + corner

    sparse_index = _index_bits(index[~dense], packing)
    prefix = _index_bits(index[dense], packing) if packing.dense_prefix else 0
    words = list_words(
        count,
        np.where(dense, synapse_bits, synapse_bits + sparse_index),
        packing.header_bits + np.where(dense, prefix, 0),
        packing,
    )
    return Memory(
        words=int((words * copies[:, :, None]).sum()) * inputs,
        longest=int(words.max()),
        formats=int(dense.any()) + int((~dense).any()),
    )


def _taps(axis: Axis, start: int, stop: int) -> int:
    """How many taps of a window the outputs of a block use."""
    output = taps(axis)
    return int(((output >= start) & (output < stop)).any(0).sum())


def list_words(synapses: Ints, bits: Ints | int, header: Ints | int, packing: Packing) -> Ints:
    """Words that a list takes: whole entries, each filled up to whole words.

    Source: nengo-loihi ``block.py``, ``SynapseConfig.bits_per_axon``.

    Args:
        synapses: in the list.
        bits: of one synapse.
        header: bits in front of each entry.
        packing: the target's rule.
    """
    full, rest = np.divmod(synapses, packing.entry_synapses)
    words: Ints = full * -(-(packing.entry_synapses * bits + header) // packing.word_bits)
    return words + (rest > 0) * -(-(rest * bits + header) // packing.word_bits)


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
    rows: Patterns, cols: Patterns, offset: int, height: int, width: int, limit: int
) -> tuple[Ints, Ints]:
    """How often the list of each pair of patterns is stored, and its base beyond the limit.

    All pixels whose base is within the limit share one copy. Each pixel past it has its own,
    whose indices are larger by what the base lacks.
    """
    shape = len(rows.count), len(cols.count)
    if offset + height * width - 1 <= limit:
        return np.ones(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    beyond = offset + rows.first[:, None] * width + cols.first - limit
    at = np.broadcast_arrays(rows.pattern[:, None], cols.pattern)
    shared, own, largest = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    np.maximum.at(shared, tuple(at), (beyond <= 0).astype(np.int64))
    np.add.at(own, tuple(at), beyond > 0)
    np.maximum.at(largest, tuple(at), beyond)
    return shared + own, largest


def _index_bits(indices: Ints, packing: Packing) -> int:
    """The narrowest width that holds all indices; 0 if there are none."""
    needed = int(indices.max(initial=0)).bit_length()
    return next(bits for bits in packing.index_bits if bits >= needed)
