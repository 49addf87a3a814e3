"""Pooling: maximum, average, and average down to one element, or to a few of equal windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from mapping.chip.wiring import Axis, Wiring
from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import Affine, Attrs, Lowered, Natural, Op, Positive, pair, single, window


class MaxWindow(Attrs, frozen=True):
    """Attributes of a maximum over windows, of rows and columns or, of ``(C, L)``, of one axis."""

    kernel: Annotated[list[Positive], Meta(min_length=1, max_length=2)]
    stride: Annotated[list[Positive], Meta(min_length=1, max_length=2)]
    padding: Annotated[list[Natural], Meta(min_length=1, max_length=2)]

    def __post_init__(self) -> None:
        """Check what single ranges cannot."""
        if not len(self.kernel) == len(self.stride) == len(self.padding):
            raise ValueError("kernel, stride and padding must have as many axes")
        if any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise ValueError("padding must be at most half of the kernel")


class AverageWindow(MaxWindow, frozen=True):
    """Attributes of an average over windows."""

    count_include_pad: bool


class Sizes(Attrs, frozen=True):
    """Attributes of an average down to one element of each channel, or to more along its axes."""

    size: Annotated[list[Positive], Meta(min_length=1, max_length=2)] | None = None


def _window_of(module: nn.AvgPool1d | nn.AvgPool2d | nn.MaxPool1d | nn.MaxPool2d) -> Lowered:
    if module.ceil_mode:
        raise ValueError("ceil_mode=True is not supported")
    each = single if isinstance(module, nn.AvgPool1d | nn.MaxPool1d) else pair
    attrs: dict[str, Any] = {
        "kernel": each(module.kernel_size),
        "stride": each(module.stride),
        "padding": each(module.padding),
    }
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d):
        if set(each(module.dilation)) != {1} or module.return_indices:
            raise ValueError("a dilated max pooling, or one that returns indices, is not supported")
    else:
        if getattr(module, "divisor_override", None) is not None:
            raise ValueError("divisor_override is not supported")
        attrs["count_include_pad"] = module.count_include_pad
    return attrs, {}


def _to_few(module: nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d) -> Lowered:
    if module.output_size in (1, (1,), (1, 1)):
        return {}, {}
    each = single if isinstance(module, nn.AdaptiveAvgPool1d) else pair
    if None in (size := each(module.output_size)):
        raise ValueError("adaptive pooling that keeps an axis is not supported: give its size")
    return {"size": size}, {}


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """``(C, H, W) -> (C, H', W')`` or ``(C, L) -> (C, L')``, averages, which are values."""
    (given,) = inputs
    axes = len(given.shape) - 1
    if axes not in (1, 2) or len(attrs["kernel"]) != axes:
        raise ValueError(
            f"it takes {'images' if axes != 1 else 'windows of its axes'}, not {given}"
        )
    extents = [
        window(given.shape[1 + a], *(attrs[k][a] for k in ("kernel", "stride", "padding")))
        for a in range(axes)
    ]
    return Signal((given.shape[0], *extents), Kind.VALUE, given.steps)


def infer_few(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """``(C, H, W) -> (C, 1, 1)`` or ``(C, L) -> (C, 1)``, or as many elements as it is to have."""
    return infer(_whole_windows(attrs, inputs[0]), tensors, inputs)


def _whole_windows(attrs: Mapping[str, Any], given: Signal) -> dict[str, Any]:
    """The attributes of the average over windows that has so many elements."""
    extents = given.shape[1:]
    size = attrs.get("size") or [1] * len(extents)
    if len(size) != len(extents):
        raise ValueError(f"it takes {'images' if len(size) > 1 else 'sequences'}, not {given}")
    if any(n % k for n, k in zip(extents, size, strict=True)):
        raise ValueError(f"{given} does not divide into {size} windows of equal sizes")
    kernel = [n // k for n, k in zip(extents, size, strict=True)]
    still = {"padding": [0] * len(size), "count_include_pad": True}
    return {"kernel": kernel, "stride": kernel, **still}


def infer_max(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """``(C, H, W) -> (C, H', W')``; every window has an element, so maxima of spikes are spikes."""
    return replace(inputs[0], shape=infer(attrs, tensors, inputs).shape)


def maxpool(node: Node, x: Tensor) -> Tensor:
    """The largest element of each window of ``[B, C, H, W]``."""
    pool = F.max_pool1d if x.dim() == 3 else F.max_pool2d
    return pool(x, node.attrs["kernel"], node.attrs["stride"], node.attrs["padding"])


def avgpool(node: Node, x: Tensor) -> Tensor:
    """The mean of each window of ``[B, C, H, W]``."""
    pool = F.avg_pool1d if x.dim() == 3 else F.avg_pool2d
    return pool(
        x,
        node.attrs["kernel"],
        node.attrs["stride"],
        node.attrs["padding"],
        count_include_pad=node.attrs["count_include_pad"],
    )


def global_avgpool(node: Node, x: Tensor) -> Tensor:
    """The mean over height and width, or over length: ``[B, C, H, W] -> [B, C, 1, 1]``."""
    size = node.attrs.get("size") or 1
    return F.adaptive_avg_pool1d(x, size) if x.dim() == 3 else F.adaptive_avg_pool2d(x, size)


def affine(node: Node, source: Signal) -> Affine | None:
    """Equal weights in each window of each channel, where zeros around an image count."""
    attrs = node.attrs if node.op == "avgpool" else _whole_windows(node.attrs, source)
    if any(attrs["padding"]) and not attrs["count_include_pad"]:
        return None
    channels, *extents = source.shape
    places = zip(attrs["kernel"], attrs["stride"], attrs["padding"], extents, strict=True)
    axes = [Axis(k, s, p, 1, n) for k, s, p, n in places]
    rows, cols = (*axes, Axis(1, 1, 0, 1, 1))[:2]
    wiring = Wiring(rows, cols, channels, channels, channels)
    part = 1 / prod(attrs["kernel"])
    return Affine(wiring, torch.full(wiring.weight_shape, part, dtype=torch.float64))


OPS = (
    Op("maxpool", (nn.MaxPool1d, nn.MaxPool2d), _window_of, infer_max, maxpool, attrs=MaxWindow),
    Op(
        "avgpool",
        (nn.AvgPool1d, nn.AvgPool2d),
        _window_of,
        infer,
        avgpool,
        attrs=AverageWindow,
        affine=affine,
    ),
    Op(
        "global_avgpool",
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
        _to_few,
        infer_few,
        global_avgpool,
        attrs=Sizes,
        affine=affine,
    ),
)
LINEAR = ("avgpool", "global_avgpool")
"""Kinds that commute with a weighted sum over time."""
