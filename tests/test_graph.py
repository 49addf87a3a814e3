"""Tracing, rewriting and cutting keep what the model computes."""

import networkx as nx
import pytest
import torch
from torch import nn

from has8 import calibrate, create_model
from has8.blocks import Coding, HybridBlock, OverTime
from has8.encoders import BitPlaneEncoder, Decoder, bitplane_weights
from has8.errors import BadInput, TraceError
from has8.neurons import Leaky
from hwsim import compare, simulate
from mapping import map_model
from mapping.graph.evaluate import evaluate
from mapping.graph.ir import Graph, Kind, Node, Signal
from mapping.graph.passes import PASSES, fold_batchnorm, run_passes
from mapping.graph.trace.modules import trace
from mapping.graph.verify import verify_graph
from mapping.partition.cut import cut
from mapping.targets.schema import load_target

REGISTERS = load_target("loihi").registers


class Spiking(nn.Module):
    """A chip-shaped net: two spiking convolutions, pooling, a residual, a decoder."""

    def __init__(self):
        super().__init__()
        self.encode = BitPlaneEncoder()
        self.conv1 = OverTime(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.sn1 = Leaky(gain=2.0)
        self.conv2 = OverTime(nn.Conv2d(4, 4, 3, padding=1), nn.Dropout(), nn.BatchNorm2d(4))
        self.sn2 = Leaky(gain=2.0)
        self.pool = OverTime(nn.AvgPool2d(2))
        self.decode = Decoder(bitplane_weights("lsb"))
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(4 * 16, 10)

    def forward(self, x):
        s = self.sn1(self.conv1(self.encode(x)))
        return self.fc(self.flatten(self.decode(self.pool(self.sn2(self.conv2(s)) + s))))


@pytest.fixture(scope="module")
def spiking(digits):
    torch.manual_seed(0)
    net = Spiking().train()
    net(digits[:64])
    return calibrate(net)


def test_traced_graph_equals_the_model_bit_for_bit(plain, model, digits):
    with torch.no_grad():
        assert torch.equal(evaluate(trace(model, (1, 8, 8)), digits), model(digits))


@pytest.fixture(scope="module")
def answered(model, spiking, digits):
    """Graphs as they are traced, each with images and what it makes of them in float64."""
    graphs, x = [trace(net, (1, 8, 8)) for net in (model, spiking)], digits[:200].double()
    return [(graph, x, evaluate(graph, x)) for graph in graphs]


@pytest.mark.parametrize("rewrite", [*PASSES, None], ids=lambda p: p.__name__ if p else "all")
def test_every_pass_keeps_the_outputs(rewrite, answered):
    """Folding rounds to float32, which may move a membrane over its threshold."""
    allowed = 0.01 if rewrite in (None, fold_batchnorm) else 0.0
    for before, x, expected in answered:
        after = run_passes(before, [rewrite] if rewrite else PASSES)
        verify_graph(after)
        close = torch.isclose(evaluate(after, x), expected, rtol=1e-5, atol=1e-5)
        assert (~close.all(1)).float().mean() <= allowed


def test_passes_leave_only_synapses_and_neurons_between_encoder_and_decoder(spiking):
    graph = run_passes(trace(spiking, (1, 8, 8)))
    stepped = {node.op for node in graph if node.type.steps}
    assert stepped == {"encode", "conv2d", "neuron"}
    assert not [node for node in graph if node.op in ("batchnorm", "identity")]
    # the residual is decoded on its own and added behind; pooling comes last
    assert [n.op for n in graph][-6:] == ["decode", "decode", "add", "avgpool", "flatten", "linear"]


def test_a_batch_norm_whose_convolution_has_another_user_stays():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x):
            y = self.conv(x)
            return self.bn(y) + y

    graph = run_passes(trace(Shared(), (1, 4, 4)))
    assert "batchnorm" in {node.op for node in graph}


def test_adding_a_tensor_to_itself_keeps_both_edges():
    class Twice(nn.Module):
        def forward(self, x):
            return x + x

    graph = trace(Twice(), (3,))
    assert graph.output.inputs == (graph.input.name,) * 2
    assert graph.networkx().number_of_edges() == 2
    assert nx.is_directed_acyclic_graph(graph.networkx())
    assert torch.equal(evaluate(graph, torch.ones(2, 3)), torch.full((2, 3), 2.0))


def test_types_say_what_is_a_spike(spiking):
    graph = trace(spiking, (1, 8, 8))
    assert graph["encode"].type == Signal((1, 8, 8), Kind.SPIKE, 8)
    assert graph["conv1.0"].type == Signal((4, 8, 8), Kind.VALUE, 8)
    assert graph["sn1"].type.kind is Kind.SPIKE
    assert graph["add"].type == Signal((4, 8, 8), Kind.VALUE, 8)  # 0, 1 or 2
    assert graph["decode"].type.steps is None


def test_a_graph_refuses_undefined_and_doubled_names():
    source, t = Node("a", "input", (), Signal((1,))), Signal((1,))
    with pytest.raises(ValueError, match="before it is defined"):
        Graph((source, Node("b", "relu", ("c",), t)))
    with pytest.raises(ValueError, match="defined twice"):
        Graph((source, source))


def test_cut_covers_every_node_once_and_crosses_with_spikes_only(model):
    graph = run_passes(trace(model, (1, 8, 8)))
    partition = cut(graph, REGISTERS)
    placed = [name for segment in partition.segments for name in segment.nodes]
    assert sorted(placed) == sorted(node.name for node in graph if node.op != "input")
    ready = {graph.input.name}
    for segment in partition.segments:  # the order can be run
        assert set(segment.inputs) <= ready
        ready.update(segment.outputs)
    for segment in partition.on_chip:
        crossing = (*segment.inputs, *segment.outputs)
        assert {graph[name].type.kind for name in crossing} == {Kind.SPIKE}
        assert {graph[name].op for name in segment.nodes} <= {"conv2d", "linear", "neuron"}
    blocks = [m for m in model.modules() if isinstance(m, HybridBlock)]
    assert len(partition.on_chip) == len(blocks)
    assert {r.reason for r in partition.rejections} == {
        "works on values without time steps: an ANN layer"
    }


def test_partition_none_and_by_name(vgg):
    graph = run_passes(trace(vgg, (1, 8, 8)))
    names = [segment.name for segment in cut(graph, REGISTERS).on_chip]
    assert names == ["blocks.0.snn", "blocks.1.snn", "blocks.2.snn", "head.snn"]
    none = cut(graph, REGISTERS, "none")
    assert [segment.side for segment in none.segments] == ["host"]
    some = cut(graph, REGISTERS, ["blocks.1.snn", "head.snn"])
    assert [segment.name for segment in some.on_chip] == ["blocks.1.snn", "head.snn"]
    assert "not selected for the chip" in {r.reason for r in some.rejections}
    with pytest.raises(BadInput, match="did you mean 'blocks.1.snn'"):
        cut(graph, REGISTERS, ["blocks.1.sn"])


def test_a_neuron_that_values_drive_stays_on_the_host_with_the_reason():
    """The shape of later models: values repeated over steps drive the first spiking layer."""

    class Values(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode = BitPlaneEncoder()
            pool = nn.AvgPool2d(2, padding=1, count_include_pad=False)  # no weights do the same
            self.pool, self.conv = OverTime(pool), OverTime(nn.Conv2d(1, 2, 3))
            self.sn1, self.fc, self.sn2 = Leaky(), OverTime(nn.Conv2d(2, 3, 2)), Leaky()
            self.decode = Decoder((1.0,) * 8)

        def forward(self, x):
            pooled = self.pool(self.encode(x))
            return self.decode(self.sn2(self.fc(self.sn1(self.conv(pooled)))))

    net = calibrate(Values(), torch.rand(2, 1, 8, 8))
    partition = cut(run_passes(trace(net, (1, 8, 8))), REGISTERS)
    reasons = {r.node: r.reason for r in partition.rejections}
    assert "takes 8 steps of value[1x5x5], and a chip takes only spikes" in reasons["sn1"]
    assert "averages go into the weights" in reasons["pool.0"]
    assert [segment.nodes for segment in partition.on_chip] == [("fc.0", "sn2")]


class Flat(nn.Module):
    def forward(self, x):
        return torch.flatten(x)


def hooked():
    net = nn.Sequential(nn.Conv2d(1, 2, 3))
    net[0].register_forward_hook(lambda module, inputs, output: output + 1)
    return net


def poisoned():
    net = nn.Sequential(nn.Conv2d(1, 2, 3))
    net[0].weight.data[0, 0, 0, 0] = float("nan")
    return net


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Branches(), "it branches on values"),
        (Flat(), "must keep the batch axis first"),
        (poisoned(), "not all finite"),
        (nn.Sequential(OverTime(nn.Conv2d(1, 2, 3), Leaky())), "needs time"),
        (nn.Sequential(nn.Conv2d(3, 2, 3)), "images of 3 channels, not value"),
        (nn.Sequential(nn.Conv2d(1, 2, 9)), "does not fit"),
        (nn.Sequential(BitPlaneEncoder()), "not frozen"),
        (nn.Sequential(Leaky()), "encode it first"),
        (HybridBlock(nn.Identity(), nn.Identity(), Coding(mode="paper")), "train with mode='hw'"),
    ],
)
def test_what_cannot_be_traced_is_named(net, message):
    with pytest.raises(TraceError, match=message):
        trace(net, (1, 8, 8))


def test_what_tracing_does_not_see_is_found_by_running_it():
    with pytest.raises(TraceError, match="does not compute what the model does"):
        map_model(hooked(), input_shape=(1, 8, 8))


def test_batch_norms_in_a_row_fold_one_after_another():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.BatchNorm2d(2))
    for norm in net[1:]:
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    before = trace(net, (1, 8, 8))
    after = run_passes(before)
    assert [node.op for node in after] == ["input", "conv2d"]
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    assert torch.allclose(evaluate(after, x), evaluate(before, x), atol=1e-5)


def classifier():
    """Spiking convolution, flatten, spiking linear layer; the output is spikes."""
    torch.manual_seed(0)
    net = nn.Sequential(
        BitPlaneEncoder(),
        OverTime(nn.Conv2d(1, 3, 3)),
        Leaky(threshold=0.3),
        OverTime(nn.Flatten()),
        OverTime(nn.Linear(108, 10)),
        Leaky(threshold=0.2),
    )
    return calibrate(net, torch.rand(4, 1, 8, 8))


def test_flatten_between_spiking_layers_stays_on_the_chip():
    net, x = classifier(), torch.rand(9, 1, 8, 8)
    mapped = map_model(net, input_shape=(1, 8, 8))
    assert [segment.side for segment in mapped.partition.segments] == ["host", "chip"]
    assert compare(mapped, x, "fast", "reference").equal
    run = simulate(mapped, x, batch_size=4)  # spikes out: time first, samples second
    assert run.logits.shape == (8, 9, 10)
    with torch.no_grad():
        assert (run.logits == net(x)).float().mean() > 0.95


def test_segment_names_do_not_depend_on_what_is_selected():
    net = nn.Sequential(*classifier(), Decoder(bitplane_weights("lsb")))
    net = nn.Sequential(*net, BitPlaneEncoder(), OverTime(nn.Linear(10, 5)), Leaky())
    graph = run_passes(trace(calibrate(net, torch.rand(4, 1, 8, 8)), (1, 8, 8)))
    names = [segment.name for segment in cut(graph, REGISTERS).on_chip]
    assert len(set(names)) == 2
    for name in names:
        assert [segment.name for segment in cut(graph, REGISTERS, [name]).on_chip] == [name]


def test_a_module_used_twice_becomes_two_nodes():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()

        def forward(self, x):
            return self.act(self.conv(self.act(self.conv(x))))

    net, x = Reused(), torch.randn(2, 1, 5, 5)
    graph = trace(net, (1, 5, 5))
    assert [n.name for n in graph] == ["x", "conv", "act", "conv_1", "act_1"]
    with torch.no_grad():
        assert torch.equal(evaluate(graph, x), net(x))


def test_paper_mode_models_are_refused_with_the_way_out():
    net = create_model("has8_vgg", num_classes=3, in_channels=1, base=2, depth=1, mode="paper")
    with pytest.raises(TraceError, match="train with mode='hw'"):
        trace(net, (1, 8, 8))
