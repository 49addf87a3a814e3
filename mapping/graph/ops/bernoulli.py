"""Spikes that are drawn: a value is the probability of a spike in its step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor

from has8.encoders.rate import MOST_SEED, draw_spikes, step_draws
from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import Attrs, Op, nothing

Seed = Annotated[int, Meta(ge=0, le=MOST_SEED)]


class Draws(Attrs, frozen=True):
    """Attributes of drawn spikes: a seed of all steps, or one of each."""

    seed: Seed | None = None
    seeds: Annotated[list[Seed], Meta(min_length=1)] | None = None

    def __post_init__(self) -> None:
        """Check what single ranges cannot."""
        if (self.seed is None) == (self.seeds is None):
            raise ValueError("it has a seed of all steps, or one of each")


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """Values of each step become spikes."""
    (given,) = inputs
    if given.steps is None:
        raise ValueError(f"it draws the spikes of steps, and {given} has none")
    if "seeds" in attrs and len(attrs["seeds"]) != given.steps:
        raise ValueError(f"it draws the spikes of {len(attrs['seeds'])} steps, not of {given}")
    return replace(given, kind=Kind.SPIKE)


def draw(node: Node, x: Tensor) -> Tensor:
    """Probabilities ``[T, B, ...]`` to spikes, drawn by the samples' numbers."""
    if "seeds" not in node.attrs:
        return draw_spikes(x, node.attrs["seed"])
    draws = [step_draws(x.shape[1:], seed) for seed in node.attrs["seeds"]]
    return (torch.stack(draws).to(x) < x).to(x.dtype)


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
