"""Currents that are the same in every step: biases that the host writes once a sample."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import snntorch as snn
import torch
from builders import LOIHI, law, networks, population, random_inputs, segment
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import has8
from has8.encoders import Decoder, DuplicateEncoder, count_weights
from has8.errors import BadInput
from has8.neurons import Leaky
from hwsim import Faults, Recording, Run, compare, estimate, simulate
from hwsim.activity import Overflow
from hwsim.backends.fast.backend import Fast
from hwsim.backends.lava.backend import Lava
from hwsim.backends.reference import Reference
from hwsim.boundary import written_biases
from hwsim.experiments.faults import Faulty
from mapping import load, map_model, save
from mapping.chip.check import check_segment
from mapping.chip.neurons import with_constants
from mapping.chip.segment import ChipSegment, Port
from mapping.graph.evaluate import evaluate
from mapping.graph.ir import Graph, Kind, Node, Signal
from mapping.graph.repeats import measured, repeat_last
from mapping.graph.verify import verify_graph
from mapping.integers.rounding import Scale
from mapping.tune import tune

REGISTERS = LOIHI.registers


def driven(chip: ChipSegment, *names: str) -> ChipSegment:
    """The segment with a port of biases for some populations."""
    ports = tuple(Port(f"bias of {p.name}", p.shape, "bias") for p in chip.populations)
    populations = tuple(
        replace(p, bias=f"bias of {p.name}") if p.name in names else p for p in chip.populations
    )
    added = tuple(port for port in ports if port.name[8:] in names)
    return replace(chip, inputs=(*added, *chip.inputs), populations=populations)


def mantissas(chip: ChipSegment, samples: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.manual_seed(seed)
    return {
        port.name: torch.randint(-4095, 4096, (samples, *port.shape), generator=generator)
        for port in chip.inputs
        if port.kind == "bias"
    }


@given(networks(delays=2), st.data())
@law(30)
def test_what_is_written_is_the_bias_of_each_sample(chip, data):
    names = data.draw(st.lists(st.sampled_from([p.name for p in chip.populations]), min_size=1))
    biased = driven(chip, *names)
    check_segment(biased, REGISTERS)
    fed = {**random_inputs(chip, 3), **mantissas(biased, 3)}
    run = Reference().compile(biased, REGISTERS)(fed, membranes=True)
    for sample in range(3):
        fixed = tuple(
            replace(p, neuron=with_constants(p.neuron, {"bias": fed[p_.bias][sample].numpy()}))
            if p_.bias
            else p
            for p, p_ in zip(chip.populations, biased.populations, strict=True)
        )
        plain = replace(chip, populations=fixed)
        spikes = {port.name: fed[port.name][:, sample : sample + 1] for port in chip.inputs}
        alone = Reference().compile(plain, REGISTERS)(spikes, membranes=True)
        for p in chip.populations:
            for what in ("spikes", "membranes"):
                mine = getattr(run, what)[p.name][:, sample : sample + 1]
                assert torch.equal(mine, getattr(alone, what)[p.name])


@given(networks(delays=2, loops=True) | networks(), st.data(), st.booleans())
@law(50)
def test_the_fast_backend_is_the_reference(chip, data, cut):
    names = data.draw(st.lists(st.sampled_from([p.name for p in chip.populations]), min_size=1))
    biased = driven(chip, *names)
    fed = {**random_inputs(chip, 4), **mantissas(biased, 4)}
    runs = []
    for backend in (Reference(), Fast()):
        program = backend.compile(biased, REGISTERS)
        run = program(fed, membranes=True, keep_state=cut)
        if cut:
            run = program(fed, membranes=True, keep_state=True, state=run.state)
        runs.append(run)
    one, other = runs
    for p in chip.populations:
        assert torch.equal(one.spikes[p.name], other.spikes[p.name])
        assert torch.equal(one.membranes[p.name], other.membranes[p.name])
        assert (one.updated[p.name] == other.updated[p.name]).all()
        assert one.overflows[p.name] == other.overflows[p.name]


def alone(**constants: int) -> ChipSegment:
    """Two neurons that nothing feeds but what the host writes."""
    chip = segment(population("n", (2,), **constants), inputs={}, steps=4)
    return driven(chip, "n")


def test_an_example_by_hand():
    chip = alone(threshold=2, bias_exp=4, dv=2048)
    written = {"bias of n": torch.tensor([[8, 5], [0, 4095]])}
    # 8 << 4 is the threshold 2 << 6 itself, and half of it more is above; so is 80 + 40 + 20.
    expected = [[[0, 0], [0, 1]], [[1, 0], [0, 1]], [[0, 1], [0, 1]], [[1, 0], [0, 1]]]
    for backend in (Reference(), Fast()):
        run = backend.compile(chip, REGISTERS)(written)
        assert run.spikes["n"].int().tolist() == expected


def test_lava_writes_them_too():
    torch.manual_seed(3)
    net = Net(5, "subtract")
    x = torch.rand(40, 12, generator=torch.manual_seed(0)) * 3
    mapped = map_model(net, calibration=x)
    assert compare(mapped, x[:3], "fast", "lava").divergence is None
    chip = alone(threshold=2, bias_exp=4, dv=2048, du=0)
    written = {"bias of n": torch.tensor([[8, 5], [0, 4095], [-77, 9]])}
    expected = Reference().compile(chip, REGISTERS)(written).spikes["n"]
    assert expected.any()
    assert torch.equal(Lava().compile(chip, REGISTERS)(written).spikes["n"], expected)


class Net(nn.Module):
    """The same image in every step, as snnTorch's tutorials have it."""

    def __init__(self, steps: int = 6, reset: str = "zero") -> None:
        super().__init__()
        self.steps = steps
        self.fc1, self.fc2 = nn.Linear(12, 20), nn.Linear(20, 4)
        self.l1 = snn.Leaky(0.9, reset_mechanism=reset)
        self.l2 = snn.Leaky(0.8, reset_mechanism=reset)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        m1, m2 = self.l1.init_leaky(), self.l2.init_leaky()
        spikes = []
        for _ in range(self.steps):
            s1, m1 = self.l1(self.fc1(x), m1)
            s2, m2 = self.l2(self.fc2(s1), m2)
            spikes.append(s2)
        return torch.stack(spikes).sum(0)


def images(samples: int = 32) -> torch.Tensor:
    return torch.rand(samples, 12, generator=torch.manual_seed(1)) * 3


@pytest.mark.parametrize("scales", ["round", "search"])
def test_the_first_layer_of_snntorchs_loop_is_on_the_chip(scales, tmp_path):
    torch.manual_seed(0)
    net, x = Net(), images()
    mapped = map_model(net, calibration=x, scales=scales)
    (on_chip,) = mapped.partition.on_chip
    assert set(on_chip.nodes) == {"l1", "fc2", "l2"}
    assert [(p.kind, p.shape) for p in mapped.chip_segments[0].inputs] == [("bias", (20,))]
    assert 0 < mapped.errors["l1"].written < 1e-3
    assert mapped.errors["l1"].membrane < 0.05
    with torch.no_grad():
        expected = net(x)
    again = load(save(mapped, tmp_path / "x.h8"))
    assert again.errors == mapped.errors
    runs = [simulate(m, x, b, batch_size=9) for m in (mapped, again) for b in ("reference", "fast")]
    for run in runs:
        assert run.logits.any() and torch.equal(run.logits, runs[0].logits)
    assert (runs[0].logits == expected).float().mean() > 0.95


def test_the_host_computes_once_and_writes_once_a_sample():
    torch.manual_seed(0)
    x = images(8)
    mapped = map_model(Net(), calibration=x)
    cost = estimate(mapped, simulate(mapped, x))
    assert cost.host_macs == 12 * 20
    written, sent = cost.boundaries
    assert (written.direction, written.spikes, written.writes) == ("in", 0, 8 * 20)
    assert written.message_bytes == mapped.target.link.message_bytes(8 * 20)
    assert sent.writes == 0
    assert any("writes 20 biases a sample" in a.text for a in cost.assumptions)


def test_floats_that_integers_hold_give_the_same_spikes():
    class Exact(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code, self.read = DuplicateEncoder(5), Decoder(count_weights(5))
            self.neuron = Leaky(beta=0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.read(self.neuron(self.code(x)))

    x = torch.arange(-32, 33).div(32).view(-1, 1)
    net = Exact()
    mapped = map_model(net, calibration=x, scales={"neuron": Scale((64,), (), ())})
    with torch.no_grad():
        assert torch.equal(simulate(mapped, x).logits, net(x))
    assert net(x).any()


def test_what_is_larger_than_on_the_calibration_data_is_clipped_and_counted():
    mapped = map_model(Net(), calibration=images())
    neuron, (layer, _) = mapped.graph["l1"], mapped.chip_segments[0].populations
    current = torch.zeros(2, 20)
    current[1, 3], current[1, 4] = 1e6, -1e6
    biases, clipped = written_biases(neuron, layer, REGISTERS, current)
    assert (
        clipped == 2 and biases[1, 3] == REGISTERS.bias_max and biases[1, 4] == REGISTERS.bias_min
    )
    assert not biases[0].any()
    run = simulate(mapped, images() * 1000)
    assert run.activity.overflows["l1"].biases > 0
    assert Overflow(1, 2, 3) + Overflow(biases=4) == Overflow(1, 2, 7)


def test_layers_of_repeated_values_run_once():
    torch.manual_seed(0)
    inside = {"init_hidden": True, "reset_mechanism": "zero"}
    front = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AvgPool2d(2), snn.Leaky(0.8, **inside)
    layers = *front, nn.Flatten(), nn.Linear(16, 5), snn.Leaky(0.9, **inside)
    net = has8.over_time(nn.Sequential(*layers).eval(), steps=7, readout="count")
    x = torch.rand(20, 1, 6, 6, generator=torch.manual_seed(1)) * 5
    mapped = map_model(net, calibration=x)
    (on_chip,) = mapped.partition.on_chip
    neurons = [node for node in mapped.graph if node.op == "neuron"]
    assert len(neurons) == 2 and {node.name for node in neurons} <= set(on_chip.nodes)
    early = [n for n in mapped.graph if n.op in ("conv2d", "avgpool2d", "batchnorm")]
    assert early and all(node.type.steps is None for node in early)
    with torch.no_grad():
        expected = net(x)
    assert torch.allclose(evaluate(mapped.graph, x), expected)
    run = simulate(mapped, x)
    assert (run.logits == expected).float().mean() > 0.9 and run.logits.any()
    assert torch.equal(run.logits, simulate(mapped, x, "reference").logits)


def repeated(*nodes: Node) -> Graph:
    """Nodes behind an input x and its repetition r."""
    value = Signal((4,))
    return Graph(
        (
            Node("x", "input", (), value),
            Node("r", "encode", ("x",), timed(), {"coding": "duplicate", "steps": 5}),
            *nodes,
        )
    )


def timed(kind: Kind = Kind.VALUE) -> Signal:
    return Signal((4,), kind, 5)


LIF = {"model": "lif", "alpha": 0.0, "beta": 0.5, "threshold": 1.0, "gain": 1.0}
LIF |= {"reset": "zero", "refractory": 0}


def test_each_use_has_a_repetition_of_its_own():
    graph = repeated(
        Node("a", "add", ("r", "r"), timed()),
        Node("n", "neuron", ("a",), timed(Kind.SPIKE), LIF),
        Node("m", "neuron", ("r",), timed(Kind.SPIKE), LIF),
        Node("k", "neuron", ("a",), timed(Kind.SPIKE), LIF),
        Node("s", "add", ("n", "m"), timed()),
        Node("t", "add", ("s", "k"), timed()),
        Node("y", "decode", ("t",), Signal((4,)), {}, {"weights": torch.ones(5)}),
    )
    moved = measured(repeat_last(graph), torch.eye(4))
    verify_graph(moved)
    assert moved["a"].type.steps is None
    repeats = [node for node in moved if node.op == "encode"]
    assert sorted(node.inputs[0] for node in repeats) == ["a", "a", "x"]
    assert sorted(node.attrs["largest"] for node in repeats) == [1, 2, 2]
    x = torch.rand(6, 4)
    assert torch.equal(evaluate(moved, x), evaluate(graph, x))


def test_what_stays_on_the_host_says_why():
    torch.manual_seed(0)
    reasons = {r.node: r.reason for r in map_model(Net(), input_shape=(12,)).partition.rejections}
    assert "pass calibration data" in reasons["l1"]

    class Lasting(Net):
        def __init__(self) -> None:
            super().__init__()
            self.l1 = snn.Synaptic(0.5, 0.9, reset_mechanism="zero")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            (i1, m1), m2 = self.l1.init_synaptic(), self.l2.init_leaky()
            spikes = []
            for _ in range(self.steps):
                s1, i1, m1 = self.l1(self.fc1(x), i1, m1)
                s2, m2 = self.l2(self.fc2(s1), m2)
                spikes.append(s2)
            return torch.stack(spikes).sum(0)

    reasons = {
        r.node: r.reason for r in map_model(Lasting(), calibration=images()).partition.rejections
    }
    assert "lasts for several" in reasons["l1"] and "let spikes drive it" in reasons["l1"]


def test_recordings_and_faults_take_them():
    torch.manual_seed(0)
    x = images(6)
    mapped = map_model(Net(), calibration=x)
    run: Run = simulate(mapped, x, batch_size=4, record=["spikes"])
    (fed,) = run.inputs["chip"].values()
    assert fed.shape == (6, 20) and fed.dtype == torch.int64
    kept = Recording(mapped, 6, ["spikes"])
    kept.add(run, run.logits, None, 0)
    assert np.array_equal(kept.arrays["chip/inputs/fc1.repeated"], fed.numpy())
    sound = simulate(mapped, x, Faulty("fast", Faults()))
    assert torch.equal(sound.logits, run.logits)
    dead = simulate(mapped, x, Faulty("fast", Faults(dead_neurons=1.0)))
    assert not dead.logits.any()


def test_ports_of_biases_are_checked():
    chip = alone()
    program = Reference().compile(chip, REGISTERS)
    for wrong, word in (
        ({}, "needs the biases"),
        ({"bias of n": torch.zeros(3, 2)}, "int64"),
        ({"bias of n": torch.zeros(4, 3, 2, dtype=torch.int64)}, "batch"),
    ):
        with pytest.raises(BadInput, match=word):
            program(wrong)
    (layer,) = chip.populations
    for broken in (
        replace(chip, populations=(replace(layer, bias=None),)),
        replace(chip, populations=(replace(layer, bias="other"),)),
        replace(chip, inputs=(Port("bias of n", (3,), "bias"),)),
        replace(chip, inputs=(Port("bias of n", (2,), "current"),)),
        replace(chip, populations=(layer, replace(layer, name="m"))),
    ):
        with pytest.raises(BadInput):
            check_segment(broken, REGISTERS)


def test_tuning_computes_what_the_chip_does_with_what_is_written():
    torch.manual_seed(0)
    net, x = Net(), images()
    tuned = tune(net, LOIHI, calibration=x, scales="round")
    mapped = map_model(net, calibration=x, scales=tuned.scales)
    answer = tuned(x)
    assert answer.any() and torch.equal(simulate(mapped, x).logits, answer.detach())
    answer.square().sum().backward()
    assert all(weight.grad.any() for weight in tuned.weights)
