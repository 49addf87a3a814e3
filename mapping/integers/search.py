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
from dataclasses import dataclass, field, replace
from heapq import nsmallest

import torch
from torch import Tensor

from has8.kernels import storage
from mapping.chip.grid import weight_grid
from mapping.graph.evaluate import evaluate_nodes, moved
from mapping.graph.ir import Graph, Node
from mapping.graph.ops.delay import delayed
from mapping.integers.neurons import ChipNeurons
from mapping.integers.quantize import Rounded
from mapping.integers.rounding import (
    FloatLayer,
    Integers,
    Scale,
    layer_of,
    to_integers,
    to_integers_at,
)
from mapping.integers.scales import at_largest_scale, unclipped
from mapping.integers.sums import weighted_sums
from mapping.partition.rules import readers_of, source_of
from mapping.partition.segments import Partition
from mapping.targets.schema import Registers

IMAGES = 32
"""At a time."""
BATCH = 1 << 19
"""Weights, or spikes, of candidates that are evaluated at once."""
HELD = 1 << 23
"""Weights of candidates that are kept until they are judged on more images."""
ROUNDS = ((128, 2_000, 8), (32, 5_000, 3), (8, 20_000, 2))
"""The first candidates are judged on one image in so many, but on so many spikes at least, and so
many of them are left; these are judged on more."""
FEW_BITS = 3
"""Up to which sign modes are tried that leave weights out."""
APART = (*(k / 4 for k in range(-8, 9)), *(k / 2 for k in range(-12, 13) if abs(k) > 4))
"""Doublings of the threshold that a channel of its own may have."""
ANCHORS = (16, 256, 4096)
"""Threshold mantissas near which one grid of weights is tried: room to a fine membrane."""
LOWERED = (2, 4, 6)
"""Doublings by which one of several synapses is lowered against the others."""
STEPS = tuple(step / 16 for step in range(-7, 8) if step)
"""Doublings of the threshold at which the neighbours of the best candidate lie."""
NEAR = ((32, 20_000, 5), (8, 20_000, 2))
"""How many of them are left after how many images and spikes, as in :data:`ROUNDS`."""
FINER = 1 / 8
"""Doublings at which thresholds lie from those first chosen for channels of their own."""


def search_scales(
    graph: Graph,
    partition: Partition,
    registers: Registers,
    images: Tensor,
    *,
    weight_bits: int = 8,
    thresholds: int = 1,
    known: Mapping[str, Rounded] | None = None,
) -> dict[str, Rounded]:
    """Each population on the chip, rounded at the scale that was found; deterministic.

    Args:
        graph: after the passes, batch norms folded.
        partition: of the graph.
        registers: the target's.
        images: ``float32[N, C, H, W]`` that stand for the data; a few hundred.
        weight_bits: bits of a weight.
        thresholds: how many different thresholds a population may have.
        known: what was found for all populations of some segments in another partition.

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
            names = [name for name in segment.nodes if graph[name].op == "neuron"]
            for name in names:
                if known is not None and name in known:
                    found[name] = known[name]
                    continue
                layer = layer_of(graph, name)
                # The same in every step: of an image where the host writes it, else of all. Where
                # membranes are read, equal spikes say little of them. And payloads are no spikes.
                constant = not layer.synapses or layer.written is not None
                if constant or layer.payloads or readers_of(graph, name):
                    found[name] = Rounded(unclipped(layer, name, registers, weight_bits))
                    inputs[name] = values[name]
                    continue
                for node in layer.synapses:
                    taken = graph[node.inputs[0]]
                    if taken.name not in inputs:  # passed on; a loop's own spikes are the float's
                        source, steps = source_of(graph, node)
                        late = Node("late", "delay", (), graph[source].type, {"steps": steps})
                        spikes = delayed(late, inputs.get(source, values[source]))
                        inputs[taken.name] = spikes.reshape(*spikes.shape[:2], *taken.type.shape)
                run = _Evaluated(
                    layer,
                    graph[name].type.shape,
                    registers,
                    weight_bits,
                    inputs,
                    values[name],
                )
                found[name] = _search_layer(run, name, thresholds)
                if name != names[-1]:
                    inputs[name] = run(found[name].integers)
        later = {name for other in partition.segments[place + 1 :] for name in other.inputs}
        for name in values.keys() - later:
            del values[name]
    return found


def _search_layer(run: _Evaluated, name: str, levels: int) -> Rounded:
    """One population at its best scale."""
    registers, bits = run.registers, run.bits
    base = at_largest_scale(run.layer, name, registers, bits)
    left = _race(run, _candidates(run.layer, base.scale, registers, bits), ROUNDS)
    best = _fewest(run, [*left, _Tried(base.scale, base)])
    near = _race(run, _neighbours(best.scale, registers), NEAR)
    best = _fewest(run, [best, *near])
    if levels > 1:
        best = _fewest(run, [best, _Tried(_mixture(run, best, levels))])
    assert best.integers is not None
    return Rounded(best.integers, best.total / run.target.numel())


@dataclass(frozen=True, slots=True)
class _Tried:
    """A scale, its integers once they are known, and the misses of each channel so far."""

    scale: Scale
    integers: Integers | None = None
    misses: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))
    images: int = 0

    @property
    def total(self) -> int:
        """Misses of all channels."""
        return int(self.misses.sum())


def _race(
    run: _Evaluated, scales: Iterable[Scale], rounds: Iterable[tuple[int, int, int]]
) -> list[_Tried]:
    """The candidates with the fewest misses on few images, of those on more, and so on.

    Of those that miss alike in every channel the first one stands for all.
    """
    left = [_Tried(scale) for scale in scales]
    for share, spikes, count in rounds:
        different: dict[tuple[int, ...], _Tried] = {}
        for tried in run.on(run.part(share, spikes), left):
            different.setdefault(tuple(tried.misses.tolist()), tried)
        left = nsmallest(count, different.values(), key=lambda tried: tried.total)
    return left


def _fewest(run: _Evaluated, candidates: Sequence[_Tried]) -> _Tried:
    """The candidate with the fewest misses on all images, the first of equals.

    Who has missed as many before all images are through is out.
    """
    best, *others = candidates
    (best,) = run.on(run.images, [best])
    for other in others:
        while other.images < run.images and other.total < best.total:
            (other,) = run.on(other.images + -(-run.images // 4), [other])
        best = min(best, other, key=lambda tried: tried.total)
    return best


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
    most = max(float(x.max()) for x in by_channel)
    if most == 0:
        return 0.0, 0.0
    typical = [x.where(x > 0, torch.nan).nanmedian(1).values for x in by_channel]
    least = min(float(x.nan_to_num(torch.inf).min()) for x in typical)
    return math.log2(least), math.log2(most)


def _sign_modes(
    modes: tuple[str, ...], registers: Registers, bits: int
) -> Iterator[tuple[str, ...]]:
    """Those that hold all signs, and for few bits those that leave some out for a finer grid."""
    yield modes
    if bits <= FEW_BITS and "mixed" in modes:
        for other in registers.sign_modes:
            if other != "mixed":
                yield tuple(other if mode == "mixed" else mode for mode in modes)


def _neighbours(scale: Scale, registers: Registers) -> Iterator[Scale]:
    """Scales with a threshold a little finer or coarser, or other exponents of one of several."""
    for step in STEPS:
        threshold = min(max(1, round(scale.thresholds[0] * 2**step)), registers.threshold_max)
        yield replace(scale, thresholds=(threshold,) * len(scale.thresholds))
    if len(scale.exponents) > 1:
        for place, exponent in enumerate(scale.exponents):
            for other in (exponent - 1, exponent + 1):
                if max(0, registers.weight_exp_min) <= other <= registers.weight_exp_max:
                    changed = (*scale.exponents[:place], other, *scale.exponents[place + 1 :])
                    yield replace(scale, exponents=changed)


def _mixture(run: _Evaluated, best: _Tried, levels: int) -> Scale:
    """Thresholds of channels of their own, of ``levels`` different ones at most.

    Channels share one exponent of their biases, so that a mixture is not just its parts.
    """
    scale, registers = best.scale, run.registers
    middle, places = scale.thresholds[0], len(scale.thresholds)

    def near(thresholds: Iterable[int], steps: Iterable[float]) -> list[_Tried]:
        """These, and those at so many doublings from them."""
        mantissas = {round(threshold * 2**step) for threshold in thresholds for step in steps}
        legal = sorted({min(max(1, x), registers.threshold_max) for x in mantissas})
        return [_Tried(replace(scale, thresholds=(threshold,) * places)) for threshold in legal]

    left = near([middle], APART)
    (few, enough, _), (more, _, _) = NEAR
    mixed = _mixed(run.on(run.part(few, enough), left), levels)
    left = near({middle, *mixed.thresholds}, (-FINER, 0, FINER))
    left = run.on(run.part(more, enough), left)
    chosen = {middle, *_mixed(left, levels).thresholds}
    left = [tried for tried in left if tried.scale.thresholds[0] in chosen]
    return _mixed(run.on(run.images, left), levels)


def _mixed(candidates: Sequence[_Tried], levels: int) -> Scale:
    """A threshold for each channel, of ``levels`` different ones at most, added one by one.

    Args:
        candidates: with one threshold for all channels, judged on the same images.
        levels: at least 1.
    """
    misses = torch.stack([tried.misses for tried in candidates])
    picked = [int(misses.sum(1).argmin())]
    while len(picked) < levels:
        now = misses[picked].min(0).values
        totals = torch.minimum(misses, now).sum(1)
        nearest = int(totals.argmin())
        if totals[nearest] >= now.sum():
            break
        picked.append(nearest)
    scales = [candidates[place].scale for place in picked]
    of_channel = misses[picked].argmin(0).tolist()
    thresholds = tuple(scales[place].thresholds[0] for place in of_channel)
    return replace(scales[0], thresholds=thresholds)


class _Evaluated:
    """A layer that can be run with any integers on the same input spikes, beside its float's.

    Candidates are run as one population with the channels of all, so that what each call costs is
    paid once; images come in an order in which the first so many are spread over all.
    """

    def __init__(
        self,
        layer: FloatLayer,
        shape: tuple[int, ...],
        registers: Registers,
        bits: int,
        inputs: Mapping[str, Tensor],
        target: Tensor,
    ) -> None:
        self.layer, self.shape, self.registers, self.bits = layer, shape, registers, bits
        self.inputs = [inputs[node.inputs[0]] for node in layer.synapses]
        self.target = target
        self.neurons = ChipNeurons.of(layer, registers, layer.bias.device)
        self.images = target.shape[1]
        digits = len(f"{self.images:b}")
        spread = sorted(range(self.images), key=lambda image: f"{image:0{digits}b}"[::-1])
        self.order = torch.tensor(spread, device=target.device)
        self.cut: dict[tuple[int, int], tuple[list[Tensor], Tensor]] = {}
        self.groups = math.lcm(*(wires.groups for wires in layer.wirings))

    def part(self, share: int, spikes: int) -> int:
        """One image in ``share``, but as many as make so many spikes; all where that is most."""
        each = max(1, self.target[:, 0].numel())
        images = max(-(-self.images // share), -(-spikes // each))
        return images if 2 * images <= self.images else self.images

    def rounded(self, scale: Scale) -> Integers:
        """The layer's integers at a scale."""
        return to_integers(self.layer, scale, self.registers, self.bits)

    def __call__(self, integers: Integers) -> Tensor:
        """Spikes ``[T, N, C, ...]``, float32."""
        parts = []
        for start in range(0, self.images, IMAGES):
            xs = [x[:, start : start + IMAGES].flatten(0, 1) for x in self.inputs]
            spikes = self._spikes(integers, xs).float()
            parts.append(spikes.reshape(self.layer.steps, -1, *self.shape))
        return torch.cat(parts, dim=1)

    def on(self, images: int, several: Sequence[_Tried]) -> list[_Tried]:
        """Candidates that were judged on equally many images, once they are on so many."""
        start, images = several[0].images, min(images, self.images)
        if images <= start:
            return list(several)
        weights = sum(weight.numel() for weight in self.layer.weights)
        spikes = self.target[:, 0].numel() * min(IMAGES, images - start)
        count = max(1, BATCH // max(weights, spikes))
        found = []
        for first in range(0, len(several), count):
            batch = several[first : first + count]
            integers = [tried.integers for tried in batch if tried.integers is not None]
            if len(integers) < len(batch):
                scales = [tried.scale for tried in batch]
                integers = to_integers_at(self.layer, scales, self.registers, self.bits)
            misses = self._misses(integers, start, images)
            for tried, of_each, more in zip(batch, integers, misses, strict=True):
                held = of_each if len(several) == 1 or len(several) * weights <= HELD else None
                found.append(_Tried(tried.scale, held, tried.misses + more, images))
        return found

    def misses(self, integers: Integers) -> Tensor:
        """``int64[C]``: spikes that are not those of the target."""
        return self._misses([integers], 0, self.images)[0]

    def _misses(self, several: Sequence[Integers], start: int, stop: int) -> Tensor:
        """``int64[candidates, C]`` on the images from .. to in :attr:`order`."""
        joined, counts = self._joined(several), []
        for first in range(start, stop, IMAGES):
            xs, target = self._images(first, min(first + IMAGES, stop))
            spikes = _by_group(self._spikes(joined, xs), self.groups)
            wrong = spikes.unflatten(3, (len(several), -1)).sub_(target.to(spikes.dtype)).abs_()
            counts.append(wrong.sum(1).long().sum(0))  # exact in float32 too
        return torch.stack(counts).sum(0).transpose(0, 1).flatten(1)

    def _images(self, start: int, stop: int) -> tuple[list[Tensor], Tensor]:
        """Input and target spikes of the images from .. to in :attr:`order`, as bytes."""
        if (start, stop) not in self.cut:
            chosen = self.order[start:stop]
            xs = [storage.dense(_bytes(x[:, chosen])) for x in self.inputs]
            target = _by_group(_bytes(self.target[:, chosen]), self.groups).contiguous()
            self.cut[start, stop] = xs, target[:, :, :, None]
        return self.cut[start, stop]

    def _spikes(self, integers: Integers, xs: Sequence[Tensor]) -> Tensor:
        """Spikes ``[T * B, C, H, W]`` of inputs ``[T * B, ...]``."""
        drive = None
        with torch.no_grad():
            for wires, x, weight in zip(
                self.layer.wirings, xs, self.neurons.weights(integers), strict=True
            ):
                part = weighted_sums(wires, x.to(weight.dtype), storage.dense(weight))
                drive = part if drive is None else drive + part
            assert drive is not None
            count = len(integers.bias) // len(self.layer.bias)
            neurons = self.neurons.repeated(self.groups, count)
            return neurons(drive, self.layer.steps, integers).flatten(0, 1)

    def _joined(self, several: Sequence[Integers]) -> Integers:
        """One population with the channels of all, those of a group side by side."""

        def join(each: Tensor, exponents: Sequence[int]) -> Tensor:
            sizes = each.new_tensor([2.0**exponent for exponent in exponents])
            scaled = each * sizes.view(-1, *(1,) * (each.dim() - 1))
            grouped: Tensor = scaled.unflatten(1, (self.groups, -1))
            return grouped.transpose(0, 1).flatten(0, 2)

        weights = [
            join(torch.stack(of_each), [x.scale.exponents[place] for x in several])
            for place, of_each in enumerate(zip(*(x.weights for x in several), strict=True))
        ]
        bias = join(torch.stack([x.bias for x in several]), [x.bias_exp for x in several])
        mantissas = self.layer.bias.new_tensor([x.scale.thresholds for x in several])
        thresholds = join(mantissas, [0] * len(several))
        scale = Scale(
            tuple(map(int, thresholds.tolist())),
            (0,) * len(weights),
            several[0].scale.sign_modes,
        )
        return Integers(scale, tuple(weights), bias, 0, 0, max(x.worst for x in several))


def _bytes(spikes: Tensor) -> Tensor:
    """``[T, B, ...]`` as ``uint8[T * B, ...]``."""
    return spikes.to(torch.uint8).flatten(0, 1)


def _by_group(x: Tensor, groups: int) -> Tensor:
    """``[B, C, ...]`` as ``[B, H * W, groups, C / groups]``."""
    pixels: Tensor = x.reshape(*x.shape[:2], -1).movedim(1, 2)
    grouped: Tensor = pixels.unflatten(2, (groups, -1))
    return grouped
