"""What a loop over steps reads besides spikes: membranes, and the largest of all steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops import neuron
from mapping.graph.ops.op import Lowered, Op


def _nothing(module: nn.Module) -> Lowered:
    return {}, {}


def infer_membrane(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """Currents become values of each step."""
    return replace(neuron.infer(attrs, tensors, inputs), kind=Kind.VALUE)


def membrane(node: Node, current: Tensor) -> Tensor:
    """The membranes of a neuron in which its spikes are decided: ``[T, B, ...]``."""
    return neuron.stepped(neuron.constants_of(node), current)[1]


def infer_largest(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """The time axis goes."""
    if inputs[0].steps is None:
        raise ValueError(f"it takes the largest of several steps, and {inputs[0]} has none")
    return Signal(inputs[0].shape)


def largest(node: Node, x: Tensor) -> Tensor:
    """The largest of all steps: ``[T, B, ...] -> [B, ...]``."""
    return x.amax(0)


OPS = (
    Op(
        "membrane",
        (),
        _nothing,
        infer_membrane,
        membrane,
        sees_time=True,
        attrs=neuron.Constants,
        any_tensors=True,
        reason="its membrane is read, and a chip sends only spikes",
    ),
    Op("largest", (), _nothing, infer_largest, largest, role="decode", sees_time=True),
)
