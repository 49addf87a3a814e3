"""Kinds of synapses: one file each; what a model, a chip and a price need follows from it."""

from importlib import import_module
from pkgutil import iter_modules

import numpy as np
import pytest
import torch
from builders import times_laws
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from has8.blocks import OverTime
from has8.encoders import Decoder, PhaseEncoder, phase_weights
from has8.neurons import Leaky
from hwsim import compare, estimate, simulate
from hwsim.experiments.fidelity import FloatGraph
from mapping import load, map_model, save
from mapping.chip.wiring import shape3
from mapping.graph import ops
from mapping.graph.evaluate import evaluate
from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops import OPS, op_of, synapse_of, wiring_of
from mapping.graph.ops.one_to_one import OneToOne
from mapping.graph.passes import run_passes
from mapping.graph.trace.modules import trace
from mapping.integers.sums import weighted_sums

STEPS = 4
slow = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))


# ------------------------------------------------------------------------------ every kind


def test_each_kind_of_node_is_in_one_file_and_every_file_is_found():
    files = [import_module(f"{ops.__name__}.{file.name}") for file in iter_modules(ops.__path__)]
    names = [op.name for file in files for op in getattr(file, "OPS", ())]
    assert sorted(names) == sorted(set(names)) == sorted(OPS)
    assert all(OPS[name].name == name for name in names)
    modules = [module for op in OPS.values() for module in op.modules]
    assert len(modules) == len(set(modules))  # no layer is of two kinds


def test_synapses_are_the_kinds_that_say_how_they_become_some():
    assert {name for name, op in OPS.items() if op.role == "synapse"} == {
        name for name, op in OPS.items() if op.synapse is not None
    }


@st.composite
def convolutions(draw):
    """A convolution, and images that it takes."""
    groups, kernel, stride, dilation = (draw(part) for part in (st.integers(1, 2), *[sizes] * 3))
    padding = draw(st.tuples(*[st.integers(0, 2)] * 2))
    ins, outs = (groups * draw(st.integers(1, 2)) for _ in range(2))
    extents = draw(st.tuples(*[st.integers(1, 6)] * 2))
    layer = nn.Conv2d(ins, outs, kernel, stride, padding, dilation, groups, draw(st.booleans()))
    for axis in (0, 1):
        assume(extents[axis] + 2 * padding[axis] > dilation[axis] * (kernel[axis] - 1))
    return layer, (ins, *extents)


@st.composite
def transposed(draw):
    """A transposed convolution, and images that it takes."""
    groups, kernel, stride, dilation = (draw(part) for part in (st.integers(1, 2), *[sizes] * 3))
    padding, extra = (draw(st.tuples(*[st.integers(0, 2)] * 2)) for _ in range(2))
    ins, outs = (groups * draw(st.integers(1, 2)) for _ in range(2))
    extents = draw(st.tuples(*[st.integers(1, 4)] * 2))
    for axis in (0, 1):
        assume(extra[axis] < max(stride[axis], dilation[axis]))
        size = (extents[axis] - 1) * stride[axis] - 2 * padding[axis]
        assume(1 <= size + dilation[axis] * (kernel[axis] - 1) + extra[axis] + 1 <= 9)
    options = {"output_padding": extra, "dilation": dilation, "groups": groups}
    bias = draw(st.booleans())
    return nn.ConvTranspose2d(ins, outs, kernel, stride, padding, bias=bias, **options), (
        ins,
        *extents,
    )


@st.composite
def linears(draw):
    """A linear layer, and vectors or images of spikes that it takes."""
    shape = draw(st.sampled_from([(5,), (2, 3, 4), (1, 1, 1)]))
    size = int(np.prod(shape))
    return nn.Linear(size, draw(st.integers(1, 6)), draw(st.booleans())), shape


@st.composite
def sequences(draw):
    """A convolution along one axis, and sequences that it takes."""
    groups, kernel, stride, dilation = (draw(st.integers(1, n)) for n in (2, 3, 3, 3))
    ins, outs = (groups * draw(st.integers(1, 2)) for _ in range(2))
    padding, extent = draw(st.integers(0, 2)), draw(st.integers(1, 6))
    assume(extent + 2 * padding > dilation * (kernel - 1))
    bias = draw(st.booleans())
    return nn.Conv1d(ins, outs, kernel, stride, padding, dilation, groups, bias), (ins, extent)


@st.composite
def one_to_one(draw):
    """A weight for each channel, and vectors, sequences or images."""
    shape = draw(st.sampled_from([(5,), (3, 4), (2, 3, 4)]))
    return OneToOne(torch.rand(shape[0]) - 0.5), shape


LAYERS = {
    "conv1d": sequences(),
    "conv2d": convolutions(),
    "conv_transpose2d": transposed(),
    "linear": linears(),
    "one_to_one": one_to_one(),
}


@pytest.mark.parametrize("kind", [name for name, op in OPS.items() if op.role == "synapse"])
@slow
@given(data=st.data())
def test_wiring_and_canonical_weights_are_what_the_layer_computes(kind, data):
    """The wiring's shape is that of the type, and its sums with these weights are the layer's."""
    layer, shape = data.draw(LAYERS[kind])
    op = op_of(layer)
    assert op is OPS[kind]
    attrs, tensors = op.lower(layer)
    source = Signal(shape, Kind.SPIKE, STEPS)
    signal = op.infer(attrs, tensors, (source,))
    wires = op.synapse.wiring(attrs, tensors["weight"], source)
    outputs = shape3(signal.shape)
    assert wires.out_shape == outputs
    assert signal == Signal(signal.shape, Kind.VALUE, STEPS)
    weight = op.synapse.canonical(attrs, tensors["weight"], wires)
    assert tuple(weight.shape) == wires.weight_shape
    x = (torch.rand(3, *shape) < 0.5).double()
    node = Node("layer", kind, ("x",), signal, attrs, {k: t.double() for k, t in tensors.items()})
    with torch.no_grad():
        expected = op.run(node, x).reshape(3, *outputs)
        assert torch.allclose(
            expected, layer.double()(x.view(3, *_fed(kind, shape))).view_as(expected)
        )
    sums = weighted_sums(wires, x.reshape(3, *wires.in_shape), weight.double()).view_as(expected)
    if "bias" in tensors:
        sums = sums + tensors["bias"].double().view(-1, 1, 1)
    assert torch.allclose(sums, expected)
    # each output channel times a factor is the output times that factor
    factor = torch.rand(outputs[0], dtype=torch.float64) + 0.5
    scaled = op.synapse.scaled(attrs, tensors["weight"].double(), factor)
    other = weighted_sums(
        wires, x.reshape(3, *wires.in_shape), op.synapse.canonical(attrs, scaled, wires)
    )
    plain = weighted_sums(wires, x.reshape(3, *wires.in_shape), weight.double())
    assert torch.allclose(other, plain * factor.view(-1, 1, 1))


def _fed(kind, shape):
    return (int(np.prod(shape)),) if kind == "linear" else shape


# ------------------------------------------------------- transposed convolutions, end to end


def spiking(layer, threshold=0.4, beta=0.5):
    """Encoder, the layer with a batch norm of its own statistics, neurons, decoder."""
    norm = nn.BatchNorm2d(layer.out_channels)
    norm.running_mean.uniform_(-0.2, 0.2)
    norm.running_var.uniform_(0.3, 1.5)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -0.1, 0.1)
    return nn.Sequential(
        PhaseEncoder(STEPS),
        OverTime(layer, norm),
        Leaky(beta=beta, threshold=threshold),
        Decoder(phase_weights(STEPS)),
    ).eval()


@settings(slow, max_examples=times_laws(40))  # what the windows are is tried more often above
@given(drawn=transposed(), seed=st.integers(0, 2**31))
def test_a_transposed_convolution_is_traced_folded_mapped_kept_run_and_priced(
    drawn, seed, tmp_path
):
    torch.manual_seed(seed)
    layer, shape = drawn
    layer.reset_parameters()
    net, images = spiking(layer), torch.rand(6, *shape)
    traced = trace(net, shape)
    folded = run_passes(traced)
    assert [node.op for node in folded] == [
        "input", "encode", "conv_transpose2d", "neuron", "decode",
    ]  # fmt: skip
    # folding is exact but for rounding: the currents are those of the batch norm
    spikes = (torch.rand(5, *shape) < 0.5).float()
    (node,) = (node for node in folded if node.op == "conv_transpose2d")
    with torch.no_grad():
        assert torch.allclose(OPS[node.op].run(node, spikes), net[1][1](layer(spikes)), atol=1e-5)
        assert torch.equal(evaluate(traced, images), net(images))

    mapped = map_model(net, "loihi", input_shape=shape)
    (segment,) = mapped.partition.on_chip
    assert segment.nodes == ("1.0", "2") and not mapped.partition.rejections
    (population,) = mapped.chip_segments[0].populations
    assert population.synapses[0].wiring == wiring_of(mapped.graph, mapped.graph["1.0"])
    again = load(save(mapped, tmp_path / "a.h8"))
    assert save(again, tmp_path / "b.h8").read_bytes() == (tmp_path / "a.h8").read_bytes()

    found = compare(again, images, "fast", "reference")
    assert found.equal, found.divergence
    run = simulate(again, images, record=("spikes",))
    expected, _ = FloatGraph(again)(images)
    assert (run.spikes[segment.name]["2"] == expected["2"]).double().mean() >= 0.9

    report = estimate(again, run)
    assert 0 < report.energy_uj.total.value < np.inf and 0 < report.latency_us.value < np.inf
    sent = run.inputs[segment.name]["0"].flatten(0, 1).double()
    reached = F.conv_transpose2d(
        sent, torch.ones_like(layer.weight).double(), None, layer.stride, layer.padding,
        layer.output_padding, layer.groups, layer.dilation,
    )  # fmt: skip
    assert report.synops * len(images) == int(reached.sum())
    assert synapse_of(mapped.graph["1.0"]).price == "synop_conv"


def test_a_transposed_convolution_by_hand():
    """One pixel of two by two fires; its window stands where the stride puts it."""
    layer = nn.ConvTranspose2d(1, 1, 2, stride=2, bias=False)
    layer.weight.data = torch.tensor([[[[0.2, 0.9], [0.7, 0.4]]]])
    net = nn.Sequential(PhaseEncoder(1), OverTime(layer), Leaky(threshold=0.5), Decoder((1.0,)))
    mapped = map_model(net, input_shape=(1, 2, 2))
    image = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])
    for backend in ("reference", "fast"):
        run = simulate(mapped, image, backend)
        assert run.logits.tolist() == [[[[0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]]
        assert estimate(mapped, run).synops == 4  # all its weights, whatever they are
    (synapse,) = mapped.chip_segments[0].populations[0].synapses
    assert synapse.sign_mode == "excitatory"
    turned = synapse.weight[0, 0] / synapse.weight.max()  # a window slides: the kernel is turned
    assert np.abs(turned - np.array([[4, 7], [9, 2]]) / 9).max() < 0.01
    rows = synapse.wiring.rows
    assert (rows.stride, rows.spread, rows.padding, rows.size_out) == (1, 2, 1, 4)


def test_windows_of_a_transposed_convolution_add_up_where_they_meet():
    """Stride 1: two neighbours that fire share a column, and only there is it enough."""
    layer = nn.ConvTranspose2d(1, 1, (1, 2), bias=False)
    layer.weight.data.fill_(0.4)
    net = nn.Sequential(PhaseEncoder(1), OverTime(layer), Leaky(threshold=0.5), Decoder((1.0,)))
    mapped = map_model(net, input_shape=(1, 1, 3))
    image = torch.tensor([[[[1.0, 1.0, 0.0]]]])
    assert simulate(mapped, image, "reference").logits.tolist() == [[[[0, 1, 0, 0]]]]


def test_each_group_of_a_transposed_convolution_is_scaled_by_its_own_batch_norm():
    layer = nn.ConvTranspose2d(2, 2, 1, groups=2, bias=False)
    layer.weight.data.fill_(1)
    norm = nn.BatchNorm2d(2, eps=0)
    norm.weight.data = torch.tensor([3.0, -5.0])
    graph = run_passes(trace(nn.Sequential(layer, norm).eval(), (2, 1, 1)))
    assert [node.op for node in graph] == ["input", "conv_transpose2d"]
    assert graph.output.tensors["weight"].flatten().tolist() == [3, -5]
    assert evaluate(graph, torch.ones(1, 2, 1, 1)).flatten().tolist() == [3, -5]
