"""A graph as plain values and arrays, for files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import torch
from numpy.typing import NDArray

from has8.errors import BadInput
from mapping.chip.serial import Arrays
from mapping.graph.ir import Graph, Node, Signal


class PackedNode(msgspec.Struct, frozen=True):
    """A node; its tensors are arrays ``graph/NODE/TENSOR``."""

    name: str
    op: str
    inputs: tuple[str, ...]
    type: Signal
    attrs: dict[str, Any]
    tensors: tuple[str, ...]


def pack_graph(graph: Graph, arrays: Arrays) -> tuple[PackedNode, ...]:
    """The nodes of a graph; their tensors are added to the arrays."""
    for node in graph:
        for name, tensor in node.tensors.items():
            arrays[f"graph/{node.name}/{name}"] = tensor.contiguous().numpy()
    return tuple(
        PackedNode(n.name, n.op, n.inputs, n.type, dict(n.attrs), tuple(sorted(n.tensors)))
        for n in graph
    )


def unpack_graph(nodes: Iterable[PackedNode], arrays: Mapping[str, NDArray[Any]]) -> Graph:
    """The graph again.

    Raises:
        ValueError, KeyError: if the nodes are in no order that can run, or an array is missing.
    """
    return Graph(tuple(_unpacked(node, arrays) for node in nodes))


def encoded(manifest: msgspec.Struct, what: str) -> bytes:
    """A manifest as JSON that reads as the same again.

    Args:
        manifest: what to write.
        what: what it is, for messages.

    Raises:
        BadInput: if reading would refuse it or give another: what is no number would become null.
    """
    content = msgspec.json.encode(manifest)
    try:
        again = msgspec.json.encode(msgspec.json.decode(content, type=type(manifest)))
    except msgspec.ValidationError as error:
        raise BadInput(f"{what} cannot be saved: {error}") from error
    if again != content:
        raise BadInput(f"{what} cannot be saved: reading it would give another one")
    return content


def _unpacked(packed: PackedNode, arrays: Mapping[str, NDArray[Any]]) -> Node:
    tensors = {
        name: torch.from_numpy(arrays[f"graph/{packed.name}/{name}"]) for name in packed.tensors
    }
    return Node(packed.name, packed.op, packed.inputs, packed.type, packed.attrs, tensors)
