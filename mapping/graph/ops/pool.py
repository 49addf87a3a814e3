"""Pooling: maximum, average, and average down to one element."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import Attrs, Lowered, Natural, Op, Positive, pair, window


class MaxWindow(Attrs, frozen=True):
    """Attributes of a maximum over windows; pairs are of rows and columns."""

    kernel: tuple[Positive, Positive]
    stride: tuple[Positive, Positive]
    padding: tuple[Natural, Natural]

    def __post_init__(self) -> None:
        """Check what single ranges cannot."""
        if any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            raise ValueError("padding must be at most half of the kernel")


class AverageWindow(MaxWindow, frozen=True):
    """Attributes of an average over windows."""

    count_include_pad: bool


def _window_of(module: nn.AvgPool2d | nn.MaxPool2d) -> Lowered:
    if module.ceil_mode:
        raise ValueError("ceil_mode=True is not supported")
    attrs: dict[str, Any] = {
        "kernel": pair(module.kernel_size),
        "stride": pair(module.stride),
        "padding": pair(module.padding),
    }
    if isinstance(module, nn.MaxPool2d):
        if pair(module.dilation) != [1, 1] or module.return_indices:
            raise ValueError("a dilated max pooling, or one that returns indices, is not supported")
    else:
        if module.divisor_override is not None:
            raise ValueError("divisor_override is not supported")
        attrs["count_include_pad"] = module.count_include_pad
    return attrs, {}


def _to_one(module: nn.AdaptiveAvgPool2d) -> Lowered:
    if module.output_size not in (1, (1, 1)):
        raise ValueError(f"adaptive pooling to {module.output_size} is not supported, only to 1")
    return {}, {}


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """``(C, H, W) -> (C, H', W')``, averages, which are values."""
    (given,) = inputs
    if len(given.shape) != 3:
        raise ValueError(f"it takes images, not {given}")
    extents: list[int] = [1, 1]
    if attrs:
        extents = [
            window(given.shape[1 + a], *(attrs[k][a] for k in ("kernel", "stride", "padding")))
            for a in (0, 1)
        ]
    return Signal((given.shape[0], *extents), Kind.VALUE, given.steps)


def infer_max(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """``(C, H, W) -> (C, H', W')``; every window has an element, so maxima of spikes are spikes."""
    return replace(inputs[0], shape=infer(attrs, tensors, inputs).shape)


def maxpool(node: Node, x: Tensor) -> Tensor:
    """The largest element of each window of ``[B, C, H, W]``."""
    return F.max_pool2d(x, node.attrs["kernel"], node.attrs["stride"], node.attrs["padding"])


def avgpool(node: Node, x: Tensor) -> Tensor:
    """The mean of each window of ``[B, C, H, W]``."""
    return F.avg_pool2d(
        x,
        node.attrs["kernel"],
        node.attrs["stride"],
        node.attrs["padding"],
        count_include_pad=node.attrs["count_include_pad"],
    )


def global_avgpool(node: Node, x: Tensor) -> Tensor:
    """The mean over height and width: ``[B, C, H, W] -> [B, C, 1, 1]``."""
    return F.adaptive_avg_pool2d(x, 1)


OPS = (
    Op("maxpool", (nn.MaxPool2d,), _window_of, infer_max, maxpool, attrs=MaxWindow),
    Op("avgpool", (nn.AvgPool2d,), _window_of, infer, avgpool, attrs=AverageWindow),
    Op("global_avgpool", (nn.AdaptiveAvgPool2d,), _to_one, infer, global_avgpool),
)
LINEAR = ("avgpool", "global_avgpool")
"""Kinds that commute with a weighted sum over time."""
