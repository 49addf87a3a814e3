"""What a run did, counted: operations of every layer, updates, and spikes that cross the boundary.

Everything here is an exact integer, summed over the samples of the run. Whether a layer
accumulates or multiplies follows from the type of the edge that feeds it, never from the values
seen; which synapses a spike reaches is exact at every border.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwsim.activity import Activity, Counts
from mapping.chip.segment import ChipSegment, Port, Synapse
from mapping.chip.wiring import Wiring, fan_out, taps
from mapping.graph.ir import Graph, Kind, Node
from mapping.graph.ops import OPS, synapse_of, wiring_of
from mapping.graph.ops.shape import RESHAPED
from mapping.mapped import Mapped
from mapping.partition.segments import Segment, Side

FREE = ("input", "identity", "pack", "unpack", *RESHAPED)
"""Operations that a host does not start: they only rename a tensor, or belong to an encoder, which
has a code before it has planes, or to a decoder, which then need not add planes up."""

Direction = Literal["in", "out"]


@dataclass(frozen=True, slots=True)
class LayerCounts:
    """Operations of one convolution or linear layer, on host or chip, or of torch's calls.

    Args:
        name: the graph node.
        segment: the segment that holds it.
        side: "host" or "chip".
        kind: "conv2d" or "linear"; "torch" for calls that no file in mapping/graph/ops describes.
        spiking: whether spikes feed it; then its operations are accumulates, else MACs.
        steps: time steps of one sample, 1 where there is no time axis.
        dense: multiply-accumulates of one sample over all steps if nothing is skipped, without
            those that meet only padding: NeuroBench's ``Dense``.
        dense_padded: the same with padding, as most other counters have it; where a transposed
            layer spreads its inputs, without the zeros between them.
        host_macs: multiply-accumulates of one sample over all steps on a host, which computes zeros
            too, and layers as the model has them: of all those that are one here.
        effective: non-zero inputs times non-zero weights, over all samples; of torch's calls, whose
            zeros are not counted, all.
        synops: synapses that the spikes reached, zero weights included, over all samples; 0
            where values feed the layer.
    """

    name: str
    segment: str
    side: Side
    kind: str
    spiking: bool
    steps: int
    dense: int
    dense_padded: int
    host_macs: int
    effective: int
    synops: int


@dataclass(frozen=True, slots=True)
class PopulationCounts:
    """Neuron updates of one layer on the chip, over all samples and steps.

    Args:
        name: the population.
        segment: the segment that holds it.
        neurons: how many.
        accessed: visits in its own steps, one for each compartment, step and sample; those while
            other segments run are among the events.
        updated: of these, where state, bias or input was not zero.
        spikes: where the neuron fired, once however many compartments it takes.
        idle_updated: updates on top, while other segments run.
        idle_spikes: spikes on top, while other segments run.
        exact: False where the backend could not tell ``updated``: it is ``accessed`` then.
    """

    name: str
    segment: str
    neurons: int
    accessed: int
    updated: int
    spikes: int
    idle_updated: int = 0
    idle_spikes: int = 0
    exact: bool = True


@dataclass(frozen=True, slots=True)
class BoundaryCounts:
    """Spikes of one tensor between host and chip, or biases or membranes that cross instead.

    Args:
        node: the graph node that makes them.
        segment: the chip segment that takes or gives them.
        direction: "in" to the chip or "out" of it.
        spikes: over all samples.
        messages: that these spikes, writes or reads are; a spike into the chip is one for each tile
            that it reaches, as in nengo-loihi, since a message names the core that takes it; a
            graded one is as many as the target's best figure says.
        message_bytes: of these messages.
        dense_bytes: of one sample, if all planes are sent as they are, one bit a neuron and step;
            if these are writes or reads, as many as their messages have.
        writes: biases that the host writes, one for each neuron and sample.
        reads: membranes that the host reads, one for each neuron and sample.
    """

    node: str
    segment: str
    direction: Direction
    spikes: int
    messages: int
    message_bytes: int
    dense_bytes: int
    writes: int = 0
    reads: int = 0


def layer_counts(mapped: Mapped, activity: Activity) -> tuple[LayerCounts, ...]:
    """The operations of all synapse layers, in the order of execution.

    Of torch's calls those are listed that convolve or multiply matrices; padding counts there.

    Args:
        mapped: the mapping that ran.
        activity: of the run.

    Raises:
        KeyError: if the activity is not that of this mapping.
    """
    found: list[LayerCounts] = []
    for segment in mapped.partition.segments:
        if segment.side == "chip":
            chip = mapped.chip_segment(segment.name)
            for population in chip.populations:
                found += [_chip_layer(mapped, chip, s, activity) for s in population.synapses]
        else:
            for node in (mapped.graph[name] for name in segment.nodes):
                if OPS[node.op].role == "synapse":
                    found.append(_host_layer(mapped.graph, segment, node, activity))
                elif OPS[node.op].macs is not None:
                    found += _host_calls(mapped.graph, segment, node, activity.samples)
    return tuple(found)


def not_counted(mapped: Mapped, layers: Iterable[LayerCounts]) -> tuple[str, ...]:
    """The host's nodes whose operations no rule counts, in the order of execution.

    Pooling, activations, norms, encoders, decoders and neurons, and calls of torch that neither
    convolve nor multiply matrices; not what only renames a tensor.
    """
    counted = {layer.name for layer in layers}
    nodes = (mapped.graph[name] for segment in mapped.partition.on_host for name in segment.nodes)
    return tuple(node.name for node in nodes if node.name not in counted and node.op not in FREE)


def population_counts(
    mapped: Mapped, activity: Activity, idle: Sequence[Mapping[str, tuple[int, int]]] = ()
) -> tuple[PopulationCounts, ...]:
    """The neuron updates of all populations on the chip, in the order of execution.

    Args:
        mapped: the mapping that ran.
        activity: of the run.
        idle: updates and spikes of populations while other segments run, of each of these.
    """
    compartments: Counter[tuple[str, str]] = Counter()
    for tile in mapped.placement.tiles:
        compartments[tile.segment, tile.population] += tile.compartments
    found = []
    for chip in mapped.chip_segments:
        for population in chip.populations:
            each = compartments[chip.name, population.name] // population.size
            accessed = population.size * each * chip.steps * activity.samples
            exact = population.name in activity.updated
            updated = total(activity.updated[population.name]) * each if exact else accessed
            spikes = total(activity.events[population.name])
            resting = [of_run.get(population.name, (0, 0)) for of_run in idle]
            found.append(
                PopulationCounts(
                    population.name,
                    chip.name,
                    population.size,
                    accessed,
                    updated,
                    spikes,
                    sum(updated for updated, _ in resting),
                    sum(fired for _, fired in resting),
                    exact,
                )
            )
    return tuple(found)


def boundary_counts(
    mapped: Mapped, activity: Activity, sent: Mapping[tuple[str, str], int]
) -> tuple[BoundaryCounts, ...]:
    """What crosses into and out of each chip segment, in the order of execution.

    Args:
        mapped: the mapping that ran.
        activity: of the run.
        sent: messages into the chip by segment and port, from :mod:`hwsim.price.traffic`.
    """

    def crossing(chip: ChipSegment, name: str, way: Direction) -> BoundaryCounts:
        spikes = total(activity.events[name])
        payload = chip.payload_of(name)
        crossed = sent.get((chip.name, name), 0) if way == "in" else spikes
        messages = crossed * mapped.target.link.messages_of(payload)
        # a value that is packed crosses once a sample, not in each step
        bits = prod(chip.shape_of(name)) * (payload.bits if payload.graded else chip.steps)
        message_bytes = mapped.target.link.message_bytes(messages)
        return BoundaryCounts(name, chip.name, way, spikes, messages, message_bytes, -(-bits // 8))

    def writing(chip: ChipSegment, port: Port) -> BoundaryCounts:
        link, writes = mapped.target.link, total(activity.events[port.name])
        of_all, of_each = link.message_bytes(writes), link.message_bytes(prod(port.shape))
        return BoundaryCounts(port.name, chip.name, "in", 0, writes, of_all, of_each, writes)

    def reading(chip: ChipSegment, name: str) -> BoundaryCounts:
        link, each = mapped.target.link, prod(chip.shape_of(name))
        reads = each * activity.samples
        sizes = link.message_bytes(reads), link.message_bytes(each)
        return BoundaryCounts(name, chip.name, "out", 0, reads, *sizes, reads=reads)

    found: list[BoundaryCounts] = []
    for chip in mapped.chip_segments:
        found += [
            writing(chip, port) if port.kind == "bias" else crossing(chip, port.name, "in")
            for port in chip.inputs
        ]
        found += [crossing(chip, name, "out") for name in chip.outputs]
        found += [reading(chip, name) for name in chip.membranes]
    return tuple(found)


def total(counts: Counts) -> int:
    """The sum of an integer array, exact."""
    return int(counts.sum(dtype=np.int64))


def reached(wires: Wiring, per_tap: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the counted weights each source neuron meets.

    Args:
        wires: of the layer.
        per_tap: weights to count for each source channel and tap, ``int64[C, kH, kW]``.

    Returns:
        ``int64[C, H, W]``; taps that would meet padding are left out.
    """
    rows = (taps(wires.rows) >= 0).astype(np.int64)
    cols = (taps(wires.cols) >= 0).astype(np.int64)
    seen: NDArray[np.int64] = np.einsum(
        "xl,cyl->cyx", cols, np.einsum("yk,ckl->cyl", rows, per_tap)
    )
    return seen


def _chip_layer(
    mapped: Mapped, chip: ChipSegment, synapse: Synapse, activity: Activity
) -> LayerCounts:
    node, events, steps = mapped.graph[synapse.name], activity.events[synapse.source], chip.steps
    counts = _operations(synapse.wiring, synapse.weight, events, steps, _written(node), True)
    return LayerCounts(synapse.name, chip.name, "chip", node.op, True, steps, *counts)


def _host_layer(graph: Graph, segment: Segment, node: Node, activity: Activity) -> LayerCounts:
    source, wires = graph[node.inputs[0]], wiring_of(graph, node)
    weight = synapse_of(node).canonical(node.attrs, node.tensors["weight"], wires).numpy()
    steps, spiking = source.type.steps or 1, source.type.kind is Kind.SPIKE
    counts = _operations(
        wires, weight, activity.events[source.name], steps, _written(node), spiking
    )
    return LayerCounts(node.name, segment.name, "host", node.op, spiking, steps, *counts)


def _host_calls(graph: Graph, segment: Segment, node: Node, samples: int) -> list[LayerCounts]:
    """What torch's calls multiply, if anything; as values, even where spikes come in."""
    sources = [graph[name].type for name in node.inputs]
    macs = OPS[node.op].macs
    dense = macs(node, sources) if macs is not None else 0
    steps = max(source.steps or 1 for source in sources)
    counts = (dense, dense, dense, dense * samples, 0)
    layer = LayerCounts(node.name, segment.name, "host", node.op, False, steps, *counts)
    return [layer] if dense else []


def _written(node: Node) -> int | None:
    """What a layer has in one step as the model has it, if it is another now."""
    found: int | None = node.attrs.get("written")
    return found


def _operations(
    wires: Wiring,
    weight: NDArray[np.generic],
    events: Counts,
    steps: int,
    written: int | None,
    spiking: bool,
) -> tuple[int, int, int, int, int]:
    """(dense, dense_padded, host_macs, effective, synops) of one layer."""
    kernel = (wires.rows.kernel, wires.cols.kernel)
    inputs = wires.channels_in // wires.groups
    by_group = (weight != 0).reshape(wires.groups, -1, inputs, *kernel).sum(1)
    nonzero = by_group.reshape(wires.channels_in, *kernel).astype(np.int64)
    seen = events.reshape(-1, *wires.in_shape).sum(0, dtype=np.int64)
    every = fan_out(wires)
    dense = total(every) * steps
    spread = max(wires.rows.spread, wires.cols.spread) > 1  # each input meets a whole kernel
    one_kernel = prod(wires.in_shape if spread else wires.out_shape) * prod(kernel)
    dense_padded = one_kernel * (wires.channels_out // wires.groups if spread else inputs) * steps
    return (
        dense,
        dense_padded,
        dense if written is None else written * steps,
        total(seen * reached(wires, nonzero)),
        total(seen * every) if spiking else 0,
    )
