"""Pooling: maximum, average, and average down to one element."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import Attrs, Lowered, Natural, Op, Positive, pair, single, window


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


def _to_one(module: nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d) -> Lowered:
    if module.output_size not in (1, (1,), (1, 1)):
        raise ValueError(f"adaptive pooling to {module.output_size} is not supported, only to 1")
    return {}, {}


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """``(C, H, W) -> (C, H', W')`` or ``(C, L) -> (C, L')``, averages, which are values."""
    (given,) = inputs
    axes = len(given.shape) - 1
    if axes not in (1, 2) or (attrs and len(attrs["kernel"]) != axes):
        raise ValueError(
            f"it takes {'images' if axes != 1 else 'windows of its axes'}, not {given}"
        )
    extents = [1] * axes
    if attrs:
        extents = [
            window(given.shape[1 + a], *(attrs[k][a] for k in ("kernel", "stride", "padding")))
            for a in range(axes)
        ]
    return Signal((given.shape[0], *extents), Kind.VALUE, given.steps)


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
    return F.adaptive_avg_pool1d(x, 1) if x.dim() == 3 else F.adaptive_avg_pool2d(x, 1)


OPS = (
    Op("maxpool", (nn.MaxPool1d, nn.MaxPool2d), _window_of, infer_max, maxpool, attrs=MaxWindow),
    Op("avgpool", (nn.AvgPool1d, nn.AvgPool2d), _window_of, infer, avgpool, attrs=AverageWindow),
    Op(
        "global_avgpool",
        (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
        _to_one,
        infer,
        global_avgpool,
    ),
)
LINEAR = ("avgpool", "global_avgpool")
"""Kinds that commute with a weighted sum over time."""
