"""Spikes that are drawn: a value is the probability of a spike in its step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor

from has8.encoders.rate import MOST_SEED, draw_spikes
from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import Attrs, Op, nothing


class Draws(Attrs, frozen=True):
    """Attributes of drawn spikes."""

    seed: Annotated[int, Meta(ge=0, le=MOST_SEED)]


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """Values of each step become spikes."""
    (given,) = inputs
    if given.steps is None:
        raise ValueError(f"it draws the spikes of steps, and {given} has none")
    return replace(given, kind=Kind.SPIKE)


def draw(node: Node, x: Tensor) -> Tensor:
    """Probabilities ``[T, B, ...]`` to spikes, drawn by the samples' numbers."""
    return draw_spikes(x, node.attrs["seed"])


OPS = (
    Op(
        "bernoulli",
        (),
        nothing,
        infer,
        draw,
        sees_time=True,
        attrs=Draws,
        reason="it draws spikes by chance, which the host does",
    ),
)
