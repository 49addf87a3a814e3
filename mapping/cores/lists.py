"""How synapse memory holds the lists of a block: sparse, dense, or in runs.

A list is a row of entries. A sparse entry has an index for each of its synapses; a dense one has
its first index in front, and its targets follow one another; a run-length one has its first index
in front, and for each synapse the step from the target before. A step takes 2 to 5 bits where an
index takes up to 12; where one is too long, another entry begins.

Sources: nengo-loihi ``block.py``, ``SynapseConfig.bits_per_axon`` (entries, headers, whole words);
NxTF ``synapse_compression.py``, ``SynapseEncoder``, and ``data_structures.py``, ``SynEntry`` (first
indices and steps).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mapping.chip.wiring import Ints, Mask, Patterns, Shape3
from mapping.targets.schema import Packing


@dataclass(frozen=True, slots=True)
class Memory:
    """What the lists of one synapse need on a core.

    Args:
        words: memory words of all lists.
        longest: words of the longest list.
        formats: synapse formats.
        form: how the lists are written, such as "dense"; empty where there are none.
    """

    words: int
    longest: int
    formats: int
    form: str


@dataclass(frozen=True, slots=True)
class Lists:
    """The lists of one input channel of each group, and where their targets stand on the core.

    There is one for each pattern of rows, pattern of columns and group of channels, in the order of
    the axes of the arrays.

    Args:
        rows: how the sources reach the block along the height.
        cols: and along the width.
        outputs: ``int64[groups]``, channels that the sources of a group reach.
        last: ``int64[groups]``, the last of these, counted from the block's first channel.
        pitch: places on the core from one channel, row and column of the block to the next.
        copies: ``int64[rows, columns]``, how often a list is stored.
        beyond: ``int64[rows, columns]``, what is added to its indices.
    """

    rows: Patterns
    cols: Patterns
    outputs: Ints
    last: Ints
    pitch: Shape3
    copies: Ints
    beyond: Ints

    @property
    def count(self) -> Ints:
        """Synapses of each list."""
        return self.rows.count[:, None, None] * self.cols.count[:, None] * self.outputs

    @property
    def dense(self) -> Mask:
        """Whether the targets of each list follow one another."""
        covered = (self.outputs - 1) * self.pitch[0] + self._corner + 1
        alike: Mask = self.count == covered
        return alike

    @property
    def index(self) -> Ints:
        """The largest index of each list."""
        return self.beyond[:, :, None] + self.last * self.pitch[0] + self._corner

    @property
    def _corner(self) -> Ints:
        """From the first target in a channel to the last one."""
        spans = self.rows.span[:, None, None] - 1, self.cols.span[:, None] - 1
        corner: Ints = spans[0] * self.pitch[1] + spans[1] * self.pitch[2]
        return corner


def written(lists: Lists, synapse_bits: int, packing: Packing) -> Memory:
    """What the lists need, dense where the targets follow one another, and sparse elsewhere.

    The indices of all lists of a kind are as wide as the largest of them needs.

    Args:
        lists: of a block.
        synapse_bits: bits of one stored weight and of its delay.
        packing: the target's rule.
    """
    dense, index, header = lists.dense, lists.index, packing.header_bits
    prefix = index_bits(index[dense], packing) if packing.dense_prefix else 0
    bits = np.where(dense, synapse_bits, synapse_bits + index_bits(index[~dense], packing))
    words = list_words(lists.count, bits, header + np.where(dense, prefix, 0), packing)
    forms = ["dense"] * bool(dense.any()) + ["sparse"] * bool((~dense).any())
    return _memory(words, lists.copies, len(forms), " and ".join(forms))


def written_in_runs(lists: Lists, synapse_bits: int, packing: Packing) -> list[Memory]:
    """What the lists need, all in runs, for each width of a step that the target has.

    The arguments are those of :func:`written`.
    """
    header = packing.header_bits + index_bits(lists.index, packing)
    return [
        _memory(words, lists.copies, 1, f"run-length, {step} bits a step" if step else "dense runs")
        for step, words in zip(
            packing.step_bits, _words_of_runs(lists, synapse_bits, header, packing), strict=True
        )
    ]


def list_words(synapses: Ints, bits: Ints | int, header: Ints | int, packing: Packing) -> Ints:
    """Words that synapses without a gap take: full entries and a rest, each in whole words.

    Source: nengo-loihi ``block.py``, ``SynapseConfig.bits_per_axon``.

    Args:
        synapses: how many.
        bits: of one synapse.
        header: bits in front of each entry.
        packing: the target's rule.
    """
    full, rest = np.divmod(synapses, packing.entry_synapses)
    words: Ints = full * -(-(packing.entry_synapses * bits + header) // packing.word_bits)
    return words + (rest > 0) * -(-(rest * bits + header) // packing.word_bits)


def index_bits(indices: Ints, packing: Packing) -> int:
    """The narrowest width that holds all indices; 0 if there are none."""
    needed = int(indices.max(initial=0)).bit_length()
    return next(bits for bits in packing.index_bits if bits >= needed)


def _memory(words: Ints, copies: Ints, formats: int, form: str) -> Memory:
    return Memory(int((words * copies[:, :, None]).sum()), int(words.max()), formats, form)


def _words_of_runs(lists: Lists, synapse_bits: int, header: int, packing: Packing) -> Ints:
    """Words of each list in runs, for each width of a step, ``int64[widths, *lists]``.

    Sources reach every output of a row, every other, every third and so on, so that all steps along
    an axis are equal. The runs of several rows, or channels, are those of one as often, but that
    the last one of each may go on in the first one of the next.
    """
    longest = np.array([max(1, 2**step - 1) for step in packing.step_bits])[:, None, None, None]
    table = _table(synapse_bits, header, packing, int(lists.count.max()).bit_length())
    width = np.arange(len(table))[:, None, None, None]

    def words(synapses: Ints) -> Ints:
        found: Ints = table[width, synapses]
        return found

    rows, cols = lists.rows, lists.cols
    axes = (
        (lists.outputs, lists.outputs),
        (rows.count[:, None, None], rows.span[:, None, None]),
        (cols.count[:, None], cols.span[:, None]),
    )
    first = last = np.ones((len(table), *lists.count.shape), dtype=np.int64)
    inner, whole, covered = np.zeros_like(first), first > 0, np.zeros(1, dtype=np.int64)
    for axis in np.argsort(lists.pitch, kind="stable"):
        number, span = axes[axis]
        apart = lists.pitch[axis] * ((span - 1) // np.maximum(1, number - 1))
        joins = (apart - covered <= longest) | (number == 1)
        covered = covered + (number - 1) * apart
        alone = words(first)
        between = np.where(joins, words((first + last) * ~whole), alone + words(last))
        middle = np.where(joins, 0, alone * (number - 2))
        inner = np.where(whole, middle, inner * number + between * (number - 1))
        longer = np.where(whole & joins, number, 1)
        first, last, whole = first * longer, last * longer, whole & joins
    found: Ints = np.where(whole, words(first), words(first) + inner + words(last))
    return found


@lru_cache(maxsize=256)
def _table(synapse_bits: int, header: int, packing: Packing, bits: int) -> Ints:
    """Words of a run by the width of its steps and its length, below ``2**bits``."""
    lengths = np.arange(2**bits)
    table: Ints = np.stack(
        [list_words(lengths, synapse_bits + step, header, packing) for step in packing.step_bits]
    )
    return table
