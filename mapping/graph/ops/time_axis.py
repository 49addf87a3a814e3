"""Steps that lie along an axis of the samples, and some of the steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor

from mapping.graph.ir import Node, Signal
from mapping.graph.ops.op import Attrs, Natural, Op, Positive, nothing


class Axis(Attrs, frozen=True):
    """Attributes: the axis of the steps in ``[B, ...]``."""

    axis: Positive


class Chosen(Attrs, frozen=True):
    """Attributes: which steps, in their order."""

    steps: Annotated[list[Natural], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Check what single ranges cannot."""
        if any(a >= b for a, b in pairwise(self.steps)):
            raise ValueError("steps must rise")


def infer_unbound(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """An axis of each sample becomes that of the steps; where it is the only one, 1 is left."""
    (given,), place = inputs, attrs["axis"] - 1
    if given.steps is not None or place >= len(given.shape):
        raise ValueError(f"it takes steps off axis {place + 1} of samples, and not of {given}")
    shape = given.shape[:place] + given.shape[place + 1 :]
    return replace(given, shape=shape or (1,), steps=given.shape[place])


def unbound(node: Node, x: Tensor) -> Tensor:
    """``[B, ..., T, ...] -> [T, B, ...]``."""
    steps = x.movedim(node.attrs["axis"], 0)
    return steps.reshape(*steps.shape[:2], *node.type.shape)


def infer_stacked(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """The steps become an axis of each sample."""
    (given,), place = inputs, attrs["axis"] - 1
    if given.steps is None or place > len(given.shape):
        raise ValueError(f"it puts steps on axis {place + 1} of samples, and not those of {given}")
    return Signal((*given.shape[:place], given.steps, *given.shape[place:]))


def stacked(node: Node, x: Tensor) -> Tensor:
    """``[T, B, ...] -> [B, ..., T, ...]``."""
    return x.movedim(0, node.attrs["axis"])


def infer_chosen(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """As many steps as are chosen."""
    (given,), steps = inputs, attrs["steps"]
    if given.steps is None or steps[-1] >= given.steps:
        raise ValueError(f"it takes step {steps[-1]} of {given}")
    return replace(given, steps=len(steps))


def chosen(node: Node, x: Tensor) -> Tensor:
    """Some steps of ``[T, B, ...]``."""
    return x[list(node.attrs["steps"])]


OPS = (
    Op("unbind", (), nothing, infer_unbound, unbound, "encode", sees_time=True, attrs=Axis),
    Op("stack", (), nothing, infer_stacked, stacked, "decode", sees_time=True, attrs=Axis),
    Op("some_steps", (), nothing, infer_chosen, chosen, "decode", sees_time=True, attrs=Chosen),
)
