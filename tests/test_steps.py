"""A network that loops over its steps is rolled up into the graph that computes the same."""

from itertools import pairwise

import pytest
import snntorch as snn
import torch
from builders import law
from hypothesis import given
from hypothesis import strategies as st
from snntorch import utils
from torch import nn
from torch.nn import functional as F

import has8
from has8.errors import BadInput, TraceError
from hwsim import compare, estimate, simulate
from mapping import load, map_model, save
from mapping.graph.evaluate import evaluate
from mapping.graph.ir import Kind, Signal
from mapping.graph.trace.steps import trace_steps


class Tutorial5(nn.Module):
    """As snnTorch's tutorial 5 writes it."""

    def __init__(self, reset="zero", steps=25):
        super().__init__()
        self.fc1 = nn.Linear(784, 100)
        self.lif1 = snn.Leaky(beta=0.95, reset_mechanism=reset)
        self.fc2 = nn.Linear(100, 10)
        self.lif2 = snn.Leaky(beta=0.95, reset_mechanism=reset)
        self.num_steps = steps

    def forward(self, x):
        mem1 = self.lif1.init_leaky()
        mem2 = self.lif2.init_leaky()
        spk2_rec, mem2_rec = [], []
        for _step in range(self.num_steps):
            cur1 = self.fc1(x)
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = self.fc2(spk1)
            spk2, mem2 = self.lif2(cur2, mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        return torch.stack(spk2_rec, dim=0), torch.stack(mem2_rec, dim=0)


class Tutorial6(nn.Module):
    """As snnTorch's tutorial 6 writes it: pooled currents, state inside, cleared by its utility."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.lif1 = snn.Leaky(beta=0.5, init_hidden=True, reset_mechanism="zero")
        self.conv2 = nn.Conv2d(4, 8, 3)
        self.lif2 = snn.Leaky(beta=0.5, init_hidden=True, reset_mechanism="zero")
        self.fc1 = nn.Linear(8, 10)
        self.lif3 = snn.Leaky(beta=0.5, init_hidden=True, output=True, reset_mechanism="zero")

    def forward(self, x):
        utils.reset(self)
        total = torch.zeros(x.size(0), 10)
        for _ in range(5):
            spikes = self.lif1(F.max_pool2d(self.conv1(x), 2))
            spikes = self.lif2(self.conv2(spikes))
            spikes, _membrane = self.lif3(self.fc1(spikes.view(x.size(0), -1)))
            total = total + spikes
        return total


def rolled(net, x, time=False, kind=Kind.VALUE, output=0):
    """The graph of a net, from two of the samples."""
    shape = tuple(x.shape[2:] if time else x.shape[1:])
    some = x[:, :2] if time else x[:2]
    return trace_steps(net, some, Signal(shape, kind, len(x) if time else None), output)


def ops(graph):
    return [node.op for node in graph]


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_tutorial_5_maps_and_all_backends_agree(reset):
    torch.manual_seed(0)
    net, x = Tutorial5(reset), torch.rand(20, 784) * 2
    mapped = map_model(net, calibration=x)
    assert [n.op for n in mapped.graph if n.type.steps == 25].count("neuron") == 2
    fast, slow = simulate(mapped, x), simulate(mapped, x, "reference")
    assert torch.equal(fast.logits, slow.logits)
    assert fast.logits.shape == (25, 20, 10) and fast.logits.any()
    assert estimate(mapped, fast).energy_uj.total.value > 0


def test_of_several_outputs_an_option_says_which():
    net, x = Tutorial5(), torch.rand(6, 784) * 2
    with torch.no_grad():
        spikes, membranes = net(x)
    one, two = (map_model(net, calibration=x, output=which, partition="none") for which in (0, 1))
    assert torch.equal(evaluate(one.graph, x), spikes)
    assert torch.allclose(evaluate(two.graph, x), membranes, atol=1e-5)
    reasons = {r.node: r.reason for r in two.partition.rejections}
    assert "membrane is read" in reasons["lif2.membrane"]
    with pytest.raises(TraceError, match="returns 2 tensors"):
        map_model(net, calibration=x, output=2)


def test_tutorial_6_maps_with_its_pooled_currents_written_by_the_host():
    torch.manual_seed(0)
    net, x = Tutorial6(), torch.rand(9, 1, 8, 8) * 3
    mapped = map_model(net, calibration=x)
    chip = {name for segment in mapped.partition.on_chip for name in segment.nodes}
    assert {"lif1", "conv2", "lif2", "fc1", "lif3"} <= chip
    assert "conv1" not in chip
    with torch.no_grad():
        assert torch.equal(evaluate(mapped.graph, x), net(x))
    assert torch.equal(simulate(mapped, x).logits, simulate(mapped, x, "reference").logits)


@pytest.mark.parametrize(
    "readout", ["count", "spikes", "membrane_sum", "membrane_last", "membrane_max"]
)
def test_a_loop_from_outside_comes_with_over_time(readout):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        snn.Leaky(beta=0.5, init_hidden=True, reset_mechanism="zero"),
        nn.Flatten(),
        nn.Linear(4 * 36, 10),
        snn.Leaky(beta=0.9, init_hidden=True, output=True, reset_mechanism="zero"),
    )
    x = torch.rand(7, 1, 8, 8) * 3
    looped = has8.over_time(net, steps=6, readout=readout)
    with torch.no_grad():
        expected = looped(x)
        assert torch.equal(looped(x), expected), "state must not be carried over"
    mapped = map_model(looped, calibration=x)
    assert expected.any() and torch.allclose(evaluate(mapped.graph, x), expected, atol=1e-4)


def test_spikes_from_the_start_go_to_the_chip(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        snn.Leaky(beta=0.5, threshold=0.3, init_hidden=True, reset_mechanism="zero"),
        nn.Flatten(),
        nn.Linear(4 * 36, 10),
        snn.Leaky(beta=0.9, threshold=0.3, init_hidden=True, reset_mechanism="zero"),
    )
    looped = has8.over_time(net, readout="count", input="steps")
    x = (torch.rand(6, 9, 2, 8, 8) < 0.5).float()
    mapped = map_model(looped, calibration=x, inputs="spikes")
    (chip,) = mapped.chip_segments
    assert [port.name for port in chip.inputs] == ["input"] and len(chip.populations) == 2
    run = simulate(mapped, x, batch_size=4)
    assert run.activity.samples == 9 and run.logits.shape == (9, 10) and run.logits.any()
    assert torch.equal(run.logits, simulate(mapped, x, "reference").logits)
    assert compare(mapped, x, "fast", "reference").samples == 9
    again = load(save(mapped, tmp_path / "spikes.h8"))
    assert again.graph.input.type == Signal((2, 8, 8), Kind.SPIKE, 6)
    assert torch.equal(simulate(again, x).logits, run.logits)
    for wrong in (x[:5], x[0], x * 0.5):
        with pytest.raises(BadInput):
            simulate(mapped, wrong)
    with pytest.raises(BadInput, match="0 or 1"):
        map_model(looped, calibration=x * 0.5, inputs="spikes")
    values = map_model(looped, calibration=x * 0.5, inputs="steps")
    assert values.graph.input.type.kind is Kind.VALUE
    assert simulate(values, x * 0.5, batch_size=4).logits.shape == (9, 10)


class Looped(nn.Module):
    """A random net as people write them; all its numbers are exact in float32."""

    def __init__(self, kinds, conv, steps, inside, readout):
        super().__init__()
        widths = [12, *(4 + place for place in range(len(kinds)))]
        self.first = nn.Conv2d(1, 2, 3, padding=1) if conv else nn.Identity()
        widths[0] *= 2 if conv else 1
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.cells = nn.ModuleList(
            snn.Synaptic(alpha=0.5, beta=0.25, reset_mechanism=reset)
            if synaptic
            else snn.Leaky(beta=0.5, reset_mechanism=reset)
            for synaptic, reset in kinds
        )
        for parameter in self.first.parameters():
            parameter.data = (parameter * 8).round() / 8
        for layer in self.layers:
            layer.weight.data = (layer.weight * 32).round() / 8
            layer.bias.data = (layer.bias * 8).round() / 8
        self.steps, self.inside, self.readout = steps, inside, readout

    def forward(self, x):
        states = [cell.reset_mem() for cell in self.cells]
        states = [state if isinstance(state, tuple) else (state,) for state in states]
        spikes, total = [], 0
        for step in range(self.steps):
            flowing = self.first(x[step] if self.inside else x).flatten(1)
            for place, (layer, cell) in enumerate(zip(self.layers, self.cells, strict=True)):
                flowing, *states[place] = cell(layer(flowing), *states[place])
            spikes.append(flowing)
            total += flowing
        if self.readout == "stack":
            return torch.stack(spikes)
        if self.readout == "sum":
            return torch.stack(spikes).sum(dim=0)
        return {"total": total, "last": flowing}[self.readout]


@law(60)
@given(
    kinds=st.lists(
        st.tuples(st.booleans(), st.sampled_from(["zero", "subtract", "none"])),
        min_size=1,
        max_size=3,
    ),
    conv=st.booleans(),
    steps=st.integers(1, 12),
    inside=st.booleans(),
    readout=st.sampled_from(["stack", "sum", "total", "last"]),
    seed=st.integers(0, 1000),
)
def test_a_random_loop_equals_its_rolled_graph(kinds, conv, steps, inside, readout, seed):
    torch.manual_seed(seed)
    net = Looped(kinds, conv, steps, inside, readout)
    shape = (steps, 5, 1, 3, 4) if inside else (5, 1, 3, 4)
    x = torch.randint(-4, 9, shape) / 4
    graph = rolled(net, x, time=inside)
    assert ops(graph).count("neuron") == len(kinds)
    with torch.no_grad():
        assert torch.equal(evaluate(graph, x), net(x))


class Small(nn.Module):
    """Two layers whose loop is given."""

    def __init__(self, loop, **options):
        super().__init__()
        self.fc1, self.fc2, self.other = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(6, 5)
        self.lif1 = snn.Leaky(beta=0.5, reset_mechanism="zero", **options)
        self.lif2 = snn.Leaky(beta=0.5, reset_mechanism="zero", **options)
        self.loop = loop

    def forward(self, x):
        return self.loop(self, x)


def cleared(net):
    return net.lif1.reset_mem(), net.lif2.reset_mem()


def another_layer_at_step_3(net, x):
    m1, _ = cleared(net)
    record = []
    for step in range(5):
        spikes, m1 = net.lif1((net.other if step == 3 else net.fc1)(x), m1)
        record.append(spikes)
    return torch.stack(record)


def state_of_another_neuron(net, x):
    m1, _ = cleared(net)
    for _ in range(4):
        spikes, m1 = net.lif1(net.fc1(x), m1)
        spikes, _ = net.lif2(net.fc2(spikes), m1)
    return spikes


def decayed_by_hand(net, x):
    m1, _ = cleared(net)
    for _ in range(4):
        spikes, m1 = net.lif1(net.fc1(x), m1)
        m1 = m1 * 0.5
    return spikes


def spikes_of_the_step_before(net, x):
    m1, m2 = cleared(net)
    before = None
    for _ in range(4):
        spikes, m1 = net.lif1(net.fc1(x), m1)
        if before is not None:
            spikes_2, m2 = net.lif2(net.fc2(before), m2)
        before = spikes
    return spikes_2


def never_cleared(net, x):
    for _ in range(3):
        spikes, _ = net.lif1(net.fc1(x) + 0)
    return spikes


def branching(net, x):
    return net.fc1(x) if net.fc2(net.other(x)).tolist()[0][0] > 0 else net.other(x)


def two_lengths(net, x):
    m1, m2 = cleared(net)
    for step in range(5):
        spikes, m1 = net.lif1(net.fc1(x), m1)
        if step < 4:
            spikes_2, m2 = net.lif2(net.fc2(spikes), m2)
    return spikes_2


def shuffled(net, x):
    m1, _ = cleared(net)
    record = []
    for _ in range(3):
        spikes, m1 = net.lif1(net.fc1(x), m1)
        record.append(spikes)
    return torch.stack([record[1], record[0], record[2]])


def random(net, x):
    m1, _ = cleared(net)
    return net.lif1(net.fc1(x) + torch.rand_like(x[:, :5]), m1)[0]


def poisson(net, x):
    m1, _ = cleared(net)
    for _ in range(3):
        spikes, m1 = net.lif1(net.fc1((torch.rand(2, *x.shape) < x)[0].float()), m1)
    return spikes


@pytest.mark.parametrize(
    ("loop", "sentence"),
    [
        (another_layer_at_step_3, "at step 3 neuron 'lif1'.*'other'.*'fc1'"),
        (state_of_another_neuron, "'lif2'.*does not go on with the state"),
        (decayed_by_hand, "'lif1'.*does not go on with the state"),
        (spikes_of_the_step_before, "'lif2'.*in step 0|runs 3 steps and 'fc2'"),
        (never_cleared, "'lif1'.*does not start from zero"),
        (branching, "branches on values"),
        (two_lengths, "'lif2' runs 4 steps and 'fc2', which feeds it, 5"),
        (shuffled, "at step 1 torch.stack"),
        (random, r"'add' in the forward takes random numbers.*write spikegen.rate\(x, num_steps"),
        (poisson, r"'lt' in the forward takes random numbers.*write spikegen.rate\(x, num_steps"),
        (lambda net, x: net.fc2(x), "fails: mat1 and mat2"),
        (lambda net, x: torch.ones(3), "does not come from its input"),
    ],
)
def test_a_loop_that_cannot_be_rolled_up_is_refused_in_one_sentence(loop, sentence):
    torch.manual_seed(0)
    with pytest.raises(TraceError, match=sentence):
        map_model(Small(loop), calibration=torch.rand(4, 6) * 3 + 1)


def test_a_membrane_in_a_layer_stays_on_the_host_with_a_reason():
    def reads_membranes(net, x):
        m1, m2 = cleared(net)
        total = 0
        for _ in range(4):
            _, m1 = net.lif1(net.fc1(x), m1)
            spikes, m2 = net.lif2(net.fc2(m1), m2)
            total = total + spikes
        return total / 4

    torch.manual_seed(0)
    net, x = Small(reads_membranes), torch.rand(8, 6) * 3
    mapped = map_model(net, calibration=x)
    assert not mapped.chip_segments
    reasons = {r.node: r.reason for r in mapped.partition.rejections}
    assert "a chip takes only spikes" in reasons["lif2"]
    with torch.no_grad():
        assert torch.allclose(evaluate(mapped.graph, x), net(x))


@pytest.mark.parametrize("placed", [lambda z, x: z.to(x), lambda z, x: z.type_as(x)])
def test_a_start_of_zeros_may_take_its_type_from_the_data(placed):
    def loop(net, x):
        mem = placed(torch.zeros(len(x), 5), x)
        total = placed(torch.zeros(len(x), 5), x)
        for _ in range(4):
            spikes, mem = net.lif1(net.fc1(x), mem)
            total = total + spikes
        return total

    torch.manual_seed(0)
    net, x = Small(loop), torch.rand(8, 6) * 3
    with torch.no_grad():
        assert net(x).any()
        assert torch.allclose(evaluate(rolled(net, x), x), net(x))


def test_one_neuron_in_two_layers_is_two_nodes():
    def twice(net, x):
        one = two = net.lif1.reset_mem()
        total = torch.zeros(len(x), 5)
        for _ in range(4):
            spikes, one = net.lif1(net.fc1(x), one)
            spikes, two = net.lif1(net.fc2(spikes), two)
            total += spikes
        return total

    torch.manual_seed(0)
    net, x = Small(twice), torch.rand(8, 6) * 3
    graph = rolled(net, x)
    assert ops(graph).count("neuron") == 2
    with torch.no_grad():
        assert torch.allclose(evaluate(graph, x), net(x))


def test_a_forward_that_mixes_samples_is_not_mapped():
    def of_two(net, x):
        return net.fc1(x) if len(x) == 2 else net.fc1(x).flip(0)

    torch.manual_seed(0)
    with pytest.raises(TraceError, match="on other samples"):
        map_model(Small(of_two), calibration=torch.rand(8, 6) * 3)


def test_the_model_stays_as_it_was():
    net, x = Tutorial6(), torch.rand(3, 1, 8, 8)
    known = list(snn.SpikingNeuron.instances)
    map_model(net, calibration=x)
    assert snn.SpikingNeuron.instances[: len(known)] == known
    assert "forward" not in net.lif1.__dict__


def test_over_time_refuses_what_it_cannot_run():
    net = nn.Sequential(nn.Linear(4, 3), snn.Leaky(beta=0.5, init_hidden=True))
    for wrong in ({"steps": 0}, {"steps": 2, "readout": "mean"}, {"steps": 2, "input": "time"}, {}):
        with pytest.raises(BadInput):
            has8.over_time(net, **wrong)
    with pytest.raises(BadInput, match="'1' does not keep its state .*loop over steps.*needs no"):
        has8.over_time(nn.Sequential(nn.Linear(4, 3), snn.Leaky(beta=0.5)), steps=2)
    with pytest.raises(BadInput, match="output=True"):
        has8.over_time(net, steps=2, readout="membrane_last")(torch.rand(2, 4))
    with pytest.raises(BadInput, match="runs 2 steps"):
        has8.over_time(net, steps=2, input="steps")(torch.rand(3, 2, 4))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda record, mem: record, r"a list of 5 tensors, one of each step.*torch\.stack"),
        (lambda record, mem: (record, mem), r"a list of 5 tensors, one of each step.*torch\.stack"),
        (lambda record, mem: tuple(record), r"a tuple of 5 tensors, one of each step"),
        (lambda record, mem: {"spikes": record[-1]}, r"returns a dict.*a tuple of tensors"),
        (lambda record, mem: ([], mem), r"returns a list.*output=N"),
    ],
)
def test_what_is_no_tensor_is_not_taken_for_one(answer, sentence):
    def loop(net, x):
        mem, _ = cleared(net)
        record = []
        for _ in range(5):
            spikes, mem = net.lif1(net.fc1(x), mem)
            record.append(spikes)
        return answer(record, mem)

    with pytest.raises(TraceError, match=sentence):
        map_model(Small(loop), calibration=torch.rand(4, 6))
