"""The layers that the tool-chain knows: one file each.

To support another layer, write one file here with a tuple ``OPS`` of
:class:`mapping.graph.ops.op.Op`. Without a chip role a layer stays on the host, and the mapping
says so.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from torch import nn

from mapping.chip.wiring import Wiring
from mapping.graph.ir import Graph, Node
from mapping.graph.ops.op import Op, SynapseKind, run_node

OPS: dict[str, Op] = {
    op.name: op
    for file in iter_modules(__path__)
    for op in getattr(import_module(f"{__name__}.{file.name}"), "OPS", ())
}
"""Every kind of node by name."""


def op_of(module: nn.Module) -> Op | None:
    """The kind of node that a torch module becomes, or None if no file lowers it.

    A subclass counts as its parent only as long as it computes the same: with the same forward.
    """
    forward = type(module).forward
    for op in OPS.values():
        if isinstance(module, op.modules) and forward in {m.forward for m in op.modules}:
            return op
    return None


def synapse_of(node: Node) -> SynapseKind:
    """How a node of the role "synapse" becomes synapses."""
    kind = OPS[node.op].synapse
    assert kind is not None, f"{node.name} is no synapse"
    return kind


def wiring_of(graph: Graph, node: Node) -> Wiring:
    """Who reaches whom through a node of the role "synapse"."""
    source = graph[node.inputs[0]].type
    return synapse_of(node).wiring(node.attrs, node.tensors["weight"], source)


__all__ = ["OPS", "Op", "op_of", "run_node", "synapse_of", "wiring_of"]
