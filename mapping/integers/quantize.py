"""A chip segment in integers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from has8.errors import BadInput
from mapping.chip.check import check_segment
from mapping.chip.grid import stored_bits
from mapping.chip.neurons import NEURONS, Lif
from mapping.chip.segment import ChipSegment, Population, Port, Synapse
from mapping.graph.ir import Graph, Node
from mapping.graph.ops import wiring_of
from mapping.graph.repeats import repeats
from mapping.integers.errors import EXACT, LayerError, layer_error
from mapping.integers.rounding import (
    FloatLayer,
    Integers,
    Scale,
    decay_for,
    layer_of,
    to_integers,
)
from mapping.integers.scales import unclipped
from mapping.partition.rules import layer_nodes, source_of, written_to
from mapping.partition.segments import Segment
from mapping.targets.schema import Registers


@dataclass(frozen=True, slots=True)
class Rounded:
    """A population's integers, chosen.

    Args:
        integers: with the scale that they were rounded at.
        mismatch: the part of its spikes that differ on calibration images, in [0, 1]; None if
            nobody measured it.
    """

    integers: Integers
    mismatch: float | None = None

    @property
    def scale(self) -> Scale:
        """How the floats became integers."""
        return self.integers.scale


def quantize(
    graph: Graph,
    segment: Segment,
    registers: Registers,
    *,
    weight_bits: int = 8,
    scales: Mapping[str, Scale | Rounded] | None = None,
) -> tuple[ChipSegment, dict[str, LayerError]]:
    """The integers of one chip segment; the graph keeps its floats.

    Args:
        graph: after the passes, batch norms folded.
        segment: of side "chip".
        registers: the target's.
        weight_bits: bits of a weight; stored in as many, or the next width that the target stores.
        scales: scales of its populations by name, or their integers where they have been rounded
            already; None takes the largest scale at which nothing is clipped.

    Returns:
        The integer segment, and the error of each population by name.

    Raises:
        BadInput: if a layer is out of range at any scale, the target has no such weights, the
            scales are not those of these layers, or their integers do not fit its registers.
    """
    names = [name for name in segment.nodes if graph[name].op == "neuron"]
    populations, errors = [], {}
    for name in names:
        if graph[name].attrs["model"] != "lif":
            populations.append(_program(graph, graph[name], registers))
            errors[name] = EXACT
            continue
        layer = layer_of(graph, name)
        chosen = _rounded(layer, name, scales, registers, weight_bits)
        source = written_to(graph, name)
        population = replace(
            _population(graph, layer, graph[name], chosen.integers, registers, weight_bits),
            bias=None if source is None else source.name,
        )
        populations.append(population)
        errors[name] = layer_error(
            layer, population, chosen.integers.clipped, registers, chosen.mismatch
        )
    chip = joined(graph, segment, populations)
    check_segment(chip, registers)
    return chip, errors


def joined(graph: Graph, segment: Segment, populations: Sequence[Population]) -> ChipSegment:
    """A chip segment of these populations, with the ports and outputs that the graph gives it.

    Args:
        graph: after the passes.
        segment: of side "chip".
        populations: the integers of its neurons, at least one.
    """
    ports = tuple(
        Port(
            name,
            graph[name].type.shape,
            "bias" if repeats(graph[name]) else "spikes",
            graph[name].type.payload,
        )
        for name in segment.inputs
    )
    steps = graph[populations[0].name].type.steps
    assert steps is not None
    spikes, membranes = outputs_of(graph, segment)
    return ChipSegment(segment.name, steps, ports, tuple(populations), spikes, membranes)


def outputs_of(graph: Graph, segment: Segment) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The populations whose spikes others need, and those whose membranes are read at the end."""
    nodes = [graph[name] for name in segment.outputs]
    read = (node.inputs[1] for node in nodes if node.op == "last_membrane")
    spikes = tuple(node.name for node in nodes if node.op != "last_membrane")
    return spikes, tuple(dict.fromkeys(read))


def _rounded(
    layer: FloatLayer,
    name: str,
    scales: Mapping[str, Scale | Rounded] | None,
    registers: Registers,
    bits: int,
) -> Rounded:
    if scales is None:
        return Rounded(unclipped(layer, name, registers, bits))
    chosen = scales.get(name)
    if isinstance(chosen, Rounded):
        return chosen
    if chosen is None and not layer.synapses:  # nothing that could have been trained for it
        return Rounded(unclipped(layer, name, registers, bits))
    channels, parts = len(layer.bias), len(layer.synapses)
    if chosen is None or (
        (len(chosen.thresholds), len(chosen.exponents), len(chosen.sign_modes))
        != (channels, parts, parts)
    ):
        raise BadInput(
            f"the scales that were given have none for layer {name!r} of {channels} channels: "
            f"they belong to another model or another partition; let new ones be chosen"
        )
    _check_scale(chosen, name, registers)
    return Rounded(to_integers(layer, chosen, registers, bits))


def _check_scale(scale: Scale, name: str, registers: Registers) -> None:
    """Refuse a scale whose constants the target's registers do not hold.

    Raises:
        BadInput: for the first of them.
    """
    exponents = range(registers.weight_exp_min, registers.weight_exp_max + 1)
    rules: dict[str, tuple[Sequence[object], Collection[object], str]] = {
        "threshold": (
            scale.thresholds,
            range(1, registers.threshold_max + 1),
            f"from 1 to {registers.threshold_max:,}",
        ),
        "weight exponent": (
            scale.exponents,
            exponents,
            f"from {registers.weight_exp_min} to {registers.weight_exp_max}",
        ),
        "sign mode": (scale.sign_modes, registers.sign_modes, ", ".join(registers.sign_modes)),
    }
    for what, (values, allowed, words) in rules.items():
        if wrong := [value for value in values if value not in allowed]:
            raise BadInput(
                f"the scale that was given for layer {name!r} does not fit the target: a "
                f"{what} must be {words}, not {wrong[0]!r}; let new scales be chosen"
            )


def _program(graph: Graph, neuron: Node, registers: Registers) -> Population:
    """Neurons that pack or unpack, each behind a synapse of weight 1."""
    assert neuron.type.steps is not None
    (synapse,) = layer_nodes(graph, neuron.name)[:1]
    node = graph[synapse]
    source, delay = source_of(graph, node)
    wires, bits = wiring_of(graph, node), registers.weight_bits[-1]
    weight = np.ones(wires.weight_shape, np.int64)
    one = Synapse(node.name, source, wires, weight, 0, "excitatory", bits, delay)
    model = NEURONS[neuron.attrs["model"]]
    return Population(neuron.name, neuron.type.shape, (one,), model(neuron.type.steps))


def _population(
    graph: Graph,
    layer: FloatLayer,
    neuron: Node,
    integers: Integers,
    registers: Registers,
    bits: int,
) -> Population:
    scale, r = integers.scale, registers
    synapses = tuple(
        Synapse(
            node.name,
            source,
            wires,
            weight.numpy().astype(np.int64),
            exponent,
            mode,
            stored_bits(registers, bits),
            delay,
        )
        for node, (source, delay), wires, weight, exponent, mode in zip(
            layer.synapses,
            [source_of(graph, node) for node in layer.synapses],
            layer.wirings,
            integers.weights,
            scale.exponents,
            scale.sign_modes,
            strict=True,
        )
    )
    channel = (-1, *(1,) * (len(neuron.type.shape) - 1))
    thresholds = np.array(scale.thresholds, np.int64).reshape(channel)
    constants = Lif(
        du=decay_for(layer.alpha, r.current_decay_offset, r),
        dv=decay_for(layer.beta, r.membrane_decay_offset, r),
        threshold=np.rint(thresholds * layer.threshold).astype(np.int64),
        bias=integers.bias.numpy().astype(np.int64).reshape(channel),
        bias_exp=np.array(integers.bias_exp, np.int64),
        reset=layer.reset,
        refractory=layer.refractory,
        clear_every=neuron.attrs.get("clear_every", 0),
        clear_at=neuron.attrs.get("clear_at", 0),
    )
    return Population(neuron.name, neuron.type.shape, synapses, constants)
