"""Sums of spikes in front of layers: a chip adds what the layers of the parts give."""

import pytest
import snntorch as snn
import torch
from builders import law
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from hwsim import compare
from mapping import check_model, map_model
from mapping.graph.chains import compose_chains
from mapping.graph.evaluate import evaluate, evaluate_nodes
from mapping.graph.ir import Graph, Kind, Node, Signal
from mapping.graph.ops import OPS
from mapping.graph.pooling import OR
from mapping.graph.verify import verify_graph
from mapping.pipeline import traced


def neuron():
    return snn.Leaky(beta=0.5, reset_mechanism="zero")


def eighths(layer):
    for tensor in layer.parameters():
        tensor.data = (tensor * 24).round() / 8
    return layer


class Two(nn.Module):
    """Two layers of neurons side by side, what is made of their spikes, and a layer of that."""

    def __init__(self, mixed, size=6 * 16, convolution=True):
        super().__init__()
        self.convolution = convolution
        front = (
            (nn.Conv2d(1, 6, 3, padding=1) for _ in "ab")
            if convolution
            else (nn.Linear(16, size) for _ in "ab")
        )
        self.a, self.b = map(eighths, front)
        self.c = eighths(nn.Linear(size, 5))
        self.deep = eighths(nn.Conv2d(6, 6, 3, padding=1, stride=2))
        self.la, self.lb, self.lc, self.ld = neuron(), neuron(), neuron(), neuron()
        self.mixed = mixed

    def forward(self, x):
        a, b, c, d = (cell.init_leaky() for cell in (self.la, self.lb, self.lc, self.ld))
        counts = 0
        for _ in range(5):
            y = x if self.convolution else x.flatten(1)
            k1, a = self.la(self.a(y), a)
            k2, b = self.lb(self.b(y), b)
            made = self.mixed(self, k1, k2)
            if isinstance(made, tuple):
                made, d = self.ld(made[0], d)
            k, c = self.lc(self.c(made.flatten(1)), c)
            counts = counts + k
        return counts


WAYS = {
    "two": (lambda net, a, b: a + b, 96),
    "twice": (lambda net, a, b: a + a, 96),
    "three": (lambda net, a, b: a + b + a, 96),
    "half": (lambda net, a, b: (a + b) / 2, 96),
    "weighted": (lambda net, a, b: a + b * 0.5, 96),
    "difference": (lambda net, a, b: a - b, 96),
    "pooled": (lambda net, a, b: F.avg_pool2d(a + b, 2), 24),
    "sum of pooled": (lambda net, a, b: F.avg_pool2d(a, 2) + F.avg_pool2d(b, 2), 24),
    "convolution": (lambda net, a, b: (net.deep(a + b),), 24),
    "concatenated": (lambda net, a, b: torch.cat([a, b], 1) + torch.cat([b, a], 1), 192),
}


def images(count):
    torch.manual_seed(1)
    return torch.randint(0, 9, (count, 1, 4, 4)) / 4


@pytest.mark.parametrize("way", WAYS)
def test_layers_behind_sums_of_spikes_are_on_the_chip(way):
    torch.manual_seed(0)
    net = Two(*WAYS[way]).eval()
    x = images(6)
    mapped = map_model(net, calibration=x)
    with torch.no_grad():
        expected = net(x)
    assert expected.any() and torch.allclose(evaluate(mapped.graph, x), expected)
    names = {population.name for chip in mapped.chip_segments for population in chip.populations}
    assert names >= {"la", "lc"} | ({"lb"} if way != "twice" else set())
    assert compare(mapped, x[:2], "fast", "reference").equal


class Builder:
    """A graph of two sources of spikes, ``a`` and ``b``; ``add`` infers each type."""

    def __init__(self, *shape):
        self.nodes = [Node("x", "input", (), Signal(shape))]
        for name in "ab":
            attrs = {"coding": "phase", "steps": 3}
            signal = Signal(shape, Kind.SPIKE, 3)
            self.nodes.append(Node(name, "encode", ("x",), signal, attrs))

    def add(self, op, *inputs, attrs=None, **tensors):
        types = {node.name: node.type for node in self.nodes}
        signal = OPS[op].infer(attrs or {}, tensors, tuple(types[name] for name in inputs))
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(Node(name, op, inputs, signal, attrs or {}, tensors))
        return name

    def graph(self):
        graph = Graph(tuple(self.nodes))
        verify_graph(graph)
        return graph


def currents(graph, **spikes):
    values = {"x": torch.empty(0), **spikes}
    evaluate_nodes(graph, [node for node in graph if node.name not in values], values)
    return values[graph.nodes[-1].inputs[0]]


@law(60)
@given(st.data())
def test_the_pass_keeps_what_a_graph_computes(data):
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    built, parts = Builder(2, 4, 4), data.draw(st.lists(st.sampled_from("ab"), min_size=1))
    total = parts[0]
    for part in parts[1:]:
        total = built.add("add", *data.draw(st.permutations([total, part])))
    if data.draw(st.booleans()):
        total = built.add("scale", total, attrs={"factor": -0.5})
    if pooled := data.draw(st.booleans()):
        window = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "count_include_pad": True}
        total = built.add("avgpool", total, attrs=window)
    if data.draw(st.booleans()):
        weight = torch.randn(3, 8 if pooled else 32)
        total = built.add("linear", built.add("flatten", total), weight=weight, bias=torch.randn(3))
    else:
        attrs = {"stride": [1, 1], "padding": [1, 0], "dilation": [1, 1], "groups": 1}
        weight = torch.randn(3, 2, 2, 2)
        total = built.add("conv2d", total, attrs=attrs, weight=weight, bias=torch.randn(3))
    built.add("neuron", total, attrs=OR)
    before = built.graph()
    after = compose_chains(before)
    verify_graph(after)
    spikes = {name: torch.randint(0, 2, (3, 2, 2, 4, 4)).float() for name in "ab"}
    assert torch.allclose(currents(after, **spikes), currents(before, **spikes), atol=1e-4)
    layers = [node for node in after if OPS[node.op].role == "synapse"]
    assert len(layers) == len(set(parts))
    assert sum("bias" in layer.tensors for layer in layers) == 1


def test_two_of_the_same_spikes_are_doubled_weights():
    torch.manual_seed(0)
    net, x = Two(lambda net, a, b: a + a).eval(), images(3)
    after = compose_chains(traced(net, x))
    assert torch.equal(after["c"].tensors["weight"], net.c.weight * 2)
    assert torch.equal(after["c"].tensors["bias"], net.c.bias)


class Shown(Two):
    """What is added is also an answer."""

    def forward(self, x):
        a, b, c = (cell.init_leaky() for cell in (self.la, self.lb, self.lc))
        counts = 0
        for _ in range(5):
            k1, a = self.la(self.a(x), a)
            k2, b = self.lb(self.b(x), b)
            total = (k1 + k2).flatten(1)
            k, c = self.lc(self.c(total), c)
            counts = counts + k + total[:, :5]
        return counts


def test_a_sum_that_is_used_elsewhere_too_stays():
    torch.manual_seed(0)
    net, x = Shown(None).eval(), images(4)
    before = traced(net, x)
    after = compose_chains(before)
    assert [node.name for node in after] == [node.name for node in before]
    sides = {layer.name: layer for layer in check_model(net, calibration=x).layers}
    assert sides["c"].side == "host"
