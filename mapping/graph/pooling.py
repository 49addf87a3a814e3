"""Pooling of spikes as what a chip has: averages go into synapses, maxima become neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mapping.graph.ir import Graph, Kind, Node, sorted_graph


def fold_average(graph: Graph) -> Graph:
    """Multiply averages of spikes into the convolutions and linear layers behind them.

    A weighted sum of averages is a weighted sum of spikes. A convolution's zeros around its input
    must stay zeros: where its padding would meet elements that the pooling leaves out, and where
    anything else uses the averages, the graph stays as it is.
    """
    nodes = {node.name: node for node in graph}
    for pool in graph:
        if pool.op not in ("avgpool", "global_avgpool"):
            continue
        if graph[pool.inputs[0]].type.kind is not Kind.SPIKE:
            continue
        users: list[Node] = []
        for user, _ in graph.consumers(pool.name):
            flat = user.op == "flatten"
            users += [node for node, _ in graph.consumers(user.name)] if flat else [user]
        merged = [_merged(graph, pool, node) for node in users]
        nodes.update({node.name: node for node in merged if node and None not in merged})
    return sorted_graph(nodes.values(), graph.output.name)


def maximum_as_or(graph: Graph) -> Graph:
    """Maxima of spikes become neurons without memory that fire where any spike arrives."""
    nodes: list[Node] = []
    for node in graph:
        if node.op != "maxpool" or node.type.kind is not Kind.SPIKE:
            nodes.append(node)
            continue
        channels, window = node.type.shape[0], node.attrs
        arriving = replace(
            node,
            name=f"{node.name}.or",
            op=f"conv{len(window['kernel'])}d",
            type=replace(node.type, kind=Kind.VALUE),
            attrs={
                "stride": window["stride"],
                "padding": window["padding"],
                "dilation": [1] * len(window["kernel"]),
                "groups": channels,
            },
            tensors={"weight": torch.ones(channels, 1, *window["kernel"])},
        )
        nodes.append(arriving)
        nodes.append(replace(node, op="neuron", inputs=(arriving.name,), attrs=OR))
    return sorted_graph(nodes, graph.output.name)


OR: Mapping[str, Any] = {
    "model": "lif",
    "alpha": 0.0,
    "beta": 0.0,
    "threshold": 0.5,
    "gain": 1.0,
    "reset": "zero",
    "refractory": 0,
}
"""A neuron that fires in every step in which a spike of weight 1 arrives."""


Pair = Sequence[int]
"""Of rows and columns."""


def _merged(graph: Graph, pool: Node, node: Node) -> Node | None:
    """A synapse with the averages in front of it in its weights; None where that is not exact."""
    source = graph[pool.inputs[0]]
    size, pooled, weight = source.type.shape[1:], pool.type.shape[1:], node.tensors.get("weight")
    kernel, stride, padding = size, size, (0,) * len(size)
    if pool.op == "avgpool":
        kernel, stride, padding = (pool.attrs[name] for name in ("kernel", "stride", "padding"))
        if any(padding) and not pool.attrs["count_include_pad"]:
            return None
    if weight is None:
        return None
    if node.op == "linear":
        images = weight.reshape(len(weight), *pool.type.shape)
        spread = _spread(images, kernel, stride)
        wide = F.pad(spread, _ends(padding, size, spread.shape[2:])).flatten(1)
        return replace(node, inputs=(source.name,), tensors={**node.tensors, "weight": wide})
    if node.op != f"conv{len(size)}d":
        return None
    attrs = dict(node.attrs)
    around, jumps, dilation = (attrs[name] for name in ("padding", "stride", "dilation"))
    for pad, k, s, p, n, out in zip(around, kernel, stride, padding, size, pooled, strict=True):
        if pad and (k - 1 >= s + p or out * s - p < n):
            return None
    steps = [d * s for d, s in zip(dilation, stride, strict=True)]
    attrs["padding"] = [a * s + p for a, s, p in zip(around, stride, padding, strict=True)]
    attrs["stride"] = [j * s for j, s in zip(jumps, stride, strict=True)]
    attrs["dilation"] = [1] * len(size)
    tensors = {**node.tensors, "weight": _spread(weight, kernel, steps)}
    return replace(node, inputs=(source.name,), attrs=attrs, tensors=tensors)


def _spread(weight: Tensor, kernel: Pair, steps: Pair) -> Tensor:
    """Each weight shared out over a window; windows begin ``steps`` apart and may overlap."""
    window = torch.ones(1, 1, *kernel, dtype=torch.float64) / prod(kernel)
    single = weight.double().reshape(-1, 1, *weight.shape[2:])
    transposed = F.conv_transpose1d if len(kernel) == 1 else F.conv_transpose2d
    spread = transposed(single, window, stride=list(steps))
    return spread.view(*weight.shape[:2], *spread.shape[2:]).float()


def _ends(padding: Pair, size: Pair, spread: Pair) -> list[int]:
    """What has to be added around windows, columns first, to cover an image of some size."""
    ends: list[int] = []
    for pad, full, covered in zip(padding, size, spread, strict=True):
        ends = [-pad, full - (covered - pad), *ends]
    return ends
