"""Pooling of spikes: averages in the weights behind them, maxima as neurons."""

import pytest
import snntorch as snn
import torch
from builders import law
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import has8
from has8.blocks import OverTime
from has8.encoders import Decoder, PhaseEncoder
from has8.neurons import Leaky
from hwsim import simulate
from mapping import map_model
from mapping.graph.chains import compose_chains
from mapping.graph.evaluate import evaluate_nodes
from mapping.graph.ir import Graph, Kind, Node, Signal
from mapping.graph.ops import OPS
from mapping.graph.pooling import OR, maximum_as_or
from mapping.graph.verify import verify_graph

STEPS = 3


class Builder:
    """A graph of spikes from bit-like inputs; ``add`` infers each type."""

    def __init__(self, shape):
        values = Node("x", "input", (), Signal(shape))
        attrs = {"coding": "phase", "steps": STEPS}
        spikes = Node("spikes", "encode", ("x",), Signal(shape, Kind.SPIKE, STEPS), attrs)
        self.nodes = [values, spikes]

    def add(self, name, op, attrs=None, inputs=(), **tensors):
        inputs = inputs or (self.nodes[-1].name,)
        types = {node.name: node.type for node in self.nodes}
        signal = OPS[op].infer(attrs or {}, tensors, tuple(types[name] for name in inputs))
        self.nodes.append(Node(name, op, inputs, signal, attrs or {}, tensors))

    def graph(self):
        graph = Graph(tuple(self.nodes))
        verify_graph(graph)
        return graph


def evaluated(graph, spikes):
    values = {"x": torch.empty(0), "spikes": spikes}
    evaluate_nodes(graph, graph.nodes[2:], values)
    return values


def outputs(graph, spikes):
    return evaluated(graph, spikes)[graph.output.name]


def currents(graph, spikes):
    return evaluated(graph, spikes)[graph.output.inputs[0]]


PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def windows(draw, name, shape):
    kernel, stride = draw(PAIRS), draw(PAIRS)
    kernel = tuple(min(k, n) for k, n in zip(kernel, shape[1:], strict=True))
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    attrs = {"kernel": list(kernel), "stride": list(stride), "padding": padding}
    if name == "avgpool":
        attrs["count_include_pad"] = draw(st.booleans())
    return attrs


@st.composite
def behind_an_average(draw):
    shape = (draw(st.sampled_from([2, 4])), draw(st.integers(3, 9)), draw(st.integers(3, 9)))
    built = Builder(shape)
    if draw(st.booleans()):
        built.add("pool", "avgpool", draw(windows("avgpool", shape)))
    else:
        built.add("pool", "global_avgpool")
    channels, height, width = built.nodes[-1].type.shape
    seed = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    if draw(st.booleans()):
        built.add("flat", "flatten")
        weight = torch.randn(5, channels * height * width, generator=seed)
        built.add("layer", "linear", weight=weight, bias=torch.randn(5, generator=seed))
    else:
        groups = draw(st.sampled_from([1, 2]))
        kernel = min(draw(st.integers(1, 3)), height), min(draw(st.integers(1, 3)), width)
        attrs = {
            "stride": list(draw(PAIRS)),
            "padding": [draw(st.integers(0, 2)) for _ in "hw"],
            "dilation": [1, 1] if draw(st.booleans()) else [2, 1] if kernel[0] == 1 else [1, 1],
            "groups": groups,
        }
        weight = torch.randn(4, channels // groups, *kernel, generator=seed)
        built.add("layer", "conv2d", attrs, weight=weight)
    built.add("neuron", "neuron", OR)
    return built.graph()


@law(150)
@given(behind_an_average(), st.integers(0, 99))
def test_a_fold_keeps_what_is_computed(graph, seed):
    shape = graph["spikes"].type.shape
    generator = torch.Generator().manual_seed(seed)
    spikes = torch.randint(0, 2, (STEPS, 2, *shape), generator=generator).float()
    again = compose_chains(graph)
    verify_graph(again)
    torch.testing.assert_close(currents(again, spikes), currents(graph, spikes))
    pool, layer = graph["pool"], graph["layer"]
    plain = pool.op == "global_avgpool" or not any(pool.attrs["padding"])
    if plain and not any(layer.attrs.get("padding", ())):
        assert [node.op for node in again] == ["input", "encode", layer.op, "neuron"]


def test_an_average_that_padding_would_miss_stays():
    """The fifth row is in no window, and the convolution's zeros would stand in its place."""
    built = Builder((1, 5, 4))
    window = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "count_include_pad": True}
    built.add("pool", "avgpool", window)
    attrs = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    built.add("layer", "conv2d", attrs, weight=torch.ones(1, 1, 3, 3))
    built.add("neuron", "neuron", OR)
    assert "pool" in compose_chains(built.graph())


@pytest.mark.parametrize("pick", ["output", "value", "answer"])
def test_averages_that_something_else_needs_stay(pick):
    built = Builder((1, 4, 4))
    window = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "count_include_pad": True}
    built.add("pool", "avgpool", window)
    if pick == "value":
        built.add("relu", "relu")
    if pick == "answer":
        built.add("neuron", "neuron", OR)
        built.add("both", "add", inputs=("pool", "neuron"))
    assert "pool" in compose_chains(built.graph())


@st.composite
def maxima(draw):
    built = Builder((2, draw(st.integers(2, 8)), draw(st.integers(2, 8))))
    built.add("pool", "maxpool", draw(windows("maxpool", built.nodes[-1].type.shape)))
    return built.graph()


@law(60)
@given(maxima(), st.integers(0, 99))
def test_the_maximum_of_spikes_is_a_neuron_that_any_of_them_fires(graph, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = graph["spikes"].type.shape
    spikes = (torch.rand(STEPS, 2, *shape, generator=generator) < 0.2).float()
    again = maximum_as_or(graph)
    verify_graph(again)
    assert torch.equal(outputs(again, spikes), outputs(graph, spikes))
    assert [node.op for node in again] == ["input", "encode", "conv2d", "neuron"]
    assert again.output.name == "pool"


def test_pooled_spikes_run_on_the_chip_as_the_model_computes_them():
    """Both kinds between spiking layers: nothing of them is left on the host."""

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.decode = PhaseEncoder(6), Decoder((1.0,) * 6)
            self.conv, self.one = OverTime(nn.Conv2d(1, 4, 3, padding=1)), Leaky(gain=4.0)
            self.largest, self.average = OverTime(nn.MaxPool2d(2)), OverTime(nn.AvgPool2d(2))
            self.next, self.two = OverTime(nn.Conv2d(4, 4, 1)), Leaky(gain=6.0)
            self.flat, self.last = OverTime(nn.Flatten()), OverTime(nn.Linear(16, 5))
            self.three = Leaky(gain=8.0)

        def forward(self, x):
            spikes = self.largest(self.one(self.conv(self.encode(x))))
            spikes = self.average(self.two(self.next(spikes)))
            return self.decode(self.three(self.last(self.flat(spikes))))

    torch.manual_seed(0)
    net, images = Pooled(), torch.rand(32, 1, 8, 8)
    mapped = map_model(net, calibration=images)
    (chip,) = mapped.chip_segments
    assert [population.name for population in chip.populations] == [
        "one",
        "largest.0",
        "two",
        "three",
    ]
    run, other = (
        simulate(mapped, images, name, record=["spikes"]) for name in ("fast", "reference")
    )
    spikes = run.spikes[chip.name]
    assert all(torch.equal(x, other.spikes[chip.name][name]) for name, x in spikes.items())
    assert torch.equal(spikes["largest.0"], maxima_of(spikes["one"]))
    with torch.no_grad():
        agree = (run.logits == net.eval()(images)).float().mean().item()
    assert agree > 0.9 and len(run.logits.unique()) > 2


def maxima_of(spikes):
    return F.max_pool2d(spikes.flatten(0, 1).float(), 2).bool().unflatten(0, spikes.shape[:2])


def test_a_maximum_of_spikes_times_what_is_not_above_0_says_so():
    cells = [
        snn.Leaky(beta=0.5, init_hidden=True, graded_spikes_factor=factor)
        for factor in (torch.tensor([1.0, -1.0, 2.0]).view(3, 1, 1), 1.0)
    ]
    layers = nn.Conv2d(2, 3, 3), cells[0], nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4), cells[1]
    net = has8.over_time(nn.Sequential(*layers), input="steps")
    spikes = (torch.rand(5, 3, 2, 8, 8) < 0.3).float()
    mapped = map_model(net, calibration=spikes, inputs="spikes")
    reasons = {r.node: r.reason for r in mapped.partition.rejections}
    assert reasons["net.2"].endswith("not all above 0: put these behind the pooling")


def test_what_works_on_currents_is_not_said_to_work_on_spikes():
    layers = nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3), nn.ReLU(), snn.Leaky(beta=0.5, init_hidden=True)
    net = has8.over_time(nn.Sequential(*layers), input="steps")
    spikes = (torch.rand(5, 3, 2, 8, 8) < 0.3).float()
    mapped = map_model(net, calibration=spikes, inputs="spikes")
    reasons = {r.node: r.reason for r in mapped.partition.rejections}
    assert reasons["net.2"] == "the target has no relu of currents"
    assert reasons["net.0"].startswith("it goes into the weights of a layer only where")


def test_a_maximum_of_currents_stays_on_the_host_and_says_what_would_change_that():
    def net(*pooled):
        return has8.over_time(
            nn.Sequential(nn.Conv2d(2, 3, 3), *pooled, nn.Flatten(), nn.Linear(27, 4), lif()),
            input="steps",
        )

    def lif():
        return snn.Leaky(beta=0.5, init_hidden=True)

    spikes = (torch.rand(5, 3, 2, 8, 8) < 0.3).float()
    behind = map_model(net(lif(), nn.MaxPool2d(2)), calibration=spikes, inputs="spikes")
    assert [len(chip.populations) for chip in behind.chip_segments] == [3]
    ahead = map_model(net(nn.MaxPool2d(2), lif()), calibration=spikes, inputs="spikes")
    reasons = {r.node: r.reason for r in ahead.partition.rejections}
    for name in ("net.1", "net.2"):
        assert "the largest of several currents" in reasons[name]
        assert "put the pooling behind the neuron" in reasons[name]
