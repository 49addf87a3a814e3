"""From values to spikes and back: one file holds one coding, its encoder and decoding weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from has8.encoders.bitplane import (
    BitPlaneEncoder,
    PaperBitPlaneEncoder,
    bitplane_weights,
    encode_bitplanes,
)
from has8.encoders.decoder import Decoder
from has8.encoders.duplicate import DuplicateEncoder, count_weights, encode_duplicate
from has8.encoders.even import EvenEncoder, encode_even, even_phases
from has8.encoders.gaussian import GaussianEncoder, encode_gaussian, normal_draws
from has8.encoders.latency import LatencyEncoder, encode_latency, latency_weights
from has8.encoders.phase import PhaseEncoder, encode_phase, phase_weights
from has8.encoders.rate import (
    RateEncoder,
    SeededBernoulli,
    encode_rate,
    numbered,
    rate_draws,
    rate_weights,
)
from has8.registry import Registry

DECODERS: Registry[str] = Registry("decoder")
"""Ways to decode the steps of a HAS-8 block."""
for _name in ("bitplane", "rate"):
    DECODERS.register(_name)(_name)

IMAGE_CODINGS: Registry[Callable[[int], nn.Module]] = Registry("coding")
"""Encoders of images in [0, 1] by the name of their coding; each is called with its steps T."""
IMAGE_CODINGS.register("duplicate")(DuplicateEncoder)
IMAGE_CODINGS.register("even")(EvenEncoder)
IMAGE_CODINGS.register("phase")(PhaseEncoder)
IMAGE_CODINGS.register("rate")(RateEncoder)
IMAGE_CODINGS.register("ttfs")(LatencyEncoder)
IMAGE_CODINGS.register("ttfs_log")(partial(LatencyEncoder, function="log"))

__all__ = [
    "DECODERS",
    "IMAGE_CODINGS",
    "BitPlaneEncoder",
    "Decoder",
    "DuplicateEncoder",
    "EvenEncoder",
    "GaussianEncoder",
    "LatencyEncoder",
    "PaperBitPlaneEncoder",
    "PhaseEncoder",
    "RateEncoder",
    "SeededBernoulli",
    "bitplane_weights",
    "count_weights",
    "encode_bitplanes",
    "encode_duplicate",
    "encode_even",
    "encode_gaussian",
    "encode_latency",
    "encode_phase",
    "encode_rate",
    "even_phases",
    "latency_weights",
    "normal_draws",
    "numbered",
    "phase_weights",
    "rate_draws",
    "rate_weights",
]
