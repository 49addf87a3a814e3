"""Spikes where values change from one step to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from snntorch import spikegen
from torch import Tensor

from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import Attrs, Op, Real, nothing


class Changes(Attrs, frozen=True):
    """Attributes of :func:`snntorch.spikegen.delta`."""

    threshold: Real
    padding: bool
    off_spike: bool


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """Values of each step become spikes, or -1, 0 and 1, which are values."""
    (given,) = inputs
    if given.steps is None:
        raise ValueError(f"it takes the changes from step to step, and {given} has none")
    return replace(given, kind=Kind.VALUE if attrs["off_spike"] else Kind.SPIKE)


def changes(node: Node, x: Tensor) -> Tensor:
    """``[T, B, ...]`` of 1 where a value rises by the threshold."""
    spikes: Tensor = spikegen.delta(x, **node.attrs)
    return spikes


OPS = (Op("delta", (), nothing, infer, changes, role="encode", sees_time=True, attrs=Changes),)
