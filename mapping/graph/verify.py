"""What must hold for a graph after each stage."""

from __future__ import annotations

import msgspec
import torch

from mapping.graph.ir import Graph, Kind, Node, Signal, unfed_loop
from mapping.graph.ops import OPS


def verify_graph(graph: Graph) -> None:
    """Every node is of a known kind, has what that needs, and its type follows from its inputs'.

    Raises:
        ValueError: with the first node for which that does not hold.
    """
    inputs = [node.name for node in graph if node.op == "input"]
    if len(inputs) != 1:
        raise ValueError(f"it must have one input, not {len(inputs)}")
    for node in graph:
        if node.op not in OPS:
            raise ValueError(f"node {node.name!r} is of unknown kind {node.op!r}")
        try:
            _verify_node(graph, node)
        except ValueError as error:
            raise ValueError(f"node {node.name!r} ({node.op}) is wrong: {error}") from None
    if unfed := unfed_loop(graph.nodes):
        raise ValueError(f"node {unfed.name!r} is in a loop over steps that nothing outside feeds")


def _verify_node(graph: Graph, node: Node) -> None:
    op, sources = OPS[node.op], tuple(graph[source].type for source in node.inputs)
    if len(sources) != op.inputs and (op.inputs is not None or not sources):
        raise ValueError(f"it takes {op.inputs} inputs, not {len(sources)}")
    msgspec.convert(dict(node.attrs), op.attrs)
    axes = {**op.tensors, **op.optional}
    if op.any_tensors:
        axes = {name: tensor.dim() for name, tensor in node.tensors.items()}
    if not op.tensors.keys() <= node.tensors.keys() <= axes.keys():
        raise ValueError(f"it needs the tensors {sorted(op.tensors)}, not {sorted(node.tensors)}")
    for name, tensor in node.tensors.items():
        if tensor.dtype != torch.float32 or tensor.dim() != axes[name] or not tensor.numel():
            raise ValueError(f"its {name} must be of float32 with {axes[name]} axes, not empty")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"its {name} must be finite numbers")
    signal = (
        _input_signal(graph, node)
        if node.op == "input"
        else op.infer(node.attrs, node.tensors, sources)
    )
    if signal != node.type or not signal.shape or min(signal.shape) < 1:
        raise ValueError(f"it says {node.type}, and its inputs make {signal}")


def _input_signal(graph: Graph, node: Node) -> Signal:
    """What an input may be: values, or spikes of one bit with steps or with an axis of these."""
    given = node.type
    if given.steps is not None and given.steps < 1:
        raise ValueError(f"it must have at least one step, not {given.steps}")
    stepped = given.steps is not None or any(other.op == "unbind" for other in graph)
    spikes = given.kind is Kind.SPIKE and stepped
    return Signal(given.shape, Kind.SPIKE if spikes else Kind.VALUE, given.steps)
