"""Graded spikes: payloads are multiplied exactly, and packing changes nothing but what crosses."""

from dataclasses import replace

import numpy as np
import pytest
import snntorch as snn
import torch
from builders import conv, feed, gridded, law, population
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from test_lava import needs_lava

from has8 import create_model, over_time
from has8.errors import BadInput
from hwsim import compare, estimate, simulate
from hwsim.backends.fast.backend import Fast
from hwsim.backends.lava.backend import Lava
from hwsim.backends.reference import Reference
from hwsim.experiments.faults import Faults, Faulty
from hwsim.experiments.fidelity import float_answers
from mapping import load, load_target, map_model, save, write_nir
from mapping.chip.check import check_segment
from mapping.chip.neurons import Pack, Unpack
from mapping.chip.payload import Payload
from mapping.chip.segment import ChipSegment, Population, Port
from mapping.graph.evaluate import evaluate
from mapping.partition.grading import payload_of, ungraded
from mapping.partition.packing import unpacked
from mapping.pipeline import lower
from mapping.repartition import repartition

LOIHI2 = load_target("loihi2")


def payloads(port: Port, steps: int, samples: int, seed: int) -> torch.Tensor:
    """Random ones, the extremes and 0 among them."""
    low, high = port.payload.range
    some = torch.randint(low, high + 1, (steps, samples, *port.shape), generator=seeded(seed))
    some[0, 0, 0], some[0, -1, -1] = low, high
    return some * (torch.rand(some.shape, generator=seeded(seed + 1)) < 0.5)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def train(steps: int = 4) -> ChipSegment:
    """Payloads that are unpacked, drive neurons as they are, and are packed again."""
    shape, ones = (2, 3, 3), [np.ones((n, 1, 1, 1)) for n in (2, 3)]
    weight = gridded(np.random.default_rng(0), (3, 2, 2, 2))
    inside = conv("b", "x", shape, ones[0], groups=2, sign_mode="excitatory")
    outside = conv("o", "n", (3, 2, 2), ones[1], groups=3, sign_mode="excitatory")
    populations = (
        Population("bits", shape, (inside,), Unpack(steps)),
        population("n", (3, 2, 2), conv("c", "bits", shape, weight), threshold=90),
        population("m", (1,), feed("y", [[6, -4]]), threshold=9, dv=2048),
        Population("codes", (3, 2, 2), (outside,), Pack(steps)),
    )
    ports = Port("x", shape, payload=Payload(steps)), Port("y", (2,), payload=Payload(5, True))
    return ChipSegment("s", steps, ports, populations, ("codes", "m"))


def test_bits_of_a_payload_leave_one_after_another_and_come_back_as_one():
    chip = train()
    x = torch.zeros(4, 1, 2, 3, 3, dtype=torch.uint8)
    x[0, 0, 0, 0, 0] = 0b1011
    y = torch.tensor([[[1, 0]], [[0, 0]], [[0, -3]], [[1, 1]]])  # 6 or 12 or 2, above 9 or not
    run = Reference().compile(chip, LOIHI2.registers)({"x": x, "y": y})
    assert run.spikes["m"].flatten().tolist() == [False, False, True, False]
    bits, fired = run.spikes["bits"], run.spikes["n"]
    assert bits[:, 0, 0, 0, 0].tolist() == [True, True, False, True] and int(bits.sum()) == 3
    assert fired.any() and run.spikes["codes"].dtype == torch.uint8
    expected = sum(fired[t].int() << t for t in range(4))
    assert torch.equal(run.spikes["codes"][-1].int(), expected)
    assert not run.spikes["codes"][:-1].any()


@law(10)
@given(st.integers(1, 16), st.booleans(), st.integers(0, 99))
def test_payloads_are_multiplied_as_on_the_reference(bits, signed, seed):
    rng = np.random.default_rng(seed)
    payload = Payload(bits, signed)
    port = Port("x", (2, 4, 4), payload=payload)
    weight = gridded(rng, (3, 2, 3, 3))
    first = population("n", (3, 4, 4), conv("c", "x", (2, 4, 4), weight, padding=1), threshold=5000)
    late = population("m", (2,), feed("z", gridded(rng, (2, 3)), delay=1), du=1000, threshold=900)
    ports = (port, Port("z", (3,), payload=payload))
    chip = ChipSegment("s", 3, ports, (first, late), ("n", "m"))
    check_segment(chip, LOIHI2.registers)
    fed = {port.name: payloads(port, 3, 2, seed) for port in ports}
    run = Reference().compile(chip, LOIHI2.registers)(fed, membranes=True, keep_state=True)
    drive = torch.nn.functional.conv2d(
        fed["x"].flatten(0, 1).double(), torch.from_numpy(weight).double(), padding=1
    )
    assert (
        drive.abs().max()
        <= chip.largest_drive(first)
        == payload.largest * max(abs(weight).reshape(3, -1).sum(1))
    )
    fast = Fast().compile(chip, LOIHI2.registers)(fed, membranes=True)
    for name in ("n", "m"):
        assert torch.equal(run.spikes[name], fast.spikes[name])
        assert torch.equal(run.membranes[name], fast.membranes[name])
        assert run.overflows[name] == fast.overflows[name]


def test_what_is_no_payload_of_a_port_or_of_a_target_is_refused():
    chip = train()
    program = Reference().compile(chip, LOIHI2.registers)
    x, y = torch.zeros(4, 1, 2, 3, 3), torch.zeros(4, 1, 2, dtype=torch.int8)
    for wrong in (x, x.long() + 16, x.long() - 1):
        with pytest.raises(BadInput, match="'x' sends graded spikes, whole numbers from 0 to 15"):
            program({"x": wrong, "y": y})
    alone = replace(chip, inputs=chip.inputs[1:], populations=chip.populations[2:3], outputs=("m",))
    with pytest.raises(BadInput, match="'y' .*: its spikes are of signed 5 bits, and the target's"):
        check_segment(alone, load_target("loihi").registers)
    wide = replace(chip.population("codes"), neuron=Pack(24))
    with pytest.raises(BadInput, match="payload must have from 1 to 23 bits, not 24"):
        check_segment(replace(chip, populations=(*chip.populations[:3], wide)), LOIHI2.registers)


def test_lost_payloads_are_lost_whole():
    chip = train()
    fed = {p.name: payloads(p, 4, 3, 7) for p in chip.inputs}
    whole = Fast().compile(chip, LOIHI2.registers)(fed)
    none = Faulty("fast", Faults()).compile(chip, LOIHI2.registers)(fed)
    assert torch.equal(none.spikes["codes"], whole.spikes["codes"])
    some = Faulty("fast", Faults(dead_neurons=0.5)).compile(chip, LOIHI2.registers)(fed)
    assert set(some.spikes["codes"].unique().tolist()) - {0, 1}


@needs_lava
def test_lava_multiplies_and_packs_alike():
    chip = train()
    fed = {p.name: payloads(p, 4, 2, 3) for p in chip.inputs}
    expected = Reference().compile(chip, LOIHI2.registers)(fed)
    run = Lava().compile(chip, LOIHI2.registers)(fed)
    for name, spikes in expected.spikes.items():
        assert spikes.any() and torch.equal(run.spikes[name], spikes), name


def test_graded_values_cross_once_and_change_no_answer(vgg, digits, tmp_path):
    model, images = vgg, digits[:16]
    binary, graded = (
        map_model(model, "loihi2", calibration=images, coding=c) for c in ("binary", "graded")
    )
    runs = [simulate(m, images, b) for m in (binary, graded) for b in ("fast", "reference")]
    assert all(torch.equal(run.logits, runs[0].logits) for run in runs)
    of_binary, of_graded = runs[0].activity.events, runs[2].activity.events
    assert all(np.array_equal(of_graded[name], of_binary[name]) for name in of_binary)
    for chip in graded.chip_segments:
        for port in chip.inputs:  # a value that is not 0 is one spike, in the first step
            plain = of_graded[port.name.removesuffix(".pack")]
            sent = of_graded[port.name]
            assert not sent[1:].any() and plain.max(0).sum() <= sent[0].sum() <= plain.sum()
    costs = [estimate(binary, runs[0]), estimate(graded, runs[2])]
    crossing = [sum(b.spikes for b in cost.boundaries) for cost in costs]
    assert crossing[1] < crossing[0]
    graded_spikes = sum(load.from_host + load.to_host for load in costs[1].loads)
    assert sum(load.graded for load in costs[1].loads) == graded_spikes >= crossing[1]
    controls = sum(load.controls for load in costs[1].loads)  # and a second word for each payload
    assert costs[1].messages * len(images) == 2 * graded_spikes + controls
    assert costs[1].host_only == costs[0].host_only
    assert LOIHI2.link.graded_messages in costs[1].energy_uj.link.cited
    save(graded, tmp_path / "graded.h8")
    loaded = load(tmp_path / "graded.h8")
    assert torch.equal(simulate(loaded, images).logits, runs[0].logits)
    assert unpacked(loaded.graph).nodes[-1].inputs == binary.graph.nodes[-1].inputs
    assert [n.name for n in unpacked(loaded.graph)] == [n.name for n in binary.graph]
    again = map_model(loaded.graph, "loihi2", calibration=images, coding="graded")
    assert [n.name for n in again.graph] == [n.name for n in graded.graph]


@needs_lava
def test_values_of_each_step_cross_rounded_and_put_the_neurons_behind_them_on_the_chip(tmp_path):
    torch.manual_seed(0)
    options = {"coding": "gaussian", "split": 1, "shared": True, "side": 4, "hidden": (12, 9)}
    model = create_model("hnn_mlp", num_classes=3, in_channels=1, **options).eval()
    with torch.no_grad():
        for layer in (model.spiking[1][0], model.spiking[3][0]):
            layer.weight *= 3
    images = torch.rand(40, 1, 4, 4, generator=seeded(0))
    binary, graded = (
        map_model(model, "loihi2", calibration=images, coding=c) for c in ("binary", "graded")
    )
    assert [p.name for p in binary.chip_segments[0].populations] == ["spiking.4.bias", "spiking.4"]
    (chip,) = graded.chip_segments
    assert {"spiking.2", "spiking.4"} <= {p.name for p in chip.populations}
    (port,) = chip.inputs
    assert port.name == "spiking.0.graded" and port.payload.signed and port.payload.bits > 4
    (synapse,) = chip.population("spiking.2").synapses
    assert abs(synapse.weight).max() > 100  # of 127: payloads leave weights their bits
    exact, rounded = (evaluate(mapped.graph, images) for mapped in (binary, graded))
    assert exact.std() > 1 and (exact - rounded).abs().mean() < 0.1 * exact.std()
    assert torch.equal(float_answers(graded, images), exact.argmax(1))  # of values as they were
    fast, reference = (simulate(graded, images, name) for name in ("fast", "reference"))
    assert torch.equal(fast.logits, reference.logits)
    assert (fast.logits - rounded).abs().mean() < 0.1 * exact.std()
    found = compare(graded, images[:2], "fast", "lava")
    assert found.equal and found.spikes > 0
    (sent,) = (load for load in estimate(graded, fast).loads)
    assert sent.graded > 0.9 * 12 * 25 * len(images)  # few values round to 0
    undone = ungraded(graded.graph)
    assert {node.name for node in undone} == {node.name for node in binary.graph}
    weights = (g["spiking.1.0"].tensors["weight"] for g in (undone, binary.graph))
    assert torch.equal(*weights)
    save(graded, tmp_path / "graded.h8")
    assert torch.equal(simulate(load(tmp_path / "graded.h8"), images).logits, fast.logits)
    hosted, _ = lower(
        model, LOIHI2, calibration=images, coding="graded", pins={"spiking.2": "host"}
    )
    assert "grade" not in {node.op for node in hosted}
    with pytest.raises(BadInput, match="'spiking.0.graded' sends graded spikes, which other tools"):
        write_nir(graded, tmp_path / "s.nir", segment=chip.name)


def test_payloads_bring_currents_nearest_to_themselves():
    values = torch.rand(4000, generator=seeded(0)) * 2 - 1

    def chosen(inputs, values, bits=8, lasting=1.0):
        weight = torch.rand(3, inputs, generator=seeded(1)).double() - 0.5
        signed = bool((values < 0).any())
        return payload_of(values, signed, [(weight, lasting)], LOIHI2.registers, bits)

    payload, unit = chosen(2, values)
    assert (payload, unit) == (Payload(8, True), 128)
    # No input may make a current wrap around: payloads leave room to weights that add up.
    assert chosen(5000, values)[0].bits < chosen(500, values)[0].bits < 8
    assert chosen(500, values, lasting=20.0)[0].bits < chosen(500, values)[0].bits
    assert chosen(500, values, bits=3)[0].bits < chosen(500, values)[0].bits
    assert not chosen(2, values.abs())[0].signed
    tailed = torch.cat([values.repeat(100), torch.full((1,), 30.0)])
    payload, unit = chosen(2, tailed)
    assert payload.range[1] / unit < 30  # a rare one is clipped for finer steps of all others
    assert 0 < chosen(2, torch.full((3,), 1e-44))[1] < float("inf")


def steps_net(neuron, **options):
    """A layer and its neurons on values of each step, ``[T, B, 6]``, to numbers of spikes."""
    torch.manual_seed(0)
    step = torch.nn.Sequential(torch.nn.Linear(6, 3), neuron(init_hidden=True, **options))
    return over_time(step, readout="count", input="steps")


def test_payloads_see_all_calibration_data():
    net = steps_net(snn.Leaky, beta=0.5)
    values = torch.rand(4, 100, 6, generator=seeded(0))
    values[..., 0] = 0.0  # a column of zeros, however the others are thinned out
    values[2, 99, 1] = -3.0  # a single one below zero, late
    options = {"calibration": values, "inputs": "steps"}
    graded, binary = (map_model(net, LOIHI2, coding=c, **options) for c in ("graded", "binary"))
    (attrs,) = (node.attrs for node in graded.graph if node.op == "grade")
    assert attrs["signed"] and attrs["unit"] <= 128
    costs = [estimate(mapped, simulate(mapped, values)) for mapped in (graded, binary)]
    assert costs[0].host_only == costs[1].host_only  # a host alone rounds nothing


def test_biases_of_lasting_currents_keep_to_values_that_are_rounded():
    net = steps_net(snn.Synaptic, alpha=0.8, beta=0.7)
    values = torch.rand(6, 20, 6, generator=seeded(0)) * 2 - 1
    options = {"calibration": values, "inputs": "steps"}
    graded = map_model(net, LOIHI2, coding="graded", **options)
    assert "net.1.bias" in [p.name for p in graded.chip_segments[0].populations]
    assert torch.equal(float_answers(graded, values), net(values).argmax(1))
    again = map_model(graded.graph, LOIHI2, coding="graded", calibration=values)
    assert torch.equal(*(simulate(mapped, values).logits for mapped in (graded, again)))


def test_values_that_fit_no_weights_or_no_given_scales_stay_on_the_host():
    net = steps_net(snn.Leaky, beta=0.5)
    values = torch.rand(6, 20, 6, generator=seeded(0))
    far = map_model(net, LOIHI2, calibration=values * 1e9, inputs="steps", coding="graded")
    assert not far.chip_segments
    _, parts = lower(
        net, LOIHI2, calibration=values, inputs="steps", coding="graded", given_scales={}
    )
    assert not parts.on_chip
    few = structs.replace(LOIHI2, registers=structs.replace(LOIHI2.registers, message_bits=2))
    for target, hint in ((LOIHI2, True), (few, False)):
        found = map_model(net, target, calibration=values, inputs="steps")
        assert any("--coding graded" in r.reason for r in found.partition.rejections) is hint


def test_graded_coding_is_refused_where_it_cannot_be(vgg, digits, tmp_path):
    model, images = vgg, digits[:16]
    with pytest.raises(BadInput, match="loihi sends no graded spikes: leave out coding"):
        map_model(model, "loihi", "none", calibration=images, coding="graded")
    spiking = torch.nn.Sequential(torch.nn.Linear(4, 3), snn.Leaky(beta=0.5, init_hidden=True))
    steps = over_time(spiking, 25, "count", "rate")
    with pytest.raises(BadInput, match="has 25 steps, and graded spikes of loihi2 hold 2 to 23"):
        map_model(steps, "loihi2", calibration=torch.rand(4, 4), coding="graded")
    graded = map_model(model, "loihi2", calibration=images, coding="graded")
    with pytest.raises(BadInput, match="graded spikes, which are of its own partition"):
        repartition(graded, [])
    with pytest.raises(BadInput, match="has 'unpack' neurons, which other tools lack"):
        write_nir(graded, tmp_path / "s.nir", segment=graded.chip_segments[0].name)
