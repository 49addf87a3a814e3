"""From values to spikes and back: one file holds one coding, its encoder and decoding weights."""

from __future__ import annotations

from has8.encoders.bitplane import (
    BitPlaneEncoder,
    PaperBitPlaneEncoder,
    bitplane_weights,
    encode_bitplanes,
)
from has8.encoders.decoder import Decoder
from has8.encoders.duplicate import DuplicateEncoder, count_weights
from has8.encoders.rate import rate_weights
from has8.registry import Registry

DECODERS: Registry[str] = Registry("decoder")
"""Ways to decode the steps of a HAS-8 block."""
for _name in ("bitplane", "rate"):
    DECODERS.register(_name)(_name)

__all__ = [
    "DECODERS",
    "BitPlaneEncoder",
    "Decoder",
    "DuplicateEncoder",
    "PaperBitPlaneEncoder",
    "bitplane_weights",
    "count_weights",
    "encode_bitplanes",
    "rate_weights",
]
