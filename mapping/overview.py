"""What of a model can go to a chip, and why the rest cannot: the cut, without integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from has8 import given
from mapping.chip.wiring import fan_out
from mapping.graph.ir import Graph, Node
from mapping.graph.ops import OPS, wiring_of
from mapping.graph.ops.shape import RESHAPED
from mapping.partition.cut import cut
from mapping.partition.segments import Partition, Side
from mapping.pipeline import Given, lower
from mapping.targets.schema import Target, load_target, target_names

UNSHOWN = ("input", *RESHAPED)
"""Kinds of nodes that are no layers."""
ON_CHIP = "the target has such neurons, and what drives them"
BOUNDARY = {
    "encode": "it makes the steps that the layers behind it take: a host's work",
    "decode": "it reads out what the steps made: a host's work",
}
"""Why nodes of these roles are on the host."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Where one layer can run.

    Args:
        name: of its node in the graph.
        kind: what it is.
        shape: of its output, for one sample in one step.
        steps: time steps, or None where there is no time axis.
        side: "chip" where the target can take it, else "host".
        reason: why it is on this side.
        elsewhere: bundled targets whose chips can take it, where this one cannot.
        neurons: spiking neurons in it; 0 for another layer.
        operations: multiply-accumulates of one sample over all steps, if nothing is skipped.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    steps: int | None
    side: Side
    reason: str
    elsewhere: tuple[str, ...]
    neurons: int
    operations: int


@dataclass(frozen=True, slots=True)
class Overview:
    """The layers of a model, and where each can run.

    Args:
        target: the chip's name.
        layers: in the order of execution, after rewriting: batch norm and averages are in the
            layers that took them up.
    """

    target: str
    layers: tuple[Layer, ...]

    @property
    def neuron_layers(self) -> int:
        """How many layers of spiking neurons there are."""
        return sum(layer.neurons > 0 for layer in self.layers)

    @property
    def on_chip(self) -> int:
        """How many layers of spiking neurons can go to the chip."""
        return sum(layer.neurons > 0 and layer.side == "chip" for layer in self.layers)

    @property
    def operations(self) -> int:
        """Multiply-accumulates of one sample."""
        return sum(layer.operations for layer in self.layers)

    @property
    def chip_share(self) -> float:
        """The part of the operations that can go to the chip, 0 to 1."""
        chip = sum(layer.operations for layer in self.layers if layer.side == "chip")
        return chip / self.operations if self.operations else 0.0


def check_model(
    model: nn.Module | Graph,
    target: str | Path | Target = "loihi",
    *,
    calibration: Tensor | None = None,
    input_shape: Sequence[int] | int | None = None,
    inputs: Given = "values",
    output: int = 0,
) -> Overview:
    """What of a model can go to a chip and why, without mapping it.

    Whether its layers fit on the chip's cores, :func:`mapping.map_model` finds out.

    Args:
        model, target, calibration, input_shape, inputs, output: see :func:`mapping.map_model`.

    Raises:
        TraceError, UnknownName, TargetError, BadInput: as :func:`mapping.map_model`.
    """
    target = target if isinstance(target, Target) else load_target(target)
    model = model if isinstance(model, Graph) else given.own_copy(model)
    if calibration is not None:
        calibration = given.images(calibration, what="calibration images")
    graph, partition = lower(
        model,
        target,
        "all",
        calibration,
        input_shape,
        inputs=inputs,
        output=output,
        overview=True,
    )
    others = {
        name: _chip_nodes(cut(graph, load_target(name).registers))
        for name in target_names()
        if name != target.name
    }
    return Overview(target.name, tuple(_layers(graph, partition, others)))


def _chip_nodes(partition: Partition) -> set[str]:
    return {name for segment in partition.on_chip for name in segment.nodes}


def _layers(graph: Graph, partition: Partition, others: Mapping[str, set[str]]) -> Iterator[Layer]:
    chip = _chip_nodes(partition)
    rejected = {rejection.node: rejection.reason for rejection in partition.rejections}
    for node in graph:
        if node.op in UNSHOWN:
            continue
        on_chip = node.name in chip
        role = OPS[node.op].role
        yield Layer(
            node.name,
            str(node.attrs["model"]) if role == "neuron" else node.op,
            node.type.shape,
            node.type.steps,
            "chip" if on_chip else "host",
            ON_CHIP
            if on_chip
            else rejected.get(node.name, BOUNDARY.get(role, "it works beside the chip's layers")),
            () if on_chip else tuple(t for t, taken in others.items() if node.name in taken),
            node.type.size if role == "neuron" else 0,
            _operations(graph, node),
        )


def _operations(graph: Graph, node: Node) -> int:
    """Multiply-accumulates of one sample, without those that meet only padding."""
    op, sources = OPS[node.op], [graph[name].type for name in node.inputs]
    if op.role == "synapse":
        taken = int(fan_out(wiring_of(graph, node)).sum(dtype=np.int64))
        return taken * (sources[0].steps or 1)
    return op.macs(node, sources) if op.macs is not None else 0
