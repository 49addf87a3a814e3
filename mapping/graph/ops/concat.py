"""Tensors side by side along their channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import Op, nothing


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """The channels add up; of spikes alone it makes spikes."""
    first = inputs[0]
    if any((x.shape[1:], x.steps) != (first.shape[1:], first.steps) for x in inputs):
        raise ValueError(f"it joins channels of equal shapes, not {', '.join(map(str, inputs))}")
    shape = (sum(x.shape[0] for x in inputs), *first.shape[1:])
    plain = all(x.kind is Kind.SPIKE and x.bits == 1 and not x.signed for x in inputs)
    return Signal(shape, Kind.SPIKE if plain else Kind.VALUE, first.steps)


def joined(node: Node, *inputs: Tensor) -> Tensor:
    """``[B, C1, ...], [B, C2, ...] -> [B, C1 + C2, ...]``."""
    return torch.cat(inputs, dim=1)


OPS = (Op("concat", (), nothing, infer, joined, inputs=None),)
