"""Scales that change the fewest spikes on calibration images.

The layers of a segment are searched in the order in which they run. For each, candidates are
thresholds from a little below the largest at which nothing is clipped to several times above:
what lies outside of the grid is clipped, and what lies inside gets a finer one. A candidate is
judged by the spikes that differ from the float layer's, when the layers in front of it in its
segment are the quantised ones. The segment itself is given the float model's spikes: bit planes
of values that are a little off are so different that they would hide what a scale does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mapping.graph.evaluate import evaluate_nodes, moved
from mapping.graph.ir import Graph
from mapping.integers.neurons import ChipNeurons
from mapping.integers.quantize import Rounded
from mapping.integers.rounding import FloatLayer, Integers, Scale, layer_of, to_integers
from mapping.integers.scales import at_largest_scale
from mapping.integers.sums import weighted_sums
from mapping.partition.segments import Partition
from mapping.targets.schema import Registers

FINENESS = 4
"""Candidates in each doubling of the threshold."""
BELOW = 2
"""Candidates below the largest scale at which nothing is clipped."""
PATIENCE = 4
"""Candidates without any gain after which the search ends."""
IMAGES = 32
"""At a time."""


def search_scales(
    graph: Graph,
    partition: Partition,
    registers: Registers,
    images: Tensor,
    *,
    weight_bits: int = 8,
    thresholds: int = 1,
) -> dict[str, Rounded]:
    """Each population on the chip, rounded at the scale that was found; deterministic.

    Args:
        graph: after the passes, batch norms folded.
        partition: of the graph.
        registers: the target's.
        images: ``float32[N, C, H, W]`` that stand for the data; a few hundred.
        weight_bits: bits of a weight.
        thresholds: how many different thresholds a population may have.

    Raises:
        BadInput: if a layer's biases and currents are out of range at any scale, or the target's
            neurons cannot be evaluated exactly.
    """
    values = {graph.input.name: images}
    found: dict[str, Rounded] = {}
    for place, segment in enumerate(partition.segments):
        evaluate_nodes(graph, moved(graph, segment.nodes, images), values)
        if segment.side == "chip":
            inputs = {name: values[name] for name in segment.inputs}
            for name in (n for n in segment.nodes if graph[n].op == "neuron"):
                found[name], inputs[name] = _search_layer(
                    graph, name, registers, values[name], inputs, weight_bits, thresholds
                )
        later = {name for other in partition.segments[place + 1 :] for name in other.inputs}
        for name in values.keys() - later:
            del values[name]
    return found


def _search_layer(
    graph: Graph,
    name: str,
    registers: Registers,
    target: Tensor,
    inputs: Mapping[str, Tensor],
    bits: int,
    levels: int,
) -> tuple[Rounded, Tensor]:
    """One population at its best scale, and its spikes there."""
    layer = layer_of(graph, name)
    run = _Evaluated(layer, graph[name].type.shape, registers, bits, inputs)
    base = at_largest_scale(layer, name, registers, bits)
    candidates = [base.scale]
    misses = [run.misses(base, target)]
    best, waited = _least(misses, levels), 0
    for scale in _candidates(layer, base.scale, registers):
        candidates.append(scale)
        misses.append(run.misses(run.rounded(scale), target))
        now = _least(misses, levels)
        best, waited = (now, 0) if now < best else (best, waited + 1)
        if waited == PATIENCE:
            break
    table = torch.stack(misses)
    # Channels share one exponent of their biases, so that a mixture is not just its parts.
    mixtures = dict.fromkeys(_mixed(candidates, table, count) for count in (1, levels))
    choices = [run.rounded(scale) for scale in mixtures]
    integers = min(choices, key=lambda integers: int(run.misses(integers, target).sum()))
    spikes = run(integers)
    return Rounded(integers, float((spikes != target).double().mean())), spikes


def _candidates(layer: FloatLayer, base: Scale, registers: Registers) -> Iterator[Scale]:
    """Scales around ``base``: those below first, then upwards as far as biases and registers go."""
    most = float(registers.threshold_max)
    bias = float(layer.bias.abs().max())
    if bias > 0:
        mantissa = min(registers.bias_max, -registers.bias_min) << registers.bias_exp_max
        most = min(most, mantissa / (bias * 2.0**registers.threshold_shift))
    seen = set(base.thresholds)
    step = 0
    for step in range(-BELOW, 1000):
        threshold = round(base.thresholds[0] * 2 ** (step / FINENESS))
        if threshold > most:
            return
        if threshold >= 1 and threshold not in seen:
            seen.add(threshold)
            yield replace(base, thresholds=(threshold,) * len(base.thresholds))


def _least(misses: list[Tensor], levels: int) -> int:
    """The fewest misses that can be had, if each channel could have its own where several may."""
    table = torch.stack(misses)
    return int(table.sum(1).min() if levels == 1 else table.min(0).values.sum())


def _mixed(candidates: list[Scale], misses: Tensor, levels: int) -> Scale:
    """A candidate for each channel, of ``levels`` different ones at most, added one by one.

    Args:
        candidates: with one threshold for all channels.
        misses: ``int64[candidates, C]``.
        levels: at least 1.
    """
    picked = [int(misses.sum(1).argmin())]
    while len(picked) < levels:
        now = misses[picked].min(0).values
        totals = torch.minimum(misses, now).sum(1)
        nearest = int(totals.argmin())
        if totals[nearest] >= now.sum():
            break
        picked.append(nearest)
    of_channel = misses[picked].argmin(0).tolist()
    thresholds = tuple(candidates[picked[place]].thresholds[0] for place in of_channel)
    return replace(candidates[0], thresholds=thresholds)


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """A layer that can be run with any integers on the same input spikes."""

    layer: FloatLayer
    shape: tuple[int, ...]
    registers: Registers
    bits: int
    inputs: Mapping[str, Tensor]

    def rounded(self, scale: Scale) -> Integers:
        """The layer's integers at a scale."""
        return to_integers(self.layer, scale, self.registers, self.bits)

    def __call__(self, integers: Integers) -> Tensor:
        """Spikes ``[T, N, C, ...]``, float32."""
        samples = next(iter(self.inputs[n.inputs[0]] for n in self.layer.synapses)).shape[1]
        starts = range(0, samples, IMAGES)
        return torch.cat([self._part(integers, start) for start in starts], dim=1)

    def misses(self, integers: Integers, target: Tensor) -> Tensor:
        """``int64[C]``: spikes that are not those of ``target``."""
        differ = self(integers) != target
        axes = [axis for axis in range(differ.dim()) if axis != 2]
        return differ.sum(axes)

    def _part(self, integers: Integers, start: int) -> Tensor:
        layer = self.layer
        neurons = ChipNeurons.of(layer.beta, self.registers, layer.bias.device)
        drive = None
        with torch.no_grad(), torch.backends.nnpack.flags(enabled=False):
            for node, wires, weight in zip(
                layer.synapses, layer.wirings, neurons.weights(integers), strict=True
            ):
                x = self.inputs[node.inputs[0]][:, start : start + IMAGES].flatten(0, 1)
                part = weighted_sums(wires, x.to(neurons.dtype), weight)
                drive = part if drive is None else drive + part
            assert drive is not None
            return neurons(drive.reshape(-1, *self.shape), layer.steps, integers).float()
