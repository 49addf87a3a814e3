"""Who reaches whom: the wiring of synapses, exact at every border.

Every synapse kind comes down to this description: a window of taps that slides over the source.
A linear layer over ``(C, H, W)`` is a window as large as the whole map; a transposed convolution
slides over a source whose elements stand apart. Along one spatial axis, source ``y`` reaches
output ``o`` through tap ``k`` where ``o * stride + k * dilation - padding == y * spread``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from has8.errors import BadInput

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Shape3 = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis of a wiring, all in elements.

    Args:
        kernel: taps of the window, at least 1.
        stride: from one output's window to the next one's, at least 1.
        padding: elements in front of the source, and behind it, that are always 0. Negative
            where the window starts behind the source's first elements.
        dilation: from one tap to the next, at least 1.
        size_in: elements of the source, at least 1.
        spread: from one element of the source to the next, at least 1; what lies between is 0.
        extra: outputs behind the last whole window, at least 0.
    """

    kernel: int
    stride: int
    padding: int
    dilation: int
    size_in: int
    spread: int = 1
    extra: int = 0

    @property
    def size_out(self) -> int:
        """Outputs along the axis; below 1 where the window does not fit."""
        extent = (self.size_in - 1) * self.spread + 1 + 2 * self.padding
        window = self.dilation * (self.kernel - 1) + 1
        return (extent - window) // self.stride + 1 + self.extra


@dataclass(frozen=True, slots=True)
class Wiring:
    """The synapses between a source and a population, without their weights.

    Weights that go with it are ``[channels_out, channels_in / groups, rows.kernel, cols.kernel]``.

    Args:
        rows: the axis of height.
        cols: the axis of width.
        channels_in: channels of the source.
        channels_out: channels of the population.
        groups: independent groups of channels.
    """

    rows: Axis
    cols: Axis
    channels_in: int
    channels_out: int
    groups: int

    @property
    def in_shape(self) -> Shape3:
        """Shape of the source, ``(C, H, W)``."""
        return self.channels_in, self.rows.size_in, self.cols.size_in

    @property
    def out_shape(self) -> Shape3:
        """Shape of the population, ``(C, H, W)``."""
        return self.channels_out, self.rows.size_out, self.cols.size_out

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weights."""
        return (
            self.channels_out,
            self.channels_in // self.groups,
            self.rows.kernel,
            self.cols.kernel,
        )

    @property
    def full(self) -> bool:
        """Whether every source neuron reaches every output through a weight of its own."""
        return self.groups == 1 and all(
            (axis.kernel, axis.padding, axis.dilation, axis.spread, axis.size_out)
            == (axis.size_in, 0, 1, 1, 1)
            for axis in (self.rows, self.cols)
        )

    def groups_of(self, start: int, stop: int) -> tuple[int, int]:
        """The range of groups that the output channels ``start..stop`` belong to."""
        size = self.channels_out // self.groups
        return start // size, (stop - 1) // size + 1


@dataclass(frozen=True, slots=True)
class Patterns:
    """How the sources along one axis reach a block of outputs.

    Two sources have the same pattern when they use the same taps; their targets then differ by
    a shift only.

    Args:
        reached: sources that reach the block.
        first: the first output, counted from the block's start, of each of these.
        pattern: the pattern of each of these.
        count: outputs that each pattern reaches.
        span: from the first to the last of them, both included.
        key: equal for blocks whose sources reach them in the same way.
    """

    reached: Ints
    first: Ints
    pattern: Ints
    count: Ints
    span: Ints
    key: bytes


def shape3(shape: Sequence[int]) -> Shape3:
    """A shape as channels, rows and columns: ``(N,)`` is N channels of one pixel.

    ``(C, L)`` is C channels of one column, of L rows.

    Raises:
        BadInput: if it has neither one nor two or three axes.
    """
    if 1 <= len(shape) <= 3:
        channels, rows, cols = (*shape, 1, 1)[:3]
        return channels, rows, cols
    raise BadInput(f"expected a shape (N,), (C, L) or (C, H, W), found {tuple(shape)}")


def dense(out: int, in_shape: Sequence[int]) -> Wiring:
    """The wiring in which every neuron of a source reaches each of ``out`` outputs.

    Args:
        out: outputs, at least 1.
        in_shape: shape of the source, ``(N,)``, ``(C, L)`` or ``(C, H, W)``.

    Raises:
        BadInput: if the source has no axis or more than three.
    """
    channels, height, width = shape3(in_shape)
    rows, cols = (Axis(size, 1, 0, 1, size) for size in (height, width))
    return Wiring(rows, cols, channels, out, 1)


def fan_out(wires: Wiring) -> Ints:
    """How many synapses each source neuron really has.

    Returns:
        ``int64[C, H, W]``; sources near a border, or that a stride skips, have fewer.
    """
    rows = (taps(wires.rows) >= 0).sum(1)
    cols = (taps(wires.cols) >= 0).sum(1)
    pixel = rows[:, None] * cols * (wires.channels_out // wires.groups)
    return np.broadcast_to(pixel, wires.in_shape).astype(np.int64)


@lru_cache(maxsize=4096)
def taps(axis: Axis) -> Ints:
    """``int64[size_in, kernel]``: the output that a source reaches through a tap, or -1."""
    source = np.arange(axis.size_in)[:, None] * axis.spread + axis.padding
    output, rest = np.divmod(source - axis.dilation * np.arange(axis.kernel), axis.stride)
    exists = (rest == 0) & (output >= 0) & (output < axis.size_out)
    return _frozen(np.where(exists, output, -1).astype(np.int64))


@lru_cache(maxsize=8192)
def patterns(axis: Axis, start: int, stop: int) -> Patterns:
    """How the sources along an axis reach the outputs ``start..stop``."""
    output = taps(axis)
    used = (output >= start) & (output < stop)
    reached = np.flatnonzero(used.any(1))
    used, output = used[reached], output[reached] - start
    first = np.where(used, output, stop).min(1)
    last = np.where(used, output, -1).max(1)
    distinct, example, pattern = np.unique(used, axis=0, return_index=True, return_inverse=True)
    return Patterns(
        _frozen(reached),
        _frozen(first),
        _frozen(pattern.reshape(-1)),
        _frozen(distinct.sum(1)),
        _frozen((last - first + 1)[example]),
        used.tobytes() + first.tobytes(),
    )


@lru_cache(maxsize=8192)
def multiplicity(axis: Axis, block: int) -> Ints:
    """How many blocks of ``block`` outputs each source reaches, ``int64[size_in]``."""
    output = taps(axis)
    blocks = -(-axis.size_out // block)
    reaches = np.zeros((axis.size_in, blocks + 1), dtype=bool)
    np.put_along_axis(reaches, np.where(output < 0, blocks, output // block), True, axis=1)
    return _frozen(reaches[:, :blocks].sum(1))


@lru_cache(maxsize=8192)
def channel_multiplicity(wires: Wiring, block: int) -> Ints:
    """How many blocks of ``block`` output channels each source channel reaches."""
    size = wires.channels_out // wires.groups
    group = np.arange(wires.channels_in) // (wires.channels_in // wires.groups)
    return _frozen(((group + 1) * size - 1) // block - group * size // block + 1)


def reach(wires: Wiring, start: Shape3, stop: Shape3) -> tuple[Mask, Mask, Mask]:
    """Which sources reach a block of outputs.

    Args:
        wires: the wiring.
        start: first output of the block, ``(C, H, W)``.
        stop: one past the last.

    Returns:
        one mask for each axis of the source; a source reaches the block where all three hold.
    """
    first, last = wires.groups_of(start[0], stop[0])
    size = wires.channels_in // wires.groups
    channels = np.arange(wires.channels_in) // size
    masks = [(channels >= first) & (channels < last)]
    for axis, begin, end in zip((wires.rows, wires.cols), start[1:], stop[1:], strict=True):
        mask = np.zeros(axis.size_in, dtype=bool)
        mask[patterns(axis, begin, end).reached] = True
        masks.append(mask)
    return masks[0], masks[1], masks[2]


def _frozen(array: NDArray[Any]) -> Ints:
    """The array as read-only int64, so that a cached one stays as it is."""
    fixed: Ints = array.astype(np.int64)
    fixed.setflags(write=False)
    return fixed
