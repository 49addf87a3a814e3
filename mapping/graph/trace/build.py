"""A graph that is built node by node, of what a file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from has8.encoders import DuplicateEncoder, RateEncoder
from mapping.graph.ir import Graph, Kind, Node, Signal, sorted_graph, unique_name
from mapping.graph.ops import OPS

Coding = Literal["spikes", "steps", "static", "rate"]
"""What a network takes: spikes, or values of each step; or values in [0, 1] of a sample, which are
the same in each step, or fire by chance."""


@dataclass
class Builder:
    """Nodes in the making.

    Args:
        steps: of a sample.
    """

    steps: int
    nodes: dict[str, Node] = field(default_factory=dict)

    def add(
        self,
        name: str,
        op: str,
        inputs: tuple[str, ...],
        attrs: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        signal: Signal | None = None,
    ) -> Node:
        """A node with the type that follows from its inputs', or ``signal``.

        Raises:
            ValueError: if its inputs do not fit it.
        """
        name = unique_name(name, self.nodes)
        attrs, tensors = attrs or {}, tensors or {}
        if signal is None:
            sources = tuple(self.nodes[source].type for source in inputs)
            signal = OPS[op].infer(attrs, tensors, sources)
        self.nodes[name] = Node(name, op, inputs, signal, attrs, tensors)
        return self.nodes[name]

    def input(self, name: str, shape: tuple[int, ...], coding: Coding, seed: int) -> Node:
        """What the network takes, and what makes steps of it."""
        if coding in ("spikes", "steps"):
            kind = Kind.SPIKE if coding == "spikes" else Kind.VALUE
            return self.add(name, "input", (), signal=Signal(shape, kind, self.steps))
        self.add(name, "input", (), signal=Signal(shape))
        attrs: dict[str, Any] = {"coding": DuplicateEncoder.coding, "steps": self.steps}
        if coding == "rate":
            attrs |= {"coding": RateEncoder.coding, "seed": seed}
        return self.add(f"{name}.steps", "encode", (name,), attrs)

    def summed(self, source: Node) -> Node:
        """The sum of all steps."""
        return self.add(
            "answer", "decode", (source.name,), None, {"weights": torch.ones(self.steps)}
        )

    def graph(self, output: Node) -> Graph:
        """All nodes that a node needs."""
        return sorted_graph(self.nodes.values(), output.name)
