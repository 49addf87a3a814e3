"""Faults: only where they should strike, as often as they should, whatever the batches."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import snntorch as snn
import torch
from builders import feed, law, linear, networks, population, random_inputs, registers
from builders import segment as chip_segment
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from has8.errors import BackendError, BadInput, UnknownName
from hwsim import Faults, Faulty, agreement, fault_sweep, simulate
from hwsim.backends.fast.backend import Fast
from hwsim.backends.reference import Reference
from hwsim.experiments.faults import strikes
from mapping import map_model
from mapping.chip.grid import weight_grid

LOIHI = registers()
SOME = Faults(weight_bitflips=0.01, dead_neurons=0.1, dropped_spikes=0.1, seed=7)
RATES = st.sampled_from([0.0, 1e-4, 1 / 256, 0.02, 0.5, 0.999, 1.0])


def dense(name, source, size, out, rng, *, bits=8, mode="mixed"):
    low, high, step = weight_grid(LOIHI, bits, mode)
    weight = rng.integers(low // step, high // step + 1, (out, size)) * step
    synapse = linear(f"{name}.fc", source, (size,), weight, bits=bits, sign_mode=mode)
    return population(name, (out,), synapse, threshold=300, bias=40, bias_exp=6, dv=2048)


@pytest.fixture(scope="module")
def segment():
    """A port, a layer, and one that sees both."""
    rng = np.random.default_rng(0)
    one, two = dense("one", "x", 12, 9, rng), dense("two", "one", 9, 7, rng)
    skip = dense("skip", "x", 12, 7, rng).synapses
    two = replace(two, synapses=(*two.synapses, *skip))
    return chip_segment(one, two, inputs={"x": (12,)}, outputs=["two"], steps=5, name="chip")


@pytest.fixture(scope="module")
def spikes():
    return torch.rand(5, 11, 12, generator=torch.Generator().manual_seed(0)) < 0.4


def assert_equal(one, two):
    """Everything that two runs of a segment tell."""
    for what in ("spikes", "membranes"):
        assert getattr(one, what).keys() == getattr(two, what).keys()
        for name, tensor in getattr(one, what).items():
            assert torch.equal(tensor, getattr(two, what)[name]), name
    assert one.updated.keys() == two.updated.keys()
    for name, counts in one.updated.items():
        assert np.array_equal(counts, two.updated[name]), name
    assert one.overflows == two.overflows
    for run in (one, two):
        for name, counts in run.fired.items():
            assert np.array_equal(counts, run.spikes[name].sum(1)), name


@pytest.mark.parametrize("inner", [Fast(), Reference()])
def test_nothing_broken_is_the_inner_backend_bit_for_bit(segment, spikes, inner):
    whole = inner.compile(segment, LOIHI)({"x": spikes}, membranes=True)
    assert whole.spikes["two"].any()
    faultless = Faulty(inner, Faults(seed=3)).compile(segment, LOIHI)
    assert_equal(faultless({"x": spikes}, membranes=True), whole)


def test_broken_chips_are_equal_on_all_backends(segment, spikes):
    one, two = (
        Faulty(inner, SOME).compile(segment, LOIHI)({"x": spikes}, membranes=True)
        for inner in (Fast(), Reference())
    )
    assert_equal(one, two)
    whole = Fast().compile(segment, LOIHI)({"x": spikes})
    assert not torch.equal(one.spikes["one"], whole.spikes["one"])


@law(30)
@given(cuts=st.sets(st.integers(1, 10)), first=st.sampled_from([0, 5, 2**40]))
def test_parts_of_a_run_give_the_whole(segment, spikes, cuts, first):
    program = Faulty(Fast(), SOME).compile(segment, LOIHI)
    whole = program({"x": spikes}, first=first)
    bounds = [0, *sorted(cuts), 11]
    for name, expected in whole.spikes.items():
        parts = [
            program({"x": spikes[:, a:b]}, first=first + a).spikes[name]
            for a, b in pairwise(bounds)
        ]
        assert torch.equal(torch.cat(parts, 1), expected)
    if first:
        other = program({"x": spikes}, first=0).spikes["one"]
        assert not torch.equal(other, whole.spikes["one"])


@law(60)
@given(rates=st.lists(RATES, min_size=2, max_size=2), sample=st.integers(0, 2**63))
def test_what_strikes_at_one_rate_strikes_at_every_higher_one(rates, sample):
    low, high = (strikes((0, "x"), rate, (3, 1001), sample) for rate in sorted(rates))
    assert not (low & ~high).any()
    assert not strikes((0, "x"), 0.0, (9,), sample).any()
    assert strikes((0, "x"), 1.0, (9,), sample).all()


@pytest.mark.parametrize("rate", [2e-4, 1 / 256, 0.0137, 0.3, 0.997])
def test_faults_are_as_frequent_as_their_rate_says(rate):
    found = strikes((1, "rate"), rate, (1000, 1000))
    deviation = (rate * (1 - rate) / found.size) ** 0.5
    assert abs(found.mean() - rate) < 4 * deviation
    columns = found.mean(0)  # no place is struck more than others
    assert abs(columns.std() / (rate * (1 - rate) / 1000) ** 0.5 - 1) < 0.1


def test_draws_depend_on_seed_place_and_sample_and_stay_what_they_are():
    base = strikes((0, "a", "b"), 0.3, (200,), 4)
    for place, sample in [
        ((1, "a", "b"), 4),
        ((0, "a", "c"), 4),
        ((0, "ab"), 4),
        ((0, "a", "b"), 5),
    ]:
        other = strikes(place, 0.3, (200,), sample)
        assert 0.3 < (other != base).mean() < 0.55  # independent ones differ in 42 %
    assert np.flatnonzero(strikes((0, "a", "b"), 0.1, (40,), 4)).tolist() == GOLDEN


GOLDEN = [4, 24, 26, 37]


@law(40)
@given(
    bits=st.sampled_from(LOIHI.weight_bits),
    mode=st.sampled_from(LOIHI.sign_modes),
    rate=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_flipped_weights_are_legal_and_all_bits_flipped_is_the_complement(bits, mode, rate):
    seen = []

    class Spy(Fast):
        def compile(self, segment, registers):
            seen.append(segment.populations[0].synapses[0].weight)
            return super().compile(segment, registers)

    layer = dense("one", "x", 30, 20, np.random.default_rng(1), bits=bits, mode=mode)
    segment = chip_segment(layer, inputs={"x": (30,)}, steps=2, name="chip")
    Faulty(Spy(), Faults(weight_bitflips=rate)).compile(segment, LOIHI)
    low, high, step = weight_grid(LOIHI, bits, mode)
    before, after = layer.synapses[0].weight, seen[0]
    assert after.min() >= low and after.max() <= high and not (after % step).any()
    if rate == 1:
        assert np.array_equal(after, low + high - before)
    elif rate == 0:
        assert np.array_equal(after, before)
    else:
        changed = 1 - 0.8**bits  # any of its bits
        assert abs((after != before).mean() - changed) < 4 * (changed * (1 - changed) / 600) ** 0.5


def test_dead_neurons_never_send_but_go_on_computing(segment, spikes):
    whole = Fast().compile(segment, LOIHI)({"x": spikes}, membranes=True)
    run = Faulty(Fast(), Faults(dead_neurons=0.5)).compile(segment, LOIHI)(
        {"x": spikes}, membranes=True
    )
    dead = ~run.spikes["one"].any(0).any(0)
    assert 0 < dead.sum() < 9
    assert torch.equal(run.spikes["one"], whole.spikes["one"] & ~dead)
    assert torch.equal(run.membranes["one"], whole.membranes["one"])
    assert not torch.equal(run.spikes["two"], whole.spikes["two"])
    many = Faulty(Fast(), SOME).compile(segment, LOIHI)({"x": spikes.repeat(1, 50, 1)})
    for name, counts in many.fired.items():  # more samples than a byte counts
        assert np.array_equal(counts, many.spikes[name].sum(1))


def test_lost_spikes_are_lost_on_the_way_in_and_out(segment, spikes):
    silence = Fast().compile(segment, LOIHI)({"x": spikes & False}, membranes=True)
    lost = Faulty(Fast(), Faults(dropped_spikes=1)).compile(segment, LOIHI)
    run = lost({"x": spikes}, membranes=True)
    assert not run.spikes["one"].any() and not run.spikes["two"].any()
    assert torch.equal(run.membranes["one"], silence.membranes["one"])
    some = Faulty(Fast(), Faults(dropped_spikes=0.3)).compile(segment, LOIHI)
    arrived = some._kept("x", spikes, 0)
    expected = Fast().compile(segment, LOIHI)({"x": arrived}).spikes["one"]
    sent = some({"x": spikes}).spikes["one"]
    assert not (sent & ~expected).any()
    assert 0.55 < sent.sum() / expected.sum() < 0.85


@law(25)
@given(networks(delays=2, loops=True), st.sampled_from([Faults(), SOME]))
def test_loops_break_alike_on_all_backends(chip, faults):
    fed = random_inputs(chip, 3, rate=0.6)
    one, two = (
        Faulty(inner, faults).compile(chip, LOIHI)(fed, first=4, membranes=True)
        for inner in (Fast(), Reference())
    )
    assert_equal(one, two)
    if faults == Faults():
        assert_equal(one, Reference().compile(chip, LOIHI)(fed, membranes=True))


@pytest.mark.parametrize("inner", [Fast(), Reference()])
def test_a_neuron_that_feeds_itself_falls_silent_with_the_first_spike_that_is_lost(inner):
    """Two spikes start it, and each of its own starts another one two steps later."""
    layer = population("n", (1,), feed("x", [[100]]), feed("n", [[100]], delay=2), threshold=50)
    chip = chip_segment(layer, inputs={"x": (1,)}, outputs=["n"], steps=12, name="chip")
    x = torch.zeros(12, 40, 1, dtype=torch.bool)
    x[0] = x[1] = True
    whole = inner.compile(chip, LOIHI)({"x": x}).spikes["n"]
    assert whole.all()
    faults = Faults(dropped_spikes=0.2, seed=5)
    run = Faulty(inner, faults).compile(chip, LOIHI)({"x": x}, first=3)
    for number in range(40):
        lost = [
            strikes((5, "dropped", "chip", name), 0.2, (12, 1), 3 + number)[:, 0].tolist()
            for name in ("x", "n")
        ]
        sent = []
        for step in range(12):
            before = sent[step - 2] if step > 1 else not lost[0][step]
            sent.append(before and not lost[1][step])
        assert run.spikes["n"][:, number, 0].tolist() == sent
    assert 0.1 < run.spikes["n"].float().mean() < 0.7
    dead = Faulty(inner, Faults(dead_neurons=1)).compile(chip, LOIHI)({"x": x})
    assert not dead.spikes["n"].any()
    parts = [
        Faulty(inner, faults).compile(chip, LOIHI)({"x": x[:, a:b]}, first=3 + a).spikes["n"]
        for a, b in ((0, 11), (11, 40))
    ]
    assert torch.equal(torch.cat(parts, 1), run.spikes["n"])


def test_recurrent_networks_are_swept():
    """Nothing broken is what the mapping computes; where more is broken, less is right."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.cell = nn.Linear(12, 8), snn.RLeaky(0.8, linear_features=8, threshold=0.3)

        def forward(self, x):
            spikes, membrane = self.cell.init_rleaky()
            total = 0
            for step in x:
                spikes, membrane = self.cell(self.fc(step), spikes, membrane)
                total = total + spikes
            return total

    x = (torch.rand(7, 40, 12) < 0.5).float()
    mapped = map_model(Net(), calibration=x, inputs="spikes")
    assert mapped.chip_segments[0].loop()
    labels = simulate(mapped, x).logits.argmax(1)
    points = fault_sweep(mapped, x, labels, Faults(0.01, 0.1, 0.1), (0, 1, 5), batch_size=16)
    right = [point.agreement.accuracy for point in points]
    assert right[0] == 1 and right[0] > right[1] > right[2]
    broken = simulate(mapped, x, Faulty("fast", Faults())).activity
    for name, counts in simulate(mapped, x).activity.updated.items():
        assert np.array_equal(broken.updated[name], counts)
    with pytest.raises(BackendError, match="take the reference or the fast one"):
        simulate(mapped, x[:, :1], Faulty("lava", Faults()))


def test_biases_that_the_host_writes_reach_the_populations_of_a_loop():
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.cell = nn.Linear(6, 5), snn.RLeaky(0.5, linear_features=5, threshold=0.3)

        def forward(self, x):
            spikes, membrane = self.cell.init_rleaky()
            current, record = self.fc(x), []
            for _ in range(6):
                spikes, membrane = self.cell(current, spikes, membrane)
                record.append(spikes)
            return torch.stack(record)

    x = torch.rand(9, 6)
    mapped = map_model(Net(), calibration=x)
    (chip,) = mapped.chip_segments
    assert chip.loop() and [port.kind for port in chip.inputs] == ["bias"]
    whole = simulate(mapped, x).logits
    assert whole.any() and torch.equal(simulate(mapped, x, Faulty("fast", Faults())).logits, whole)
    some = [simulate(mapped, x, Faulty(name, SOME)).logits for name in ("fast", "reference")]
    assert torch.equal(*some) and not torch.equal(some[0], whole)


def test_populations_may_stand_in_any_order_and_spikes_may_come_late(segment, spikes):
    one, two = segment.populations
    late = [replace(s, delay=d) for s, d in zip(two.synapses, (2, 4), strict=True)]
    for layers in ((two, one), (one, replace(two, synapses=tuple(late)))):
        other = replace(segment, populations=layers)
        expected = Reference().compile(other, LOIHI)({"x": spikes}, membranes=True)
        for inner in (Fast(), Reference()):
            found = Faulty(inner, Faults()).compile(other, LOIHI)({"x": spikes}, membranes=True)
            assert_equal(found, expected)


def test_a_population_that_nothing_feeds_runs_too(segment, spikes):
    one, two = segment.populations
    alone = replace(segment, populations=(replace(one, synapses=()), two))
    expected = Reference().compile(alone, LOIHI)({"x": spikes}, membranes=True)
    assert_equal(
        Faulty(Reference(), Faults()).compile(alone, LOIHI)({"x": spikes}, membranes=True), expected
    )


@pytest.mark.parametrize("fault", ["weight_bitflips", "dead_neurons", "dropped_spikes"])
def test_another_seed_and_another_segment_break_other_things(segment, spikes, fault):
    def sent(seed, name):
        broken = Faulty(Fast(), Faults(**{fault: 0.1}, seed=seed))
        run = broken.compile(replace(segment, name=name), LOIHI)({"x": spikes})
        return torch.cat([run.spikes["one"], run.spikes["two"]], 2)

    assert torch.equal(sent(0, "chip"), sent(0, "chip"))
    assert not torch.equal(sent(0, "chip"), sent(1, "chip"))
    assert not torch.equal(sent(0, "chip"), sent(0, "other"))


def test_faults_are_read_from_text():
    assert Faults.parse("weight-bitflips=1e-4, dead-neurons=0.01,dropped-spikes=1", 3) == Faults(
        1e-4, 0.01, 1.0, 3
    )
    assert Faults.parse("dead-neurons=0").rates == {
        "weight-bitflips": 0,
        "dead-neurons": 0,
        "dropped-spikes": 0,
    }
    assert Faults(0.1, 0.01, 0, 5).scaled(10) == Faults(1.0, 0.1, 0, 5)
    with pytest.raises(UnknownName, match="did you mean 'dead-neurons'"):
        Faults.parse("dead-neuron=0.1")
    for text in ("dead-neurons", "dead-neurons=x", "dead-neurons=1.1", "dead-neurons=nan",
                 "dead-neurons=-1", "dead-neurons=0.1,dead-neurons=0.1"):  # fmt: skip
        with pytest.raises(BadInput, match="dead-neurons once, with a probability"):
            Faults.parse(text)
    for changes in ({"weight_bitflips": 1.5}, {"dropped_spikes": float("nan")}, {"seed": -1}):
        with pytest.raises(BadInput, match=next(iter(changes))):
            Faults(**changes)
    with pytest.raises(BadInput, match="severity 11 makes weight-bitflips 1.1"):
        Faults(0.1).scaled(11)
    for severity in (-1.0, float("inf"), float("nan")):
        with pytest.raises(BadInput, match="severity must be"):
            Faults(0.1).scaled(severity)


def test_a_sweep_goes_from_the_whole_chip_to_a_silent_one(vgg, digits):
    mapped, x = map_model(vgg, calibration=digits[:64]), digits[:50]
    labels = simulate(mapped, x).logits.argmax(1)
    seen = []
    points = fault_sweep(
        mapped, x, labels, Faults(dead_neurons=0.25), (0, 1, 4), batch_size=20,
        on_progress=lambda *now: seen.append(now),
    )  # fmt: skip
    assert seen == [(20, 50), (40, 50), (50, 50)]
    whole, some, none = (point.agreement for point in points)
    assert [point.faults.dead_neurons for point in points] == [0, 0.25, 1]
    assert whole.accuracy == 1
    assert whole.layers == agreement(mapped, x).layers
    assert all(layer.spikes == 0 for layer in none.layers)
    assert none.accuracy < 1
    assert sum(x.spikes for x in whole.layers) > sum(x.spikes for x in some.layers) > 0
    (again,) = fault_sweep(mapped, x, labels, Faults(dead_neurons=0.25), (1,))
    assert again.agreement.layers == some.layers
    with pytest.raises(BadInput, match="severity 5 makes"):
        fault_sweep(mapped, x, labels, Faults(dead_neurons=0.25), (0, 5))
