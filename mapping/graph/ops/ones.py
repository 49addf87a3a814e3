"""What arrives in every step, whatever else does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor

from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import Attrs, Op, Positive, nothing


class Shape(Attrs, frozen=True):
    """Attributes: the shape of one sample in one step."""

    shape: Annotated[list[Positive], Meta(min_length=1)]


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """Values in as many steps as its inputs have."""
    steps = {given.steps for given in inputs}
    if len(steps) > 1 or None in steps:
        raise ValueError(f"it runs over the steps of its inputs, and those are {steps}")
    return Signal(tuple(attrs["shape"]), Kind.VALUE, steps.pop())


def ones(node: Node, first: Tensor, *others: Tensor) -> Tensor:
    """``[B, *shape]`` of 1."""
    return first.new_ones(len(first), *node.attrs["shape"])


OPS = (
    Op(
        "ones",
        (),
        nothing,
        infer,
        ones,
        inputs=None,
        attrs=Shape,
        reason="it drives a neuron that stays on the host",
    ),
)
