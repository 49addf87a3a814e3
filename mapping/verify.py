"""What must hold for a whole mapping: one check, of what is made, what is saved, what is loaded."""

from __future__ import annotations

from dataclasses import astuple
from math import isfinite

from has8.errors import BadInput
from mapping.chip.check import check_segment
from mapping.chip.neurons import settings
from mapping.chip.segment import ChipSegment, Population, Port
from mapping.cores.check import check_placement
from mapping.graph.ir import Graph
from mapping.graph.ops import wiring_of
from mapping.graph.repeats import repeats
from mapping.graph.verify import verify_graph
from mapping.integers.quantize import outputs_of
from mapping.mapped import Mapped
from mapping.partition.check import check_partition
from mapping.partition.rules import source_of, written_to
from mapping.partition.segments import Segment


def check_mapped(mapped: Mapped) -> None:
    """Hold a mapping's parts to themselves, to each other and to the target.

    Raises:
        BadInput: with the first thing that is wrong, in one sentence.
    """
    try:
        verify_graph(mapped.graph)
    except ValueError as error:
        raise BadInput(f"the graph is not sound: {error}") from None
    check_partition(mapped.graph, mapped.partition)
    expected = [segment.name for segment in mapped.partition.on_chip]
    if (names := [chip.name for chip in mapped.chip_segments]) != expected:
        raise BadInput(f"there are integers for the segments {names}, and the chip has {expected}")
    for segment, chip in zip(mapped.partition.on_chip, mapped.chip_segments, strict=True):
        check_segment(chip, mapped.target.registers)
        _check_against_graph(mapped.graph, segment, chip)
    _check_errors(mapped)
    check_placement(mapped.placement, mapped.chip_segments, mapped.target)


def _check_against_graph(graph: Graph, segment: Segment, chip: ChipSegment) -> None:
    """The integers are those of the segment's nodes."""

    def same(name: str, what: str, there: object, expected: object) -> None:
        if there != expected:
            raise BadInput(f"{what} of {name!r} are {there}, and the graph has {expected}")

    neurons = [name for name in segment.nodes if graph[name].op == "neuron"]
    same(chip.name, "the inputs", [port.name for port in chip.inputs], list(segment.inputs))
    spikes, membranes = outputs_of(graph, segment)
    same(chip.name, "the outputs", chip.outputs, spikes)
    same(chip.name, "the membranes", chip.membranes, membranes)
    same(chip.name, "the populations", [p.name for p in chip.populations], neurons)
    sources: list[Port | Population] = [*chip.inputs, *chip.populations]
    for item in sources:
        signal = graph[item.name].type
        same(item.name, "shape and steps", (item.shape, chip.steps), (signal.shape, signal.steps))
        same(item.name, "the payloads", item.payload, graph[item.name].type.payload)
    for port in chip.inputs:
        same(port.name, "the kind", port.kind, "bias" if repeats(graph[port.name]) else "spikes")
    for population in chip.populations:
        source = written_to(graph, population.name)
        written = None if source is None else source.name
        same(population.name, "the written biases", population.bias, written)
        model = graph[population.name].attrs["model"]
        same(population.name, "the neurons", population.neuron.model, model)
        told = settings(population.neuron)
        attrs = graph[population.name].attrs
        if model != "lif":
            same(population.name, "the steps", told, {"steps": chip.steps})
            continue
        clears = {name: attrs.get(name, 0) for name in ("clear_every", "clear_at")}
        rule = {name: attrs[name] for name in ("reset", "refractory")}
        for what, rules in (("reset and refractory steps", rule), ("the clearing", clears)):
            after = tuple(told.get(name) for name in rules)
            same(population.name, what, after, tuple(rules.values()))
    synapses = {s.name for _, s in chip.synapses()}
    same(chip.name, "the synapses", synapses, set(segment.nodes) & synapses)
    for _, synapse in chip.synapses():
        node = graph[synapse.name]
        wires = wiring_of(graph, node)
        same(
            node.name,
            "source, delay and wiring",
            (synapse.source, synapse.delay, synapse.wiring),
            (*source_of(graph, node), wires),
        )


def _check_errors(mapped: Mapped) -> None:
    """There is an error for each population, and they are numbers."""
    populations = [p.name for chip in mapped.chip_segments for p in chip.populations]
    if sorted(mapped.errors) != sorted(populations):
        raise BadInput("the errors of quantisation are not those of the populations on the chip")
    for name, error in mapped.errors.items():
        if not all(value is None or (isfinite(value) and value >= 0) for value in astuple(error)):
            raise BadInput(f"the error of {name!r} is no number of at least 0")
        if error.mismatch is not None and error.mismatch > 1:
            raise BadInput(f"the mismatch of {name!r} must be from 0 to 1, not {error.mismatch}")
