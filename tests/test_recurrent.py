"""Spikes of steps before: snnTorch's recurrent neurons, feedback and delays by hand."""

from dataclasses import replace

import pytest
import snntorch as snn
import torch
from builders import law, registers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from has8.errors import TraceError
from hwsim import agreement, estimate, simulate
from mapping import load, map_model, save
from mapping.graph.evaluate import evaluate
from mapping.graph.ir import Graph, Signal
from mapping.graph.passes import run_passes
from mapping.graph.trace.steps import trace_steps
from mapping.graph.verify import verify_graph
from mapping.partition.rules import reject


def exact(net):
    """Weights that float32 adds without rounding."""
    for parameter in net.parameters():
        if parameter.dim():
            parameter.data = (parameter * 32).round() / 16
    return net


def numbers(*shape):
    return torch.randint(-4, 12, shape) / 4


def check(net, x, steps=None):
    """The graph of a net, which fires, equal to the net on samples that the trace did not see."""
    some, shape = (x[:, :3], x.shape[2:]) if steps else (x[:3], x.shape[1:])
    graph = trace_steps(net, some, Signal(tuple(shape), steps=steps))
    with torch.no_grad():
        expected = net(x)
    assert expected.any() and torch.equal(evaluate(graph, x), expected)
    return graph


CELLS = {
    "all": lambda reset: snn.RLeaky(0.5, linear_features=5, reset_mechanism=reset),
    "one": lambda reset: snn.RLeaky(0.5, V=-0.75, all_to_all=False, reset_mechanism=reset),
    "each": lambda reset: snn.RLeaky(
        0.5, V=torch.tensor([0.5, -0.5, 1.0, 0.0, -2.0]), all_to_all=False, reset_mechanism=reset
    ),
    "lasting": lambda reset: snn.RSynaptic(0.5, 0.25, linear_features=5, reset_mechanism=reset),
}


class Recurrent(nn.Module):
    """One recurrent layer, whose state the loop passes on, between two others."""

    def __init__(self, cell, steps=9):
        super().__init__()
        self.fc, self.cell, self.out = nn.Linear(6, 5), cell, nn.Linear(5, 5)
        self.lif, self.steps = snn.Leaky(0.5, reset_mechanism="zero"), steps
        exact(self)

    def forward(self, x):
        states, membrane, record = self.cell.reset_mem(), self.lif.reset_mem(), []
        for _ in range(self.steps):
            states = self.cell(self.fc(x), *states)
            spikes, membrane = self.lif(self.out(states[0]), membrane)
            record.append(spikes)
        return torch.stack(record)


@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
@pytest.mark.parametrize("kind", CELLS)
def test_snntorchs_recurrent_neurons(kind, reset):
    torch.manual_seed(2)
    graph = check(Recurrent(CELLS[kind](reset)), numbers(9, 6))
    assert [n.op for n in graph].count("delay") == 1


def test_a_recurrent_convolution_with_its_state_inside():
    class Images(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1)
            options = {"init_hidden": True, "reset_mechanism": "zero"}
            self.cell = snn.RLeaky(0.5, conv2d_channels=2, kernel_size=3, **options)
            exact(self)

        def forward(self, x):
            self.cell.reset_mem()
            return torch.stack([self.cell(self.conv(x)) for _ in range(5)])

    torch.manual_seed(0)
    check(Images(), numbers(7, 1, 4, 4))


class Loop(nn.Module):
    """Two layers and a loop that is given."""

    def __init__(self, loop, bias=True):
        super().__init__()
        self.fc1, self.fc2, self.rec = (nn.Linear(n, 5, bias=bias) for n in (6, 5, 5))
        self.both = nn.Linear(11, 5)
        self.lif1, self.lif2 = (snn.Leaky(0.5, reset_mechanism="zero") for _ in range(2))
        self.loop = loop
        exact(self)

    def forward(self, x):
        return torch.stack(self.loop(self, x))


def by_hand(net, x):
    m, spikes, record = net.lif1.reset_mem(), torch.zeros(len(x), 5), []
    for _ in range(7):
        spikes, m = net.lif1(net.fc1(x) + net.rec(spikes), m)
        record.append(spikes)
    return record


def joined(net, x):
    m, spikes, record = net.lif1.reset_mem(), torch.zeros(len(x), 5), []
    for _ in range(7):
        spikes, m = net.lif1(net.both(torch.cat([x, spikes], dim=1)), m)
        record.append(spikes)
    return record


def inhibited(net, x):
    m, spikes, record = net.lif1.reset_mem(), torch.zeros(len(x), 5), []
    for _ in range(7):
        spikes, m = net.lif1(net.fc1(x) - spikes @ net.rec.weight.abs(), m)
        record.append(spikes)
    return record


def of_weights(net, x):
    m, spikes, record = net.lif1.reset_mem(), torch.zeros(len(x), 5), []
    for _ in range(7):
        back = F.linear(spikes, net.rec.weight, bias=net.fc2.bias)
        spikes, m = net.lif1(net.fc1(x) + back + torch.mm(spikes, net.fc2.weight.t()), m)
        record.append(spikes)
    return record


def delayed(net, x):
    m1, m2 = net.lif1.reset_mem(), net.lif2.reset_mem()
    past, record = [torch.zeros(len(x), 5)] * 3, []
    for _ in range(8):
        spikes, m1 = net.lif1(net.fc1(x), m1)
        past.append(spikes)
        spikes, m2 = net.lif2(net.fc2(past.pop(0)), m2)
        record.append(spikes)
    return record


def two_layers(net, x):
    m1, m2 = net.lif1.reset_mem(), net.lif2.reset_mem()
    back, record = torch.zeros(len(x), 5), []
    for _ in range(8):
        spikes, m1 = net.lif1(net.fc1(x) + net.rec(back), m1)
        back, m2 = net.lif2(net.fc2(spikes), m2)
        record.append(back)
    return record


def currents_of_the_step_before(net, x):
    m1, m2, current = net.lif1.reset_mem(), net.lif2.reset_mem(), torch.zeros(len(x), 5)
    record = []
    for _ in range(6):
        spikes, m1 = net.lif1(net.fc1(x), m1)
        _, m2 = net.lif2(current, m2)
        record.append(_)
        current = net.fc2(spikes)
    return record


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "loop",
    [by_hand, joined, inhibited, of_weights, delayed, two_layers, currents_of_the_step_before],
)
def test_spikes_of_the_steps_before_by_hand(loop, bias):
    torch.manual_seed(0)
    graph = check(Loop(loop, bias), numbers(9, 6))
    assert "delay" in [n.op for n in graph]


@law(30)
@given(steps=st.integers(1, 50), seed=st.integers(0, 999), kind=st.sampled_from(sorted(CELLS)))
def test_for_any_number_of_steps(steps, seed, kind):
    torch.manual_seed(seed)
    if kind == "lasting":  # two decays: float32 holds no more steps without rounding
        steps = min(steps, 9)
    net, x = Recurrent(CELLS[kind]("subtract"), steps), numbers(5, 6)
    graph = trace_steps(net, x[:3], Signal((6,)))
    with torch.no_grad():
        assert torch.equal(evaluate(graph, x), net(x))
        assert torch.equal(evaluate(run_passes(graph), x), net(x))


def from_ones(net, x):
    m, spikes, record = net.lif1.reset_mem(), torch.ones(len(x), 5), []
    for _ in range(4):
        spikes, m = net.lif1(net.fc1(x) + net.rec(spikes), m)
        record.append(spikes)
    return record


def of_step_0(net, x):
    m, m2, first, record = net.lif1.reset_mem(), net.lif2.reset_mem(), None, []
    for _ in range(4):
        spikes, m = net.lif1(net.fc1(x), m)
        first = spikes if first is None else first
        spikes, m2 = net.lif2(net.fc2(first), m2)
        record.append(spikes)
    return record


@pytest.mark.parametrize(
    ("loop", "sentence"),
    [
        (from_ones, "at step 1 neuron 'lif1' .* takes its current from 'add'"),
        (of_step_0, "at step 1 neuron 'lif2' .* takes its current from 'fc2' 1 step ago"),
    ],
)
def test_what_does_not_repeat_is_refused_with_layer_and_step(loop, sentence):
    torch.manual_seed(0)
    with pytest.raises(TraceError, match=sentence):
        trace_steps(Loop(loop), numbers(3, 6), Signal((6,)))


def test_a_mapping_of_a_loop_comes_back_from_its_file(tmp_path):
    torch.manual_seed(2)
    x = numbers(9, 6)
    mapped = map_model(Recurrent(CELLS["all"]("zero")), calibration=x)
    again = load(save(mapped, tmp_path / "loop.h8"))
    assert torch.equal(evaluate(again.graph, x), evaluate(mapped.graph, x))


@pytest.mark.parametrize("kind", ["all", "one", "lasting"])
def test_recurrent_layers_run_on_the_chip(kind):
    torch.manual_seed(2)
    net, x = Recurrent(CELLS[kind]("zero")), (torch.rand(9, 12, 6) < 0.5).float()

    class OfSteps(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            net = self.net
            states, membrane, record = net.cell.reset_mem(), net.lif.reset_mem(), []
            for step in x:
                states = net.cell(net.fc(step), *states)
                spikes, membrane = net.lif(net.out(states[0]), membrane)
                record.append(spikes)
            return torch.stack(record)

    mapped = map_model(OfSteps(), calibration=x, inputs="spikes")
    (chip,) = mapped.chip_segments
    loops = [s for p, s in chip.synapses() if s.source == p.name]
    assert [s.delay for s in loops] == [1]
    fast, slow = (simulate(mapped, x, backend) for backend in ("fast", "reference"))
    assert torch.equal(fast.logits, slow.logits) and fast.logits.any()
    same = (fast.logits == evaluate(mapped.graph, x)).float().mean()
    assert same > 0.95, "8-bit weights change few spikes"
    found = agreement(mapped, x, batch_size=5)
    assert torch.equal(found.float_answers, evaluate(mapped.graph, x).sum(0).argmax(1))
    assert sum(layer.differing for layer in found.layers) < sum(x.values for x in found.layers) / 10
    if kind == "all":
        assert torch.equal(simulate(mapped, x[:, :2], "lava").logits, fast.logits[:, :2])
        assert estimate(mapped, fast).energy_uj.total.value > 0
        found = map_model(OfSteps(), calibration=x, inputs="spikes", scales="search")
        assert simulate(found, x).logits.any()


@pytest.mark.parametrize("loop", [delayed, two_layers, by_hand, inhibited, of_weights])
def test_loops_by_hand_on_the_chip_or_on_the_host_with_a_reason(loop):
    torch.manual_seed(0)
    net, x = Loop(loop), numbers(9, 6)
    mapped = map_model(net, calibration=x)
    reasons = {r.node: r.reason for r in mapped.partition.rejections}
    assert ("lif1" in reasons) == (loop is two_layers)
    chip = [s for chip in mapped.chip_segments for _, s in chip.synapses()]
    delays = {delayed: [3], two_layers: [], of_weights: [1, 1]}.get(loop, [1])
    assert [s.delay for s in chip] == delays
    assert torch.equal(simulate(mapped, x).logits, simulate(mapped, x, "reference").logits)


def subtracted(net, x):
    m, spikes, record = net.lif1.reset_mem(), torch.zeros(len(x), 5), []
    for _ in range(7):
        spikes, m = net.lif1(net.fc1(x) - 0.5 * net.rec(spikes), m)
        record.append(spikes)
    return record


def halved_twice(net, x):
    m1, m2, record = net.lif1.reset_mem(), net.lif2.reset_mem(), []
    for _ in range(7):
        spikes, m1 = net.lif1(net.fc1(x), m1)
        current = net.fc2(spikes)
        _, m2 = net.lif2(0.5 * (-0.5 * current), m2)
        record.append(_)
    return record


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("loop", [subtracted, halved_twice])
def test_a_factor_on_a_current_goes_into_its_layer(loop, bias):
    torch.manual_seed(0)
    net, x = Loop(loop, bias), numbers(9, 6)
    net.lif2.threshold.fill_(0.0625)
    graph = check(net, x)
    assert "scale" in [n.op for n in graph]
    folded = run_passes(graph)
    assert "scale" not in [n.op for n in folded]
    assert torch.equal(evaluate(folded, x), evaluate(graph, x))
    mapped = map_model(net, calibration=x)
    layer = "rec" if loop is subtracted else "fc2"
    assert layer in [s.name for chip in mapped.chip_segments for _, s in chip.synapses()]
    assert torch.equal(simulate(mapped, x).logits, simulate(mapped, x, "reference").logits)


def of_each(net, x):
    m, spikes, record = net.lif1.reset_mem(), torch.zeros(len(x), 5), []
    for _ in range(7):
        spikes, m = net.lif1(net.fc1(x) - 0.75 * spikes, m)
        record.append(spikes)
    return record


def of_each_from_a_number(net, x):
    m, spikes, record = net.lif1.reset_mem(), 0, []
    for _ in range(7):
        spikes, m = net.lif1(0.5 * spikes + net.fc1(x), m)
        record.append(spikes)
    return record


def of_each_other(net, x):
    m1, m2, record = net.lif1.reset_mem(), net.lif2.reset_mem(), []
    before, last = torch.zeros(2, len(x), 5)
    for _ in range(7):
        spikes, m1 = net.lif1(net.fc1(x) - before, m1)
        before = last
        last, m2 = net.lif2(spikes, m2)
        record.append(last)
    return record


@pytest.mark.parametrize(
    ("loop", "delays", "weights"),
    [
        (of_each, {1: "lif1"}, [-0.75]),
        (of_each_from_a_number, {1: "lif1"}, [0.5]),
        (of_each_other, {2: "lif2", 0: "lif1"}, [-1.0, 1.0]),
    ],
)
def test_spikes_that_are_fed_back_as_they_are_go_through_one_synapse_each(loop, delays, weights):
    torch.manual_seed(0)
    net, x = Loop(loop), numbers(9, 6)
    net.lif1.threshold.fill_(2.0)
    net.lif2.threshold.fill_(0.5)
    graph = run_passes(check(net, x))
    assert torch.equal(evaluate(graph, x), net(x))
    each = [node for node in graph if node.op == "one_to_one"]
    assert sorted(node.tensors["weight"].unique().item() for node in each) == weights
    mapped = map_model(net, calibration=x)
    assert {r.node for r in mapped.partition.rejections} <= {"fc1"}
    (chip,) = mapped.chip_segments
    names = {node.name for node in each}
    assert {s.delay: s.source for _, s in chip.synapses() if s.name in names} == delays
    fast, slow = (simulate(mapped, x, backend) for backend in ("fast", "reference"))
    assert torch.equal(fast.logits, slow.logits)
    assert torch.equal(fast.logits, evaluate(graph, x)), "all weights are exact in 8 bits"


def test_two_functions_with_weights_of_their_own_on_the_same_spikes_are_two_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 5)
            self.one, self.two = (nn.Parameter(torch.rand(5, 4)) for _ in range(2))
            self.kernel = nn.Parameter(torch.randn(1, 1, 3))
            self.lifs = nn.ModuleList(snn.Leaky(0.5, threshold=0.5) for _ in range(4))

        def forward(self, x):
            a, b, c, d = (lif.reset_mem() for lif in self.lifs)
            total = 0
            for step in x:
                spikes, a = self.lifs[0](self.fc(step), a)
                one, b = self.lifs[1](spikes @ self.one, b)
                two, c = self.lifs[2](spikes @ self.two, c)
                three, d = self.lifs[3](
                    F.conv1d(spikes.unsqueeze(1), self.kernel, padding=1).flatten(1), d
                )
                total = total + one - two + 2 * three[:, :4]
            return total

    torch.manual_seed(0)
    net, x = exact(Net()), (torch.rand(6, 9, 6) < 0.5).float()
    mapped = map_model(net, calibration=x, inputs="spikes")
    with torch.no_grad():
        assert torch.equal(evaluate(mapped.graph, x), net(x))
    ops = [node.op for node in mapped.graph if node.op in ("linear", "conv1d")]
    assert sorted(ops) == ["conv1d", "linear", "linear", "linear"]


def test_a_factor_on_a_current_that_is_used_without_it_stays():
    def loop(net, x):
        m1, m2, record = net.lif1.reset_mem(), net.lif2.reset_mem(), []
        for _ in range(5):
            spikes, m1 = net.lif1(net.fc1(x), m1)
            current = net.fc2(spikes)
            spikes, m2 = net.lif2(0.5 * current + current, m2)
            record.append(spikes)
        return record

    torch.manual_seed(0)
    x = numbers(9, 6)
    graph = check(Loop(loop), x)
    assert torch.equal(evaluate(run_passes(graph), x), evaluate(graph, x))


def of_itself(net, x):
    m1, m2 = net.lif1.reset_mem(), net.lif2.reset_mem()
    back, record = torch.zeros(len(x), 5), []
    for _ in range(5):
        back, m1 = net.lif1(net.rec(back), m1)
        spikes, m2 = net.lif2(net.fc1(x) + net.fc2(back), m2)
        record.append(spikes)
    return record


def test_a_loop_that_nothing_outside_feeds_is_refused():
    torch.manual_seed(0)
    sentence = "in a loop over steps that nothing outside feeds"
    with pytest.raises(TraceError, match=sentence):
        trace_steps(Loop(of_itself), numbers(3, 6), Signal((6,)))
    graph = check(Loop(by_hand), numbers(9, 6))
    (late,) = [n for n in graph if n.op == "delay"]
    alone = replace(late, name="alone", inputs=("alone",))
    with pytest.raises(ValueError, match=f"node 'alone' is {sentence}"):
        verify_graph(Graph((*graph.nodes[:-1], alone, graph.output)))


@pytest.mark.parametrize("most", [3, 2])
def test_a_delay_that_the_target_lacks_keeps_its_neuron_on_the_host(most):
    torch.manual_seed(0)
    graph = run_passes(check(Loop(delayed), numbers(9, 6)))
    reasons = reject(graph, registers(delay_max=most))
    sentence = "'fc2' takes spikes 3 steps late, and the target delays them by 2 at most"
    assert reasons.get("lif2") == (None if most == 3 else sentence)


@pytest.mark.parametrize("late", [62, 63])
def test_loihi_delays_spikes_by_62_steps(late):
    def loop(net, x):
        m1, m2 = net.lif1.reset_mem(), net.lif2.reset_mem()
        past, record = [torch.zeros(len(x), 5)] * late, []
        for _ in range(late + 3):
            spikes, m1 = net.lif1(net.fc1(x), m1)
            past.append(spikes)
            spikes, m2 = net.lif2(net.fc2(past.pop(0)), m2)
            record.append(spikes)
        return record

    torch.manual_seed(0)
    x = numbers(5, 6)
    mapped = map_model(Loop(loop), calibration=x)
    assert {s.delay for c in mapped.chip_segments for _, s in c.synapses()} - {0} == (
        {62} if late == 62 else set()
    )
    assert ("lif2" in {r.node for r in mapped.partition.rejections}) == (late == 63)
    assert torch.equal(simulate(mapped, x).logits, simulate(mapped, x, "reference").logits)
