"""Small networks in the styles of tutorials, forums and papers: mapped, or told what to change."""

import pytest
import snntorch as snn
import torch
from snntorch import spikegen, surrogate, utils
from torch import nn

from has8.errors import TraceError
from hwsim import simulate
from mapping import map_model
from mapping.graph.evaluate import evaluate
from mapping.graph.ir import Signal

SAMPLES, STEPS = 6, 5


class Base(nn.Module):
    """What all of them have: a layer and a neuron, and another of each."""

    def __init__(self, inputs=12, **options):
        super().__init__()
        options = {"beta": 0.5, "threshold": 0.5, "reset_mechanism": "zero", **options}
        self.fc1, self.lif1 = nn.Linear(inputs, 10), snn.Leaky(**options)
        self.fc2, self.lif2 = nn.Linear(10, 4), snn.Leaky(**options)
        for layer in (self.fc1, self.fc2):
            layer.weight.data = (layer.weight * 16).round() / 8
            layer.bias.data = (layer.bias * 8).round() / 8

    def step(self, x, states):
        """One step; gives the spikes and the states."""
        one, states[0] = self.lif1(self.fc1(x), states[0])
        two, states[1] = self.lif2(self.fc2(one), states[1])
        return two

    def cleared(self):
        return [self.lif1.init_leaky(), self.lif2.init_leaky()]


class WrittenOver(Base):
    """Counts into a tensor that is written over."""

    def forward(self, x):
        states, count = self.cleared(), torch.zeros(x.size(0), 4)
        for _ in range(STEPS):
            count[:] = count + self.step(x, states)
        return count


class FirstSpike(Base):
    """Reads the time of the first spike."""

    def forward(self, x):
        states = self.cleared()
        spikes = torch.stack([self.step(x, states) for _ in range(STEPS)])
        times = torch.arange(float(STEPS)).view(-1, 1, 1)
        return -(times * spikes + (1 - spikes) * STEPS).min(0).values


class EverySecond(Base):
    """Takes every second frame."""

    def forward(self, x):
        states, total = self.cleared(), 0
        for frame in x[::2]:
            total = total + self.step(frame, states)
        return total


class Series(Base):
    """A number a step, samples first."""

    def __init__(self):
        super().__init__(inputs=1)

    def forward(self, x):
        states = self.cleared()
        record = [self.step(x[:, t].unsqueeze(1), states) for t in range(x.size(1))]
        return torch.stack(record, dim=1)


class SeriesSliced(Series):
    """The same with an axis kept."""

    def forward(self, x):
        states = self.cleared()
        return sum(self.step(x[:, t : t + 1], states) for t in range(x.size(1)))


class Spectrogram(Base):
    """Bands over time, ``[B, F, T]``."""

    def forward(self, x):
        states, record = self.cleared(), torch.zeros(x.size(2), x.size(0), 4)
        for t in range(x.size(2)):
            record[t] = self.step(x[:, :, t], states)
        return record


class TimeWeights(Base):
    """Learns how much each step counts."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.arange(STEPS) / 4)

    def forward(self, x):
        states = self.cleared()
        return sum(self.step(x, states) * self.weights[t] for t in range(STEPS))


class Population(Base):
    """Several neurons stand for a class."""

    def forward(self, x):
        states = self.cleared()
        record = torch.stack([self.step(x, states) for _ in range(STEPS)])
        return record.view(STEPS, -1, 2, 2).sum(-1).sum(0)


class OverTime(Base):
    """A linear layer reads all steps."""

    def __init__(self):
        super().__init__()
        self.read = nn.Linear(4 * STEPS, 3)

    def forward(self, x):
        states = self.cleared()
        return self.read(torch.cat([self.step(x, states) for _ in range(STEPS)], dim=1))


class Cells(nn.Module):
    """Layers that keep their state in attributes of their own."""

    class Cell(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.fc, self.norm = nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs)
            self.lif = snn.Leaky(beta=0.5, spike_grad=surrogate.atan(), init_hidden=True)

        def forward(self, x):
            return self.lif(self.norm(self.fc(x)))

    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList([self.Cell(12, 10), self.Cell(10, 4)])
        for cell in self.cells:
            cell.fc.weight.data = (cell.fc.weight * 64).round() / 8
            cell.norm.eps = 0

    def clear(self):
        for cell in self.cells:
            utils.reset(cell)

    def forward(self, x):
        self.clear()
        record = []
        for _ in range(STEPS):
            flowing = x
            for cell in self.cells:
                flowing = cell(flowing)
            record.append(flowing)
        return torch.stack(record, -1).mean(-1) * STEPS


def values(*shape):
    return torch.randint(0, 9, (SAMPLES, *shape), generator=torch.manual_seed(0)) / 4


def frames():
    torch.manual_seed(0)
    return (torch.rand(STEPS, SAMPLES, 12) < 0.5).float()


SECOND = {"fc2", "lif2"}


@pytest.mark.parametrize(
    ("net", "x", "inputs", "on_chip"),
    [
        (WrittenOver, values(12), "values", {"lif1", *SECOND}),
        (FirstSpike, values(12), "values", {"lif1", *SECOND}),
        (EverySecond, frames(), "spikes", {"fc1", "lif1", *SECOND}),
        (Series, values(7), "values", SECOND),
        (SeriesSliced, values(7), "values", SECOND),
        (Spectrogram, values(12, 7), "values", SECOND),
        (TimeWeights, values(12), "values", {"lif1", *SECOND}),
        (Population, values(12), "values", {"lif1", *SECOND}),
        (OverTime, values(12), "values", {"lif1", *SECOND}),
        (Cells, values(12), "values", {"cells.0.lif", "cells.1.fc", "cells.1.lif"}),
    ],
)
def test_they_map_as_they_are(net, x, inputs, on_chip):
    torch.manual_seed(0)
    net = net().eval()
    mapped = map_model(net, calibration=x, inputs=inputs)
    assert {n for segment in mapped.partition.on_chip for n in segment.nodes} == on_chip
    with torch.no_grad():
        expected = net(x)
    assert expected.any() and torch.allclose(evaluate(mapped.graph, x), expected, atol=1e-5)
    assert torch.equal(simulate(mapped, x).logits, simulate(mapped, x, "reference").logits)


def test_the_reset_of_snntorch_that_clears_nothing_is_told():
    class Kept(Cells):
        def clear(self):
            utils.reset(self)

    with pytest.raises(TraceError, match=r"'cells.0.lif'.*utils.reset\(net\) clears only if"):
        map_model(Kept(), calibration=values(12))


def test_a_number_a_step_is_an_input_of_one():
    mapped = map_model(Series(), calibration=values(7))
    (steps,) = (node for node in mapped.graph if node.op == "unbind")
    assert steps.type == Signal((1,), steps=7)


def strides(net, x):
    states = net.cleared()
    return sum(net.step(x[t], states) for t in range(0, STEPS, 2))


def only_at_first(net, x):
    mem, total = net.lif1.init_leaky(), 0
    for t in range(STEPS):
        spikes, mem = net.lif1(net.fc1(x) if t == 0 else torch.zeros(len(x), 10), mem)
        total = total + spikes
    return total


def cleared_on_the_way(net, x):
    mem, total = net.lif1.init_leaky(), 0
    for t in range(STEPS):
        if t == 2:
            mem = net.lif1.init_leaky()
        spikes, mem = net.lif1(net.fc1(x[t]), mem)
        total = total + spikes
    return total


def begun_late(net, x):
    mem1, mem2, total = net.lif1.init_leaky(), net.lif2.init_leaky(), 0
    for t in range(STEPS):
        spikes, mem1 = net.lif1(net.fc1(x[t]), mem1)
        if t >= 1:
            spikes, mem2 = net.lif2(spikes * 1.5, mem2)
            total = total + spikes
    return total


def rate_in_each_step(net, x):
    states = net.cleared()
    return sum(net.step(spikegen.rate(x / 9, num_steps=1)[0], states) for _ in range(STEPS))


def by_hand(net, x):
    states = net.cleared()
    return sum(net.step((torch.rand_like(x) <= x).float(), states) for _ in range(STEPS))


def into_numpy(net, x):
    states = net.cleared()
    return torch.tensor(sum(net.step(x, states).numpy() for _ in range(STEPS)))


def until_it_is_sure(net, x):
    states, total = net.cleared(), 0
    for _ in range(STEPS):
        total = total + net.step(x, states)
        if total.max() > 1:
            break
    return total


def two_axes(net, x):
    states, x = net.cleared(), x.view(len(x), 1, 1, 12).expand(-1, 1, STEPS, -1) * 2
    return sum(net.step(x[:, 0, t], states) for t in range(STEPS))


def one_feature(net, x):
    mem1, total = net.lif1.init_leaky(), 0
    for t in range(STEPS):
        spikes, mem1 = net.lif1((net.fc1 if t != 3 else net.fc2)(x[:, 0]), mem1)
        total = total + spikes
    return total


def elsewhere(net, x):
    raise RuntimeError("Found no NVIDIA driver on your system.")


@pytest.mark.parametrize(
    ("loop", "inputs", "sentence"),
    [
        (strides, "spikes", r"'lif1' .*takes step 2 of 'fc1', .*leave out others .*as x\[::2\]"),
        (
            cleared_on_the_way,
            "spikes",
            r"'lif1' .*step 3 of 'fc1', since it begins with step 2: .*x\[2:\].* clear no state",
        ),
        (begun_late, "spikes", r"'lif2' .*it begins with step 1: .*call each neuron in every step"),
        (
            only_at_first,
            "values",
            r"at step 1 neuron 'lif1' .*takes zeros, .*from 'fc1'; .*x\[:, t",
        ),
        (rate_in_each_step, "values", r"draws spikes of one step.*spikegen.rate\(x, num_steps=T\)"),
        (by_hand, "values", r"takes random numbers.*write spikegen.rate\(x, num_steps=T\)"),
        (into_numpy, "values", "'numpy' in the forward takes values out of torch"),
        (until_it_is_sure, "values", r"branches on values \('__bool__' in the forward\)"),
        (two_axes, "values", r"taken off one axis of the input, in order: x\[:, t\]"),
        (one_feature, "features", "at step 3 neuron 'lif1' .*from 'fc2', in the .*from 'fc1'"),
        (elsewhere, "values", "no NVIDIA driver .*; it runs on the CPU here: make tensors with"),
        (lambda net, x: net.step(x, net.cleared()).argmax(1), "values", "return the values that"),
    ],
)
def test_they_are_told_what_to_change(loop, inputs, sentence):
    torch.manual_seed(0)

    class Net(Base):
        def forward(self, x):
            return loop(self, x)

    x = frames() if inputs == "spikes" else values(12)
    net = Net()
    if inputs == "features":
        x, inputs, net.fc2 = values(2, 12), "values", nn.Linear(12, 10)
    with pytest.raises(TraceError, match=sentence):
        map_model(net, calibration=x, inputs=inputs)
