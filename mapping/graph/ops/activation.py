"""Activations of the ANN branch, element by element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import Attrs, Lowered, Op, Real, nothing


class LeakySlope(Attrs, frozen=True):
    """Attributes of a leaky ReLU."""

    negative_slope: Real


def _slope(module: nn.LeakyReLU) -> Lowered:
    return {"negative_slope": module.negative_slope}, {}


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """The shape stays, and spikes that are never negative pass as they are."""
    (given,) = inputs
    if given.kind is Kind.SPIKE and not given.signed:
        return given
    return Signal(given.shape, Kind.VALUE, given.steps)


def relu(node: Node, x: Tensor) -> Tensor:
    """``max(x, 0)``."""
    return F.relu(x)


def leaky_relu(node: Node, x: Tensor) -> Tensor:
    """``x`` where positive, ``negative_slope * x`` elsewhere."""
    return F.leaky_relu(x, node.attrs["negative_slope"])


OPS = (
    Op("relu", (nn.ReLU,), nothing, infer, relu),
    Op("leaky_relu", (nn.LeakyReLU,), _slope, infer, leaky_relu, attrs=LeakySlope),
)
