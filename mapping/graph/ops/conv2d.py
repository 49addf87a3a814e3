"""Two-dimensional convolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from has8.kernels.conv import Conv2d
from mapping.chip.wiring import Axis, Wiring
from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import (
    LayerAttrs,
    Lowered,
    Natural,
    Op,
    Positive,
    SynapseKind,
    check_bias,
    pair,
    scaled_outputs,
    sliding,
    windows,
)


class Window(LayerAttrs, frozen=True):
    """Attributes of a convolution; pairs are of rows and columns."""

    stride: tuple[Positive, Positive]
    padding: tuple[Natural, Natural]
    dilation: tuple[Positive, Positive]
    groups: Positive


def lower(module: nn.Conv2d) -> Lowered:
    """Stride, padding, dilation ([H, W] each), groups; weight ``[O, I/groups, kH, kW]``, bias."""
    return sliding(module, pair)


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """``(C, H, W) -> (O, H', W')``."""
    (given,) = inputs
    channels = tensors["weight"].shape[1] * attrs["groups"]
    if len(given.shape) != 3 or given.shape[0] != channels:
        raise ValueError(f"it takes images of {channels} channels, not {given}")
    wires = wiring(attrs, tensors["weight"], given)
    check_bias(tensors, wires.channels_out)
    if wires.channels_out % wires.groups:
        raise ValueError(f"its {wires.groups} groups do not divide {wires.channels_out} outputs")
    if min(wires.out_shape) < 1:
        kernel = "x".join(map(str, tensors["weight"].shape[2:]))
        raise ValueError(
            f"a window of {kernel} (stride {attrs['stride']}, padding {attrs['padding']}) does not "
            f"fit into {given}"
        )
    return Signal(wires.out_shape, Kind.VALUE, given.steps)


def wiring(attrs: Mapping[str, Any], weight: Tensor, source: Signal) -> Wiring:
    """A window that slides over the source."""
    channels, *extents = source.shape

    def axis(place: int) -> Axis:
        stride, padding, dilation = (
            int(attrs[key][place]) for key in ("stride", "padding", "dilation")
        )
        return Axis(int(weight.shape[2 + place]), stride, padding, dilation, extents[place])

    return Wiring(axis(0), axis(1), channels, int(weight.shape[0]), int(attrs["groups"]))


def canonical(attrs: Mapping[str, Any], weight: Tensor, wires: Wiring) -> Tensor:
    """The weights as they are."""
    return weight


def layer(wires: Wiring, weight: Tensor, source: Signal) -> tuple[Mapping[str, Any], Tensor] | None:
    """Any windows over images."""
    attrs = windows(wires, 2) if len(source.shape) == 3 else None
    return None if attrs is None else (attrs, weight)


def run(node: Node, x: Tensor) -> Tensor:
    """Float convolution of ``[B, C, H, W]``."""
    return F.conv2d(
        x,
        node.tensors["weight"],
        node.tensors.get("bias"),
        node.attrs["stride"],
        node.attrs["padding"],
        node.attrs["dilation"],
        node.attrs["groups"],
    )


OPS = (
    Op(
        "conv2d",
        (nn.Conv2d, Conv2d),
        lower,
        infer,
        run,
        role="synapse",
        synapse=SynapseKind(wiring, canonical, scaled_outputs, layer, "synop_conv"),
        attrs=Window,
        tensors={"weight": 4},
        optional={"bias": 1},
    ),
)
