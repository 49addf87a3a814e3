"""What a loop over steps reads besides spikes: membranes, and the largest of all steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops import neuron
from mapping.graph.ops.op import Op, nothing


def infer_membrane(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """Currents become values of each step."""
    return replace(neuron.infer(attrs, tensors, inputs), kind=Kind.VALUE)


def membrane(node: Node, current: Tensor) -> Tensor:
    """The membranes of a neuron in which its spikes are decided: ``[T, B, ...]``."""
    return neuron.stepped(neuron.constants_of(node), current)[1]


def infer_last(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """Currents, beside the spikes of the neuron whose membrane it is, become values of a sample."""
    current, spikes = inputs
    if neuron.infer(attrs, tensors, (current,)) != spikes:
        raise ValueError(f"it reads the membranes of a neuron of {spikes}, driven by {current}")
    return Signal(current.shape)


def last_membrane(node: Node, current: Tensor, spikes: Tensor) -> Tensor:
    """The membranes of a neuron after the last step: ``[T, B, ...] -> [B, ...]``."""
    return membrane(node, current)[-1]


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
        nothing,
        infer_membrane,
        membrane,
        sees_time=True,
        attrs=neuron.Constants,
        any_tensors=True,
        reason="its membrane is read in every step, and a chip sends only spikes: the membrane of "
        "the last step alone would be read from it, once a sample",
    ),
    Op(
        "last_membrane",
        (),
        nothing,
        infer_last,
        last_membrane,
        sees_time=True,
        inputs=2,
        attrs=neuron.Constants,
        any_tensors=True,
        reason="its neuron stays on the host",
    ),
    Op("largest", (), nothing, infer_largest, largest, role="decode", sees_time=True),
)
