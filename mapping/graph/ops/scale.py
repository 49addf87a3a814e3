"""Multiplication with a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import Attrs, Op, Real, nothing


class Factor(Attrs, frozen=True):
    """Attributes of a multiplication with a number."""

    factor: Real


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """The shape stays; spikes become values."""
    return Signal(inputs[0].shape, Kind.VALUE, inputs[0].steps)


def run(node: Node, x: Tensor) -> Tensor:
    """``x * factor``."""
    scaled: Tensor = x * node.attrs["factor"]
    return scaled


OPS = (Op("scale", (), nothing, infer, run, attrs=Factor),)
