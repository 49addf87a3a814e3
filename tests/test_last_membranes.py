"""Membranes that the host reads from the chip once a sample, after the last step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import snntorch as snn
import torch
from builders import LOIHI, feed, law, networks, population, random_inputs, segment
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import has8
from has8.errors import BadInput
from hwsim import Faults, compare, estimate, simulate
from hwsim.backends.fast.backend import Fast
from hwsim.backends.lava.backend import Lava
from hwsim.backends.reference import Reference
from hwsim.experiments.faults import Faulty
from mapping import load, map_model, save
from mapping.chip.check import check_segment
from mapping.chip.segment import ChipSegment
from mapping.graph.evaluate import evaluate
from mapping.integers.rounding import Scale
from mapping.partition.rules import reject
from mapping.tune import tune

REGISTERS = LOIHI.registers


@given(networks(delays=2, loops=True) | networks(), st.data())
@law(40)
def test_all_backends_read_the_register_after_the_last_step(chip, data):
    resets = st.sampled_from(["zero", "subtract", "none"])
    layers = tuple(
        replace(p, neuron=replace(p.neuron, reset=data.draw(resets))) for p in chip.populations
    )
    names = data.draw(st.lists(st.sampled_from([p.name for p in layers]), min_size=1, unique=True))
    chip = replace(chip, populations=layers, membranes=tuple(names))
    fed = random_inputs(chip, 3)
    slow = Reference().compile(chip, REGISTERS)(fed, membranes=True)
    fast = Fast().compile(chip, REGISTERS)(fed)
    assert slow.last.keys() == fast.last.keys() == set(names)
    for name in names:
        assert torch.equal(slow.last[name], slow.membranes[name][-1])
        assert torch.equal(slow.last[name], fast.last[name])


def chain() -> ChipSegment:
    """Two populations behind each other, both of which are read, and one that is not."""
    layers = [
        population("a", (2,), feed("x", [[90, -30], [40, 100]]), threshold=100, dv=2048),
        population("b", (2,), feed("a", [[80, 10], [-20, 70]]), threshold=60, dv=1000, bias=9),
        population("c", (1,), feed("b", [[50, 60]]), threshold=70, dv=0),
    ]
    layers = [replace(p, neuron=replace(p.neuron, reset="subtract")) for p in layers]
    chip = segment(*layers, inputs={"x": (2,)}, steps=3)
    return replace(chip, membranes=("c", "a"))


def test_an_example_by_hand():
    layer = population("n", (1,), feed("x", [[90]]), threshold=100, dv=0)
    layer = replace(layer, neuron=replace(layer.neuron, reset="subtract"))
    chip = replace(segment(layer, inputs={"x": (1,)}, steps=3), membranes=("n",))
    # 90, then 180, which fires; 180 - 100 + 90 is left, or without a last spike 80. All << 6.
    fed = torch.tensor([[[1], [1]], [[1], [1]], [[1], [0]]], dtype=torch.bool)
    for backend in (Reference(), Fast()):
        run = backend.compile(chip, REGISTERS)({"x": fed})
        assert run.last["n"].tolist() == [[170 << 6], [80 << 6]]


def test_lava_reads_them_too():
    chip = chain()
    fed = random_inputs(chip, 4, rate=0.7)
    expected = Reference().compile(chip, REGISTERS)(fed)
    found = Lava().compile(chip, REGISTERS)(fed)
    assert expected.spikes["c"].any()
    for name in chip.membranes:
        assert len(expected.last[name].unique()) > 2
        assert torch.equal(found.last[name], expected.last[name])
    for name in ("a", "b", "c"):
        assert torch.equal(found.spikes[name], expected.spikes[name])


def test_only_populations_are_read():
    with pytest.raises(BadInput, match="no population"):
        check_segment(replace(chain(), membranes=("x",)), REGISTERS)


class Net(nn.Module):
    """snnTorch's form: spikes and membranes of every step in lists."""

    def __init__(self, reset: str = "subtract", read: str = "last") -> None:
        super().__init__()
        self.read = read
        self.fc1, self.fc2 = nn.Linear(12, 40), nn.Linear(40, 4)
        self.l1 = snn.Leaky(0.9)
        self.l2 = snn.Leaky(
            0.8, threshold=torch.tensor([0.5, 1.0, 2.0, 1.5]), reset_mechanism=reset
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        m1, m2 = self.l1.init_leaky(), self.l2.init_leaky()
        spikes, membranes = [], []
        for _ in range(8):
            s1, m1 = self.l1(self.fc1(x), m1)
            s2, m2 = self.l2(self.fc2(s1), m2)
            spikes.append(s2)
            membranes.append(m2)
        spikes, membranes = torch.stack(spikes), torch.stack(membranes)
        return {
            "last": lambda: membranes[-1],
            "both": lambda: spikes.sum(0) + membranes[-1],
            "sum": lambda: membranes.sum(0),
            "max": lambda: membranes.amax(0),
        }[self.read]()


def images(samples: int = 64) -> torch.Tensor:
    return torch.rand(samples, 12, generator=torch.manual_seed(1)) * 3


@pytest.mark.parametrize("read", ["last", "both"])
@pytest.mark.parametrize("scales", ["round", "search"])
def test_all_spiking_layers_are_on_the_chip(read, scales, tmp_path):
    torch.manual_seed(0)
    net, x = Net(read=read), images()
    mapped = map_model(net, calibration=x, scales=scales)
    (on_chip,) = mapped.partition.on_chip
    neurons = [node.name for node in mapped.graph if node.op == "neuron"]
    assert neurons == ["l1", "l2"] and set(neurons) <= set(on_chip.nodes)
    (chip,) = mapped.chip_segments
    assert [p.name for p in chip.populations] == neurons
    assert chip.membranes == ("l2",) and chip.outputs == (("l2",) if read == "both" else ())
    with torch.no_grad():
        expected = net(x)
    assert torch.allclose(evaluate(mapped.graph, x), expected)
    again = load(save(mapped, tmp_path / "x.h8"))
    runs = [simulate(m, x, b, batch_size=9) for m in (mapped, again) for b in ("reference", "fast")]
    for run in runs:
        assert torch.equal(run.logits, runs[0].logits)
    close = (runs[0].logits - expected).abs() <= 2 * mapped.errors["l2"].membrane  # thresholds of 2
    assert close.float().mean() > 0.85
    assert (runs[0].logits.argmax(1) == expected.argmax(1)).float().mean() > 0.9


class Fed(nn.Module):
    """A recurrent read-out, one of snnTorch's or by hand, whose last membrane is the answer."""

    def __init__(self, kind: str, reset: str = "subtract") -> None:
        super().__init__()
        self.fc, self.back, self.kind = nn.Linear(12, 4), nn.Linear(4, 4), kind
        self.out = {
            "all": lambda: snn.RLeaky(0.75, linear_features=4, reset_mechanism=reset),
            "one": lambda: snn.RLeaky(0.75, V=-0.5, all_to_all=False, reset_mechanism=reset),
            "lasting": lambda: snn.RSynaptic(0.5, 0.75, linear_features=4, reset_mechanism=reset),
        }.get(kind, lambda: snn.Leaky(0.75, reset_mechanism=reset))()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.out.reset_mem()
        spikes, state = torch.zeros(x.shape[1], 4), state if isinstance(state, tuple) else (state,)
        for step in x:
            current = self.fc(step)
            if self.kind == "by hand":
                current = current + self.back(spikes)
            spikes, *state = self.out(current, *state)
            if self.kind != "by hand":
                state = (spikes, *state)
        return state[-1]


@pytest.mark.parametrize("kind", ["all", "one", "lasting", "by hand"])
def test_neurons_in_loops_are_read_too(kind):
    torch.manual_seed(0)
    net, x = Fed(kind), (torch.rand(8, 24, 12) < 0.5).float()
    for bias in (net.fc.bias, net.back.bias):
        bias.data.zero_()  # a current that lasts takes none
    if kind == "lasting":
        net.out.recurrent.bias.data.zero_()
    mapped = map_model(net, calibration=x, inputs="spikes")
    assert not mapped.partition.rejections
    (chip,) = mapped.chip_segments
    assert chip.membranes == ("out",) and chip.loop() and not chip.outputs
    with torch.no_grad():
        expected = net(x)
    assert torch.allclose(evaluate(mapped.graph, x), expected, atol=1e-5)
    fast, slow = (simulate(mapped, x, backend).logits for backend in ("fast", "reference"))
    assert torch.equal(fast, slow)
    assert (fast - expected).abs().median() < 0.1
    tuned = tune(net, LOIHI, calibration=x, inputs="spikes", scales="round")
    tuned(x).square().sum().backward()
    assert all(weight.grad.any() for weight in tuned.weights if weight.any())


def test_one_in_a_loop_that_cannot_be_read_says_why():
    x = (torch.rand(8, 24, 12) < 0.5).float()
    for reset, why in [("zero", "a chip clears it with the spike"), ("none", "no reset by 'none'")]:
        mapped = map_model(Fed("all", reset), calibration=x, inputs="spikes")
        said = {r.node: r.reason for r in mapped.partition.rejections}
        assert why in said["out.membrane"]
        assert "'out.recurrent' is on the host" in said["out.late"]
        assert said["out.current"] == "its neuron stays on the host"


def test_floats_that_integers_hold_give_the_same_membranes():
    net = has8.over_time(
        snn.Leaky(0.5, output=True, init_hidden=True), steps=5, readout="membrane_last"
    )
    x = torch.arange(-32, 33).div(32).view(-1, 1)
    calm = map_model(net, calibration=x)
    (name,) = calm.chip_segments[0].membranes
    mapped = map_model(net, calibration=x, scales={name: Scale((64,), (), ())})
    with torch.no_grad():
        assert torch.equal(simulate(mapped, x).logits, net(x))


def test_reading_is_counted_and_priced():
    torch.manual_seed(0)
    x = images(6)
    mapped = map_model(Net(), calibration=x)
    run = simulate(mapped, x)
    cost = estimate(mapped, run)
    (_, read) = cost.boundaries
    assert (read.direction, read.node, read.spikes, read.reads) == ("out", "l2", 0, 6 * 4)
    assert read.message_bytes == mapped.target.link.message_bytes(6 * 4)
    assert read.messages == 6 * 4
    assert any("reads 4 membranes once a sample" in a.text for a in cost.assumptions)


@pytest.mark.parametrize(
    ("net", "why"),
    [
        (lambda: Net("zero"), "a chip clears it with the spike"),
        (lambda: Net(read="sum"), "of the last step alone would be read"),
        (lambda: Net(read="max"), "of the last step alone would be read"),
    ],
)
def test_what_is_not_read_from_a_chip_says_why(net, why):
    torch.manual_seed(0)
    net, x = net(), images(8)
    mapped = map_model(net, calibration=x)
    reasons = {r.node: r.reason for r in mapped.partition.rejections}
    assert why in reasons["l2.membrane"]
    assert any("l1" in segment.nodes for segment in mapped.partition.on_chip)
    with torch.no_grad():
        assert torch.allclose(evaluate(mapped.graph, x), net(x), atol=1e-5)
    assert simulate(mapped, x).logits.shape == (8, 4)


@pytest.mark.parametrize("scales", ["round", "search"])
def test_one_without_reset_is_one_that_never_fires(scales):
    torch.manual_seed(0)
    net, x = Net("none"), images(8)
    mapped = map_model(net, calibration=x, scales=scales)
    with torch.no_grad():
        expected = net(x)
    assert torch.allclose(evaluate(mapped.graph, x), expected, atol=1e-5)
    (chip,) = mapped.chip_segments
    (read,) = (p for p in chip.populations if p.name in chip.membranes)
    assert read.neuron.reset == "zero"
    run = simulate(mapped, x, record=["spikes"])
    assert not run.spikes[chip.name][read.name].any()
    # The layer in front fires a little otherwise than its floats; the read-out adds little.
    assert (run.logits - expected).abs().median() < 0.05 * expected.abs().max()
    assert compare(mapped, x, "fast", "reference").equal
    both = map_model(Net("none", "both"), calibration=x)  # with its spikes it does fire
    reasons = {r.node: r.reason for r in both.partition.rejections}
    assert "no reset by 'none'" in reasons["l2"]


def test_a_part_of_the_network_can_stay_on_the_host():
    torch.manual_seed(0)
    net, x = Net(), images(8)
    mapped = map_model(net, calibration=x, partition="none")
    with torch.no_grad():
        assert torch.allclose(simulate(mapped, x).logits, net(x))
    assert "readout" not in reject(mapped.graph, REGISTERS)


def test_comparing_faults_and_tuning_take_them():
    torch.manual_seed(0)
    net, x = Net(), images(16)
    mapped = map_model(net, calibration=x)
    run = simulate(mapped, x)
    assert compare(mapped, x, "fast", "reference").divergence is None
    assert torch.equal(simulate(mapped, x, Faulty("fast", Faults())).logits, run.logits)
    tuned = tune(net, LOIHI, calibration=x, scales="round")
    answer = tuned(x)
    assert (answer - run.logits).abs().median() < 0.1
    answer.square().sum().backward()
    assert all(weight.grad is not None for weight in tuned.weights)


class Off:
    """The fast backend, with one membrane that is read off by one."""

    name = "off"

    def unavailable(self) -> None:
        return None

    def compile(self, segment, registers):
        program = Fast().compile(segment, registers)

        def run(inputs, **options):
            found = program(inputs, **options)
            last = {name: x.clone() for name, x in found.last.items()}
            for x in last.values():
                x[1, 2] += 1
            return replace(found, last=last)

        return run


def test_comparing_covers_the_membranes_that_are_read():
    torch.manual_seed(0)
    x = images(6)
    mapped = map_model(Net(), calibration=x)
    equal = compare(mapped, x, "fast", "reference")
    assert equal.equal and equal.membranes == 6 * 4
    found = compare(mapped, x, "reference", Off())
    assert not found.equal
    where = found.divergence
    assert (where.membrane, where.population, where.step) == (True, "l2", 7)
    assert (where.sample, where.index, where.right - where.left) == (1, (2,), 1)
    assert "membrane of l2 at step 7, sample 1, neuron (2,)" in str(where)


def test_one_without_reset_never_fires_behind_a_transposed_convolution_either():
    class Spread(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(20, 1, 2, stride=2, bias=False)
            self.up.weight.data.fill_(0.25)  # its first axis is that of the inputs
            self.out = snn.Leaky(0.9, reset_mechanism="none")

        def forward(self, x):
            membrane = self.out.init_leaky()
            for step in x:
                _, membrane = self.out(self.up(step), membrane)
            return membrane

    x = torch.ones(8, 2, 20, 2, 2)
    mapped = map_model(Spread(), calibration=x, inputs="spikes")
    (chip,) = mapped.chip_segments
    run = simulate(mapped, x, record=["spikes"])
    assert not run.spikes[chip.name]["out"].any()
    with torch.no_grad():
        assert torch.allclose(run.logits, Spread()(x), rtol=0.02)
