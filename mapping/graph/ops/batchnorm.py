"""Batch normalisation in evaluation mode: a factor and an offset for each channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import Affine, Attrs, Lowered, Op, Real, each_channel, parameters


class Epsilon(Attrs, frozen=True):
    """Attributes of a batch normalisation."""

    eps: Real


def lower(module: nn.BatchNorm1d | nn.BatchNorm2d) -> Lowered:
    """``eps``; running mean and variance and, where affine, weight and bias, all ``[C]``."""
    if module.running_mean is None:
        raise ValueError(
            "batch normalisation without running statistics depends on the batch: train it with "
            "track_running_stats=True"
        )
    tensors = parameters(module, "running_mean", "running_var", "weight", "bias")
    return {"eps": module.eps}, tensors


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """The shape stays; spikes become values."""
    (given,) = inputs
    if given.shape[0] != len(tensors["running_mean"]):
        raise ValueError(f"it takes {len(tensors['running_mean'])} channels, not {given}")
    if len({len(tensor) for tensor in tensors.values()}) > 1 or len(tensors) == 3:
        raise ValueError("it needs mean and variance, or weight and bias too, of all channels")
    if not bool((tensors["running_var"] + attrs["eps"] > 0).all()):
        raise ValueError("a variance and eps must be more than 0 together")
    return Signal(given.shape, Kind.VALUE, given.steps)


def run(node: Node, x: Tensor) -> Tensor:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` for each channel of ``[B, C, ...]``."""
    t = node.tensors
    return F.batch_norm(
        x,
        t["running_mean"],
        t["running_var"],
        t.get("weight"),
        t.get("bias"),
        eps=node.attrs["eps"],
    )


def factor_and_offset(node: Node) -> tuple[Tensor, Tensor]:
    """Batch norm as ``x * factor + offset``, float64 ``[C]`` each, so that folding rounds once."""
    t = {name: tensor.double() for name, tensor in node.tensors.items()}
    factor = 1 / torch.sqrt(t["running_var"] + node.attrs["eps"])
    offset = -t["running_mean"] * factor
    if "weight" in t:
        factor, offset = factor * t["weight"], offset * t["weight"] + t["bias"]
    return factor, offset


def affine(node: Node, source: Signal) -> Affine:
    """A factor and an offset for each channel."""
    return each_channel(source.shape, *factor_and_offset(node))


OPS = (
    Op(
        "batchnorm",
        (nn.BatchNorm1d, nn.BatchNorm2d),
        lower,
        infer,
        run,
        affine=affine,
        attrs=Epsilon,
        tensors={"running_mean": 1, "running_var": 1},
        optional={"weight": 1, "bias": 1},
    ),
)
