"""The reference backend against single neurons and single synapses, one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from builders import (
    LOIHI,
    feed,
    fields,
    law,
    networks,
    population,
    random_inputs,
    segment,
    shown,
    single_synapses,
)
from hypothesis import given
from hypothesis import strategies as st

from has8.errors import BadInput
from hwsim.activity import Overflow
from hwsim.backends.fast.backend import Fast
from hwsim.backends.protocol import SegmentRun
from hwsim.backends.reference import Reference
from mapping.chip.check import check_segment
from mapping.chip.neurons import Lif
from mapping.chip.segment import ChipSegment, Population, Synapse
from mapping.targets.schema import Registers

REGISTERS = LOIHI.registers


def run(chip: ChipSegment, registers: Registers = REGISTERS, **inputs: np.ndarray) -> SegmentRun:
    spikes = {name: torch.from_numpy(array.astype(bool)) for name, array in inputs.items()}
    return Reference().compile(chip, registers)(spikes)


def neurons(name: str, *synapses: Synapse, **constants: Any) -> Population:
    """Neurons that forget their membrane, unless told otherwise."""
    out = len(synapses[0].weight)
    return population(name, (out,), *synapses, **{"threshold": 100, "dv": 4096, **constants})


def one(*populations: Population, steps: int, inputs: int = 1) -> ChipSegment:
    last = populations[-1].name
    return segment(*populations, inputs={"x": (inputs,)}, outputs=[last], steps=steps)


# ------------------------------------------------------- the law: equal to the obvious in Python


def decayed(x: int, d: int, bits: int) -> int:
    kept = abs(x) * (2**bits - d) // 2**bits
    return kept if x >= 0 else -kept


class Neuron:
    def __init__(self, layer: Population, at: tuple[int, ...], registers: Registers) -> None:
        def constant(name: str) -> int:
            return int(np.broadcast_to(getattr(layer.neuron, name), layer.shape)[at])

        self.r, self.u, self.v = registers, 0, 0
        self.du, self.dv, self.threshold = map(constant, ("du", "dv", "threshold"))
        self.bias = constant("bias") * 2 ** constant("bias_exp")

    def step(self, arriving: int) -> tuple[bool, bool, bool, bool]:
        """Whether it fired, was updated, wrapped and was clipped."""
        r, half = self.r, 2 ** (self.r.state_bits - 1)
        before = self.v
        u = decayed(self.u, self.du + r.current_decay_offset, r.decay_bits)
        u = unwrapped = u + arriving * 2**r.synapse_shift
        while u > half or (u == half and not r.keep_top):
            u -= 2 * half
        while u < -half or (u == -half and r.keep_top):
            u += 2 * half
        v = decayed(self.v, self.dv + r.membrane_decay_offset, r.decay_bits) + u + self.bias
        self.u, self.v = u, min(max(v, 1 - half), half - 1)
        fired = self.v > self.threshold * 2**r.threshold_shift
        wrapped, clipped = u != unwrapped, v != self.v
        updated = bool(before or u or self.bias or arriving)
        self.v = 0 if fired else self.v
        return fired, updated, wrapped, clipped


def check_against_single_neurons(
    chip: ChipSegment, registers: Registers, inputs: dict[str, np.ndarray]
) -> None:
    """Neuron by neuron and synapse by synapse, those first that others wait for."""
    result = run(chip, registers, **inputs)
    samples = next(iter(inputs.values())).shape[1]
    updated = {p.name: np.zeros((chip.steps, *p.shape), int) for p in chip.populations}
    overflow = {p.name: [0, 0] for p in chip.populations}
    for sample in range(samples):
        cells = {
            p.name: {at: Neuron(p, at, registers) for at in np.ndindex(*p.shape)}
            for p in chip.populations
        }
        sent = {name: list(array[:, sample]) for name, array in inputs.items()}
        sent |= {p.name: [] for p in chip.populations}
        for step in range(chip.steps):
            waiting = list(chip.populations)
            while waiting:
                p = next(p for p in waiting if is_ready(p, waiting))
                waiting.remove(p)
                arriving = dict.fromkeys(np.ndindex(*p.shape), 0)
                for s in p.synapses:
                    if step >= s.delay:
                        newest = sent[s.source][step - s.delay]
                        for to, total in summed(s, newest, p.shape).items():
                            arriving[to] += int(total * 2.0**s.weight_exp // 1)
                fired = np.zeros(p.shape, bool)
                for at, cell in cells[p.name].items():
                    fired[at], busy, wrapped, clipped = cell.step(arriving[at])
                    updated[p.name][(step, *at)] += busy
                    overflow[p.name][0] += wrapped
                    overflow[p.name][1] += clipped
                sent[p.name].append(fired)
                assert (result.spikes[p.name][step, sample].numpy() == fired).all()
    for p in chip.populations:
        assert result.updated[p.name].dtype == np.int64
        assert (result.updated[p.name] == updated[p.name]).all()
        assert result.overflows[p.name] == Overflow(*overflow[p.name])


def is_ready(layer: Population, waiting: list[Population]) -> bool:
    names = {other.name for other in waiting}
    return not any(s.source in names and s.delay == 0 for s in layer.synapses)


def summed(
    synapse: Synapse, spikes: np.ndarray, shape: tuple[int, ...]
) -> dict[tuple[int, ...], int]:
    """What one synapse adds to each neuron that it reaches."""
    sums: dict[tuple[int, ...], int] = {}
    images = spikes.reshape(synapse.wiring.in_shape)
    for origin, to, tap in single_synapses(synapse.wiring):
        at = to[: len(shape)]
        sums[at] = sums.get(at, 0) + int(synapse.weight[tap]) * int(images[origin])
    return sums


@st.composite
def cases(draw: st.DrawFn) -> tuple[ChipSegment, dict[str, np.ndarray]]:
    """Forward, through delays, or with loops; exponents below 0 among them."""
    loops = draw(st.booleans())
    chip = draw(networks(delays=draw(st.sampled_from([0, 2])), loops=loops, exps=(-3, 7)))
    samples, density = draw(st.integers(1, 2)), draw(st.sampled_from((0.1, 0.5, 1.0)))
    inputs = random_inputs(chip, samples, draw(st.integers(0, 99)), density)
    return chip, {name: spikes.numpy() for name, spikes in inputs.items()}


@given(cases(), st.booleans(), st.sampled_from((10, 16, 24)), st.integers(0, 1))
@law(40)
def test_equals_single_neurons_and_synapses(case, keep_top, state_bits, offset):
    registers = msgspec.structs.replace(
        REGISTERS, keep_top=keep_top, state_bits=state_bits, current_decay_offset=offset
    )
    check_against_single_neurons(case[0], registers, case[1])


@given(cases(), st.randoms(use_true_random=False))
@law(30)
def test_the_order_of_the_list_means_nothing(case, random):
    chip, inputs = case
    spikes = {name: torch.from_numpy(array) for name, array in inputs.items()}
    layers = list(chip.populations)
    random.shuffle(layers)
    other = replace(chip, populations=tuple(layers))
    one, two = (
        Reference().compile(c, REGISTERS)(spikes, membranes=True, keep_state=True)
        for c in (chip, other)
    )
    assert list(two.spikes) == [layer.name for layer in layers]
    assert shown(one) == shown(two)


# ---------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(("threshold", "last"), [(199, 1), (200, 0)])
def test_half_leak_adds_bits_with_their_weights(threshold, last):
    """Planes of 200, least significant first: the membrane ends at 200 / 256 of full scale."""
    planes = np.array([200 >> k & 1 for k in range(8)]).reshape(8, 1, 1)
    layer = neurons("y", feed("x", [[128]]), threshold=threshold, dv=2048)
    spikes = run(one(layer, steps=8), x=planes).spikes["y"]
    assert spikes.flatten().tolist() == [0] * 7 + [last]


def test_compares_strictly_and_resets_to_zero():
    layer = neurons("y", feed("x", [[50]]), threshold=100, dv=0)
    result = run(one(layer, steps=6), x=np.ones((6, 1, 1)))
    assert result.spikes["y"].flatten().tolist() == [0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("keep_top", "fires", "overflow"),
    [(True, True, Overflow(0, 1)), (False, False, Overflow(1, 1))],
)
def test_current_of_exactly_half_the_range(keep_top, fires, overflow):
    """8 spikes * 128 * 2**7 * 2**6 = 2**23: it stays and clips v, or it wraps to -2**23."""
    layer = neurons("y", feed("x", [[128] * 8], exp=7), threshold=131_071)
    registers = msgspec.structs.replace(REGISTERS, keep_top=keep_top)
    result = run(one(layer, steps=1, inputs=8), registers, x=np.ones((1, 1, 8)))
    assert bool(result.spikes["y"].item()) is fires
    assert result.overflows["y"] == overflow


def test_a_layer_sees_its_source_in_the_same_step_and_itself_one_later():
    first = neurons("y", feed("x", [[200]]))
    second = neurons("z", feed("y", [[200]]), feed("z", [[200]], delay=1))
    spikes = run(one(first, second, steps=4), x=np.array([0, 1, 0, 0]).reshape(4, 1, 1)).spikes
    assert spikes["y"].flatten().tolist() == [0, 1, 0, 0]
    assert spikes["z"].flatten().tolist() == [0, 1, 1, 1]


def test_a_later_source_acts_one_step_later():
    early = neurons("y", feed("z", [[200]], delay=1))
    late = neurons("z", feed("x", [[200]]))
    spikes = run(one(early, late, steps=3), x=np.array([1, 0, 0]).reshape(3, 1, 1)).spikes
    assert spikes["z"].flatten().tolist() == [1, 0, 0]
    assert spikes["y"].flatten().tolist() == [0, 1, 0]
    at_once = neurons("y", feed("z", [[200]]))
    spikes = run(one(at_once, late, steps=3), x=np.array([1, 0, 0]).reshape(3, 1, 1)).spikes
    assert spikes["y"].flatten().tolist() == [1, 0, 0]


def test_spikes_arrive_as_many_steps_later_as_the_delay_says():
    """And what is still on its way when a sample ends reaches no other one, nor another run."""
    layer = neurons("y", feed("x", [[200]], delay=2))
    x = np.zeros((4, 3, 1))
    x[0, 0] = x[3, 0] = x[2, 1] = 1
    for backend in (Reference(), Fast()):
        program = backend.compile(one(layer, steps=4), REGISTERS)
        for _ in range(2):
            spikes = program({"x": torch.from_numpy(x.astype(bool))}).spikes["y"]
            assert spikes[..., 0].int().T.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_each_synapse_has_its_own_delay():
    layer = neurons("y", feed("x", [[60]]), feed("x", [[60]], delay=1), threshold=100)
    x = np.array([1, 0, 1, 1, 0]).reshape(5, 1, 1)
    assert run(one(layer, steps=5), x=x).spikes["y"].flatten().tolist() == [0, 0, 0, 1, 0]


def test_the_same_synapse_twice_counts_twice():
    synapse = feed("x", [[60]])
    x = np.ones((2, 1, 1))
    assert run(one(neurons("y", synapse, synapse), steps=2), x=x).spikes["y"].all()


def test_a_resting_neuron_is_not_updated():
    """Sample 0 gets a spike in step 1, whose membrane lingers; sample 1 never gets one."""
    layer = neurons("y", feed("x", [[50]]), dv=0)
    x = np.zeros((4, 2, 1))
    x[1, 0] = 1
    assert run(one(layer, steps=4), x=x).updated["y"].flatten().tolist() == [0, 1, 1, 1]
    biased = neurons("y", feed("x", [[50]]), bias=1)
    assert run(one(biased, steps=4), x=x).updated["y"].flatten().tolist() == [2, 2, 2, 2]


def test_samples_do_not_touch_each_other():
    layer = neurons("y", feed("x", [[50]]), dv=0)
    alone = run(one(layer, steps=3), x=np.ones((3, 1, 1))).spikes["y"]
    many = run(one(layer, steps=3), x=np.ones((3, 5, 1))).spikes["y"]
    assert (many == alone).all()


# --------------------------------------------------------------------------------- failures


def test_what_is_not_defined_is_refused_where_segments_are_checked():
    """A neuron is whatever its own step says; a target's arithmetic has only some of them."""

    class Adex(Lif):
        model = "adex"

    layer = neurons("y", feed("x", [[2]]), dv=0)
    odd = replace(layer, neuron=Adex(**fields(layer.neuron)))
    with pytest.raises(BadInput, match=r"^layer 'y' .*: its neuron model 'adex' is unknown"):
        check_segment(one(odd, steps=1), REGISTERS)
    pool = replace(feed("x", [[2]]), weight=np.zeros((1, 1, 2, 2), np.int64))
    with pytest.raises(BadInput, match=r"^layer 'from x' .*: its weights must be int64 of shape"):
        check_segment(one(neurons("y", pool, dv=0), steps=1), REGISTERS)


def test_refuses_loops_within_one_step():
    early, late = neurons("y", feed("z", [[200]])), neurons("z", feed("y", [[200]]))
    with pytest.raises(BadInput, match=r"^the populations y, z wait for each other's spikes of "):
        Reference().compile(one(early, late, steps=1), REGISTERS)
    itself = neurons("y", feed("x", [[200]]), feed("y", [[200]]))
    behind = neurons("z", feed("y", [[200]]))
    with pytest.raises(BadInput, match=r"^the population y waits for its own spikes of "):
        Reference().compile(one(behind, itself, steps=1), REGISTERS)


def test_refuses_other_inputs():
    chip = one(neurons("y", feed("x", [[2]])), steps=2)
    with pytest.raises(BadInput, match=r"needs the spikes of 'x', but was given only \['z'\]"):
        run(chip, z=np.ones((2, 1, 1)))
    with pytest.raises(BadInput, match=r"shape \[3, 1, 1\].*takes .* = \[2, 1, 1\]"):
        run(chip, x=np.ones((3, 1, 1)))
