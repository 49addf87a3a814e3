"""Who reaches whom: the wiring of conv2d and linear synapses, exact at every border.

A linear synapse over ``(C, H, W)`` is a convolution whose kernel is the whole map, so one
description serves both. Along one spatial axis, source ``y`` reaches output ``o`` through tap
``k`` where ``o * stride + k * dilation - padding == y``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """One spatial axis of a convolution, all in elements."""

    kernel: int
    stride: int
    padding: int
    dilation: int
    size_in: int

    @property
    def size_out(self) -> int:
        """Outputs along the axis."""
        reach = self.dilation * (self.kernel - 1) + 1
        return (self.size_in + 2 * self.padding - reach) // self.stride + 1


@dataclass(frozen=True, slots=True)
class Wiring:
    """The synapses between a source and a population, without their weights.

    Args:
        rows: the axis of height.
        cols: the axis of width.
        channels_in: of the source.
        channels_out: of the population.
        groups: independent groups of channels.
    """

    rows: Axis
    cols: Axis
    channels_in: int
    channels_out: int
    groups: int

    @property
    def out_shape(self) -> Shape3:
        """Shape of the population, ``(C, H, W)``."""
        return self.channels_out, self.rows.size_out, self.cols.size_out

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

    Raises:
        BadInput: if it has neither one nor three axes.
    """
    if len(shape) == 1:
        return shape[0], 1, 1
    if len(shape) == 3:
        return shape[0], shape[1], shape[2]
    raise BadInput(f"expected a shape (N,) or (C, H, W), found {tuple(shape)}")


def wiring(
    kind: str, attrs: Mapping[str, Any], weight_shape: Sequence[int], in_shape: Sequence[int]
) -> Wiring:
    """The wiring of one synapse.

    Args:
        kind: "conv2d" or "linear".
        attrs: for conv2d ``stride``, ``padding`` and ``dilation`` as pairs, and ``groups``.
        weight_shape: ``(out, in / groups, kH, kW)`` or ``(out, in)``.
        in_shape: of the source, ``(C, H, W)`` or ``(N,)``.

    Raises:
        BadInput: if the kind is unknown or the shapes do not agree.
    """
    channels, height, width = shape3(in_shape)
    if kind == "linear":
        kernel, groups = (height, width), 1
        inputs_of_out = weight_shape[1] / (height * width)
        steps = [(1, 0, 1), (1, 0, 1)]
    elif kind == "conv2d":
        kernel, groups = (weight_shape[2], weight_shape[3]), int(attrs["groups"])
        inputs_of_out = weight_shape[1]
        steps = list(zip(attrs["stride"], attrs["padding"], attrs["dilation"], strict=True))
    else:
        raise BadInput(f"expected a synapse of kind conv2d or linear, found {kind!r}")
    rows, cols = (
        Axis(extent, int(stride), int(padding), int(dilation), size)
        for extent, (stride, padding, dilation), size in zip(
            kernel, steps, (height, width), strict=True
        )
    )
    found = Wiring(rows, cols, channels, weight_shape[0], groups)
    agrees = inputs_of_out * groups == channels and weight_shape[0] % groups == 0
    if not agrees or min(found.out_shape) < 1:
        raise BadInput(
            f"{kind} weights {tuple(weight_shape)} do not fit a source {tuple(in_shape)}"
        )
    return found


def fan_out(
    kind: str, attrs: Mapping[str, Any], weight_shape: Sequence[int], in_shape: Sequence[int]
) -> Ints:
    """How many synapses each source neuron really has; arguments as for :func:`wiring`.

    Returns:
        ``int64[*in_shape]``; sources near a border, or that a stride skips, have fewer.

    Raises:
        BadInput: if the kind is unknown or the shapes do not agree.
    """
    wires = wiring(kind, attrs, weight_shape, in_shape)
    rows = (taps(wires.rows) >= 0).sum(1)
    cols = (taps(wires.cols) >= 0).sum(1)
    pixel = rows[:, None] * cols * (wires.channels_out // wires.groups)
    return np.broadcast_to(pixel, shape3(in_shape)).reshape(tuple(in_shape)).astype(np.int64)


@lru_cache(maxsize=4096)
def taps(axis: Axis) -> Ints:
    """``int64[size_in, kernel]``: the output that a source reaches through a tap, or -1."""
    source = np.arange(axis.size_in)[:, None] + axis.padding
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
