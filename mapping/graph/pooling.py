"""Maxima of spikes as what a chip has: neurons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from mapping.graph.ir import Graph, Kind, Node, sorted_graph


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
                "written": 0,
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
