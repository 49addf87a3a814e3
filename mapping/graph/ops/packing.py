"""Trains of spikes as payloads of one graded spike each, and back.

Bit t of a payload is the spike of step t. Of bit planes with the lowest first that is the code of
the value itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mapping.chip.payload import Payload
from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import Op, nothing

MOST_STEPS = 24
"""Steps of a train: whole numbers of so many bits are exact in float32."""


def infer_packed(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """A bit for each step.

    Raises:
        ValueError: if these are not binary spikes of 2 to :data:`MOST_STEPS` steps.
    """
    (given,) = inputs
    if given.kind is not Kind.SPIKE or given.bits > 1 or not 2 <= (given.steps or 0) <= MOST_STEPS:
        raise ValueError(f"it packs 2 to {MOST_STEPS} steps of spikes, not {given}")
    assert given.steps is not None
    return replace(given, bits=given.steps)


def infer_unpacked(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """A step for each bit.

    Raises:
        ValueError: if these are no graded spikes with as many bits as steps.
    """
    (given,) = inputs
    if given.kind is not Kind.SPIKE or given.bits != given.steps or given.signed:
        raise ValueError(f"it unpacks graded spikes with a bit for each step, not {given}")
    return replace(given, bits=1)


def packed(spikes: Tensor, at: int) -> Tensor:
    """Trains as payloads.

    Args:
        spikes: 0 and 1, ``[T, B, ...]``.
        at: the step that has the payload; all others have 0.

    Returns:
        ``[T, B, ...]``, of bool in the narrowest type that holds the payloads, else as given.
    """
    whole = spikes.dtype == torch.bool
    kind = getattr(torch, Payload(len(spikes)).kind) if whole else spikes.dtype
    payloads = torch.zeros_like(spikes, dtype=kind)
    for t, spike in enumerate(spikes):
        payloads[at] += spike.to(kind) * 2**t
    return payloads


def unpacked(payloads: Tensor, at: int) -> Tensor:
    """Payloads as trains, the inverse of :func:`packed`; of whole numbers as bool."""
    whole = not payloads.is_floating_point()
    left = payloads[at].long()
    bits = torch.stack([(left >> t) & 1 for t in range(len(payloads))])
    return bits.bool() if whole else bits.to(payloads.dtype)


def pack(node: Node, spikes: Tensor) -> Tensor:
    """On the host, which sends a payload in the first step."""
    return packed(spikes, 0)


def unpack(node: Node, payloads: Tensor) -> Tensor:
    """On the host, which is sent a payload in the last step."""
    return unpacked(payloads, -1)


OPS = (
    Op("pack", (), nothing, infer_packed, pack, sees_time=True),
    Op("unpack", (), nothing, infer_unpacked, unpack, sees_time=True),
)
