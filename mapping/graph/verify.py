"""What must hold after each stage."""

from __future__ import annotations

from collections.abc import Sequence

from mapping.chip.segment import ChipSegment, IntArray, Population
from mapping.graph.ir import Graph
from mapping.graph.ops import OPS
from mapping.partition.cut import Partition
from mapping.targets.schema import Registers


def verify_graph(graph: Graph) -> None:
    """Every node is of a known kind and its type follows from its inputs' types.

    Raises:
        ValueError: with the first node for which that does not hold.
    """
    for node in graph:
        if node.op not in OPS:
            raise ValueError(f"node {node.name!r} is of unknown kind {node.op!r}")
        if node.op == "input":
            continue
        inputs = tuple(graph[source].type for source in node.inputs)
        inferred = OPS[node.op].infer(node.attrs, node.tensors, inputs)
        if inferred != node.type:
            raise ValueError(f"node {node.name!r} says {node.type}, its inputs make {inferred}")


def verify_chips(
    graph: Graph, partition: Partition, chips: Sequence[ChipSegment], registers: Registers
) -> None:
    """The integers belong to the partition's chip segments, and the target's registers hold them.

    Raises:
        ValueError: with the first thing that is wrong.
    """
    if [segment.name for segment in partition.chip] != [chip.name for chip in chips]:
        raise ValueError(f"its chip segments are {[chip.name for chip in chips]}")
    for segment, chip in zip(partition.chip, chips, strict=True):
        found = {port.name: port.shape for port in chip.inputs}
        _check(chip.name, "inputs", tuple(found) == segment.inputs)
        _check(chip.name, "outputs", chip.outputs == segment.outputs)
        neurons = tuple(name for name in segment.nodes if graph[name].op == "neuron")
        _check(chip.name, "populations", tuple(p.name for p in chip.populations) == neurons)
        found |= {population.name: population.shape for population in chip.populations}
        for name, shape in found.items():
            type_ = graph[name].type
            _check(name, "shape or steps", (shape, chip.steps) == (type_.shape, type_.steps))
        for population in chip.populations:
            _verify_population(graph, population, registers)


def _verify_population(graph: Graph, population: Population, registers: Registers) -> None:
    name, full = population.name, 1 << registers.decay_bits
    one_each = (population.shape[0],)
    _check(name, "neuron model", population.neuron in registers.neurons)
    _check(name, "decays", 0 <= population.du <= full and 0 <= population.dv <= full)
    _check(name, "threshold", _within(population.threshold, one_each, 0, registers.threshold_max))
    _check(name, "bias", _within(population.bias, one_each, registers.bias_min, registers.bias_max))
    _check(name, "bias exponent", 0 <= population.bias_exp <= registers.bias_exp_max)
    largest = 1 << registers.weight_magnitude_bits
    for synapse in population.synapses:
        node = graph[synapse.name]
        same = (synapse.kind, synapse.attrs) == (node.op, dict(node.attrs))
        _check(synapse.name, "kind or attributes", same and synapse.source == node.inputs[0])
        shape = tuple(node.tensors["weight"].shape)
        _check(synapse.name, "weight", _within(synapse.weight, shape, -largest, largest))
        low, high = registers.weight_exp_min, registers.weight_exp_max
        _check(synapse.name, "weight exponent", low <= synapse.weight_exp <= high)


def _within(values: IntArray, shape: tuple[int, ...], low: int, high: int) -> bool:
    return values.shape == shape and bool((values >= low).all() and (values <= high).all())


def _check(name: str, what: str, holds: bool) -> None:
    if not holds:
        raise ValueError(f"{what} of {name!r} cannot be right")
