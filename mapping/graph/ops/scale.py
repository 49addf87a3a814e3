"""Multiplication with a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import Affine, Attrs, Op, Real, each_channel, nothing


class Factor(Attrs, frozen=True):
    """Attributes of a multiplication with a number."""

    factor: Real


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """The shape stays; spikes become values."""
    return Signal(inputs[0].shape, Kind.VALUE, inputs[0].steps)


def run(node: Node, x: Tensor) -> Tensor:
    """``x * factor``."""
    scaled: Tensor = x * node.attrs["factor"]
    return scaled


def affine(node: Node, source: Signal) -> Affine:
    """The factor of all channels."""
    factor = torch.tensor(node.attrs["factor"], dtype=torch.float64)
    return each_channel(source.shape, factor.expand(source.shape[0]))


OPS = (Op("scale", (), nothing, infer, run, attrs=Factor, affine=affine),)
