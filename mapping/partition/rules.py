"""Which nodes a chip can take, and why it cannot take the others."""

from __future__ import annotations

from mapping.graph.ir import Graph, Kind, Node
from mapping.graph.ops import OPS
from mapping.targets.schema import Registers

HINTS = {
    "subtract": ": reset='zero' maps it so",
    "subtract_at_once": ": reset='zero' maps it so, or train it with reset_delay=True",
}
"""What lets a neuron with a reset that a target lacks go to it."""


def synapses_of(graph: Graph, neuron: str) -> list[Node] | str:
    """The convolutions and linear layers whose sum is a neuron's current.

    Returns:
        The synapse nodes, or a sentence that says what stands in the way.
    """
    found: list[Node] = []
    pending = [graph[graph[neuron].inputs[0]]]
    while pending:
        node = pending.pop()
        if node.op == "add":
            pending.extend(graph[name] for name in node.inputs)
        elif OPS[node.op].role != "synapse":
            return f"its current comes from {node.name!r} ({node.op}), not from synapses alone"
        elif graph[node.inputs[0]].type.kind is not Kind.SPIKE:
            return f"{node.name!r} takes {graph[node.inputs[0]].type}, and a chip takes only spikes"
        else:
            found.append(node)
        if len(graph.consumers(node.name)) != 1:
            return f"the current of {node.name!r} is used elsewhere too"
    return found[::-1]


def reject(graph: Graph, registers: Registers) -> dict[str, str]:
    """Every node that computes and that the chip cannot take, with the reason.

    Encoders, decoders, shapes and the input are the boundary, not candidates, and are left out.
    """
    reasons: dict[str, str] = {}
    taken: set[str] = set()
    for node in graph:
        if node.op != "neuron":
            continue
        parts = synapses_of(graph, node.name)
        if node.attrs["model"] not in registers.neurons:
            reasons[node.name] = f"the target has no {node.attrs['model']!r} neuron"
        elif node.attrs["reset"] not in registers.resets:
            offered = " or ".join(map(repr, registers.resets))
            reasons[node.name] = (
                f"the target has no reset by {node.attrs['reset']!r}, it has {offered}"
                + HINTS.get(node.attrs["reset"], "")
            )
        elif node.attrs["refractory"] > registers.refractory_max:
            reasons[node.name] = "the target's neurons have no refractory steps"
        elif isinstance(parts, str):
            reasons[node.name] = parts
        elif _lasts(node) and (biased := [part.name for part in parts if _has_bias(part)]):
            reasons[node.name] = (
                f"its current lasts several steps and has the bias of {biased[0]!r}, which a chip "
                f"adds to the membrane, where it does not last: train it with bias=False"
            )
        else:
            taken.update(current_nodes(graph, node.name), [node.name])
    for node in graph:
        if node.name in taken or node.name in reasons or node.op in ("input", "flatten"):
            continue
        if OPS[node.op].role in ("encode", "decode"):
            continue
        if node.type.steps is None:
            reasons[node.name] = "works on values without time steps: an ANN layer"
        elif reason := OPS[node.op].reason:
            reasons[node.name] = reason
        elif OPS[node.op].role == "host":
            reasons[node.name] = f"the target has no {node.op} of spikes"
        else:
            reasons[node.name] = "its neuron stays on the host"
    return reasons


def _lasts(neuron: Node) -> bool:
    """Whether a current of a neuron lasts for more than a step."""
    alpha = neuron.tensors.get("alpha")
    return bool(neuron.attrs["alpha"] if alpha is None else alpha.any())


def _has_bias(synapse: Node) -> bool:
    return "bias" in synapse.tensors and bool(synapse.tensors["bias"].any())


def current_nodes(graph: Graph, neuron: str) -> list[str]:
    """Synapse and addition nodes between a neuron and the spikes that drive it."""
    names: list[str] = []
    pending = [graph[neuron].inputs[0]]
    while pending:
        name = pending.pop()
        names.append(name)
        if graph[name].op == "add":
            pending.extend(graph[name].inputs)
    return names
