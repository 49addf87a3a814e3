"""From values to spikes and back: the boundary of a chip segment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import torch
from msgspec import Meta
from snntorch import spikegen
from torch import Tensor

from has8.encoders import (
    BitPlaneEncoder,
    Decoder,
    DuplicateEncoder,
    EvenEncoder,
    GaussianEncoder,
    LatencyEncoder,
    PaperBitPlaneEncoder,
    PhaseEncoder,
    RateEncoder,
    encode_bitplanes,
    encode_duplicate,
    encode_even,
    encode_gaussian,
    encode_latency,
    encode_phase,
    encode_rate,
)
from has8.encoders.latency import MOST_LOG_STEPS
from has8.encoders.rate import MOST_SEED
from has8.errors import BadInput
from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import AboveZero, Attrs, Lowered, Op, Positive, Real, parameters

VALUES = (DuplicateEncoder.coding, GaussianEncoder.coding)
"""Codings that make values of each step, not spikes."""
SPIKEGEN = "spikegen.latency"
"""The coding of :func:`snntorch.spikegen.latency`."""
Encoder = (
    BitPlaneEncoder
    | DuplicateEncoder
    | EvenEncoder
    | GaussianEncoder
    | LatencyEncoder
    | PaperBitPlaneEncoder
    | PhaseEncoder
    | RateEncoder
)


class BitPlanes(Attrs, frozen=True, tag_field="coding", tag=BitPlaneEncoder.coding):
    """Attributes of bit planes."""

    steps: Literal[8]
    order: Literal["lsb", "msb"]
    lo: Real
    hi: Real

    def __post_init__(self) -> None:
        """Check what single ranges cannot."""
        if not self.lo < self.hi:
            raise ValueError("lo must be below hi")


class Duplicates(Attrs, frozen=True, tag_field="coding", tag=DuplicateEncoder.coding):
    """Attributes of values that are repeated, and their largest magnitude where it is known."""

    steps: Positive
    largest: Annotated[float, Meta(ge=0)] | None = None


class Evens(Attrs, frozen=True, tag_field="coding", tag=EvenEncoder.coding):
    """Attributes of even coding."""

    steps: Positive


class Gaussians(Attrs, frozen=True, tag_field="coding", tag=GaussianEncoder.coding):
    """Attributes of values with noise."""

    steps: Positive
    seed: Annotated[int, Meta(ge=0, le=MOST_SEED)]
    mode: Literal["hw", "paper"]


class Phases(Attrs, frozen=True, tag_field="coding", tag=PhaseEncoder.coding):
    """Attributes of phase coding."""

    steps: Positive


class Latencies(Attrs, frozen=True, tag_field="coding", tag=LatencyEncoder.coding):
    """Attributes of latency coding."""

    steps: Annotated[int, Meta(ge=2)]
    function: Literal["linear", "log"]

    def __post_init__(self) -> None:
        """Check what single ranges cannot."""
        if self.function == "log" and self.steps > MOST_LOG_STEPS:
            raise ValueError(f"steps must be at most {MOST_LOG_STEPS} where function is 'log'")


class Rates(Attrs, frozen=True, tag_field="coding", tag=RateEncoder.coding):
    """Attributes of rate coding."""

    steps: Positive
    seed: Annotated[int, Meta(ge=0, le=MOST_SEED)]


class SpikegenLatencies(Attrs, frozen=True, tag_field="coding", tag=SPIKEGEN):
    """Attributes of :func:`snntorch.spikegen.latency`."""

    steps: Positive
    threshold: Annotated[float, Meta(gt=0, lt=1)]
    tau: AboveZero
    first_spike_time: Annotated[float, Meta(ge=0)]
    clip: bool
    normalize: bool
    linear: bool
    bypass: bool
    epsilon: AboveZero


def lower_encoder(module: Encoder) -> Lowered:
    """Coding and steps; for bit planes also order and range, for codes by chance the seed."""
    if isinstance(module, PaperBitPlaneEncoder):
        raise ValueError(
            "the encoder of mode='paper' takes its range from the batch and sends fractions, "
            "which no chip can run; train with mode='hw'"
        )
    attrs: dict[str, Any] = {"coding": module.coding, "steps": module.steps}
    if isinstance(module, BitPlaneEncoder):
        if not module.frozen:
            raise ValueError("its range is not frozen; run has8.calibrate(model, images) first")
        attrs.update(order=module.order, lo=module.lo.item(), hi=module.hi.item())
    if isinstance(module, LatencyEncoder):
        attrs.update(function=module.function)
    if isinstance(module, RateEncoder | GaussianEncoder):
        attrs.update(seed=module.seed)
    if isinstance(module, GaussianEncoder):
        attrs.update(mode=module.mode)
    return attrs, {}


def infer_encoder(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """Values without a time axis get one, as spikes or as values."""
    (given,) = inputs
    if given.steps is not None:
        raise ValueError(f"it encodes values without a time axis, not {given}")
    shape, coding = given.shape, attrs["coding"]
    if coding == GaussianEncoder.coding:
        if shape[0] % 2:
            raise ValueError(f"it takes two values for each that it makes, and not {given}")
        shape = (shape[0] // 2, *shape[1:])
    return Signal(shape, Kind.VALUE if coding in VALUES else Kind.SPIKE, attrs["steps"])


def encode(node: Node, x: Tensor) -> Tensor:
    """``[B, ...] -> [T, B, ...]``; what the model's own encoder refuses is refused."""
    coding, steps = node.attrs["coding"], node.attrs["steps"]
    if coding == DuplicateEncoder.coding:
        return encode_duplicate(x, steps)
    if coding == EvenEncoder.coding:
        return encode_even(x, steps)
    if coding == GaussianEncoder.coding:
        return encode_gaussian(x, steps, node.attrs["seed"], node.attrs["mode"])
    if coding == PhaseEncoder.coding:
        return encode_phase(x, steps)
    if coding == RateEncoder.coding:
        return encode_rate(x, steps, node.attrs["seed"])
    if coding == LatencyEncoder.coding:
        return encode_latency(x, steps, node.attrs["function"])
    if coding == SPIKEGEN:
        return spikegen_latency(x, node.attrs)
    return encode_bitplanes(x, node.attrs["lo"], node.attrs["hi"], node.attrs["order"])


def spikegen_latency(x: Tensor, attrs: Mapping[str, Any]) -> Tensor:
    """What :func:`snntorch.spikegen.latency` makes of samples, each for itself.

    It normalises logarithmic times by the latest of the batch, which is that of a value at the
    threshold or below, as images have them; here that time is the same in every batch.

    Raises:
        BadInput: for values that it refuses.
    """
    options = {name: value for name, value in attrs.items() if name not in ("coding", "steps")}
    black = torch.zeros_like(x[:1])
    given = torch.cat([x, black]) if attrs["normalize"] and not attrs["linear"] else x
    try:
        spikes: Tensor = spikegen.latency(given, num_steps=attrs["steps"], **options)
    except Exception as error:  # it raises nothing more particular
        raise BadInput(f"spikegen.latency fails: {' '.join(str(error).split())}") from error
    return spikes[:, : len(x)]


def lower_decoder(module: Decoder) -> Lowered:
    """The weight of each step."""
    return {}, parameters(module, "weights")


def infer_decoder(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """The time axis goes."""
    (given,) = inputs
    if given.steps != len(tensors["weights"]):
        raise ValueError(f"it decodes {len(tensors['weights'])} steps, not {given}")
    return Signal(given.shape, Kind.VALUE, None)


def decode(node: Node, x: Tensor) -> Tensor:
    """``[T, B, ...] -> [B, ...]``."""
    decoded: Tensor = torch.tensordot(node.tensors["weights"], x, dims=1)
    return decoded


OPS = (
    Op(
        "encode",
        get_args(Encoder),
        lower_encoder,
        infer_encoder,
        encode,
        role="encode",
        sees_time=True,
        attrs=(
            BitPlanes
            | Duplicates
            | Evens
            | Gaussians
            | Phases
            | Latencies
            | Rates
            | SpikegenLatencies
        ),
    ),
    Op(
        "decode",
        (Decoder,),
        lower_decoder,
        infer_decoder,
        decode,
        role="decode",
        sees_time=True,
        tensors={"weights": 1},
    ),
)
