"""The search for scales against all legal scales, on any small layer."""

from itertools import product

import pytest
import torch
from builders import LOIHI, law
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from has8 import calibrate
from has8.blocks import OverTime
from has8.encoders import PhaseEncoder
from has8.neurons import Leaky
from mapping.graph.evaluate import evaluate_nodes, moved
from mapping.graph.passes import run_passes
from mapping.graph.trace.modules import trace
from mapping.integers.rounding import Scale, layer_of
from mapping.integers.scales import at_largest_scale
from mapping.integers.search import _Evaluated, _Tried, search_scales
from mapping.partition.cut import cut

REGISTERS = LOIHI.registers
INPUTS, NEURONS, STEPS, IMAGES = 6, 12, 6, 32


class Layer(nn.Module):
    def __init__(self, parts, gain, groups=1):
        super().__init__()
        self.encode = PhaseEncoder(STEPS)
        self.parts = nn.ModuleList(
            OverTime(nn.Conv2d(INPUTS, NEURONS, 1, groups=n), nn.BatchNorm2d(NEURONS))
            for n in [groups, 1][:parts]
        )
        self.neuron = Leaky(gain=gain)

    def forward(self, x):
        spikes = self.encode(x)
        current = self.parts[0](spikes)
        for part in self.parts[1:]:
            current = current + part(spikes)
        return self.neuron(current)


def layer(seed, parts, outlier, dead, gain, groups=1):
    """A spiking layer with a weight ``outlier`` times the rest, and a channel of no variance."""
    torch.manual_seed(seed)
    net = Layer(parts, gain, groups).eval()
    for part in net.parts:
        part[0].bias.data.zero_()
    net.parts[-1][0].weight.data[0, 0] *= outlier
    if dead:
        net.parts[0][1].running_var[1] = 0
    return calibrate(net)


def lowered(net, images, side=1):
    """The graph of a layer, its partition, images, and the layer to be evaluated on them."""
    x = torch.rand(images, INPUTS, side, side, generator=torch.Generator().manual_seed(1))
    graph = run_passes(trace(net, (INPUTS, side, side)))
    values = {graph.input.name: x}
    evaluate_nodes(graph, moved(graph, [n.name for n in graph], x), values)

    def run(bits):
        return _Evaluated(
            layer_of(graph, "neuron"), graph["neuron"].type.shape, REGISTERS, bits,
            {"encode": values["encode"]}, values["neuron"],
        )  # fmt: skip

    return graph, cut(graph, REGISTERS), x, run


def searched(net, bits, thresholds=1):
    """What a search finds, and the layer to be evaluated with it."""
    graph, partition, x, run = lowered(net, IMAGES)
    found = search_scales(graph, partition, REGISTERS, x, weight_bits=bits, thresholds=thresholds)
    return found["neuron"], run(bits)


def brute_force(run, parts, bits):
    """The fewest misses over thresholds a quarter of a doubling apart, and all exponents."""
    base = at_largest_scale(run.layer, "neuron", REGISTERS, bits).scale
    thresholds = sorted({round(2 ** (k / 4)) for k in range(69)})[:: 1 if parts == 1 else 6]
    exponents = product(range(8), repeat=parts)
    scales = [
        Scale((threshold,) * NEURONS, exponent, base.sign_modes)
        for exponent in exponents
        for threshold in thresholds
    ]
    return min(tried.total for tried in run.on(IMAGES, [_Tried(scale) for scale in scales]))


layers = {
    "seed": st.integers(0, 500),
    "parts": st.sampled_from([1, 1, 2]),
    "outlier": st.sampled_from([1.0, 30.0, -100.0, 1000.0]),
    "dead": st.booleans(),
    "gain": st.sampled_from([0.3, 1.0, 5.0]),
    "bits": st.sampled_from([1, 2, 3, 4, 8]),
}


@law(5)
@given(**layers)
@example(seed=477, parts=2, outlier=1000.0, dead=False, gain=1.0, bits=8)
@example(seed=276, parts=1, outlier=1000.0, dead=True, gain=0.3, bits=2)
@example(seed=487, parts=1, outlier=1000.0, dead=False, gain=1.0, bits=8)
@example(seed=84, parts=2, outlier=30.0, dead=True, gain=0.3, bits=2)
def test_a_search_is_within_twice_of_brute_force_and_per_channel_never_worse(bits, **drawn):
    net = layer(**drawn)
    found, run = searched(net, bits)
    misses = int(run.misses(found.integers).sum())
    assert found.mismatch == misses / run.target.numel()
    slack = run.target.numel() // 500  # chance: one scale in hundreds hits a few spikes more
    assert misses <= 2 * brute_force(run, drawn["parts"], bits) + slack
    mixed, _ = searched(net, bits, thresholds=8)
    assert int(run.misses(mixed.integers).sum()) <= misses
    assert len(set(mixed.scale.thresholds)) <= 8


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("groups", [1, 3])
def test_candidates_that_are_judged_together_miss_what_each_misses_alone(bits, parts, groups):
    net = layer(seed=3, parts=parts, outlier=30.0, dead=True, gain=1.0, groups=groups)
    images = 37  # no multiple of what is judged at a time
    *_, make = lowered(net, images, side=3)
    run = make(bits)
    scales = [
        Scale((threshold,) * NEURONS, (exponent,) * parts, (mode,) * parts)
        for threshold in (1, 20, 300, 131_071)
        for exponent in (0, 3, 7)
        for mode in ("mixed", "excitatory")
    ]
    some = run.on(10, [_Tried(scale) for scale in scales])
    for tried in run.on(images, some):
        wrong = run(run.rounded(tried.scale)) != run.target
        assert tried.misses.tolist() == wrong.sum((0, 1, 3, 4)).tolist()


@pytest.mark.parametrize("parts", [1, 2])
def test_a_search_judges_as_many_images_as_a_few_scales_would(parts, monkeypatch):
    net = layer(seed=3, parts=parts, outlier=1.0, dead=False, gain=1.0)
    graph, partition, x, _ = lowered(net, 256, side=8)
    judged, of_all = [], _Evaluated._misses

    def counted(run, several, start, stop):
        judged.append(len(several) * (stop - start))
        return of_all(run, several, start, stop)

    monkeypatch.setattr(_Evaluated, "_misses", counted)
    for thresholds, scales in ((1, 6 + 2 * parts), (8, 11 + 2 * parts)):
        judged.clear()
        search_scales(graph, partition, REGISTERS, x, thresholds=thresholds)
        assert sum(judged) <= scales * 256, sum(judged) / 256
