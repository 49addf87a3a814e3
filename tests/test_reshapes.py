"""Spikes in another shape are the same spikes: only the wiring behind them differs."""

import pytest
import snntorch as snn
import torch
from torch import nn

from hwsim import compare
from mapping import load_model, map_model
from mapping.graph.evaluate import evaluate
from mapping.graph.ir import Graph, Kind, Node, Signal
from mapping.graph.ops import OPS
from mapping.graph.passes import absorb_reshapes
from mapping.graph.verify import verify_graph
from mapping.network import save_model


class Decoder(nn.Module):
    """A vector of spikes becomes an image of spikes."""

    def __init__(self, shaped):
        super().__init__()
        self.fc, self.up = nn.Linear(20, 36), nn.ConvTranspose2d(4, 2, 3, stride=2)
        self.lif1, self.lif2 = (snn.Leaky(beta=0.5, threshold=0.25) for _ in "12")
        self.images, self.shaped = nn.Unflatten(1, (4, 3, 3)), shaped

    def forward(self, x):
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        counts = 0
        for step in range(x.size(0)):
            spikes, mem1 = self.lif1(self.fc(x[step]), mem1)
            spikes, mem2 = self.lif2(self.up(self.shaped(self, spikes)), mem2)
            counts = counts + spikes
        return counts


WAYS = {
    "view": lambda net, x: x.view(-1, 4, 3, 3),
    "reshape": lambda net, x: x.reshape(len(x), 4, 3, 3),
    "layer": lambda net, x: net.images(x),
    "unflatten": lambda net, x: x.unflatten(1, (4, -1, 3)),
    "again": lambda net, x: x.view(-1, 9, 4).unsqueeze(1).view(x.size(0), 4, 3, 3),
}


@pytest.mark.parametrize("axes", [(2,), (2, -1), (1, 2), (2, 3)])
def test_some_axes_are_flattened_between_layers_on_the_chip(axes):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.flat = nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(*axes)
            self.rows = nn.Conv1d(8 if axes == (1, 2) else 2, 3, 3)
            self.lif1, self.lif2 = (snn.Leaky(beta=0.5, threshold=0.25) for _ in "12")

        def forward(self, x):
            mem1, mem2, counts = self.lif1.init_leaky(), self.lif2.init_leaky(), 0
            for step in range(x.size(0)):
                spikes, mem1 = self.lif1(self.conv(x[step].view(-1, 1, 4, 5)), mem1)
                spikes, mem2 = self.lif2(self.rows(self.flat(spikes)), mem2)
                counts = counts + spikes
            return counts

    torch.manual_seed(0)
    net, x = Net().eval(), vectors()
    mapped = map_model(net, calibration=x, inputs="spikes")
    (chip,) = mapped.chip_segments
    assert [population.name for population in chip.populations] == ["lif1", "lif2"]
    with torch.no_grad():
        expected = net(x)
    assert expected.any() and torch.equal(evaluate(mapped.graph, x), expected)
    assert compare(mapped, x, "fast", "reference").equal


def test_an_axis_of_one_channel_is_no_axis_of_steps():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.conv = nn.Linear(20, 12), nn.Conv1d(1, 2, 3)
            self.lif1, self.lif2 = (snn.Leaky(beta=0.5, threshold=0.25) for _ in "12")

        def forward(self, x):
            mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
            record = []
            for step in range(x.size(0)):
                spikes, mem1 = self.lif1(self.fc(x[step]), mem1)
                spikes, mem2 = self.lif2(self.conv(spikes.unsqueeze(1)), mem2)
                record.append(spikes)
            return torch.stack(record)

    torch.manual_seed(0)
    net, x = Net().eval(), vectors()
    mapped = map_model(net, calibration=x, inputs="spikes")
    assert not mapped.partition.rejections
    with torch.no_grad():
        assert torch.equal(evaluate(mapped.graph, x), net(x))


def vectors():
    torch.manual_seed(1)
    return (torch.rand(5, 6, 20) < 0.5).float()


@pytest.mark.parametrize("way", WAYS)
def test_neurons_on_both_sides_of_another_shape_are_on_the_chip(way):
    torch.manual_seed(0)
    net, x = Decoder(WAYS[way]).eval(), vectors()
    mapped = map_model(net, calibration=x, inputs="spikes")
    assert not mapped.partition.rejections
    (chip,) = mapped.chip_segments
    assert {population.name for population in chip.populations} == {"lif1", "lif2"}
    with torch.no_grad():
        expected = net(x)
    assert expected.any() and torch.equal(evaluate(mapped.graph, x), expected)
    assert compare(mapped, x, "fast", "reference").equal
    if way == "view":
        assert compare(mapped, x[:, :2], "fast", "lava").equal


class Flattened(nn.Module):
    """Pooled currents that drive a vector of neurons, each with constants of its own."""

    def __init__(self):
        super().__init__()
        own = {"beta": torch.rand(8), "threshold": 0.02 + 0.1 * torch.rand(8)}
        self.fc1, self.conv, self.fc2 = nn.Linear(20, 75), nn.Conv2d(3, 2, 2), nn.Linear(8, 3)
        self.lif1, self.lif2, self.lif3 = (
            snn.Leaky(0.5, 0.25),
            snn.Leaky(**own),
            snn.Leaky(0.5, 0.1),
        )
        self.pool = nn.AvgPool2d(2)

    def forward(self, x):
        mem1, mem2, mem3 = (lif.init_leaky() for lif in (self.lif1, self.lif2, self.lif3))
        record = []
        for step in range(x.size(0)):
            spikes, mem1 = self.lif1(self.fc1(x[step]), mem1)
            currents = self.pool(self.conv(spikes.view(-1, 3, 5, 5)))
            spikes, mem2 = self.lif2(currents.flatten(1), mem2)
            spikes, mem3 = self.lif3(self.fc2(spikes), mem3)
            record.append(spikes)
        return torch.stack(record)


def test_currents_in_another_shape_drive_neurons_on_the_chip():
    torch.manual_seed(0)
    net, x = Flattened().eval(), vectors()
    mapped = map_model(net, calibration=x, inputs="spikes")
    assert not mapped.partition.rejections
    (chip,) = mapped.chip_segments
    assert [p.shape for p in chip.populations] == [(75,), (2, 2, 2), (3,)]
    assert chip.population("lif2").neuron.dv.shape == (2, 2, 2)
    with torch.no_grad():
        expected = net(x)
    assert expected.any() and torch.equal(evaluate(mapped.graph, x), expected)
    assert compare(mapped, x, "fast", "reference").equal


def test_the_input_takes_another_shape_on_its_way_to_the_chip(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.lif = nn.Conv2d(1, 3, 3), snn.Leaky(beta=0.5, threshold=0.25)

        def forward(self, x):
            mem, counts = self.lif.init_leaky(), 0
            for step in range(x.size(0)):
                spikes, mem = self.lif(self.conv(x[step].view(-1, 1, 5, 4)), mem)
                counts = counts + spikes
            return counts

    torch.manual_seed(0)
    net, x = Net().eval(), vectors()
    save_model(net, x, tmp_path / "net.pt", inputs="spikes")
    mapped = map_model(load_model(tmp_path / "net.pt"), calibration=x)
    assert [segment.side for segment in mapped.partition.segments] == ["chip", "host"]
    assert compare(mapped, x, "fast", "reference").equal
    with torch.no_grad():
        assert torch.equal(evaluate(mapped.graph, x), net(x))


@pytest.mark.parametrize("last", ["flatten", "reshape"])
def test_one_shape_behind_another_is_the_last(last):
    nodes = [Node("x", "input", (), Signal((2, 6), Kind.SPIKE, 3))]

    def add(op, attrs=None, tensors=None):
        attrs, tensors = attrs or {}, tensors or {}
        signal = OPS[op].infer(attrs, tensors, (nodes[-1].type,))
        nodes.append(Node(op + str(len(nodes)), op, (nodes[-1].name,), signal, attrs, tensors))

    add("reshape", {"shape": [3, -1]})
    add("flatten")
    if last == "reshape":
        add("reshape", {"shape": [4, 3]})
        expected = ["input", "reshape"]
    else:
        add("linear", tensors={"weight": torch.randn(5, 12)})
        expected = ["input", "linear"]
    graph = Graph(tuple(nodes))
    again = absorb_reshapes(graph)
    verify_graph(again)
    assert [node.op for node in again] == expected
    x = (torch.rand(3, 4, 2, 6) < 0.5).float()
    assert torch.equal(evaluate(again, x), evaluate(graph, x))


@pytest.mark.parametrize("shape", [[5, -1], [3, 3], [-1, -1], [0, 4], []])
def test_a_shape_that_does_not_fit_is_refused(shape):
    signal = Signal((12,), Kind.SPIKE, 3)
    reshape = Node("y", "reshape", ("x",), Signal((3, 4), Kind.SPIKE, 3), {"shape": shape})
    with pytest.raises(ValueError, match="'y'"):
        verify_graph(Graph((Node("x", "input", (), signal), reshape)))
