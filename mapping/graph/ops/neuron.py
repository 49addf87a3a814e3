"""Spiking neurons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from msgspec import Meta
from snntorch import surrogate
from torch import Tensor

from has8.iir import SharedIIR
from has8.kernels import fused, paths
from has8.neurons import ATAN_ALPHA, Leaky, leaky
from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import AboveZero, Attrs, Lowered, Natural, Op, Positive, Real
from mapping.graph.ops.packing import MOST_STEPS, packed, unpacked
from mapping.targets.schema import Reset

Subtraction = Literal["subtract", "subtract_at_once"]
Part = Annotated[float, Meta(ge=0, le=1)]
CONSTANTS = ("alpha", "beta", "threshold", "gain")
"""What may have one value, one for each channel or one for each neuron."""


class Constants(Attrs, frozen=True, tag_field="model", tag="lif"):
    """Attributes of a leaky integrate-and-fire neuron; :func:`stepped` says what they do.

    Each of :data:`CONSTANTS` is one number here or, where it has several values, one of the node's
    tensors, which broadcasts over the neurons as torch does.

    Args:
        alpha: part of the current that is left after a step; 0 is a current of one step.
        beta: part of the membrane that is left after a step.
        threshold: the neuron fires when its membrane is above it.
        gain: factor on what arrives.
        reset: what a membrane does in the step after a spike.
        refractory: 1 where that step adds nothing to the membrane, else 0.
        trained_reset: the reset that it was trained with, where that is another.
        clear_every: its state is cleared once in so many steps; 0 is never.
        clear_at: in front of which of these steps, from 0.
        mantissa: that of its threshold on a chip, where weights and biases are mantissas too.
    """

    reset: Reset
    refractory: Annotated[int, Meta(ge=0, le=1)]
    alpha: Part | None = None
    beta: Part | None = None
    threshold: AboveZero | None = None
    gain: Real | None = None
    trained_reset: Subtraction | None = None
    clear_every: Natural = 0
    clear_at: Natural = 0
    mantissa: Positive | None = None

    def __post_init__(self) -> None:
        """Check what single ranges cannot."""
        if self.refractory and self.reset != "zero":
            raise ValueError("refractory must be 0 where reset is not 'zero'")
        if self.trained_reset and self.reset != "zero":
            raise ValueError("trained_reset is of a neuron that resets to zero now")
        if self.clear_at >= max(self.clear_every, 1):
            raise ValueError("clear_at must be below clear_every, or 0 where that is 0")
        if self.mantissa is not None and self.threshold != self.mantissa:
            raise ValueError("threshold must be the mantissa where there is one")


class Unpacking(Attrs, frozen=True, tag_field="model", tag="unpack"):
    """Attributes of a neuron that sends bit t of a payload t steps after it came: none."""


class Packing(Attrs, frozen=True, tag_field="model", tag="pack"):
    """Attributes of a neuron that sends the spikes of a train as one payload at its end: none."""


def lower(module: Leaky | SharedIIR) -> Lowered:
    """The neuron's model, its constants and how it resets."""
    if isinstance(module, SharedIIR):
        return _lower_shared(module)
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


def _lower_shared(module: SharedIIR) -> Lowered:
    """A LIF whose current lasts, and whose reset is by subtraction."""
    known = module.constants._asdict()
    constants = {name: known[name] for name in CONSTANTS}
    return {"model": "lif", **constants, "reset": "subtract", "refractory": 0}, {}


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """Currents become spikes."""
    (given,) = inputs
    if given.steps is None:
        raise ValueError(f"a neuron runs over time steps, and {given} has none; encode it first")
    if attrs.get("model") in ("unpack", "pack"):
        if given.steps > MOST_STEPS or tensors:
            raise ValueError(f"it packs up to {MOST_STEPS} steps without constants, not {given}")
        bits = given.steps if attrs["model"] == "pack" else 1
        return Signal(given.shape, Kind.SPIKE, given.steps, bits)
    if unknown := tensors.keys() - set(CONSTANTS):
        raise ValueError(f"a neuron has no constant {min(unknown)!r}")
    for name in CONSTANTS:
        values = tensors.get(name)
        if (attrs.get(name) is None) == (values is None):
            raise ValueError(f"its {name} must be one number or a tensor of several")
        if values is not None:
            _check_constant(name, values, given.shape)
    return Signal(given.shape, Kind.SPIKE, given.steps)


def _check_constant(name: str, values: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse values that do not broadcast over the neurons, or are out of range.

    Raises:
        ValueError: if so.
    """
    aligned = zip(reversed(values.shape), reversed(shape), strict=False)
    if values.dim() > len(shape) or any(n not in (1, extent) for n, extent in aligned):
        raise ValueError(
            f"its {name} has the shape {list(values.shape)}, which does not broadcast over its "
            f"neurons, {list(shape)}: give it one value, one for each channel or for each neuron"
        )
    low, high = float(values.min()), float(values.max())
    if name in ("alpha", "beta") and not (low >= 0 and high <= 1):
        raise ValueError(f"its {name} must be from 0 to 1, not from {low} to {high}")
    if name in ("threshold", "gain") and not low > 0:
        raise ValueError(f"its {name} must be above 0, not {low}")


def constants_of(node: Node) -> dict[str, Any]:
    """What a neuron's node says of it: numbers and words, and tensors of several values."""
    return {**node.attrs, **node.tensors}


def run(node: Node, current: Tensor) -> Tensor:
    """Leaky integrate and fire, or packing: ``[T, B, ...]`` to spikes."""
    attrs = node.attrs
    if attrs["model"] == "unpack":
        return unpacked(current, 0)
    if attrs["model"] == "pack":
        return packed(current, -1)
    plain = not (node.tensors or attrs["alpha"] or attrs["refractory"] or attrs.get("clear_every"))
    if not plain or attrs["reset"] != "zero" or current.requires_grad:
        return stepped(constants_of(node), current)[0]
    beta, threshold, gain = (attrs[k] for k in ("beta", "threshold", "gain"))
    if paths.usable(current):  # the same operations in the same order, in one pass
        constants = fused.Constants(beta, threshold, gain, ATAN_ALPHA)
        return fused.spikes(current.flatten(0, 1), len(current), constants)
    return leaky(current, beta, threshold, gain)[1]


State = tuple[Tensor, Tensor, Tensor, int]
"""Currents, membranes and spikes that a step leaves to the next one, each ``[B, ...]``, and that
step's number."""


def stepped(attrs: Mapping[str, Any], current: Tensor) -> tuple[Tensor, Tensor]:
    """Leaky integrate and fire, step by step from cleared state, in snnTorch's order.

    ``i = alpha i + gain x``; ``v = beta v + i``; fire where ``v > threshold``. After a spike the
    next step starts from ``v = 0`` (reset "zero"), ends with ``v - threshold`` ("subtract"), or is
    like any other ("none"); with a refractory step it ends with ``v = 0``. By "subtract_at_once"
    the threshold is taken off at the end of the step itself; where what is left is above it once
    more, the next step decides on ``v - threshold``, and gives that back if the neuron is silent.
    Gradients pass through snnTorch's arctan surrogate at each membrane, not through resets.

    Args:
        attrs: of :class:`Constants`, tensors where there are several values.
        current: what arrives, x, ``[T, B, ...]``.

    Returns:
        Spikes of 0 and 1, and the membranes v in which they were decided or, by "subtract_at_once",
        that they left, each ``[T, B, ...]``.
    """
    return stepped_on(attrs, current, None)[:2]


def stepped_on(
    attrs: Mapping[str, Any], current: Tensor, state: State | None
) -> tuple[Tensor, Tensor, State]:
    """What :func:`stepped` does, from a state, None for cleared; also gives the state it leaves."""
    alpha, beta, threshold, gain = (attrs[k] for k in ("alpha", "beta", "threshold", "gain"))
    plain = not isinstance(gain, Tensor) and gain == 1
    spikes, membranes = torch.empty_like(current), torch.empty_like(current)
    zeros = torch.zeros_like(current[0])
    i, v, fired, start = state or (zeros, zeros, zeros, 0)
    every, at = attrs.get("clear_every"), attrs.get("clear_at", 0)
    at_once, trains = attrs["reset"] == "subtract_at_once", current.requires_grad
    for t, arriving in enumerate(current):
        if every and (start + t) % every == at:
            i, v, fired = zeros, zeros, zeros
        i = i * alpha + (arriving if plain else arriving * gain)
        if attrs["reset"] == "zero" and not attrs["refractory"]:
            v = (1 - fired) * v
        v = v * beta + i
        if attrs["reset"] == "subtract" or at_once:
            v = v - fired * threshold
        elif attrs["refractory"]:
            v = v - fired * v
        spikes[t] = surrogate.ATan.apply(v - threshold, ATAN_ALPHA) if trains else v > threshold
        spike = (v > threshold).to(v)
        if at_once:
            v = v - (spike - fired) * threshold
        membranes[t] = v
        fired = (v > threshold).to(v) if at_once else spike
    return spikes, membranes, (i, v, fired, start + len(current))


OPS = (
    Op(
        "neuron",
        (Leaky, SharedIIR),
        lower,
        infer,
        run,
        role="neuron",
        sees_time=True,
        attrs=Constants | Unpacking | Packing,
        any_tensors=True,
    ),
)
