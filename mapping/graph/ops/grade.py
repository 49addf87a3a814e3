"""Values of each step as graded spikes: whole numbers of a unit, as far as a payload holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mapping.chip.payload import Payload
from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import AboveZero, Attrs, Op, Positive, nothing


class Grades(Attrs, frozen=True):
    """What values become.

    Args:
        unit: whole numbers in a value of 1.
        bits: of a payload, the sign included.
        signed: whether values may be negative.
    """

    unit: AboveZero
    bits: Positive
    signed: bool


def infer_grade(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """The same values, as spikes with a payload.

    Raises:
        ValueError: if these are no values of each step.
    """
    (given,) = inputs
    if given.kind is not Kind.VALUE or given.steps is None:
        raise ValueError(f"it takes values of each step, not {given}")
    return Signal(given.shape, Kind.SPIKE, given.steps, attrs["bits"], attrs["signed"])


def grade(node: Node, x: Tensor) -> Tensor:
    """On the host: the nearest whole number of units, 0 where that sends nothing."""
    low, high = Payload(node.attrs["bits"], node.attrs["signed"]).range
    whole: Tensor = (x * node.attrs["unit"]).round().clamp(low, high)
    return whole


OPS = (Op("grade", (), nothing, infer_grade, grade, role="encode", attrs=Grades),)
