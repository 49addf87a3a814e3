"""Filters and neurons of :mod:`has8.iir` that no core holds; shared ones are ``neuron`` nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor

from has8.iir import IIR, Axon, potentials, stepped
from has8.kernels import iir, paths
from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import AboveZero, Attrs, Lowered, Op, parameters

Part = Annotated[float, Meta(ge=0, le=1)]
COEFFICIENTS = ("a1", "a2", "b0")
OWN = (
    "each of its inputs has a trained filter of its own, state that no core holds for an input: "
    "train the model with shared=True, whose layers are current-based LIFs"
)
TRACE = (
    "its reset is a trace of its spikes, which no core has: train the model with shared=True, "
    "whose layers are current-based LIFs that reset by subtraction"
)


class Constants(Attrs, frozen=True):
    """Attributes of a neuron with a reset trace; :func:`has8.iir.stepped` says what they do."""

    gain: AboveZero
    alpha: Part
    beta: Part
    theta: Part
    threshold: AboveZero
    sigma: AboveZero


def lower_axon(module: Axon) -> Lowered:
    """The coefficients of each input."""
    return {}, parameters(module, *COEFFICIENTS)


def infer_axon(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """Spikes, or values, become values."""
    (given,) = inputs
    if given.steps is None or any(tensors[c].shape != given.shape for c in COEFFICIENTS):
        raise ValueError(f"it filters steps of {tuple(tensors['a1'].shape)}, not {given}")
    return replace(given, kind=Kind.VALUE)


def axon(node: Node, x: Tensor) -> Tensor:
    """Postsynaptic potentials, ``[T, B, ...]``."""
    coefficients = [node.tensors[name] for name in COEFFICIENTS]
    return (iir.potentials if paths.usable(x) else potentials)(x, *coefficients)


def lower_neuron(module: IIR) -> Lowered:
    """All constants."""
    return module.constants._asdict(), {}


def infer_neuron(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """Currents become spikes."""
    (given,) = inputs
    if given.steps is None:
        raise ValueError(f"a neuron runs over time steps, and {given} has none; encode it first")
    return Signal(given.shape, Kind.SPIKE, given.steps)


def fire(node: Node, x: Tensor) -> Tensor:
    """Spikes, ``[T, B, ...]``."""
    constants = iir.Constants(**node.attrs)
    return iir.spikes(x, constants) if paths.usable(x) else stepped(x, constants)[1]


OPS = (
    Op(
        "axon",
        (Axon,),
        lower_axon,
        infer_axon,
        axon,
        sees_time=True,
        any_tensors=True,
        reason=OWN,
    ),
    Op(
        "iir",
        (IIR,),
        lower_neuron,
        infer_neuron,
        fire,
        sees_time=True,
        attrs=Constants,
        reason=TRACE,
    ),
)
