"""Loops over steps as people write them, and layers in them that no file describes."""

import pytest
import snntorch as snn
import torch
from snntorch import utils
from torch import nn
from torch.nn import functional as F

import has8
from hwsim import simulate
from mapping import map_model
from mapping.graph.evaluate import evaluate
from mapping.graph.ir import Kind, Signal
from mapping.graph.trace.steps import trace_steps


class Net(nn.Module):
    """Two layers of neurons whose loop is given; weights and inputs are exact in float32."""

    def __init__(self, loop, **layers):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 5), nn.Linear(5, 5)
        for layer in (self.fc1, self.fc2):
            layer.weight.data = (layer.weight * 32).round() / 8
            layer.bias.data = (layer.bias * 8).round() / 8
        self.lif1 = snn.Leaky(beta=0.5, reset_mechanism="zero")
        self.lif2 = snn.Leaky(beta=0.5, reset_mechanism="zero")
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.loop = loop

    def steps(self, x, count=6, middle=lambda spikes, step: spikes):
        """Spikes and membranes of the last layer, in each step."""
        m1, m2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        for step in range(count):
            spikes, m1 = self.lif1(self.fc1(x[step] if x.dim() == 3 else x), m1)
            spikes, m2 = self.lif2(self.fc2(middle(spikes, step)), m2)
            yield spikes, m2

    def forward(self, x):
        return self.loop(self, x)


def numbers(*shape):
    return torch.randint(-4, 12, shape) / 4


def rolled(net, x, steps=None, kind=Kind.VALUE):
    """The graph of a net, held against the net itself on samples that the trace did not see."""
    torch.manual_seed(1)
    some, shape = (x[:, :3], x.shape[2:]) if steps else (x[:3], x.shape[1:])
    graph = trace_steps(net, some, Signal(tuple(shape), kind, steps))
    with torch.no_grad():
        expected = net(x)
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert expected.any() and torch.allclose(evaluate(graph, x), expected, atol=1e-5)
    return graph


def ops(graph):
    return [node.op for node in graph]


# ways to keep what the steps make


def into_zeros(net, x):
    record = torch.zeros(6, len(x), 5)
    for step, (spikes, _) in enumerate(net.steps(x)):
        record[step] = spikes
    return record


def into_zeros_behind_the_batch(net, x):
    record = torch.zeros(x.size(0), 6, 5)
    for step, (spikes, _) in enumerate(net.steps(x)):
        record[:, step, :] = spikes
    return record.sum(dim=1)


def added_into_zeros(net, x):
    record = torch.zeros(6, len(x), 5)
    for step, (spikes, _) in enumerate(net.steps(x)):
        record[step] += spikes
    return record.sum(0)


def concatenated(net, x):
    return torch.cat([spikes.unsqueeze(0) for spikes, _ in net.steps(x)], dim=0)


def stacked_behind_the_batch(net, x):
    return torch.stack([spikes for spikes, _ in net.steps(x)], dim=1).mean(dim=1)


def stacked_last(net, x):
    return torch.stack([spikes for spikes, _ in net.steps(x)], dim=-1).sum(-1)


def summed(net, x):
    total = torch.zeros(x.shape[0], 5)
    for spikes, _ in net.steps(x):
        total = total + spikes
    return total


def summed_in_place(net, x):
    total = 0
    for spikes, _ in net.steps(x):
        total += spikes
    return total / 6


def mean_of_all(net, x):
    return torch.stack([spikes for spikes, _ in net.steps(x)]).mean(0)


def last_half(net, x):
    return torch.stack([spikes for spikes, _ in net.steps(x)])[3:].sum(dim=0)


def last_membrane(net, x):
    return [membrane for _, membrane in net.steps(x)][-1]


def layer_behind_the_count(net, x):
    total = torch.stack([spikes for spikes, _ in net.steps(x)]).sum(dim=0)
    return net.fc2(total)


def layer_behind_a_sum(net, x):
    return net.fc2(sum(spikes for spikes, _ in net.steps(x)))


def softmax_behind_the_count(net, x):
    return F.log_softmax(torch.stack([spikes for spikes, _ in net.steps(x)]).sum(0), dim=1)


def weighted_steps(net, x):
    record = torch.stack([spikes for spikes, _ in net.steps(x)])
    return (record * torch.arange(6).view(6, 1, 1)).sum(0)


def all_steps_flat(net, x):
    return torch.stack([spikes for spikes, _ in net.steps(x)]).permute(1, 0, 2).flatten(1)


WAYS = [
    into_zeros,
    into_zeros_behind_the_batch,
    added_into_zeros,
    concatenated,
    stacked_behind_the_batch,
    stacked_last,
    summed,
    summed_in_place,
    mean_of_all,
    last_half,
    last_membrane,
    layer_behind_the_count,
    layer_behind_a_sum,
    softmax_behind_the_count,
    weighted_steps,
    all_steps_flat,
]


@pytest.mark.parametrize("way", WAYS)
def test_however_the_steps_are_kept_the_graph_is_the_network(way):
    torch.manual_seed(0)
    graph = rolled(Net(way), numbers(9, 6))
    assert ops(graph).count("neuron") + ops(graph).count("membrane") == 2


@pytest.mark.parametrize("way", [into_zeros, summed, last_half, weighted_steps])
def test_inputs_of_each_step_too(way):
    torch.manual_seed(0)

    def of_steps(net, x):
        net.steps = lambda _: Net.steps(net, x)
        return way(net, x[0])

    assert "encode" not in ops(rolled(Net(of_steps), numbers(6, 9, 6), steps=6))


@pytest.mark.parametrize(
    "repeat",
    [
        lambda x: x.unsqueeze(0).repeat(6, 1, 1),
        lambda x: x.unsqueeze(0).expand(6, -1, -1),
        lambda x: torch.stack([x] * 6),
        lambda x: [x] * 6,
    ],
)
def test_an_image_that_is_repeated_over_the_steps(repeat):
    def loop(net, x):
        m1, total = net.lif1.init_leaky(), 0
        for part in repeat(x):
            spikes, m1 = net.lif1(net.fc1(part), m1)
            total = total + spikes
        return total

    torch.manual_seed(0)
    rolled(Net(loop), numbers(9, 6))


# layers that no file describes


def middle_of(function):
    def loop(net, x):
        total = 0
        for spikes, _ in net.steps(x, middle=lambda spikes, step: function(net, spikes)):
            total = total + spikes
        return total

    return loop


LAYERS = {
    "gelu": lambda net, s: F.gelu(s + 0.5),
    "half": lambda net, s: s * 0.5,
    "softmax": lambda net, s: F.softmax(s, dim=1) * 4,
    "log_softmax": lambda net, s: F.log_softmax(s, dim=1),
    "sigmoid": lambda net, s: torch.sigmoid(s),
    "roll": lambda net, s: torch.roll(s, 1, dims=-1),
    "einsum": lambda net, s: torch.einsum("bi,ij->bj", s, net.fc2.weight),
    "where": lambda net, s: torch.where(s > 0, s + 1, torch.zeros_like(s) - 1),
    "minus": lambda net, s: s - 0.25,
    "one minus": lambda net, s: 1 - s,
    "permute": lambda net, s: s.view(s.size(0), 5, 1).permute(0, 2, 1).reshape(len(s), -1),
    "chunk": lambda net, s: torch.cat(torch.split(s, [2, 3], dim=1)[::-1], dim=1),
    "sort": lambda net, s: torch.sort(s, dim=1, descending=True).values,
    "argmax": lambda net, s: (s.argmax(1, True) == torch.arange(5)).float(),
    "norm": lambda net, s: net.layer(s),
    "attention": lambda net, s: net.attention(s[:, None], s[:, None], s[:, None])[0][:, 0],
    "parameter": lambda net, s: s * net.gain,
    "in place": lambda net, s: s.clone().mul_(net.gain).add_(0.25),
    "functional": lambda net, s: F.linear(s, net.fc2.weight),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_that_no_file_describes_runs_on_the_host(layer):
    torch.manual_seed(0)
    net = Net(
        middle_of(LAYERS[layer]),
        layer=nn.LayerNorm(5),
        attention=nn.MultiheadAttention(5, 1, batch_first=True),
    )
    net.gain = nn.Parameter(torch.tensor([1.0, 0.5, 2.0, 1.0, 1.5]))
    x = numbers(9, 6)
    graph = rolled(net, x)
    assert ops(graph).count("neuron") == 2
    mapped = map_model(net, calibration=x)
    assert torch.equal(simulate(mapped, x).logits, simulate(mapped, x, "reference").logits)


def test_layers_of_images_that_no_file_describes():
    class Images(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.shuffle = nn.GroupNorm(2, 4), nn.PixelShuffle(2)
            self.conv = nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect")
            self.fc, self.act = nn.Linear(64, 3), nn.SiLU()
            self.fc.weight.data.abs_().mul_(4)
            self.lif1, self.lif2 = (
                snn.Leaky(0.5, init_hidden=True),
                snn.Leaky(0.5, init_hidden=True),
            )

        def forward(self, x):
            utils.reset(self)
            total = 0
            for _ in range(4):
                spikes = self.lif1(self.act(self.norm(self.conv(x))))
                total += self.lif2(self.fc(self.shuffle(spikes).flatten(1)))
            return total

    torch.manual_seed(0)
    rolled(Images(), torch.rand(7, 1, 4, 4) * 4)


def test_an_encoder_in_front_of_the_loop_stays_on_the_host():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            out = self.norm(self.conv(x))
            out += x
            return self.relu(out)

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(
                nn.Conv2d(1, 2, 3, bias=False), nn.SiLU(inplace=True), nn.MaxPool2d(2)
            )
            self.block, self.pool = Block(), nn.AdaptiveAvgPool2d(1)
            self.fc1, self.lif1 = nn.Linear(2, 8), snn.Leaky(0.9)
            self.fc2, self.lif2 = nn.Linear(8, 3), snn.Leaky(0.9, reset_mechanism="zero")

        def forward(self, x):
            features = torch.flatten(self.pool(self.block(self.stem(x))), 1)
            m1, m2 = self.lif1.init_leaky(), self.lif2.init_leaky()
            record = []
            for _ in range(5):
                spikes, m1 = self.lif1(self.fc1(features), m1)
                spikes, m2 = self.lif2(self.fc2(spikes), m2)
                record.append(spikes)
            return torch.stack(record).sum(0)

    torch.manual_seed(0)
    net = Whole()
    net.fc1.weight.data *= 8
    net.fc2.weight.data.abs_()
    graph = rolled(net, torch.rand(7, 1, 8, 8) * 4)
    assert {"torch", "batchnorm", "add", "global_avgpool"} <= set(ops(graph))
    assert all(node.type.steps is None for node in graph if node.op in ("conv2d", "torch"))


# spikes stay spikes


@pytest.mark.parametrize(
    "function",
    [
        F.relu,
        torch.abs,
        lambda s: s.clamp(0, 1),
        lambda s: s.float(),
        lambda s: F.dropout(s, 0.5, training=False),
        lambda s: s.view(s.size(0), -1),
        lambda s: s.detach().clone(),
        nn.Dropout(0.2),
        nn.ReLU(),
        nn.Flatten(),
    ],
)
def test_what_leaves_spikes_as_they_are_leaves_the_layers_on_the_chip(function):
    torch.manual_seed(0)
    net, x = Net(middle_of(lambda net, s: function(s))), numbers(9, 6)
    if isinstance(function, nn.Module):
        net.middle = function
    rolled(net, x)
    mapped = map_model(net, calibration=x)
    assert "fc2" in {name for segment in mapped.partition.on_chip for name in segment.nodes}


def test_two_phases_of_which_the_second_takes_the_count_of_the_first():
    def loop(net, x):
        m1, m2 = net.lif1.init_leaky(), net.lif2.init_leaky()
        total = 0
        for _ in range(6):
            spikes, m1 = net.lif1(net.fc1(x), m1)
            total = total + spikes
        count = 0
        for _ in range(4):
            spikes, m2 = net.lif2(net.fc2(total), m2)
            count = count + spikes
        return count

    torch.manual_seed(0)
    graph = rolled(Net(loop), numbers(9, 6))
    assert {node.type.steps for node in graph if node.op == "neuron"} == {4, 6}


def test_tutorial_7_in_an_outer_loop_over_events():
    torch.manual_seed(0)
    options = {"beta": 0.5, "init_hidden": True, "reset_mechanism": "zero"}
    net = nn.Sequential(
        nn.Conv2d(2, 4, 5),
        nn.MaxPool2d(2),
        snn.Leaky(**options),
        nn.Conv2d(4, 6, 5),
        nn.MaxPool2d(2),
        snn.Leaky(**options),
        nn.Flatten(),
        nn.Linear(6 * 5 * 5, 10),
        snn.Leaky(**options, output=True),
    )
    for layer in net:
        if hasattr(layer, "weight"):
            layer.weight.data *= 3
    x = (torch.rand(5, 4, 2, 34, 34) < 0.3).float()
    looped = has8.over_time(net, input="steps", readout="spikes")
    mapped = map_model(looped, calibration=x, inputs="spikes")
    assert simulate(mapped, x).logits.shape == (5, 4, 10)


def test_modules_used_twice_in_a_step():
    def loop(net, x):
        m1, m2, total = net.lif1.init_leaky(), net.lif2.init_leaky(), 0
        for _ in range(5):
            spikes, m1 = net.lif1(net.fc1(x), m1)
            spikes, m2 = net.lif2(net.fc2(net.fc2(spikes)), m2)
            total = total + spikes
        return total

    torch.manual_seed(0)
    assert ops(rolled(Net(loop), numbers(9, 6))).count("linear") == 3


@pytest.mark.parametrize("images", [False, True])
def test_spikes_side_by_side_take_their_own_part_of_the_weights(images):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            options = {"init_hidden": True, "reset_mechanism": "zero"}
            self.one, self.two = (nn.Conv2d(1, n, 3, padding=1) for n in (2, 3))
            self.lif1, self.lif2 = snn.Leaky(0.5, **options), snn.Leaky(0.5, **options)
            self.behind = nn.Conv2d(5, 4, 3) if images else nn.Linear(5 * 16, 4)
            self.norm = nn.BatchNorm2d(4) if images else nn.Identity()
            self.lif3 = snn.Leaky(0.5, **options)
            for parameter in self.parameters():
                parameter.data = (parameter * 64).round() / 16 + 0.125

        def forward(self, x):
            utils.reset(self)
            record = []
            for step in x:
                both = torch.cat([self.lif1(self.one(step)), self.lif2(self.two(step))], dim=1)
                both = both if images else both.flatten(1)
                record.append(self.lif3(self.norm(self.behind(both))))
            return torch.stack(record)

    torch.manual_seed(0)
    net, x = Branches().eval(), (torch.rand(5, 8, 1, 4, 4) < 0.5).float()
    mapped = map_model(net, calibration=x, inputs="spikes")
    (chip,) = mapped.chip_segments
    assert [len(p.synapses) for p in chip.populations] == [1, 1, 2]
    with torch.no_grad():
        expected = net(x)
    assert expected.any() and torch.allclose(evaluate(mapped.graph, x), expected, atol=1e-5)
    assert torch.equal(simulate(mapped, x).logits, simulate(mapped, x, "reference").logits)
