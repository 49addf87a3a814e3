"""A delay of some steps, through which loops over steps close."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mapping.graph.ir import Node, Signal
from mapping.graph.ops.op import Attrs, Op, Positive, nothing


class Late(Attrs, frozen=True):
    """Attributes of a delay."""

    steps: Positive


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """The type stays."""
    if inputs[0].steps is None:
        raise ValueError(f"it delays what has steps, and {inputs[0]} has none")
    return inputs[0]


def delayed(node: Node, x: Tensor) -> Tensor:
    """What came some steps before, zeros before that: ``[T, B, ...]``."""
    late = min(node.attrs["steps"], len(x))
    return torch.cat([torch.zeros_like(x[:late]), x[: len(x) - late]])


OPS = (Op("delay", (), nothing, infer, delayed, sees_time=True, attrs=Late),)
