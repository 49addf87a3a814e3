"""Scales that change the fewest spikes on calibration images.

The layers of a segment are searched in the order in which they run. For each, candidates are
thresholds and weight exponents over all that is legal: what lies outside of the grid is clipped,
and what lies inside gets a finer one. All are judged on few images, the better ones on more
(successive halving), and the best is refined. A candidate is judged by the spikes that differ from
the float layer's, when the layers in front of it in its segment are the quantised ones. The segment
itself is given the float model's spikes: bit planes of values that are a little off are so
different that they would hide what a scale does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mapping.chip.grid import weight_grid
from mapping.graph.evaluate import evaluate_nodes, moved
from mapping.graph.ir import Graph
from mapping.integers.neurons import ChipNeurons
from mapping.integers.quantize import Rounded
from mapping.integers.rounding import FloatLayer, Integers, Scale, layer_of, to_integers
from mapping.integers.scales import at_largest_scale
from mapping.integers.sums import weighted_sums
from mapping.partition.segments import Partition
from mapping.targets.schema import Registers

IMAGES = 32
"""At a time."""
SPIKES = 20_000
"""Spikes that a part of the images has at least, so that few neurons are judged on more images."""
SHARES = (64, 16, 4)
"""The first candidates are judged on one image in so many, those that are left on more."""
KEPT = (8, 3, 2)
"""Candidates that are left after each of these."""
FEW_BITS = 3
"""Up to which sign modes are tried that leave weights out."""
REACH = 6
"""Doublings of the threshold, either way, that a channel of its own may have."""
ANCHORS = (16, 256, 4096)
"""Threshold mantissas near which one grid of weights is tried: room to a fine membrane."""
LOWERED = (2, 4, 6)
"""Doublings by which one of several synapses is lowered against the others."""
STEPS = ((1, (-0.25, 0.25)), (2, (-3 / 16, -1 / 8, -1 / 16, 1 / 16, 1 / 8, 3 / 16)))
"""Rounds of refinement: how many neighbours are judged on all images, and the doublings of the
threshold at which they lie from the best candidate."""


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
    run = _Evaluated(layer, graph[name].type.shape, registers, bits, inputs, target)
    base = at_largest_scale(layer, name, registers, bits)
    left: Iterable[Integers] = map(run.rounded, _candidates(layer, base.scale, registers, bits))
    for share, kept in zip(SHARES, KEPT, strict=True):
        left = _fewest(run.part(share), left, kept)
    (best,) = _fewest(run, [base, *left], 1)
    for count, steps in STEPS:
        near = map(run.rounded, _neighbours(best.scale, steps, registers))
        (best,) = _fewest(run, [best, *_fewest(run.part(SHARES[-1]), near, count)], 1)
    if levels > 1:
        (best,) = _fewest(run, [best, *_mixtures(run, best, levels)], 1)
    spikes = run(best)
    return Rounded(best, float((spikes != target).double().mean())), spikes


def _fewest(run: _Evaluated, candidates: Iterable[Integers], count: int) -> list[Integers]:
    """The candidates with the fewest misses, no more than that at a time in memory."""
    best: list[tuple[int, Integers]] = []
    for integers in candidates:
        best.append((int(run.misses(integers).sum()), integers))
        best = sorted(best, key=lambda pair: pair[0])[:count]  # stable: the first of equals
    return [integers for _, integers in best]


def _candidates(layer: FloatLayer, base: Scale, registers: Registers, bits: int) -> Iterator[Scale]:
    """Scales from one at which all weights are 0 to one that clips most, each once.

    What weights become depends on threshold / 2**exponent only. For each such ratio the
    thresholds next to :data:`ANCHORS` are tried. Ratios are half a doubling apart where weights
    are clipped, a whole one elsewhere.
    """
    sizes = [weight.abs() for weight in layer.weights]
    exponents = range(max(0, registers.weight_exp_min), registers.weight_exp_max + 1)
    finest = math.log2(registers.threshold_max)
    tried: set[Scale] = set()
    for relative in _relatives(sizes, exponents[-1]):
        least, most = _extremes(sizes, relative)
        for modes in _sign_modes(base.sign_modes, registers, bits):
            low, high, step = weight_grid(registers, bits, modes[0])
            end = math.log2(max(-low, high))
            half = math.floor(2 * (math.log2(step / 2) - most))
            while half / 2 <= end - least + 1:
                logs = [half / 2 + e for e in exponents if 0 <= half / 2 + e <= finest]
                for anchor in ANCHORS if logs else ():
                    log = min(logs, key=lambda log: abs(log - math.log2(anchor)))
                    top = round(log - half / 2)
                    scale = Scale(
                        (round(2**log),) * len(base.thresholds),
                        tuple(max(exponents[0], top + below) for below in relative),
                        modes,
                    )
                    if scale not in tried:
                        tried.add(scale)
                        yield scale
                half += 1 if half / 2 + most >= end - 1 else 2


def _relatives(sizes: Sequence[Tensor], largest: int) -> list[tuple[int, ...]]:
    """Exponents of the synapses below that of the one with the largest, each once.

    They bring all synapses' largest or typical weights together, or lower one against the others.
    """
    if len(sizes) == 1:
        return [(0,)]
    typical = [x[x > 0].median() if bool(x.any()) else x.new_tensor(1.0) for x in sizes]
    found = [(0,) * len(sizes)]
    for of_each in ([x.max() for x in sizes], typical):
        logs = [math.log2(float(x)) if x > 0 else 0.0 for x in of_each]
        found.append(tuple(max(-largest, round(log - max(logs))) for log in logs))
    for place in range(len(sizes)):
        found += [tuple(-below * (p == place) for p in range(len(sizes))) for below in LOWERED]
    return list(dict.fromkeys(found))


def _extremes(sizes: Sequence[Tensor], relative: Sequence[int]) -> tuple[float, float]:
    """Logarithms of the least typical weight of a channel, and of the largest weight."""
    by_channel = [(x * 2.0**-r).flatten(1) for x, r in zip(sizes, relative, strict=True)]
    nonzero = [row[row > 0] for x in by_channel for row in x if bool(row.any())]
    if not nonzero:
        return 0.0, 0.0
    least, most = min(row.median() for row in nonzero), max(row.max() for row in nonzero)
    return math.log2(float(least)), math.log2(float(most))


def _sign_modes(
    modes: tuple[str, ...], registers: Registers, bits: int
) -> Iterator[tuple[str, ...]]:
    """Those that hold all signs, and for few bits those that leave some out for a finer grid."""
    yield modes
    if bits <= FEW_BITS and "mixed" in modes:
        for other in registers.sign_modes:
            if other != "mixed":
                yield tuple(other if mode == "mixed" else mode for mode in modes)


def _neighbours(scale: Scale, steps: Sequence[float], registers: Registers) -> Iterator[Scale]:
    """Scales with a threshold a little finer or coarser, or other exponents of one of several."""
    for step in steps:
        threshold = min(max(1, round(scale.thresholds[0] * 2**step)), registers.threshold_max)
        yield replace(scale, thresholds=(threshold,) * len(scale.thresholds))
    if len(scale.exponents) > 1:
        for place, exponent in enumerate(scale.exponents):
            for other in (exponent - 1, exponent + 1):
                if max(0, registers.weight_exp_min) <= other <= registers.weight_exp_max:
                    changed = (*scale.exponents[:place], other, *scale.exponents[place + 1 :])
                    yield replace(scale, exponents=changed)


def _mixtures(run: _Evaluated, best: Integers, levels: int) -> Iterator[Integers]:
    """Thresholds of channels of their own, of ``levels`` different ones at most.

    Channels share one exponent of their biases, so that a mixture is not just its parts.
    """
    scale, registers = best.scale, run.registers
    middle = scale.thresholds[0]
    thresholds = {middle}
    for step in range(-4 * REACH, 4 * REACH + 1):
        thresholds.add(min(max(1, round(middle * 2 ** (step / 4))), registers.threshold_max))
    candidates = [
        replace(scale, thresholds=(threshold,) * len(scale.thresholds))
        for threshold in sorted(thresholds)
    ]
    for share, count in ((2 * SHARES[-1], 2 * levels), (1, levels)):
        part = run.part(share)
        table = torch.stack([part.misses(run.rounded(candidate)) for candidate in candidates])
        mixed = _mixed(candidates, table, count)
        chosen = {middle, *mixed.thresholds}
        candidates = [c for c in candidates if c.thresholds[0] in chosen]
    yield run.rounded(mixed)


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
    """A layer that can be run with any integers on the same input spikes, beside its float's."""

    layer: FloatLayer
    shape: tuple[int, ...]
    registers: Registers
    bits: int
    inputs: Mapping[str, Tensor]
    target: Tensor

    def part(self, share: int) -> _Evaluated:
        """The same on one image in ``share``, but on no fewer than make :data:`SPIKES`."""
        samples = self.target.shape[1]
        few = max(samples // share, -(-SPIKES * samples // self.target.numel()))
        every = max(1, samples // few)
        inputs = {name: x[:, ::every] for name, x in self.inputs.items()}
        return replace(self, inputs=inputs, target=self.target[:, ::every])

    def rounded(self, scale: Scale) -> Integers:
        """The layer's integers at a scale."""
        return to_integers(self.layer, scale, self.registers, self.bits)

    def __call__(self, integers: Integers) -> Tensor:
        """Spikes ``[T, N, C, ...]``, float32."""
        samples = next(iter(self.inputs[n.inputs[0]] for n in self.layer.synapses)).shape[1]
        starts = range(0, samples, IMAGES)
        return torch.cat([self._part(integers, start) for start in starts], dim=1)

    def misses(self, integers: Integers) -> Tensor:
        """``int64[C]``: spikes that are not those of the target."""
        differ = self(integers) != self.target
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
