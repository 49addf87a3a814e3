"""A forward that writes over its tensors, or uses a module twice, is followed or refused."""

from copy import deepcopy

import pytest
import torch
from builders import law
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from has8 import calibrate
from has8.blocks import OverTime
from has8.encoders import BitPlaneEncoder, Decoder, PhaseEncoder, bitplane_weights
from has8.errors import TraceError
from has8.neurons import Leaky
from hwsim import compare, estimate, simulate
from hwsim.price.counts import layer_counts
from mapping import load, map_model, save
from mapping.graph.evaluate import evaluate
from mapping.graph.ir import Kind
from mapping.graph.trace.modules import trace


def iadd(net, x, y):
    x += y
    return x


STATEMENTS = {
    "conv": lambda net, x, y: net.conv(x),
    "same": lambda net, x, y: net.same(x),
    "over time": lambda net, x, y: net.drop(x),
    "relu": lambda net, x, y: F.relu(x),
    "add": lambda net, x, y: x + y,
    "iadd": iadd,
    "add_": lambda net, x, y: x.add_(y),
    "module": lambda net, x, y: net.over(x),
    "F": lambda net, x, y: F.relu(x, inplace=True),
    "relu_": lambda net, x, y: torch.relu_(x),
    "method": lambda net, x, y: x.relu_(),
}
"""Each makes a value from one or two; the lower half writes over the first."""


class Written(nn.Module):
    """Runs statements, each on values that stand before it, and adds up the last two values."""

    def __init__(self, program):
        super().__init__()
        torch.manual_seed(0)
        self.program, self.conv = program, nn.Conv2d(1, 1, 3, padding=1)
        self.same, self.drop = nn.Identity(), nn.Dropout(inplace=True)
        self.over = nn.ReLU(inplace=True)

    def forward(self, x):
        values = [x, self.conv(x)]
        for name, first, second in self.program:
            first, second = (values[place % len(values)] for place in (first, second))
            values.append(STATEMENTS[name](self, first, second))
        return values[-1] + values[-2]


statements = st.tuples(st.sampled_from(list(STATEMENTS)), st.integers(0, 5), st.integers(0, 5))


@law(60)
@given(program=st.lists(statements, max_size=5))
@example([("same", 1, 0), ("iadd", 1, 0)])
@example([("F", 1, 0), ("conv", 1, 0)])
@example([("module", 0, 0)])
def test_what_a_forward_writes_over_is_followed_or_refused(program):
    net = Written(program).eval()
    try:
        graph = trace(net, (1, 4, 4))
    except TraceError as error:
        assert "has changed before: use that operation's result" in str(error)
        return
    for x in torch.randn(3, 2, 1, 4, 4):
        with torch.no_grad():
            assert torch.equal(evaluate(graph, x), net(x.clone()))


def forward(run):
    """A model whose forward is ``run(net, x, y)`` with the image and a convolution of it."""
    written = type("Case", (Written,), {"forward": lambda net, x: run(net, x, net.conv(x))})
    return written([]).eval()


def assigns(net, x, y):
    y[:, 0] = x[:, 0]
    return y


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda net, x, y: F.relu(y, inplace=True) + y, "operation in place .relu. has changed"),
        (lambda net, x, y: iadd(net, y, x) + net.same(y), "operation in place .iadd. has changed"),
        (lambda net, x, y: (y.flatten(1).relu_(), y)[1], "the model's output\" uses"),
        (assigns, "assigns to a part of a tensor"),
        (lambda net, x, y: iadd(net, y, 1) + y, "operation in place .iadd. has changed"),
        (lambda net, x, y: y.clamp_(0) + y, "operation in place .clamp_. has changed"),
        (lambda net, x, y: (y[:, :1].mul_(2), y)[1], "the model's output\" uses"),
        (lambda net, x, y: (y.transpose(0, 1).mul_(2), y)[1], "it writes over a part of a tensor"),
    ],
)
def test_what_cannot_be_followed_is_said_whatever_the_images_show(run, message):
    images = torch.zeros(2, 1, 4, 4)  # on which nothing differs
    with pytest.raises(TraceError, match=message):
        map_model(forward(run), calibration=images)


def test_the_residual_of_torchvision_is_followed_and_images_are_kept():
    net = forward(lambda net, x, y: net.over(iadd(net, net.conv(net.over(y)), x)))
    x = torch.randn(2, 1, 4, 4)
    with torch.no_grad():
        assert torch.equal(evaluate(trace(net, (1, 4, 4)), x), net(x.clone()))
    first = nn.Sequential(nn.ReLU(inplace=True), BitPlaneEncoder())
    given, kept = x.clone(), x.clone()
    map_model(first, calibration=given)
    assert torch.equal(given, kept)


class Pooled(nn.Module):
    """Spiking layers with maxima of spikes between them; the convolutions may be one module."""

    def __init__(self, shared=True):
        super().__init__()
        torch.manual_seed(0)
        self.ann = nn.Conv2d(2, 2, 3, padding=1)
        self.conv = OverTime(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2))
        self.encode, self.first = BitPlaneEncoder(), Leaky(threshold=0.3)
        self.pool = OverTime(nn.MaxPool2d(3, stride=2, padding=1), nn.ReLU())
        self.second, self.decode = Leaky(threshold=0.01), Decoder(bitplane_weights("lsb"))
        parts = (self.ann, self.conv)
        self.ann2, self.conv2 = parts if shared else deepcopy(parts)

    def forward(self, x):
        x = self.encode(self.ann2(self.ann(x)))
        return self.decode(self.second(self.conv2(self.pool(self.first(self.conv(x))))))


IMAGES = torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def test_maxima_of_spikes_are_spikes_that_drive_the_chip_and_are_accumulated(tmp_path):
    net = calibrate(Pooled(), IMAGES)
    mapped = map_model(net, calibration=IMAGES)
    pool = mapped.graph["pool.0"]
    assert (pool.op, pool.type.kind) == ("neuron", Kind.SPIKE)
    assert "pool.1" not in mapped.graph  # a rectifier of spikes is none
    assert [s.side for s in mapped.partition.segments] == ["host", "chip", "host"]
    run = simulate(mapped, IMAGES)
    assert compare(mapped, IMAGES, "fast", "reference").equal
    assert estimate(mapped, run)
    save(mapped, tmp_path / "pooled.h8")
    assert torch.equal(simulate(load(tmp_path / "pooled.h8"), IMAGES).logits, run.logits)
    on_host = map_model(net, partition="none", calibration=IMAGES)
    for counted in (
        layer_counts(mapped, run.activity)[2:],
        layer_counts(on_host, simulate(on_host, IMAGES).activity)[2:],
    ):
        assert all(layer.spiking and layer.synops > 0 for layer in counted)


@pytest.mark.parametrize("encoder", [PhaseEncoder(4), Leaky()])
def test_averages_of_spikes_are_values(encoder):
    layers = [encoder] if isinstance(encoder, PhaseEncoder) else [PhaseEncoder(4), encoder]
    graph = trace(nn.Sequential(*layers, OverTime(nn.AvgPool2d(2))), (1, 4, 4))
    assert graph.output.type.kind is Kind.VALUE


@pytest.mark.parametrize("partition", ["all", "none"])
def test_a_module_that_is_used_twice_counts_twice(partition):
    shared, copies = (
        [
            (layer.dense, layer.effective, layer.synops)
            for mapped in [
                map_model(calibrate(net, IMAGES), "loihi", partition, calibration=IMAGES)
            ]
            for layer in layer_counts(mapped, simulate(mapped, IMAGES).activity)
        ]
        for net in (Pooled(shared=True), Pooled(shared=False))
    )
    assert len(shared) == 5  # two twice, and the maxima between them
    assert shared == copies
