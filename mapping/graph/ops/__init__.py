"""The layers that the tool-chain knows: one file each, listed here.

To support another layer, write one file with the facts of :class:`mapping.graph.ops.op.Op` and add it
to the list below. Without a chip role it stays on the host, and the mapping says so.
"""

from __future__ import annotations

from torch import nn

from mapping.graph.ops import (
    activation,
    add,
    batchnorm,
    coding,
    conv2d,
    linear,
    neuron,
    pool,
    shape,
)
from mapping.graph.ops.op import Op, run_node

OPS: dict[str, Op] = {
    op.name: op
    for file in (shape, conv2d, linear, batchnorm, activation, pool, add, coding, neuron)
    for op in file.OPS
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


__all__ = ["OPS", "Op", "op_of", "run_node"]
