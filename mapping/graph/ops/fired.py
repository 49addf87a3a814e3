"""Spikes of neurons that no chip here has: what torch computed, known to be 0 or 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor

from has8.errors import BadInput
from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import Attrs, Op, nothing


class Why(Attrs, frozen=True):
    """Attributes of such spikes: why their neurons stay on the host, in words."""

    why: Annotated[str, Meta(min_length=1, max_length=500)]


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """Values of each step are spikes."""
    (given,) = inputs
    if given.steps is None:
        raise ValueError(f"neurons fire in steps, and {given} has none")
    return replace(given, kind=Kind.SPIKE)


def fired(node: Node, x: Tensor) -> Tensor:
    """``[T, B, ...]`` of 0 and 1, as it is."""
    if not bool(((x == 0) | (x == 1)).all()):
        raise BadInput(f"the neurons {node.name!r} fire with something other than 0 and 1")
    return x


OPS = (Op("fired", (), nothing, infer, fired, sees_time=True, attrs=Why),)
