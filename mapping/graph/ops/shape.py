"""The model's input, and layers that only rearrange or pass on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mapping.graph.ir import Node, Signal
from mapping.graph.ops.op import Lowered, Op, nothing


def _flatten_of(module: nn.Flatten) -> Lowered:
    if module.start_dim != 1 or module.end_dim != -1:
        raise ValueError("only a flatten of everything behind the batch axis is supported")
    return {}, {}


def _infer_flat(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    (given,) = inputs
    return Signal((given.size,), given.kind, given.steps)


def _infer_same(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    return inputs[0]


def flatten(node: Node, x: Tensor) -> Tensor:
    """``[B, C, H, W] -> [B, C*H*W]``."""
    return x.flatten(1)


def same(node: Node, x: Tensor) -> Tensor:
    """The input."""
    return x


OPS = (
    Op("input", (), nothing, _infer_same, same, role="input", sees_time=True, inputs=0),
    Op("flatten", (nn.Flatten,), _flatten_of, _infer_flat, flatten),
    Op("identity", (nn.Identity, nn.Dropout, nn.Dropout2d), nothing, _infer_same, same),
)
