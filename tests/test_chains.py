"""Chains of layers between spikes and a neuron: one layer, wherever that is exact."""

import pytest
import snntorch as snn
import torch
from builders import law
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import has8
from hwsim import compare
from hwsim.backends.lava.backend import Lava
from mapping import check_model, map_model
from mapping.graph.chains import compose_chains, obstacle
from mapping.graph.evaluate import evaluate, evaluate_nodes
from mapping.graph.ir import Graph, Kind, Node, Signal
from mapping.graph.ops import OPS
from mapping.graph.pooling import OR
from mapping.graph.verify import verify_graph

STEPS = 3
WHOLE = {"layers", "averages", "zeros", "transposed", "shape"}
"""What a refusal may be about."""


class Builder:
    """A graph of two sources of spikes; ``add`` infers each type and names the node."""

    def __init__(self, shape):
        self.nodes = [Node("x", "input", (), Signal(shape))]
        for name in "ab":
            attrs = {"coding": "phase", "steps": STEPS}
            signal = Signal(shape, Kind.SPIKE, STEPS)
            self.nodes.append(Node(name, "encode", ("x",), signal, attrs))

    def type(self, name):
        return next(node.type for node in self.nodes if node.name == name)

    def add(self, op, *inputs, attrs=None, **tensors):
        attrs = attrs or {}
        signal = OPS[op].infer(attrs, tensors, tuple(map(self.type, inputs)))
        name = f"{op}{len(self.nodes)}"
        self.nodes.append(Node(name, op, inputs, signal, attrs, tensors))
        return name

    def graph(self):
        graph = Graph(tuple(self.nodes))
        verify_graph(graph)
        return graph


@st.composite
def layers(draw, built, name):
    """One layer behind a node, affine all; gives its name."""
    shape = built.type(name).shape
    kinds = ["batchnorm", "scale", "one_to_one"]
    if len(shape) == 1:
        kinds += ["linear"] * 2
    else:
        kinds += ["conv", "conv", "avgpool", "flatten", "global_avgpool", "conv_transpose2d"]
    kind, channels = draw(st.sampled_from(kinds)), shape[0]
    if kind == "scale":
        return built.add("scale", name, attrs={"factor": draw(st.sampled_from([-2.0, 0.5]))})
    if kind == "one_to_one":
        return built.add("one_to_one", name, weight=torch.randn(channels))
    if kind == "batchnorm":
        norm = {"running_mean": torch.randn(channels), "running_var": torch.rand(channels)}
        return built.add("batchnorm", name, attrs={"eps": 0.1}, **norm)
    if kind == "linear":
        weight, bias = torch.randn(draw(st.integers(1, 5)), channels), {}
        if draw(st.booleans()):
            bias = {"bias": torch.randn(len(weight))}
        return built.add("linear", name, weight=weight, **bias)
    if kind in ("flatten", "global_avgpool"):
        return built.add(kind, name)
    axes = len(shape) - 1

    def each(low, high, of=None):
        return [min(draw(st.integers(low, high)), n) for n in (of or (high,) * axes)[:axes]]

    if kind == "avgpool":
        window = each(1, 3, shape[1:])
        padding = [draw(st.integers(0, k // 2)) if draw(st.booleans()) else 0 for k in window]
        attrs = {"kernel": window, "stride": each(1, 3), "padding": padding}
        attrs["count_include_pad"] = draw(st.integers(0, 4)) > 0
        return built.add("avgpool", name, attrs=attrs)
    groups = draw(st.sampled_from([g for g in (1, 1, 2, 3, channels) if channels % g == 0]))
    kernel, outputs = each(1, 3, shape[1:]), draw(st.sampled_from([1, 2])) * groups
    bias = {"bias": torch.randn(outputs)} if draw(st.booleans()) else {}
    attrs = {"stride": each(1, 2), "padding": each(0, 1) if draw(st.booleans()) else [0] * axes}
    attrs |= {"dilation": [1] * axes, "groups": groups}
    if kind == "conv_transpose2d" and axes == 2:
        attrs["output_padding"] = [0, 0]
        weight = torch.randn(channels, outputs // groups, *kernel)
        return built.add(kind, name, attrs=attrs, weight=weight, **bias)
    attrs["dilation"] = [
        2 if n > 2 * k and draw(st.booleans()) else 1
        for n, k in zip(shape[1:], kernel, strict=True)
    ]
    weight = torch.randn(outputs, channels // groups, *kernel)
    return built.add(f"conv{axes}d", name, attrs=attrs, weight=weight, **bias)


@st.composite
def chains(draw):
    """A neuron whose current is made of spikes by affine layers and sums."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    shape = draw(st.sampled_from([(5,), (2, 7), (6, 6, 5), (3, 7, 8)]))
    built = Builder(shape)

    def chain(name, longest):
        for _ in range(draw(st.integers(0, longest))):
            try:
                name = draw(layers(built, name))
            except ValueError:  # a window that no longer fits
                continue
        return name

    ends = [chain("a", 2)]
    if draw(st.booleans()):
        other = chain("b", 2)
        if built.type(other).shape == built.type(ends[0]).shape:
            ends = [built.add("add", ends[0], other)]
    built.add("neuron", chain(ends[0], 3), attrs=OR)
    return built.graph()


def current(graph):
    torch.manual_seed(0)
    shape = graph["a"].type.shape if "a" in graph else graph["b"].type.shape
    spikes = {name: torch.randint(0, 2, (STEPS, 2, *shape)).double() for name in "ab"}
    values = {"x": torch.empty(0, dtype=torch.float64), **spikes}
    nodes = []
    for node in graph:
        if node.name not in values:
            tensors = {name: tensor.double() for name, tensor in node.tensors.items()}
            nodes.append(Node(node.name, node.op, node.inputs, node.type, node.attrs, tensors))
    evaluate_nodes(graph, nodes, values)
    return values[graph.output.inputs[0]]


def currents_of(graph, name):
    node = graph[name]
    return [x for s in node.inputs for x in currents_of(graph, s)] if node.op == "add" else [node]


@law(200)
@given(chains())
def test_what_a_neuron_is_given_stays_the_same(graph):
    again = compose_chains(graph)
    verify_graph(again)
    before, after = current(graph), current(again)
    assert torch.allclose(after, before, rtol=1e-4, atol=1e-4 * (1 + float(before.abs().max())))
    for node in currents_of(again, again.output.inputs[0]):
        if OPS[node.op].role == "synapse" and again[node.inputs[0]].type.kind is Kind.SPIKE:
            continue
        reason = obstacle(again, node.name)
        if reason is None:  # a shape that no layer has
            assert any(n.op == "flatten" or n.op == "conv_transpose2d" for n in graph)
        else:
            assert any(word in reason for word in WHOLE)


def lif():
    return snn.Leaky(beta=0.75, threshold=0.5, init_hidden=True)


def norm(channels, dims):
    torch.manual_seed(3)
    made = (nn.BatchNorm1d if dims == 1 else nn.BatchNorm2d)(channels)
    made.running_mean.copy_(torch.rand(channels) - 0.5)
    made.running_var.copy_(torch.rand(channels) + 0.2)
    made.weight.data.copy_(torch.rand(channels) + 0.5)
    made.bias.data.copy_(torch.rand(channels) - 0.5)
    return made


NETS = {
    "average of currents": lambda: (nn.Conv2d(2, 4, 3, padding=1), nn.AvgPool2d(2), lif()),
    "norms and averages": lambda: (
        nn.Conv2d(2, 4, 3), norm(4, 2), nn.AvgPool2d(2), norm(4, 2), lif()
    ),
    "groups and dilation": lambda: (
        nn.Conv2d(2, 4, 3, groups=2, dilation=2), nn.AvgPool2d(2, stride=1), lif()
    ),
    "adaptive": lambda: (nn.Conv2d(2, 4, 3, padding=1), nn.AdaptiveAvgPool2d(4), lif()),
    "mean of all": lambda: (
        nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6), lif()
    ),
    "averages alone": lambda: (nn.AvgPool2d(2), lif()),
    "norm in front of a convolution": lambda: (norm(2, 2), nn.Conv2d(2, 4, 3), lif()),
    "norm in front of a linear layer": lambda: (
        nn.Flatten(), norm(128, 1), nn.Linear(128, 6), lif()
    ),
    "norm alone": lambda: (nn.Flatten(), norm(128, 1), lif()),
    "linear layers": lambda: (nn.Flatten(), nn.Linear(128, 20), nn.Linear(20, 6), lif()),
    "convolution and linear layer": lambda: (
        nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(144, 6), lif()
    ),
    "spikes alone": lambda: (nn.Identity(), lif()),
}  # fmt: skip


@pytest.mark.parametrize("what", NETS)
def test_chains_run_on_the_chip(what):
    torch.manual_seed(0)
    net = has8.over_time(nn.Sequential(*NETS[what]()), steps=4, readout="count", input="steps")
    spikes = (torch.rand(4, 6, 2, 8, 8) < 0.4).float()
    mapped = map_model(net.eval(), calibration=spikes, inputs="spikes")
    assert not mapped.partition.rejections
    with torch.no_grad():
        expected = net(spikes)
    assert expected.any() and (evaluate(mapped.graph, spikes) == expected).float().mean() > 0.99
    assert compare(mapped, spikes[:, :2], "fast", "reference").equal


class Weighted(nn.Module):
    """Neurons with parameters of the model's own between them."""

    def __init__(self, used):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 4, 3), nn.Linear(144, 6)
        self.lif1, self.lif2 = (snn.Leaky(beta=0.75, threshold=0.5) for _ in "12")
        self.one = nn.Parameter(torch.tensor(1.5))
        self.each = nn.Parameter(torch.rand(6) + 0.5)
        self.maps = nn.Parameter(torch.rand(1, 4, 1, 1) + 0.5)
        self.every = nn.Parameter(torch.rand(4, 6, 6) + 0.5)
        self.used = used

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        spikes, total = torch.zeros(x.size(1), 6), 0
        for step in range(x.size(0)):
            inner, mem1 = self.lif1(self.conv(x[step]), mem1)
            spikes, mem2 = self.lif2(self.used(self, inner, spikes), mem2)
            total = total + spikes
        return total


USES = {
    "one number": lambda net, x, last: net.fc(x.flatten(1)) * net.one,
    "each channel": lambda net, x, last: net.each * net.fc(x.flatten(1)),
    "of spikes": lambda net, x, last: net.fc((x * net.maps).flatten(1)),
    "shifted": lambda net, x, last: net.fc((1 - x).flatten(1)) + net.each - 0.25,
    "taken from": lambda net, x, last: 2.5 - (net.each - net.fc((x + 0.125).flatten(1))),
    "negated": lambda net, x, last: (-net.fc(x.flatten(1))).neg() - (-last),
    "quotient": lambda net, x, last: net.fc((x / net.maps[0]).flatten(1)) / net.each,
    "two": lambda net, x, last: net.fc((x * net.maps + (1 - net.maps) * x).flatten(1)),
    "fed back": lambda net, x, last: net.fc(x.flatten(1)) - net.each * last,
}


@pytest.mark.parametrize("what", USES)
def test_parameters_that_multiply_go_into_weights(what):
    torch.manual_seed(0)
    net, spikes = Weighted(USES[what]).eval(), (torch.rand(4, 6, 2, 8, 8) < 0.4).float()
    mapped = map_model(net, calibration=spikes, inputs="spikes")
    assert not mapped.partition.rejections and len(mapped.chip_segments) == 1
    with torch.no_grad():
        expected = net(spikes)
    assert expected.any() and (evaluate(mapped.graph, spikes) == expected).float().mean() > 0.95
    assert compare(mapped, spikes[:, :2], "fast", "reference").equal


def test_a_parameter_of_each_neuron_of_an_image_stays_on_the_host():
    torch.manual_seed(0)
    net = Weighted(lambda net, x, last: net.fc((x * net.every).flatten(1))).eval()
    spikes = (torch.rand(4, 6, 2, 8, 8) < 0.4).float()
    sides = {x.name: x.side for x in check_model(net, calibration=spikes, inputs="spikes").layers}
    assert (sides["lif1"], sides["mul"], sides["lif2"]) == ("chip", "host", "host")


class Joined(nn.Module):
    """Averages of spikes beside others in front of a layer, or currents side by side."""

    def __init__(self, currents):
        super().__init__()
        self.conv, self.beside = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 2, 3)
        self.last = nn.Conv2d(4, 5, 2)
        self.lif1, self.lif2 = (snn.Leaky(beta=0.75, threshold=0.5) for _ in "12")
        self.currents = currents

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        total = 0
        for step in range(x.size(0)):
            if self.currents:
                drive = torch.cat([self.conv(x[step]), self.beside(x[step])], 1)
            else:
                inner, mem1 = self.lif1(self.beside(x[step]), mem1)
                averages = nn.functional.avg_pool2d(x[step], 3, 1)
                drive = self.last(torch.cat([averages, inner], 1))
            spikes, mem2 = self.lif2(drive, mem2)
            total = total + spikes
        return total


MEANS = {
    "mean": lambda x: x.mean((2, 3)),
    "mean of named axes": lambda x: x.mean(dim=[-1, -2]),
    "mean that keeps axes": lambda x: x.mean((-2, -1), keepdim=True).flatten(1),
    "sum": lambda x: x.sum(dim=(3, 2)) / 10,
    "sum of the last axis": lambda x: x.flatten(2).sum(-1) * 0.1,
}


@pytest.mark.parametrize("what", MEANS)
@pytest.mark.parametrize("of", ["spikes", "currents"])
def test_means_over_space_go_into_weights(what, of):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(2, 6, 3), nn.Linear(6, 5)
            self.lif1, self.lif2 = (snn.Leaky(beta=0.75, threshold=0.25) for _ in "12")

        def forward(self, x):
            mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
            record = []
            for step in range(x.size(0)):
                made = self.conv(x[step])
                if of == "spikes":
                    made, mem1 = self.lif1(made, mem1)
                spikes, mem2 = self.lif2(self.fc(MEANS[what](made)), mem2)
                record.append(spikes)
            return torch.stack(record)

    torch.manual_seed(0)
    net, spikes = Net().eval(), (torch.rand(4, 6, 2, 8, 8) < 0.4).float()
    mapped = map_model(net, calibration=spikes, inputs="spikes")
    assert not mapped.partition.rejections and len(mapped.chip_segments) == 1
    with torch.no_grad():
        expected = net(spikes)
    assert expected.any() and (evaluate(mapped.graph, spikes) == expected).float().mean() > 0.95


def test_averages_beside_spikes_go_into_the_layer_behind_both():
    torch.manual_seed(0)
    net, spikes = Joined(False).eval(), (torch.rand(4, 6, 2, 8, 8) < 0.4).float()
    mapped = map_model(net, calibration=spikes, inputs="spikes")
    assert not mapped.partition.rejections and len(mapped.chip_segments) == 1
    with torch.no_grad():
        expected = net(spikes)
    assert expected.any() and (evaluate(mapped.graph, spikes) == expected).float().mean() > 0.95
    assert compare(mapped, spikes[:, :2], "fast", "reference").equal


def test_currents_side_by_side_are_to_be_spikes_side_by_side():
    torch.manual_seed(0)
    net, spikes = Joined(True).eval(), (torch.rand(4, 6, 2, 8, 8) < 0.4).float()
    found = check_model(net, calibration=spikes, inputs="spikes").layers
    (neuron,) = [layer for layer in found if layer.kind == "lif"]
    assert neuron.side == "host" and "'cat' puts currents side by side: let each" in neuron.reason


@pytest.mark.skipif(Lava().unavailable() is not None, reason=str(Lava().unavailable()))
@pytest.mark.parametrize("what", ["norm alone", "norms and averages"])
def test_lava_agrees_on_chains(what):
    torch.manual_seed(0)
    net = has8.over_time(nn.Sequential(*NETS[what]()), steps=3, readout="count", input="steps")
    spikes = (torch.rand(3, 2, 2, 8, 8) < 0.4).float()
    mapped = map_model(net.eval(), calibration=spikes, inputs="spikes")
    assert compare(mapped, spikes, "fast", "lava").equal


STAY = {
    "a bottleneck": (
        (nn.Flatten(), nn.Linear(128, 2), nn.Linear(2, 60)),
        "'net.1' and 'net.2', layers in a row without a neuron, have 376 synapses and would as "
        "one have 7,680: put a neuron between them",
    ),
    "a norm in front of zeros": (
        (norm(2, 2), nn.Conv2d(2, 4, 3, padding=1)),
        "zeros are padded to what 'net.0' makes, and it makes something else of no spikes: put "
        "normalisation behind the layer that pads",
    ),
    "a norm in front of what is spread out": (
        (norm(2, 2), nn.ConvTranspose2d(2, 4, 1, stride=2)),
        "zeros are padded to what 'net.0' makes",
    ),
    "averages without zeros": (
        (nn.Conv2d(2, 4, 3), nn.AvgPool2d(2, padding=1, count_include_pad=False)),
        "the averages of 'net.1' leave out the zeros around an image",
    ),
    "layers that pad": (
        (nn.Conv2d(2, 1, 3, padding=1, bias=False), nn.Conv2d(1, 4, 3, padding=1)),
        "zeros are padded to what 'net.0' makes, where its own windows would not be empty",
    ),
    "averages of a transposed convolution": (
        (nn.ConvTranspose2d(2, 4, 3, stride=2), nn.AvgPool2d(2)),
        "a transposed convolution is one only with factors and normalisation",
    ),
    "currents in another shape": (
        (nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Unflatten(1, (9, 4, 4)), nn.Conv2d(9, 4, 3)),
        "'net.2' gives values another shape, which a chip gives to spikes alone: put it right "
        "behind a neuron, around the whole current of one, or in front of a linear layer",
    ),
    "maxima": (
        (nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), norm(4, 2)),
        "not from synapses alone",
    ),
}


@pytest.mark.parametrize("what", STAY)
def test_what_is_not_exact_stays_and_says_why(what):
    layers, said = STAY[what]
    torch.manual_seed(0)
    net = has8.over_time(nn.Sequential(*layers, lif()), steps=4, readout="count", input="steps")
    spikes = (torch.rand(4, 3, 2, 8, 8) < 0.4).float()
    found = check_model(net.eval(), calibration=spikes, inputs="spikes").layers
    (neuron,) = [layer for layer in found if layer.kind == "lif"]
    assert neuron.side == "host" and said in neuron.reason
    if what == "a bottleneck":
        reasons = {layer.name: layer.reason for layer in found}
        assert reasons["net.1"].startswith("no neuron takes its current, but 'net.2': 'net.1' and")
