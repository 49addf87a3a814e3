"""The model's input, and layers that only rearrange or pass on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Annotated, Any

from msgspec import Meta
from torch import Tensor, nn

from mapping.graph.ir import Node, Signal
from mapping.graph.ops.op import Attrs, Lowered, Op, nothing


class Flat(Attrs, frozen=True):
    """Attributes of a flatten: its first and last axis, counted with that of the samples."""

    start: Annotated[int, Meta(ge=1)] = 1
    end: int = -1


def _flatten_of(module: nn.Flatten) -> Lowered:
    start, end = module.start_dim, module.end_dim
    if (start, end) == (1, -1):
        return {}, {}
    if start < 1:
        raise ValueError("only a flatten of axes behind that of the samples is supported")
    return {"start": start, "end": end}, {}


def _infer_flat(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    (given,) = inputs
    start, end = attrs.get("start", 1), attrs.get("end", -1)
    first, last = start - 1, end - 1 if end >= 0 else len(given.shape) + end
    if not first <= last < len(given.shape):
        raise ValueError(f"{given} has no axes from {start} to {end}")
    joined = prod(given.shape[first : last + 1])
    return replace(given, shape=(*given.shape[:first], joined, *given.shape[last + 1 :]))


class Shape(Attrs, frozen=True):
    """Attributes of another shape: that of one sample, -1 for what is left of its elements."""

    shape: Annotated[list[Annotated[int, Meta(ge=-1)]], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Check what single ranges cannot."""
        if 0 in self.shape or self.shape.count(-1) > 1:
            raise ValueError("a shape has extents of 1 or more, and one of -1 at most")


def _shape_of(module: nn.Unflatten) -> Lowered:
    if module.dim != 1 or not all(isinstance(size, int) for size in module.unflattened_size):
        raise ValueError("only another shape of everything behind the batch axis is supported")
    return {"shape": list(module.unflattened_size)}, {}


def _infer_shape(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    (given,) = inputs
    known = prod(size for size in attrs["shape"] if size > 0)
    shape = tuple(size if size > 0 else given.size // known for size in attrs["shape"])
    if prod(shape) != given.size:
        raise ValueError(f"{given} has not the elements of a shape {attrs['shape']}")
    return replace(given, shape=shape)


def reshape(node: Node, x: Tensor) -> Tensor:
    """``[B, ...] -> [B, *shape]``, the same elements in the same order."""
    return x.reshape(len(x), *node.attrs["shape"])


def _infer_same(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    return inputs[0]


def flatten(node: Node, x: Tensor) -> Tensor:
    """``[B, C, H, W] -> [B, C*H*W]``, or some of these axes."""
    return x.flatten(node.attrs.get("start", 1), node.attrs.get("end", -1))


def same(node: Node, x: Tensor) -> Tensor:
    """The input."""
    return x


OPS = (
    Op("input", (), nothing, _infer_same, same, role="input", sees_time=True, inputs=0),
    Op("flatten", (nn.Flatten,), _flatten_of, _infer_flat, flatten, attrs=Flat),
    Op("reshape", (nn.Unflatten,), _shape_of, _infer_shape, reshape, attrs=Shape),
    Op("identity", (nn.Identity, nn.Dropout, nn.Dropout2d), nothing, _infer_same, same),
)
RESHAPED = ("flatten", "reshape")
"""Kinds of nodes that give the same elements in the same order in another shape."""
AXES = 3
"""Of a chip's populations, at most."""
