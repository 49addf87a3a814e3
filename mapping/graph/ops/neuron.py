"""Spiking neurons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from torch import Tensor

from has8.kernels import fused, paths
from has8.neurons import ATAN_ALPHA, Leaky, leaky
from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import AboveZero, Attrs, Lowered, Op, Real

Part = Annotated[float, Meta(ge=0, le=1)]


class Constants(Attrs, frozen=True):
    """Attributes of a leaky integrate-and-fire neuron; :func:`stepped` says what they do.

    Args:
        model: "lif".
        alpha: part of the current that is left after a step; 0 is a current of one step.
        beta: part of the membrane that is left after a step.
        threshold: the neuron fires when its membrane is above it.
        gain: factor on what arrives.
        reset: what a membrane does in the step after a spike.
        refractory: 1 where that step adds nothing to the membrane, else 0.
        trained_reset: the reset that it was trained with, where that is another.
    """

    model: Literal["lif"]
    alpha: Part
    beta: Part
    threshold: AboveZero
    gain: Real
    reset: Literal["zero", "subtract", "none"]
    refractory: Annotated[int, Meta(ge=0, le=1)]
    trained_reset: Literal["subtract"] | None = None

    def __post_init__(self) -> None:
        """Check what single ranges cannot."""
        if self.refractory and self.reset != "zero":
            raise ValueError("refractory must be 0 where reset is not 'zero'")
        if self.trained_reset and self.reset != "zero":
            raise ValueError("trained_reset is of a neuron that resets to zero now")


def lower(module: Leaky) -> Lowered:
    """The neuron's model, its constants and how it resets."""
    beta, threshold = module.constants
    attrs = {
        "model": "lif",
        "alpha": 0.0,
        "beta": beta,
        "threshold": threshold,
        "gain": module.gain,
        "reset": "zero",
        "refractory": 0,
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
    """Leaky integrate and fire: ``[T, B, ...]`` to spikes."""
    attrs = node.attrs
    if attrs["alpha"] or attrs["reset"] != "zero" or attrs["refractory"]:
        return stepped(attrs, current)[0]
    beta, threshold, gain = (attrs[k] for k in ("beta", "threshold", "gain"))
    if paths.usable(current):  # the same operations in the same order, in one pass
        constants = fused.Constants(beta, threshold, gain, ATAN_ALPHA)
        return fused.spikes(current.flatten(0, 1), len(current), constants)
    return leaky(current, beta, threshold, gain)[1]


def stepped(attrs: Mapping[str, Any], current: Tensor) -> tuple[Tensor, Tensor]:
    """Leaky integrate and fire, step by step from cleared state, in snnTorch's order.

    ``i = alpha i + gain x``; ``v = beta v + i``; fire where ``v > threshold``. After a spike the
    next step starts from ``v = 0`` (reset "zero"), ends with ``v - threshold`` ("subtract"), or is
    like any other ("none"); with a refractory step it ends with ``v = 0``.

    Args:
        attrs: of :class:`Constants`.
        current: what arrives, x, ``[T, B, ...]``.

    Returns:
        Spikes of 0 and 1, and the membranes v in which they were decided, each ``[T, B, ...]``.
    """
    alpha, beta, threshold, gain = (attrs[k] for k in ("alpha", "beta", "threshold", "gain"))
    spikes, membranes = torch.empty_like(current), torch.empty_like(current)
    i = v = spike = torch.zeros_like(current[0])
    for t, arriving in enumerate(current):
        i = i * alpha + (arriving if gain == 1 else arriving * gain)
        if attrs["reset"] == "zero" and not attrs["refractory"]:
            v = (1 - spike) * v
        v = v * beta + i
        if attrs["reset"] == "subtract":
            v = v - spike * threshold
        elif attrs["refractory"]:
            v = v - spike * v
        spike = torch.gt(v, threshold).to(v)
        spikes[t], membranes[t] = spike, v
    return spikes, membranes


OPS = (Op("neuron", (Leaky,), lower, infer, lif, role="neuron", sees_time=True, attrs=Constants),)
