"""Two-dimensional transposed convolution.

It is a convolution, of stride 1 and with the kernel turned round, over a source whose elements
stand ``stride`` apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mapping.chip.wiring import Axis, Wiring
from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.conv2d import Window
from mapping.graph.ops.op import (
    Lowered,
    Natural,
    Op,
    SynapseKind,
    check_bias,
    pair,
    parameters,
)


class Spread(Window, frozen=True):
    """Attributes of a transposed convolution; pairs are of rows and columns."""

    output_padding: tuple[Natural, Natural]

    def __post_init__(self) -> None:
        """Check what single ranges cannot."""
        for extra, steps in zip(
            self.output_padding, zip(self.stride, self.dilation, strict=True), strict=True
        ):
            if extra >= max(steps):
                raise ValueError("output_padding must be smaller than stride or dilation")


def lower(module: nn.ConvTranspose2d) -> Lowered:
    """Stride, padding, output padding, dilation, groups; weight ``[I, O/groups, kH, kW]``, bias."""
    attrs = {
        "stride": pair(module.stride),
        "padding": pair(module.padding),
        "output_padding": pair(module.output_padding),
        "dilation": pair(module.dilation),
        "groups": module.groups,
    }
    return attrs, parameters(module, "weight", "bias")


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """``(C, H, W) -> (O, H', W')``."""
    (given,) = inputs
    channels = tensors["weight"].shape[0]
    if len(given.shape) != 3 or given.shape[0] != channels:
        raise ValueError(f"it takes images of {channels} channels, not {given}")
    if channels % attrs["groups"]:
        raise ValueError(f"its {attrs['groups']} groups do not divide {channels} channels")
    wires = wiring(attrs, tensors["weight"], given)
    check_bias(tensors, wires.channels_out)
    if min(wires.out_shape) < 1:
        raise ValueError(f"its padding {attrs['padding']} leaves nothing of {given}")
    return Signal(wires.out_shape, Kind.VALUE, given.steps)


def wiring(attrs: Mapping[str, Any], weight: Tensor, source: Signal) -> Wiring:
    """A window that slides, element by element, over the source spread out."""
    channels, *extents = source.shape
    groups = int(attrs["groups"])

    def axis(place: int) -> Axis:
        kernel, dilation = int(weight.shape[2 + place]), int(attrs["dilation"][place])
        return Axis(
            kernel,
            stride=1,
            padding=dilation * (kernel - 1) - int(attrs["padding"][place]),
            dilation=dilation,
            size_in=extents[place],
            spread=int(attrs["stride"][place]),
            extra=int(attrs["output_padding"][place]),
        )

    return Wiring(axis(0), axis(1), channels, int(weight.shape[1]) * groups, groups)


def canonical(attrs: Mapping[str, Any], weight: Tensor, wires: Wiring) -> Tensor:
    """Output channels first, and the kernel turned round."""
    by_group = weight.unflatten(0, (wires.groups, -1)).transpose(1, 2).flatten(0, 1)
    turned: Tensor = by_group.flip(2, 3)
    return turned


def scaled(attrs: Mapping[str, Any], weight: Tensor, factor: Tensor) -> Tensor:
    """Each output channel, of which every group has its own, times a factor."""
    groups = attrs["groups"]
    by_group = weight.unflatten(0, (groups, -1)) * factor.view(groups, 1, -1, 1, 1)
    flat: Tensor = by_group.flatten(0, 1)
    return flat


def layer(wires: Wiring, weight: Tensor, source: Signal) -> tuple[Mapping[str, Any], Tensor] | None:
    """Any windows that slide element by element over images spread out."""
    axes = (wires.rows, wires.cols)
    padding = [axis.dilation * (axis.kernel - 1) - axis.padding for axis in axes]
    if len(source.shape) < 3 or any(axis.stride > 1 for axis in axes) or min(padding) < 0:
        return None
    attrs = {
        "stride": [axis.spread for axis in axes],
        "padding": padding,
        "dilation": [axis.dilation for axis in axes],
        "output_padding": [axis.extra for axis in axes],
        "groups": wires.groups,
    }
    by_group = weight.flip(2, 3).unflatten(0, (wires.groups, -1))
    return attrs, by_group.transpose(1, 2).flatten(0, 1)


def run(node: Node, x: Tensor) -> Tensor:
    """Float transposed convolution of ``[B, C, H, W]``."""
    return F.conv_transpose2d(
        x,
        node.tensors["weight"],
        node.tensors.get("bias"),
        node.attrs["stride"],
        node.attrs["padding"],
        node.attrs["output_padding"],
        node.attrs["groups"],
        node.attrs["dilation"],
    )


OPS = (
    Op(
        "conv_transpose2d",
        (nn.ConvTranspose2d,),
        lower,
        infer,
        run,
        role="synapse",
        synapse=SynapseKind(wiring, canonical, scaled, layer, "synop_conv"),
        attrs=Spread,
        tensors={"weight": 4},
        optional={"bias": 1},
    ),
)
