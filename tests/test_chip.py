"""Chip segments as data: what must hold for one, in which order it runs, and how it travels."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import (
    LOIHI,
    PATIENT,
    conv,
    feed,
    gridded,
    law,
    lif,
    linear,
    networks,
    population,
    random_inputs,
    registers,
    segment,
    shown,
    with_constants,
)
from hypothesis import given
from hypothesis import strategies as st

from has8.errors import BackendError, BadInput
from hwsim.backends.fast.backend import Fast
from hwsim.backends.lava.limits import check_faithful
from hwsim.backends.reference import Reference
from hwsim.experiments.faults import Faults, Faulty
from mapping.chip.check import check_segment
from mapping.chip.neurons import Lif
from mapping.chip.segment import ChipSegment, Population, Port, Synapse
from mapping.chip.serial import narrow, pack, unpack
from mapping.chip.wiring import Axis, Wiring
from mapping.targets.schema import Registers

REGISTERS = LOIHI.registers

# ----------------------------------------------------------------------------- order and loops


def position(order: tuple[Population, ...]) -> dict[str, int]:
    return {layer.name: place for place, layer in enumerate(order)}


@PATIENT
@given(networks(delays=2))
def test_a_segment_without_loops_runs_sources_first_late_ones_too(chip: ChipSegment) -> None:
    assert chip.loop() is None
    at = position(chip.in_order())
    assert sorted(at) == sorted(layer.name for layer in chip.populations)
    for layer, synapse in chip.synapses():
        assert at.get(synapse.source, -1) < at[layer.name]


@PATIENT
@given(networks(delays=2, loops=True))
def test_a_loop_is_named_by_a_synapse_that_is_part_of_it(chip: ChipSegment) -> None:
    at = position(chip.in_order())
    for layer, synapse in chip.synapses():
        assert synapse.delay or at.get(synapse.source, -1) < at[layer.name]
    loop = chip.loop()
    assert loop is not None and loop.delay
    fed = {layer.name: {s.source for s in layer.synapses} for layer in chip.populations}
    behind, front = set(), [next(p.name for p, s in chip.synapses() if s is loop)]
    while front:  # what the population that it feeds reaches
        name = front.pop()
        behind.add(name)
        front += [other for other in fed if name in fed[other] and other not in behind]
    assert loop.source in behind


@PATIENT
@given(networks(delays=2, loops=True))
def test_loops_run_through_delays_only(chip: ChipSegment) -> None:
    Reference().compile(chip, REGISTERS)(random_inputs(chip, 1))

    # without a delay it is none that could run
    at_once = [
        replace(p, synapses=tuple(replace(s, delay=0) for s in p.synapses))
        for p in chip.populations
    ]
    stuck = replace(chip, populations=tuple(at_once))
    for check in (
        lambda: Reference().compile(stuck, REGISTERS),
        lambda: Fast().compile(stuck, REGISTERS),
        lambda: check_segment(stuck, REGISTERS),
        stuck.in_order,
    ):
        with pytest.raises(
            BadInput, match=r"^the populations? .* waits? for .* of at least one step$"
        ):
            check()


@PATIENT
@given(networks(delays=3, loops=True), st.randoms(use_true_random=False))
def test_the_order_of_the_list_does_not_change_depths(chip: ChipSegment, random: Any) -> None:
    layers = list(chip.populations)
    random.shuffle(layers)
    other = replace(chip, populations=tuple(layers))
    if _slowest_circle(chip) > 0:
        for some in (chip, other):
            with pytest.raises(BadInput, match="^synapse '[a-d].[0-9]' is part of a loop with few"):
                some.depths()
        return
    depths = chip.depths()
    assert depths == other.depths()
    bound: dict[str, list[int]] = {layer.name: [1] for layer in layers}
    for layer, synapse in chip.synapses():
        if synapse.delay < chip.steps:
            bound[layer.name].append(depths[synapse.source] + 1 - synapse.delay)
    assert depths == {name: max(least) for name, least in bound.items()} | {"x": 0, "y": 0}


def _slowest_circle(chip: ChipSegment) -> int:
    """By how many steps the slowest way from a population to itself is late; tries all ways."""
    ways = [(s.source, p.name, 1 - s.delay) for p, s in chip.synapses() if s.delay < chip.steps]

    def late(start: str, at: str, passed: frozenset[str]) -> int:
        found = [-(1 << 20)]
        for source, target, step in ways:
            if source == at:
                if target == start:
                    found.append(step)
                elif target not in passed:
                    found.append(step + late(start, target, passed | {target}))
        return max(found)

    return max(late(p.name, p.name, frozenset({p.name})) for p in chip.populations)


@PATIENT
@given(networks(delays=2, loops=True))
def test_parts_are_what_reaches_itself_together(chip: ChipSegment) -> None:
    fed = {p.name: {s.source for s in p.synapses} & {q.name for q in chip.populations}
           for p in chip.populations}  # fmt: skip
    behind = {name: set(sources) for name, sources in fed.items()}
    for _ in behind:
        behind = {n: b.union(*(behind[m] for m in b)) for n, b in behind.items()}
    parts = [[layer.name for layer in part] for part in chip.parts()]
    assert sorted(name for part in parts for name in part) == sorted(fed)
    place = {name: at for at, part in enumerate(parts) for name in part}
    for one in fed:
        for other in fed:
            together = one == other or (one in behind[other] and other in behind[one])
            assert (place[one] == place[other]) == together
            assert other not in fed[one] or place[other] <= place[one]


@law(40)
@given(networks(delays=2) | networks(delays=2, loops=True))
def test_faults_that_do_not_happen_change_nothing_whatever_the_delays(chip: ChipSegment) -> None:
    inputs = random_inputs(chip, 2)
    whole = Reference().compile(chip, REGISTERS)(inputs, membranes=True)
    faultless = Faulty(Fast(), Faults()).compile(chip, REGISTERS)(inputs, membranes=True)
    assert shown(faultless) == shown(whole)


def chain(*names: str, **synapses: list[Synapse]) -> ChipSegment:
    layers = [population(name, (1,), *synapses[name]) for name in names]
    return segment(*layers, inputs={"x": (1,)})


def test_loops_by_hand() -> None:
    """What lies behind a loop, or between two, is no part of one."""
    one = [[2]]
    itself = chain(
        "c", "b", "a",
        a=[feed("x", one), feed("a", one, delay=1)], b=[feed("a", one)], c=[feed("b", one)],
    )  # fmt: skip
    loop = itself.loop()
    assert loop is not None and (loop.source, loop.name) == ("a", "from a")
    assert [layer.name for layer in itself.in_order()] == ["a", "b", "c"]
    assert itself.depths() == {"x": 0, "a": 1, "b": 2, "c": 3}
    assert [[p.name for p in part] for part in itself.parts()] == [["a"], ["b"], ["c"]]
    two = chain("b", "a", a=[feed("b", one, delay=2)], b=[feed("a", one)])
    loop = two.loop()
    assert loop is not None and (loop.source, loop.delay) == ("b", 2)
    assert [layer.name for layer in two.in_order()] == ["a", "b"]
    assert [[p.name for p in part] for part in two.parts()] == [["a", "b"]]
    assert two.depths() == {"x": 0, "a": 1, "b": 2}
    quick = chain("b", "a", a=[feed("b", one, delay=1)], b=[feed("a", one)])
    with pytest.raises(BadInput, match="^synapse 'from [ab]' is part of a loop with fewer steps "):
        quick.depths()
    with pytest.raises(BackendError, match="^Lava cannot run it in time: synapse 'from [ab]' is "):
        check_faithful(quick, REGISTERS)
    with pytest.raises(
        BadInput, match="^the populations b, a wait for each other's spikes of the "
    ):
        chain("b", "a", "c", a=[feed("b", one)], b=[feed("a", one)], c=[feed("a", one)]).in_order()
    with pytest.raises(BadInput, match="^the population a waits for its own spikes of the same "):
        chain("b", "a", a=[feed("a", one)], b=[feed("a", one)]).in_order()
    with pytest.raises(BadInput, match="^the source 'z' of synapse 'from z' is neither port nor "):
        chain("b", "a", a=[feed("z", one)], b=[feed("a", one)]).in_order()


# ----------------------------------------------------------------- what the registers can hold


TARGETS = st.builds(
    registers,
    decay_bits=st.sampled_from([12, 14]),
    current_decay_offset=st.integers(0, 1),
    membrane_decay_offset=st.integers(0, 1),
    threshold_max=st.just(131_071),
    weight_exp_min=st.integers(-7, -3),
)


@law(60)
@given(networks(delays=3, exps=(-3, 7)), networks(delays=3, loops=True), TARGETS)
def test_what_registers_hold_passes(
    forward: ChipSegment, looped: ChipSegment, target: Registers
) -> None:
    for chip in (forward, looped):
        check_segment(chip, target)


def legal(rng: np.random.Generator) -> ChipSegment:
    """Two layers; one wrong thing in it is one wrong thing."""
    a = population(
        "a",
        (4, 3, 3),
        conv("a.w", "x", (2, 3, 3), gridded(rng, (4, 2, 3, 3)), padding=1),
        threshold=[1, 2, 3, 4],
        bias=np.arange(36).reshape(4, 3, 3),
    )
    b = population("b", (5,), linear("b.w", "a", (4, 3, 3), gridded(rng, (5, 36))))
    return segment(a, b, inputs={"x": (2, 3, 3)}, outputs=["b"], name="net")


def at_edge(name: str, value: int) -> ChipSegment:
    chip = legal(np.random.default_rng(0))
    return replace(
        chip,
        populations=(
            with_constants(chip.populations[0], **{name: np.array(value)}),
            chip.populations[1],
        ),
    )


@pytest.mark.parametrize(
    ("name", "low", "high", "words"),
    [
        ("du", 0, 4095, "current decay"),
        ("dv", 0, 4095, "membrane decay"),
        ("threshold", 0, 131_071, "threshold"),
        ("bias", -4095, 4095, "bias"),
        ("bias_exp", 0, 7, "bias exponent"),
    ],
)
def test_constants_are_held_to_their_range_and_no_further(
    name: str, low: int, high: int, words: str
) -> None:
    for value in (low, high):
        check_segment(at_edge(name, value), REGISTERS)
    for value in (low - 1, high + 1):
        with pytest.raises(BadInput) as caught:
            check_segment(at_edge(name, value), REGISTERS)
        assert str(caught.value) == (
            "layer 'a' does not fit the target's arithmetic: "
            f"its {words} must be from {low:,} to {high:,}, not {value:,}"
        )


@pytest.mark.parametrize(
    ("name", "offset", "words"),
    [
        ("du", "current_decay_offset", "current decay"),
        ("dv", "membrane_decay_offset", "membrane decay"),
    ],
)
def test_decays_leave_room_for_what_the_chip_adds(name: str, offset: str, words: str) -> None:
    """Together they are at most the whole, 4,096; a register alone holds 4,095."""
    layer = population("a", (1,), feed("x", [[2]]))

    def holding(value: int) -> ChipSegment:
        return segment(with_constants(layer, **{name: np.array(value)}), inputs={"x": (1,)})

    for added, most in ((0, 4095), (1, 4095), (3, 4093)):
        target = registers(**{"current_decay_offset": 0, offset: added})
        check_segment(holding(most), target)
        with pytest.raises(BadInput, match=f"its {words} must be from 0 to {most:,}, not "):
            check_segment(holding(most + 1), target)


def test_one_wrong_constant_among_many_is_found() -> None:
    """Whether each channel or each neuron has its own; the one that is furthest off is named."""
    chip = legal(np.random.default_rng(0))
    for shape in ((4, 1, 1), (4, 3, 3)):
        values = np.full(shape, 5)
        values.flat[-1], values.flat[0] = 131_080, -1
        broken = replace(
            chip,
            populations=(
                with_constants(chip.populations[0], threshold=values),
                chip.populations[1],
            ),
        )
        with pytest.raises(BadInput, match="threshold must be from 0 to 131,071, not 131,080"):
            check_segment(broken, REGISTERS)


GRIDS = [
    (mode, bits) for mode in ("mixed", "excitatory", "inhibitory") for bits in (1, 2, 3, 4, 5, 6, 8)
]


@pytest.mark.parametrize(("mode", "bits"), GRIDS)
def test_weights_are_held_to_the_grid_of_their_width_and_sign(mode: str, bits: int) -> None:
    """nengo-loihi's rule, counted by hand: 8 bits of magnitude, signs cost the lowest bit."""
    step = 2 ** (8 - bits + (mode == "mixed"))
    magnitudes = range(0, 256, step)
    grid = {
        "excitatory": list(magnitudes),
        "inhibitory": [-m for m in magnitudes],
        "mixed": list(range(-256, 256, step)),
    }[mode]
    for value in range(-258, 259):
        synapse = feed("x", [[value, grid[0]]], bits=bits, sign_mode=mode)
        chip = segment(population("a", (1,), synapse), inputs={"x": (2,)})
        if value in grid:
            check_segment(chip, REGISTERS)
            continue
        with pytest.raises(BadInput, match=f"^layer 'from x' .* its {mode} weights of {bits} bits"):
            check_segment(chip, REGISTERS)


@pytest.mark.parametrize(
    "values", [{"weight_exp": -7}, {"weight_exp": 7}, {"delay": 62}, {"delay": 0}]
)
def test_exponents_and_delays_may_reach_their_ends(values: dict[str, int]) -> None:
    check_segment(changed("a.w", **values)(legal(np.random.default_rng(0))), REGISTERS)


def changed(at: str, **values: Any) -> Callable[[ChipSegment], ChipSegment]:
    """Changes fields of the population or synapse called ``at``."""

    def change(chip: ChipSegment) -> ChipSegment:
        def layer(item: Population) -> Population:
            if item.name == at:
                return replace(item, **values)
            synapses = (replace(s, **values) if s.name == at else s for s in item.synapses)
            return replace(item, synapses=tuple(synapses))

        return replace(chip, populations=tuple(map(layer, chip.populations)))

    return change


def rewired(at: str, **values: Any) -> Callable[[ChipSegment], ChipSegment]:
    """Changes a synapse's wiring; ``rows`` and ``cols`` are mappings of an axis' fields."""

    def change(chip: ChipSegment) -> ChipSegment:
        wires = next(s.wiring for _, s in chip.synapses() if s.name == at)
        new = {
            k: replace(getattr(wires, k), **v) if isinstance(v, dict) else v
            for k, v in values.items()
        }
        return changed(at, wiring=replace(wires, **new))(chip)

    return change


def constant(at: str, name: str, value: Any) -> Callable[[ChipSegment], ChipSegment]:
    def change(chip: ChipSegment) -> ChipSegment:
        layers = (
            with_constants(p, **{name: value}) if p.name == at else p for p in chip.populations
        )
        return replace(chip, populations=tuple(layers))

    return change


def whole(**values: Any) -> Callable[[ChipSegment], ChipSegment]:
    return lambda chip: replace(chip, **values)


class Adex(Lif):
    model = "adex"


class Pretender(Lif):
    """Calls itself what it is not."""


ODD = Adex(**{f.name: getattr(lif((4, 3, 3)), f.name) for f in fields(Lif)})
PRETENDER = Pretender(**{f.name: getattr(lif((4, 3, 3)), f.name) for f in fields(Lif)})
WEIGHT = np.zeros((4, 2, 3, 3), np.int64)
PLAIN = Wiring(Axis(3, 1, 1, 1, 3), Axis(3, 1, 1, 1, 3), 2, 4, 1)

WRONG: dict[str, tuple[Callable[[ChipSegment], ChipSegment], str, str]] = {
    "no steps": (whole(steps=0), "net", "it runs 0 steps, and at least one is needed"),
    "half a step": (whole(steps=1.5), "net", "it runs 1.5 steps"),
    "an output that nobody makes": (whole(outputs=("c",)), "net", "its output 'c' is no popul"),
    "an output that is a port": (whole(outputs=("x",)), "net", "its output 'x' is no population"),
    "two ports of one name": (
        whole(inputs=(Port("x", (2, 3, 3)),) * 2), "net", "have the same name",
    ),
    "a port named as a population": (
        whole(inputs=(Port("x", (2, 3, 3)), Port("a", (4, 3, 3)))), "net", "have the same name",
    ),
    "two synapses of one name": (changed("b.w", name="a.w"), "net", "its synapses have the same"),
    "a port of four axes": (
        whole(inputs=(Port("x", (1, 2, 3, 3)),)), "x", r"its shape must be \(N,\), \(C, L\) or \(C",
    ),
    "a population of nothing": (changed("b", shape=(0,)), "b", "its shape must be"),
    "a population of True": (changed("b", shape=(True,)), "b", "its shape must be"),
    "a source that is unknown": (
        changed("b.w", source="z"), "b.w", "its source 'z' is neither port nor population",
    ),
    "a source of another shape": (
        changed("b.w", source="x"), "b.w", r"it wires \(4, 3, 3\) to \(5, 1, 1\), not \(2, 3, 3\)",
    ),
    "a population of another shape": (
        changed("b", shape=(6,)), "b.w", r"it wires .* not \(4, 3, 3\) to \(6,\)",
    ),
    "weights of too few axes": (
        changed("b.w", weight=np.zeros((5, 36), np.int64)), "b.w", r"must be int64 of shape \(5, 4",
    ),
    "weights of another shape": (
        changed("a.w", weight=WEIGHT[:3]), "a.w", r"must be int64 of shape \(4, 2, 3, 3\), not",
    ),
    "weights of another type": (
        changed("a.w", weight=WEIGHT.astype(np.int32)), "a.w", "its weights must be int64",
    ),
    "weights that are floats": (
        changed("a.w", weight=WEIGHT.astype(float)), "a.w", "its weights must be int64",
    ),
    "weights off the grid": (changed("a.w", weight=WEIGHT + 1), "a.w", "must be on the grid -256"),
    "weights of a width that is not stored": (
        changed("a.w", weight_bits=7), "a.w", "weights of 7 bits are not among",
    ),
    "signs that the target lacks": (
        changed("a.w", sign_mode="both"), "a.w", "its sign mode 'both' is not among",
    ),
    "a weight exponent that is too small": (
        changed("a.w", weight_exp=-8), "a.w", "its weight exponent must be from -7 to 7, not -8",
    ),
    "a weight exponent that is too large": (
        changed("a.w", weight_exp=8), "a.w", "its weight exponent must be from -7 to 7, not 8",
    ),
    "half a weight exponent": (changed("a.w", weight_exp=0.5), "a.w", "its weight exponent must"),
    "a delay back in time": (
        changed("a.w", delay=-1), "a.w", "its delay must be from 0 to 62 steps, not -1",
    ),
    "a delay beyond the target's": (
        changed("a.w", delay=63), "a.w", "its delay must be from 0 to 62 steps, not 63",
    ),
    "a model that is unknown": (
        changed("a", neuron=ODD), "a", "its neuron model 'adex' is unknown; known are lif",
    ),
    "a model under a known name": (
        changed("a", neuron=PRETENDER), "a", "its neuron model 'lif' is unknown",
    ),
    "another reset": (
        changed("a", neuron=replace(lif((4, 3, 3)), reset="soft")),
        "a", "its membrane resets by 'soft', and the target by 'zero'",
    ),
    "constants of too few channels": (
        constant("a", "bias", np.zeros((3, 1, 1), np.int64)), "a", r"its bias of shape \(3, 1, 1\)",
    ),
    "constants along another axis": (
        constant("a", "bias", np.zeros((1, 3, 1), np.int64)), "a", r"its bias of shape \(1, 3, 1\)",
    ),
    "constants of one axis": (
        constant("a", "dv", np.zeros(4, np.int64)), "a", r"its dv of shape \(4,\) must be one",
    ),
    "constants that are floats": (constant("a", "du", np.array(1.0)), "a", "du must be int64 arr"),
    "constants that are no arrays": (constant("a", "dv", 7), "a", "its dv must be int64 arrays"),
    "a window without taps": (
        rewired("a.w", rows={"kernel": 0}), "a.w", "its wiring must have whole numbers in range",
    ),
    "a window that stands still": (rewired("a.w", cols={"stride": 0}), "a.w", "its wiring must"),
    "a window that does not fit": (rewired("a.w", rows={"kernel": 6}), "a.w", "its wiring must"),
    "half a pixel of padding": (rewired("a.w", rows={"padding": 0.5}), "a.w", "its wiring must"),
    "fewer outputs than none": (rewired("a.w", cols={"extra": -1}), "a.w", "its wiring must"),
    "sources that lie on each other": (
        rewired("a.w", rows={"spread": 0}), "a.w", "its wiring must",
    ),
    "no groups": (rewired("a.w", groups=0), "a.w", "its wiring must"),
    "groups that do not divide": (
        rewired("a.w", groups=3), "a.w", "its 3 groups do not divide its channels",
    ),
    "channels that are not there": (
        rewired("a.w", channels_in=4), "a.w", r"it wires \(4, 3, 3\) to \(4, 3, 3\), not \(2, 3, 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_one_wrong_thing_is_refused_with_the_name_of_its_layer(what: str) -> None:
    chip = legal(np.random.default_rng(0))
    check_segment(chip, REGISTERS)
    change, layer, said = WRONG[what]
    with pytest.raises(BadInput, match=said) as caught:
        check_segment(change(chip), REGISTERS)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"layer {layer!r} does not fit the target's arithmetic: ")


# --------------------------------------------------------------------------------- how it travels


def same(one: ChipSegment, two: ChipSegment) -> bool:
    """Whether both pack to the same data and to the same bytes."""
    (plain, arrays), (other, others) = pack(one), pack(two)
    return plain == other and {n: (a.dtype, a.shape, a.tobytes()) for n, a in arrays.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in others.items()
    }


@law(60)
@given(networks(delays=3, loops=True, exps=(-3, 7)))
def test_a_segment_travels_whole(chip: ChipSegment) -> None:
    """As plain data and arrays, and through JSON text."""
    plain, arrays = pack(chip)
    for back in (unpack(plain, arrays), unpack(json.loads(json.dumps(plain)), arrays)):
        assert same(back, chip)
        assert (back.name, back.steps, back.outputs) == (chip.name, chip.steps, chip.outputs)
        assert back.inputs == chip.inputs
        for mine, theirs in zip(back.populations, chip.populations, strict=True):
            assert (mine.name, mine.shape) == (theirs.name, theirs.shape)
            for field in fields(Lif):
                one, two = (getattr(p.neuron, field.name) for p in (mine, theirs))
                assert np.array_equal(one, two) and np.shape(one) == np.shape(two)
                assert isinstance(one, str | int) or one.dtype == np.int64
            for one, two in zip(mine.synapses, theirs.synapses, strict=True):
                assert np.array_equal(one.weight, two.weight) and one.weight.dtype == np.int64
                for field in fields(Synapse):
                    if field.name != "weight":
                        assert getattr(one, field.name) == getattr(two, field.name)
        check_segment(back, REGISTERS)
        inputs = random_inputs(chip, 1)
        runs = [Reference().compile(c, REGISTERS)(inputs, membranes=True) for c in (chip, back)]
        assert shown(runs[0]) == shown(runs[1])


@st.composite
def integers(draw: st.DrawFn) -> list[int]:
    """Some that a type of a certain width, signed or not, holds just about."""
    most = 2 ** draw(st.sampled_from([7, 8, 15, 16, 31, 32, 63])) - 1
    least = draw(st.sampled_from([0, -1, -most - 1]))
    return draw(st.lists(st.one_of(st.integers(least, most), st.sampled_from([least, most]))))


@law(200)
@given(integers())
def test_integers_keep_their_values_in_the_narrowest_type(values: list[int]) -> None:
    array = np.array(values, np.int64)
    kept = narrow(array)
    assert kept.tolist() == values
    widths = [1, 2, 4, 8]
    for width in widths[: widths.index(kept.dtype.itemsize)]:
        kinds = [np.iinfo(f"{kind}{width}") for kind in "iu"]
        assert not any(all(k.min <= v <= k.max for v in (*values, 0)) for k in kinds)


def test_different_segments_pack_differently() -> None:
    """Else the comparison above would prove nothing."""
    chip = legal(np.random.default_rng(0))
    changes = [
        changed("a.w", delay=1),
        changed("a.w", weight_exp=1),
        changed("b.w", weight=np.full((5, 4, 3, 3), 2)),
        rewired("a.w", rows={"extra": 1}),
        constant("a", "dv", np.array(1)),
        constant("b", "bias", np.zeros(5, np.int64)),
        whole(outputs=("a", "b")),
        whole(populations=chip.populations[::-1]),
    ]
    assert same(chip, chip)
    assert not any(same(change(chip), chip) for change in changes)


def test_travels_to_a_process_without_our_libraries(tmp_path: Any) -> None:
    """What is left there is NumPy; the other end packs it again, and the bytes are the same."""
    chip = legal(np.random.default_rng(0))
    plain, arrays = pack(chip)
    (tmp_path / "plain.json").write_text(json.dumps(plain))
    np.savez(tmp_path / "arrays.npz", **arrays)
    target = json.dumps(msgspec.structs.asdict(REGISTERS))
    code = f"""
import json, sys
from types import SimpleNamespace
import numpy as np
hidden = ("torch", "msgspec", "yaml", "networkx", "scipy", "click", "safetensors")
for name in hidden:
    sys.modules[name] = None
from mapping.chip.check import check_segment
from mapping.chip.serial import pack, unpack
with np.load({str(tmp_path / "arrays.npz")!r}) as arrays:
    chip = unpack(json.load(open({str(tmp_path / "plain.json")!r})), arrays)
check_segment(chip, SimpleNamespace(**json.loads({target!r})))
plain, arrays = pack(chip)
json.dump(plain, open({str(tmp_path / "again.json")!r}, "w"))
np.savez({str(tmp_path / "again.npz")!r}, **arrays)
print(sorted(m for m in sys.modules if m.split(".")[0] in ("torch", "msgspec") and sys.modules[m]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    with np.load(tmp_path / "again.npz") as again:
        back = unpack(json.loads((tmp_path / "again.json").read_text()), dict(again))
    assert same(back, chip)


def test_what_is_missing_is_no_segment() -> None:
    plain, arrays = pack(legal(np.random.default_rng(0)))
    for name in arrays:
        with pytest.raises(KeyError, match=name):
            unpack(plain, {key: array for key, array in arrays.items() if key != name})
    weight = "chip/net/a/weight/0"
    with pytest.raises(ValueError, match="expected integers"):
        unpack(plain, {**arrays, weight: arrays[weight].astype(float)})
    for key in plain:
        with pytest.raises((KeyError, TypeError)):
            unpack({name: value for name, value in plain.items() if name != key}, arrays)
