"""The reference backend against single neurons and single synapses, one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from has8.errors import BackendError, BadInput
from hwsim.activity import Overflow
from hwsim.backends.protocol import SegmentRun
from hwsim.backends.reference import Reference
from mapping.chip.segment import ChipSegment, Population, Port, Synapse
from mapping.targets.schema import Registers, load_target

LOIHI = load_target("loihi").registers


def run(segment: ChipSegment, registers: Registers = LOIHI, **inputs: np.ndarray) -> SegmentRun:
    spikes = {name: torch.from_numpy(array.astype(bool)) for name, array in inputs.items()}
    return Reference().compile(segment, registers)(spikes)


def linear(source: str, weight: list[list[int]], exp: int = 0) -> Synapse:
    return Synapse(f"from {source}", source, "linear", {}, np.array(weight), exp, "mixed", 8)


def neurons(name: str, *synapses: Synapse, threshold: int = 100, **other: int) -> Population:
    constants = {"bias_exp": 0, "du": 4095, "dv": 4096, **other}
    bias = np.full(len(synapses[0].weight), constants.pop("bias", 0))
    thresholds = np.full(len(bias), threshold)
    return Population(name, (len(bias),), synapses, "lif", thresholds, bias, **constants)


def one(*populations: Population, steps: int, inputs: int = 1) -> ChipSegment:
    return ChipSegment("s", steps, (Port("x", (inputs,)),), populations, (populations[-1].name,))


# ------------------------------------------------------- the law: equal to the obvious in Python


def single_synapses(
    synapse: Synapse, source: tuple[int, ...], target: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Every single synapse: the neuron it reaches, the neuron it comes from, its weight."""
    if synapse.kind == "linear":
        for (o, to), (i, origin) in itertools.product(
            enumerate(np.ndindex(*target)), enumerate(np.ndindex(*source))
        ):
            yield to, origin, int(synapse.weight[o, i])
        return
    at, per_in = synapse.attrs, synapse.weight.shape[1]
    per_out = len(synapse.weight) // at["groups"]
    for (o, y, x), (i, tap_y, tap_x) in itertools.product(
        np.ndindex(*target), np.ndindex(*synapse.weight.shape[1:])
    ):
        row = y * at["stride"][0] - at["padding"][0] + tap_y * at["dilation"][0]
        column = x * at["stride"][1] - at["padding"][1] + tap_x * at["dilation"][1]
        if 0 <= row < source[1] and 0 <= column < source[2]:
            channel = o // per_out * per_in + i
            yield (o, y, x), (channel, row, column), int(synapse.weight[o, i, tap_y, tap_x])


def decayed(x: int, d: int, bits: int) -> int:
    kept = abs(x) * (2**bits - d) // 2**bits
    return kept if x >= 0 else -kept


class Neuron:
    def __init__(self, population: Population, channel: int, registers: Registers) -> None:
        self.p, self.r, self.u, self.v = population, registers, 0, 0
        self.bias = int(population.bias[channel]) * 2**population.bias_exp
        self.threshold = int(population.threshold[channel])

    def step(self, arriving: int) -> tuple[bool, bool, bool, bool]:
        """Whether it fired, was updated, wrapped and was clipped."""
        r, half = self.r, 2 ** (self.r.state_bits - 1)
        before = self.v
        u = decayed(self.u, self.p.du + r.current_decay_offset, r.decay_bits)
        u = unwrapped = u + arriving * 2**r.synapse_shift
        while u > half or (u == half and not r.keep_top):
            u -= 2 * half
        while u < -half or (u == -half and r.keep_top):
            u += 2 * half
        v = decayed(self.v, self.p.dv + r.membrane_decay_offset, r.decay_bits) + u + self.bias
        self.u, self.v = u, min(max(v, 1 - half), half - 1)
        fired = self.v > self.threshold * 2**r.threshold_shift
        wrapped, clipped = u != unwrapped, v != self.v
        updated = bool(before or u or self.bias or arriving)
        self.v = 0 if fired else self.v
        return fired, updated, wrapped, clipped


def check_against_single_neurons(
    segment: ChipSegment, registers: Registers, inputs: dict[str, np.ndarray]
) -> None:
    result = run(segment, registers, **inputs)
    samples = next(iter(inputs.values())).shape[1]
    shape = {item.name: item.shape for item in (*segment.inputs, *segment.populations)}
    wires = {
        id(s): list(single_synapses(s, shape[s.source], p.shape))
        for p in segment.populations
        for s in p.synapses
    }
    updated = {p.name: np.zeros((segment.steps, *p.shape), int) for p in segment.populations}
    overflow = {p.name: [0, 0] for p in segment.populations}
    for sample in range(samples):
        cells = {
            p.name: {at: Neuron(p, at[0], registers) for at in np.ndindex(*p.shape)}
            for p in segment.populations
        }
        newest = {p.name: np.zeros(p.shape, bool) for p in segment.populations}
        for step in range(segment.steps):
            newest |= {name: array[step, sample] for name, array in inputs.items()}
            for p in segment.populations:
                arriving = dict.fromkeys(np.ndindex(*p.shape), 0)
                for s in p.synapses:
                    sums = dict.fromkeys(arriving, 0)
                    for to, origin, weight in wires[id(s)]:
                        sums[to] += weight * int(newest[s.source][origin])
                    for to, total in sums.items():
                        arriving[to] += int(total * 2.0**s.weight_exp // 1)
                fired = np.zeros(p.shape, bool)
                for at, cell in cells[p.name].items():
                    fired[at], busy, wrapped, clipped = cell.step(arriving[at])
                    updated[p.name][(step, *at)] += busy
                    overflow[p.name][0] += wrapped
                    overflow[p.name][1] += clipped
                newest[p.name] = fired
                assert (result.spikes[p.name][step, sample].numpy() == fired).all()
    for p in segment.populations:
        assert result.updated[p.name].dtype == np.int64
        assert (result.updated[p.name] == updated[p.name]).all()
        assert result.overflows[p.name] == Overflow(*overflow[p.name])


@st.composite
def segments(draw: st.DrawFn) -> tuple[ChipSegment, dict[str, np.ndarray]]:
    """A convolution, and a second layer fed by it, the input and perhaps itself."""
    number = st.integers
    rng = np.random.default_rng(draw(number(0, 2**32 - 1)))
    pairs = {
        "stride": (draw(number(1, 3)), draw(number(1, 2))),
        "padding": (draw(number(0, 2)), draw(number(0, 2))),
        "dilation": (draw(number(1, 2)), draw(number(1, 2))),
    }
    kernel, groups = (draw(number(1, 3)), draw(number(1, 3))), draw(number(1, 2))
    shape = (2, draw(number(5, 6)), draw(number(5, 6)))
    spatial = (
        (size + 2 * pad - step * (taps - 1) - 1) // stride + 1
        for size, taps, stride, pad, step in zip(shape[1:], kernel, *pairs.values(), strict=True)
    )
    middle, outs = (2, *spatial), draw(number(1, 4))

    def synapse(
        kind: str, source: str, shape: tuple[int, ...], attrs: dict[str, object]
    ) -> Synapse:
        weight = 2 * rng.integers(-128, 128, shape)
        return Synapse(kind, source, kind, attrs, weight, draw(number(-3, 7)), "mixed", 8)

    def population(name: str, shape: tuple[int, ...], *synapses: Synapse) -> Population:
        return Population(
            name,
            shape,
            synapses,
            "lif",
            threshold=rng.choice((0, 300, 20_000, 131_071), shape[0]),
            bias=rng.integers(-4095, 4096, shape[0]) * draw(number(0, 1)),
            bias_exp=draw(number(0, 7)),
            du=draw(st.sampled_from((0, 1000, 4095))),
            dv=draw(st.sampled_from((0, 1, 2048, 4096))),
        )

    conv = synapse("conv2d", "x", (2, 2 // groups, *kernel), {**pairs, "groups": groups})
    second = [("x", shape), ("middle", middle), ("last", (outs,))][: draw(number(1, 3))]
    last = [synapse("linear", name, (outs, int(np.prod(s))), {}) for name, s in second]
    segment = ChipSegment(
        "s",
        draw(number(1, 4)),
        (Port("x", shape),),
        (population("middle", middle, conv), population("last", (outs,), *last)),
        ("last",),
    )
    density = draw(st.sampled_from((0.1, 0.5, 1.0)))
    spikes = rng.random((segment.steps, draw(number(1, 2)), *shape)) < density
    return segment, {"x": spikes}


@given(segments(), st.booleans(), st.sampled_from((10, 16, 24)), st.integers(0, 1))
@settings(max_examples=40, deadline=None)
def test_equals_single_neurons_and_synapses(case, keep_top, state_bits, offset):
    registers = msgspec.structs.replace(
        LOIHI, keep_top=keep_top, state_bits=state_bits, current_decay_offset=offset
    )
    check_against_single_neurons(case[0], registers, case[1])


# ---------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(("threshold", "last"), [(199, 1), (200, 0)])
def test_half_leak_adds_bits_with_their_weights(threshold, last):
    """Planes of 200, least significant first: the membrane ends at 200 / 256 of full scale."""
    planes = np.array([200 >> k & 1 for k in range(8)]).reshape(8, 1, 1)
    layer = neurons("y", linear("x", [[128]]), threshold=threshold, dv=2048)
    spikes = run(one(layer, steps=8), x=planes).spikes["y"]
    assert spikes.flatten().tolist() == [0] * 7 + [last]


def test_compares_strictly_and_resets_to_zero():
    layer = neurons("y", linear("x", [[50]]), threshold=100, dv=0)
    result = run(one(layer, steps=6), x=np.ones((6, 1, 1)))
    assert result.spikes["y"].flatten().tolist() == [0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("keep_top", "fires", "overflow"),
    [(True, True, Overflow(0, 1)), (False, False, Overflow(1, 1))],
)
def test_current_of_exactly_half_the_range(keep_top, fires, overflow):
    """8 spikes * 128 * 2**7 * 2**6 = 2**23: it stays and clips v, or it wraps to -2**23."""
    layer = neurons("y", linear("x", [[128] * 8], exp=7), threshold=131_071)
    registers = msgspec.structs.replace(LOIHI, keep_top=keep_top)
    result = run(one(layer, steps=1, inputs=8), registers, x=np.ones((1, 1, 8)))
    assert bool(result.spikes["y"].item()) is fires
    assert result.overflows["y"] == overflow


def test_a_layer_sees_its_source_in_the_same_step_and_itself_one_later():
    first = neurons("y", linear("x", [[200]]))
    second = neurons("z", linear("y", [[200]]), linear("z", [[200]]))
    spikes = run(one(first, second, steps=4), x=np.array([0, 1, 0, 0]).reshape(4, 1, 1)).spikes
    assert spikes["y"].flatten().tolist() == [0, 1, 0, 0]
    assert spikes["z"].flatten().tolist() == [0, 1, 1, 1]


def test_a_later_source_acts_one_step_later():
    early = neurons("y", linear("z", [[200]]))
    late = neurons("z", linear("x", [[200]]))
    spikes = run(one(early, late, steps=3), x=np.array([1, 0, 0]).reshape(3, 1, 1)).spikes
    assert spikes["z"].flatten().tolist() == [1, 0, 0]
    assert spikes["y"].flatten().tolist() == [0, 1, 0]


def test_a_resting_neuron_is_not_updated():
    """Sample 0 gets a spike in step 1, whose membrane lingers; sample 1 never gets one."""
    layer = neurons("y", linear("x", [[50]]), dv=0)
    x = np.zeros((4, 2, 1))
    x[1, 0] = 1
    assert run(one(layer, steps=4), x=x).updated["y"].flatten().tolist() == [0, 1, 1, 1]
    biased = neurons("y", linear("x", [[50]]), bias=1)
    assert run(one(biased, steps=4), x=x).updated["y"].flatten().tolist() == [2, 2, 2, 2]


def test_samples_do_not_touch_each_other():
    layer = neurons("y", linear("x", [[50]]), dv=0)
    alone = run(one(layer, steps=3), x=np.ones((3, 1, 1))).spikes["y"]
    many = run(one(layer, steps=3), x=np.ones((3, 5, 1))).spikes["y"]
    assert (many == alone).all()


# --------------------------------------------------------------------------------- failures


def test_refuses_what_it_does_not_define():
    layer = neurons("y", linear("x", [[2]]))
    odd_neuron = Population(**{**fields(layer), "neuron": "adex"})
    with pytest.raises(BackendError, match=r"'y' has 'adex' neurons"):
        Reference().compile(one(odd_neuron, steps=1), LOIHI)
    odd_synapse = Synapse(**{**fields(layer.synapses[0]), "kind": "pool"})
    with pytest.raises(BackendError, match="is a 'pool'"):
        Reference().compile(one(neurons("y", odd_synapse), steps=1), LOIHI)


def test_refuses_other_inputs():
    segment = one(neurons("y", linear("x", [[2]])), steps=2)
    with pytest.raises(BadInput, match=r"needs the spikes of 'x', but was given only \['z'\]"):
        run(segment, z=np.ones((2, 1, 1)))
    with pytest.raises(BadInput, match=r"shape \[3, 1, 1\].*takes .* = \[2, 1, 1\]"):
        run(segment, x=np.ones((3, 1, 1)))


def fields(item: Population | Synapse) -> dict[str, object]:
    return {name: getattr(item, name) for name in item.__slots__}
