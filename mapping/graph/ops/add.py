"""Addition of two tensors of the same type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import Op, nothing


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """Two spikes add to 0, 1 or 2, so the sum is a value."""
    left, right = inputs
    if (left.shape, left.steps) != (right.shape, right.steps):
        raise ValueError(f"it adds equal shapes, not {left} and {right}")
    return Signal(left.shape, Kind.VALUE, left.steps)


def add(node: Node, left: Tensor, right: Tensor) -> Tensor:
    """``left + right``."""
    return left + right


OPS = (Op("add", (), nothing, infer, add, sees_time=True, inputs=2),)
