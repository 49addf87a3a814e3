"""Spiking neurons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta
from torch import Tensor

from has8.kernels import fused, paths
from has8.neurons import ATAN_ALPHA, Leaky, leaky
from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import AboveZero, Attrs, Lowered, Op, Real


class Constants(Attrs, frozen=True):
    """Attributes of a neuron; see :class:`has8.neurons.Leaky`."""

    model: Literal["lif"]
    beta: Annotated[float, Meta(ge=0, le=1)]
    threshold: AboveZero
    gain: Real
    reset: Literal["zero"]


def lower(module: Leaky) -> Lowered:
    """The neuron's model, its constants and how it resets."""
    beta, threshold = module.constants
    attrs = {
        "model": "lif",
        "beta": beta,
        "threshold": threshold,
        "gain": module.gain,
        "reset": "zero",
    }
    return attrs, {}


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """Currents become spikes."""
    (given,) = inputs
    if given.steps is None:
        raise ValueError(f"a neuron runs over time steps, and {given} has none; encode it first")
    return Signal(given.shape, Kind.SPIKE, given.steps)


def lif(node: Node, current: Tensor) -> Tensor:
    """Leaky integrate and fire with reset to zero: ``[T, B, ...]`` to spikes."""
    beta, threshold, gain = (node.attrs[k] for k in ("beta", "threshold", "gain"))
    if paths.usable(current):  # the same operations in the same order, in one pass
        constants = fused.Constants(beta, threshold, gain, ATAN_ALPHA)
        return fused.spikes(current.flatten(0, 1), len(current), constants)
    return leaky(current, beta, threshold, gain)[1]


OPS = (Op("neuron", (Leaky,), lower, infer, lif, role="neuron", sees_time=True, attrs=Constants),)
