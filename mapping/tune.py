"""Training any network that mapping takes through the chip's integers.

The network's graph is run node by node: what goes to the chip computes in the chip's integers, with
scales that are chosen once, the rest in floating point. Gradients pass straight through rounding
(what is clipped gets none) and through an arctan surrogate at each membrane; populations in a loop
run step by step. For has8's own models :mod:`mapping.finetune` does the same within the model,
faster, and leaves a checkpoint.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from has8 import given
from has8.errors import BadInput
from has8.neurons import ATAN_ALPHA
from mapping.chip.grid import default_bits
from mapping.chip.wiring import Wiring
from mapping.graph.evaluate import run_loop
from mapping.graph.ir import Graph, Node, loops_of
from mapping.graph.ops import OPS, run_node
from mapping.integers.methods import Method
from mapping.integers.neurons import ChipNeurons
from mapping.integers.quantize import Rounded
from mapping.integers.rounding import (
    Integers,
    Scale,
    Scales,
    layer_of,
    to_integers,
    written,
)
from mapping.integers.sums import weighted_sums
from mapping.partition.rules import PASSED_ON, layer_nodes, source_of, written_to
from mapping.partition.segments import Partition
from mapping.pipeline import Given, Reset, choose_scales, lower
from mapping.targets.schema import Target, load_target

TRAINED = ("weight", "bias")
"""Of synapses and batch norms, the tensors that are trained."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """A population on the chip in one pass.

    Args:
        name: its node's.
        steps: T.
        neurons: what they compute.
        integers: of today's weights.
        drive: what arrives from outside of its loop, ``[T * B, ...]``.
        looped: synapses of the loop: whose spikes, how many steps late, wiring and weights.
    """

    name: str
    steps: int
    neurons: ChipNeurons
    integers: Integers
    drive: Tensor
    looped: tuple[tuple[str, int, Wiring, Tensor], ...]


class TunedNetwork(nn.Module):
    """A network as the target would compute it, with its weights and biases as parameters.

    Args:
        graph: of the network, after the passes.
        partition: of the graph.
        target: whose arithmetic holds.
        scales: of each population on the chip, by name.
        weight_bits: bits of a weight.
    """

    def __init__(
        self,
        graph: Graph,
        partition: Partition,
        target: Target,
        scales: Scales,
        weight_bits: int,
    ) -> None:
        super().__init__()
        self.scales, self.weight_bits = scales, weight_bits
        self._graph, self._registers = graph, target.registers
        on_chip = [graph[name] for part in partition.on_chip for name in part.nodes]
        self._populations = {node.name for node in on_chip if node.op == "neuron"}
        # A membrane that is read is that of the float neuron, behind the chip's spikes.
        read = {node.inputs[1] for node in on_chip if node.op == "last_membrane"}
        kept = {name for neuron in read for name in layer_nodes(graph, neuron)}
        self._inside = {node.name for node in on_chip} - self._populations - kept
        trained = [
            (node.name, key)
            for node in graph
            for key in TRAINED
            if key in node.tensors and (OPS[node.op].role == "synapse" or node.op == "batchnorm")
        ]
        self.places = {place: number for number, place in enumerate(trained)}
        self.weights = nn.ParameterList(
            nn.Parameter(graph[name].tensors[key].clone()) for name, key in trained
        )

    @property
    def graph(self) -> Graph:
        """The network's graph with the weights as they are now, float32 on the CPU."""
        return Graph(
            tuple(
                replace(node, tensors={k: v.detach().cpu() for k, v in node.tensors.items()})
                for node in self._live()
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """The network's answer to inputs ``[B, ...]``, or to those of all steps ``[T, B, ...]``."""
        graph = Graph(tuple(self._live(x)))
        values = {graph.input.name: x}
        for part in loops_of(graph.nodes):
            names = {node.name for node in part} & self._populations
            if names:
                self._run(graph, [node for node in part if node.name in names], values)
            elif len(part) > 1:
                run_loop(part, values)
                continue
            for node in part:
                kept = node.op in PASSED_ON or node.name not in self._inside
                if kept and node.name not in values:
                    inputs = tuple(values[source] for source in node.inputs)
                    steps = graph[node.inputs[0]].type.steps
                    values[node.name] = run_node(OPS[node.op], node, inputs, steps)
        return values[graph.output.name]

    def _live(self, like: Tensor | None = None) -> list[Node]:
        """The nodes with today's weights, on the device of some tensor."""

        def tensor(node: Node, key: str, value: Tensor) -> Tensor:
            place = self.places.get((node.name, key))
            value = value if place is None else self.weights[place]
            return value if like is None else value.to(like.device)

        return [
            replace(node, tensors={k: tensor(node, k, v) for k, v in node.tensors.items()})
            for node in self._graph
        ]

    def _run(self, graph: Graph, nodes: Sequence[Node], values: dict[str, Tensor]) -> None:
        """Add the spikes ``[T, B, ...]``, float32, of a population on the chip, or those of a loop.

        Args:
            graph: with today's weights.
            nodes: the populations, in the order in which they run within a step.
            values: of what feeds them.
        """
        names = {node.name for node in nodes}
        layers = [self._layer(graph, node, names, values) for node in nodes]
        (layer, *others) = layers
        if not (others or layer.looped):
            spikes = layer.neurons(layer.drive, layer.steps, layer.integers, ATAN_ALPHA)
            values[layer.name] = spikes.float()
            return
        drives = {x.name: x.drive.unflatten(0, (x.steps, -1)) for x in layers}
        states = {x.name: (torch.zeros_like(drives[x.name][0]),) * 2 for x in layers}
        constants = {x.name: x.neurons.constants(x.integers, x.drive) for x in layers}
        made: dict[str, list[Tensor]] = {name: [] for name in names}
        for step in range(layer.steps):
            for x in layers:
                drive = drives[x.name][step]
                for source, late, wires, weight in x.looped:
                    if step >= late:
                        arriving = made[source][step - late].to(weight.dtype)
                        drive = drive + weighted_sums(wires, arriving, weight).reshape(drive.shape)
                spikes, states[x.name] = x.neurons.step(
                    states[x.name], drive, constants[x.name], ATAN_ALPHA
                )
                made[x.name].append(spikes)
        values.update({name: torch.stack(steps).float() for name, steps in made.items()})

    def _layer(
        self, graph: Graph, node: Node, together: Container[str], values: Mapping[str, Tensor]
    ) -> _Layer:
        """A population in today's integers, and what arrives from outside of its loop."""
        layer = layer_of(graph, node.name)
        integers = to_integers(layer, self.scales[node.name], self._registers, self.weight_bits)
        neurons = ChipNeurons.of(layer, self._registers, layer.bias.device)
        some = next(iter(values.values()))
        samples = some.shape[graph.input.type.batch_axis]
        drive = torch.zeros(
            layer.steps * samples, *node.type.shape, dtype=neurons.dtype, device=some.device
        )
        looped = []
        for synapse, wires, weight in zip(
            layer.synapses, layer.wirings, neurons.weights(integers), strict=True
        ):
            source, late = source_of(graph, synapse)
            if source in together:
                looped.append((source, late, wires, weight))
                continue
            spikes = values[synapse.inputs[0]].flatten(0, 1).to(weight.dtype)
            drive = drive + weighted_sums(wires, spikes, weight).reshape(drive.shape)
        if (given := written_to(graph, node.name)) is not None:  # lasts no step: as on a membrane
            channel = (-1, *(1,) * (len(node.type.shape) - 1))
            bias = integers.bias.view(channel)
            thresholds = bias.new_tensor(integers.scale.thresholds)
            biases, _ = written(
                node, thresholds, bias, integers.bias_exp, self._registers, values[given.name]
            )
            added = (biases - bias) * 2**integers.bias_exp
            drive = drive + added.to(drive.dtype).reshape(drive.shape)
        return _Layer(node.name, layer.steps, neurons, integers, drive, tuple(looped))


def tune(
    model: nn.Module,
    target: str | Path | Target = "loihi",
    *,
    calibration: Tensor,
    weight_bits: int | None = None,
    scales: Method = "search",
    inputs: Given = "values",
    output: int = 0,
    reset: Reset = "trained",
) -> TunedNetwork:
    """A trained network that computes as the target would, to be trained for that.

    Everything that the target can run goes to it. Train what is returned as any module, with an
    optimizer of its parameters; then ``map_model(tuned.graph, target, scales=tuned.scales,
    weight_bits=tuned.weight_bits)`` maps it.

    Args:
        model: as :func:`mapping.map_model` takes it; it is not changed.
        target: a bundled target's name, the path of a YAML file, or a target.
        calibration: inputs that stand for the data, a few hundred, on which scales are chosen.
        weight_bits: bits of a weight; None as for :func:`mapping.map_model`.
        scales: how scales are chosen, "round" or "search".
        inputs: what the model takes, see :func:`mapping.map_model`.
        output: which tensor of several that the model returns.
        reset: each neuron's reset, see :func:`mapping.map_model`.

    Raises:
        TraceError: if the model cannot be turned into a graph.
        UnknownName, TargetError: if the target cannot be read.
        BadInput: if an option is out of range, or nothing goes to the chip.
    """
    chip = target if isinstance(target, Target) else load_target(target)
    weight_bits = default_bits(chip.registers) if weight_bits is None else weight_bits
    calibration = given.images(calibration, what="calibration images")
    graph, partition = lower(
        given.own_copy(model), chip, "all", calibration, inputs=inputs, output=output, reset=reset
    )
    if not partition.on_chip:
        raise BadInput("nothing of this model goes to the chip, so there is nothing to fine-tune")
    chosen = choose_scales(graph, partition, chip, calibration, weight_bits, scales, False)
    of_each: dict[str, Scale] = {
        name: item.scale if isinstance(item, Rounded) else item for name, item in chosen.items()
    }
    return TunedNetwork(graph, partition, chip, of_each, weight_bits)
