"""Fully connected layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mapping.graph.ir import Kind, Node, TensorType
from mapping.graph.ops.op import Lowered, Op, parameters


def lower(module: nn.Linear) -> Lowered:
    """No attributes; weight ``[out, in]``, bias ``[out]``."""
    return {}, parameters(module, "weight", "bias")


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[TensorType, ...]
) -> TensorType:
    """``(in,) -> (out,)``; spikes of an image of as many elements are taken in C, H, W order."""
    (given,) = inputs
    outputs, size = tensors["weight"].shape
    if given.size != size or (len(given.shape) > 1 and given.kind is not Kind.SPIKE):
        raise ValueError(f"it takes vectors of {size}, not {given}")
    return TensorType((outputs,), Kind.VALUE, given.steps)


def run(node: Node, x: Tensor) -> Tensor:
    """Float product of ``[B, in]`` or ``[B, C, H, W]``."""
    return F.linear(x.flatten(1), node.tensors["weight"], node.tensors.get("bias"))


OPS = (Op("linear", (nn.Linear,), lower, infer, run, role="synapse"),)
