"""One-dimensional convolution: of images of one column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

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
    scaled_outputs,
    single,
    sliding,
    windows,
)

One = Meta(min_length=1, max_length=1)


class Window(LayerAttrs, frozen=True):
    """Attributes of a convolution along one axis."""

    stride: Annotated[list[Positive], One]
    padding: Annotated[list[Natural], One]
    dilation: Annotated[list[Positive], One]
    groups: Positive


def lower(module: nn.Conv1d) -> Lowered:
    """Stride, padding, dilation ([L] each), groups; weight ``[O, I/groups, K]``, bias."""
    return sliding(module, single)


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """``(C, L) -> (O, L')``."""
    (given,) = inputs
    channels = tensors["weight"].shape[1] * attrs["groups"]
    if len(given.shape) != 2 or given.shape[0] != channels:
        raise ValueError(f"it takes sequences of {channels} channels, not {given}")
    wires = wiring(attrs, tensors["weight"], given)
    check_bias(tensors, wires.channels_out)
    if wires.channels_out % wires.groups:
        raise ValueError(f"its {wires.groups} groups do not divide {wires.channels_out} outputs")
    if wires.rows.size_out < 1:
        raise ValueError(
            f"a window of {tensors['weight'].shape[2]} (stride {attrs['stride']}, padding "
            f"{attrs['padding']}) does not fit into {given}"
        )
    return Signal((wires.channels_out, wires.rows.size_out), Kind.VALUE, given.steps)


def wiring(attrs: Mapping[str, Any], weight: Tensor, source: Signal) -> Wiring:
    """A window that slides over the one column of the source."""
    channels, length = source.shape
    stride, padding, dilation = (int(attrs[key][0]) for key in ("stride", "padding", "dilation"))
    rows = Axis(int(weight.shape[2]), stride, padding, dilation, length)
    return Wiring(rows, Axis(1, 1, 0, 1, 1), channels, int(weight.shape[0]), int(attrs["groups"]))


def canonical(attrs: Mapping[str, Any], weight: Tensor, wires: Wiring) -> Tensor:
    """The weights with an axis of columns."""
    return weight[..., None]


def layer(wires: Wiring, weight: Tensor, source: Signal) -> tuple[Mapping[str, Any], Tensor] | None:
    """Any windows over sequences."""
    attrs = windows(wires, 1) if len(source.shape) == 2 else None
    return None if attrs is None else (attrs, weight[..., 0])


def run(node: Node, x: Tensor) -> Tensor:
    """Float convolution of ``[B, C, L]``."""
    return F.conv1d(
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
        "conv1d",
        (nn.Conv1d,),
        lower,
        infer,
        run,
        role="synapse",
        synapse=SynapseKind(wiring, canonical, scaled_outputs, layer, "synop_conv"),
        attrs=Window,
        tensors={"weight": 3},
        optional={"bias": 1},
    ),
)
