"""Fully connected layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from has8.kernels.linear import Linear
from mapping.chip.wiring import Wiring, dense
from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import (
    LayerAttrs,
    Lowered,
    Op,
    SynapseKind,
    check_bias,
    parameters,
    scaled_outputs,
)


def lower(module: nn.Linear) -> Lowered:
    """No attributes; weight ``[out, in]``, bias ``[out]``."""
    return {}, parameters(module, "weight", "bias")


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """``(in,) -> (out,)``; spikes of an image of as many elements are taken in C, H, W order."""
    (given,) = inputs
    outputs, size = tensors["weight"].shape
    if given.size != size or (len(given.shape) > 1 and given.kind is not Kind.SPIKE):
        raise ValueError(f"it takes vectors of {size}, not {given}")
    check_bias(tensors, outputs)
    return Signal((outputs,), Kind.VALUE, given.steps)


def wiring(attrs: Mapping[str, Any], weight: Tensor, source: Signal) -> Wiring:
    """Every source neuron reaches every output."""
    return dense(len(weight), source.shape)


def canonical(attrs: Mapping[str, Any], weight: Tensor, wires: Wiring) -> Tensor:
    """The inputs in the axes of the source."""
    return weight.reshape(wires.weight_shape)


def layer(wires: Wiring, weight: Tensor, source: Signal) -> tuple[Mapping[str, Any], Tensor] | None:
    """One window, wherever it lies over the source."""
    axes = (wires.rows, wires.cols)
    one = all((axis.size_out, axis.spread, axis.extra) == (1, 1, 0) for axis in axes)
    if not one or wires.groups > 1:
        return None
    for place, axis in enumerate(axes, 2):
        at = torch.arange(axis.kernel) * axis.dilation - axis.padding
        met = (at >= 0) & (at < axis.size_in)
        sizes = [axis.size_in if k == place else size for k, size in enumerate(weight.shape)]
        kept = weight.index_select(place, met.nonzero().flatten())
        weight = weight.new_zeros(sizes).index_copy(place, at[met], kept)
    return {}, weight.flatten(1)


def run(node: Node, x: Tensor) -> Tensor:
    """Float product of ``[B, in]`` or ``[B, C, H, W]``."""
    return F.linear(x.flatten(1), node.tensors["weight"], node.tensors.get("bias"))


OPS = (
    Op(
        "linear",
        (nn.Linear, Linear),
        lower,
        infer,
        run,
        role="synapse",
        synapse=SynapseKind(wiring, canonical, scaled_outputs, layer, "synop_dense"),
        attrs=LayerAttrs,
        tensors={"weight": 2},
        optional={"bias": 1},
    ),
)
