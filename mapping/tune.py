"""Training any network that mapping takes through the chip's integers.

The network's graph is run node by node: what goes to the chip computes in the chip's integers, with
scales that are chosen once, the rest in floating point. Gradients pass straight through rounding
(what is clipped gets none) and through an arctan surrogate at each membrane. For has8's own models
:mod:`mapping.finetune` does the same within the model, faster, and leaves a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from has8 import given
from has8.errors import BadInput
from has8.neurons import ATAN_ALPHA
from mapping.graph.ir import Graph, Node, loops_of
from mapping.graph.ops import OPS, run_node
from mapping.integers.methods import Method
from mapping.integers.neurons import ChipNeurons
from mapping.integers.quantize import Rounded
from mapping.integers.rounding import Scale, Scales, layer_of, to_integers, written
from mapping.integers.sums import weighted_sums
from mapping.partition.rules import layer_nodes, written_to
from mapping.partition.segments import Partition
from mapping.pipeline import Given, Reset, choose_scales, lower
from mapping.targets.schema import Target, load_target

TRAINED = ("weight", "bias")
"""Of synapses and batch norms, the tensors that are trained."""


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
        for node in graph:
            if node.name in self._populations:
                values[node.name] = self._spikes(graph, node, values)
            elif node.op == "delay" or (node.op != "input" and node.name not in self._inside):
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

    def _spikes(self, graph: Graph, node: Node, values: Mapping[str, Tensor]) -> Tensor:
        """Spikes ``[T, B, ...]`` of a population on the chip, float32."""
        layer = layer_of(graph, node.name)
        integers = to_integers(layer, self.scales[node.name], self._registers, self.weight_bits)
        neurons = ChipNeurons.of(layer, self._registers, layer.bias.device)
        some = next(iter(values.values()))
        samples = some.shape[graph.input.type.batch_axis]
        drive = torch.zeros(
            layer.steps * samples, *node.type.shape, dtype=neurons.dtype, device=some.device
        )
        for synapse, wires, weight in zip(
            layer.synapses, layer.wirings, neurons.weights(integers), strict=True
        ):
            spikes = values[synapse.inputs[0]].flatten(0, 1).to(weight.dtype)
            drive = drive + weighted_sums(wires, spikes, weight).reshape(drive.shape)
        if (source := written_to(graph, node.name)) is not None:  # lasts no step: as on a membrane
            channel = (-1, *(1,) * (len(node.type.shape) - 1))
            bias = integers.bias.view(channel)
            thresholds = bias.new_tensor(integers.scale.thresholds)
            biases, _ = written(
                node, thresholds, bias, integers.bias_exp, self._registers, values[source.name]
            )
            added = (biases - bias) * 2**integers.bias_exp
            drive = drive + added.to(drive.dtype).reshape(drive.shape)
        return neurons(drive, layer.steps, integers, ATAN_ALPHA).float()


def tune(
    model: nn.Module,
    target: str | Path | Target = "loihi",
    *,
    calibration: Tensor,
    weight_bits: int = 8,
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
        weight_bits: bits of a weight.
        scales: how scales are chosen, "round" or "search".
        inputs: what the model takes, see :func:`mapping.map_model`.
        output: which tensor of several that the model returns.
        reset: each neuron's reset, see :func:`mapping.map_model`.

    Raises:
        TraceError: if the model cannot be turned into a graph.
        UnknownName, TargetError: if the target cannot be read.
        BadInput: if an option is out of range, a layer feeds its spikes back, or
            nothing goes to the chip.
    """
    chip = target if isinstance(target, Target) else load_target(target)
    calibration = given.images(calibration, what="calibration images")
    graph, partition = lower(
        given.own_copy(model), chip, "all", calibration, inputs=inputs, output=output, reset=reset
    )
    if not partition.on_chip:
        raise BadInput("nothing of this model goes to the chip, so there is nothing to fine-tune")
    if loop := next((part for part in loops_of(graph.nodes) if len(part) > 1), None):
        raise BadInput(
            f"{loop[0].name!r} is part of a loop over steps, which cannot be fine-tuned yet: train "
            f"the model itself"
        )
    chosen = choose_scales(graph, partition, chip, calibration, weight_bits, scales, False)
    of_each: dict[str, Scale] = {
        name: item.scale if isinstance(item, Rounded) else item for name, item in chosen.items()
    }
    return TunedNetwork(graph, partition, chip, of_each, weight_bits)
