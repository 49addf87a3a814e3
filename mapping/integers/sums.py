"""Weighted sums of spikes in torch, for any wiring."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mapping.chip.wiring import Axis, Wiring

Window = tuple[list[int], list[int], list[int], int]
"""Stride, padding, dilation and groups of a convolution, as torch takes them."""


def weighted_sums(wires: Wiring, x: Tensor, weight: Tensor) -> Tensor:
    """What a source's spikes add up to in each output; gradients pass through.

    Args:
        wires: who reaches whom.
        x: of the source, ``[N, *shape]``, floating point.
        weight: ``[C_out, C_in / groups, kH, kW]`` in the type of ``x``.

    Returns:
        ``[N, C_out, H, W]``.
    """
    if wires.full:
        return F.linear(x.flatten(1), weight.flatten(1))[:, :, None, None]
    axes = wires.rows, wires.cols
    images, padding = x.reshape(len(x), *wires.in_shape), [axis.padding for axis in axes]
    if not all(map(plain_window, axes)):
        images, padding = _laid_out(wires, images), [0, 0]
    window = [axis.stride for axis in axes], padding, [axis.dilation for axis in axes]
    return convolved(images, weight, (*window, wires.groups))


def convolved(images: Tensor, weight: Tensor, window: Window) -> Tensor:
    """A convolution without bias; gradients pass through.

    NNPACK may take Winograd's algorithm, which multiplies by fractions, so it is switched off. And
    oneDNN's convolutions of float32 are wrong (torch 2.14) for images of one channel where the
    strides differ and the sums are one column wide, so those pass through float64.

    Args:
        images: ``[N, C, H, W]``, floating point.
        weight: ``[C_out, C / groups, kH, kW]`` in the same type.
        window: stride, padding, dilation and groups.
    """
    (rows, columns), dtype = window[0], images.dtype
    if images.shape[1] == 1 and rows != columns and dtype != torch.float64:
        return convolved(images.double(), weight.double(), window).to(dtype)
    with torch.backends.nnpack.flags(enabled=False):
        return F.conv2d(images, weight, None, *window)


def plain_window(axis: Axis) -> bool:
    """Whether torch's convolutions know an axis as it is."""
    return axis.spread == 1 and axis.extra == 0 and axis.padding >= 0


def _laid_out(wires: Wiring, images: Tensor) -> Tensor:
    """The source as a plain window sees it: spread out, padded or cut at its ends."""
    rows, cols = wires.rows, wires.cols
    size = [(axis.size_in - 1) * axis.spread + 1 for axis in (rows, cols)]
    spread = images.new_zeros(*images.shape[:2], *size)
    spread[:, :, :: rows.spread, :: cols.spread] = images
    ends = [(axis.padding, axis.padding + axis.extra * axis.stride) for axis in (cols, rows)]
    return F.pad(spread, [*ends[0], *ends[1]])
