"""What a membrane does after a spike, and currents that last: integers, bounds, cores, prices."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from builders import (
    LOIHI,
    PATIENT,
    SEEDS,
    feed,
    float_neurons,
    law,
    lif,
    networks,
    population,
    random_inputs,
    registers,
    segment,
    shown,
    with_constants,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from has8 import calibrate
from has8.blocks import OverTime
from has8.encoders import BitPlaneEncoder, Decoder, bitplane_weights
from has8.errors import BackendError, BadInput, DoesNotFit, TargetError
from has8.neurons import Leaky
from hwsim import estimate, simulate
from hwsim.backends.fast.backend import Fast
from hwsim.backends.reference import Reference
from mapping import load, load_target, save
from mapping.chip.arithmetic import decay, saturate, wrap
from mapping.chip.check import check_segment
from mapping.chip.segment import ChipSegment, Population
from mapping.chip.serial import pack, unpack
from mapping.cores.allocate import allocate
from mapping.cores.placement import place
from mapping.graph.evaluate import evaluate_nodes, moved
from mapping.graph.ir import Graph, Node
from mapping.graph.ops.neuron import constants_of, stepped
from mapping.graph.passes import run_passes
from mapping.graph.trace.modules import trace
from mapping.integers.errors import layer_error
from mapping.integers.neurons import ChipNeurons
from mapping.integers.quantize import quantize
from mapping.integers.rounding import FloatLayer, Integers, Scale, decay_for, layer_of
from mapping.integers.scales import at_largest_scale, membrane_reach
from mapping.integers.search import search_scales
from mapping.mapped import Mapped
from mapping.partition.cut import cut
from mapping.partition.rules import reject
from mapping.verify import check_mapped

EVERY = registers(resets={"zero": 1, "subtract": 2, "subtract_at_once": 2, "none": 1})
"""Loihi's, and those that it lacks."""
ALL_RESETS = msgspec.structs.replace(LOIHI, registers=EVERY)

RULES = st.sampled_from(
    [("zero", 0), ("zero", 1), ("subtract", 0), ("subtract_at_once", 0), ("none", 0)]
)


@st.composite
def segments(draw: st.DrawFn, **kind: Any) -> ChipSegment:
    """Networks whose populations each reset by a rule of their own."""
    chip = draw(networks(**kind))
    layers = []
    for layer in chip.populations:
        reset, refractory = draw(RULES)
        layers.append(with_constants(layer, reset=reset, refractory=refractory))
    return replace(chip, populations=tuple(layers))


# ------------------------------------------------------------------------------- one neuron


def by_hand(neuron: Any, drives: list[int], r: Any) -> list[bool]:
    """The spikes of one neuron, with a flag that says that it fired."""
    u = v = np.zeros((), np.int64)
    fired, spikes = False, []
    threshold, bias = (int(x) << s for x, s in ((neuron.threshold, 6), (neuron.bias, 0)))
    for drive in drives:
        u = wrap(decay(u, neuron.du + r.current_decay_offset) + (drive << 6), r.state_bits)
        if fired and neuron.reset == "zero":
            v = v * 0
        v = decay(v, neuron.dv) + u + bias
        if fired and neuron.reset in ("subtract", "subtract_at_once"):
            v = v - threshold
        v = saturate(v, r.state_bits)
        if fired and neuron.refractory:
            v = v * 0
        spikes.append(bool(v > threshold))
        if neuron.reset == "subtract_at_once":
            v = saturate(v - (spikes[-1] - fired) * threshold, r.state_bits)
        fired = bool(v > threshold)
    return spikes


@settings(PATIENT)
@given(
    RULES,
    st.lists(st.integers(-600, 900), min_size=1, max_size=20),
    st.sampled_from([0, 1000, 4095]),
    st.sampled_from([0, 100, 4095]),
    st.sampled_from([0, 1, 300]),
    st.integers(-500, 500),
    st.sampled_from([16, 24]),
)
def test_a_neuron_that_only_knows_its_membrane_knows_that_it_fired(
    rule, drives, du, dv, threshold, bias, bits
):
    r = msgspec.structs.replace(EVERY, state_bits=bits)
    neuron = lif((1,), threshold=threshold, bias=bias, du=du, dv=dv)
    neuron = replace(neuron, reset=rule[0], refractory=rule[1])
    state, spikes = neuron.cleared(np.zeros(1, np.int64)), []
    for drive in drives:
        step = neuron.step(state, np.array([drive]), r)
        state = step.state
        spikes.append(bool(step.spikes[0]))
    assert spikes == by_hand(neuron, drives, r)


@pytest.mark.parametrize(
    ("reset", "refractory", "spikes", "membranes"),
    [
        ("zero", 0, [0, 1, 0, 1, 0, 1], [60, 0, 60, 0, 60, 0]),
        ("subtract", 0, [0, 1, 0, 1, 1, 0], [60, 120, 81, 141, 102, 63]),
        ("subtract_at_once", 0, [0, 1, 0, 1, 1, 0], [60, 21, 81, 42, 3, 63]),
        ("none", 0, [0, 1, 1, 1, 1, 1], [60, 120, 180, 240, 300, 360]),
        ("zero", 1, [0, 1, 0, 0, 1, 0], [60, 120, 0, 60, 120, 0]),
    ],
)
def test_each_rule_by_hand(reset, refractory, spikes, membranes):
    """A membrane without leak that gets 60 a step, with a threshold of 99."""
    layer = with_constants(
        population("y", (1,), feed("x", [[60]]), threshold=99), reset=reset, refractory=refractory
    )
    chip = segment(layer, inputs={"x": (1,)}, steps=6)
    ones = {"x": torch.ones(6, 1, 1, dtype=torch.bool)}
    for backend in (Reference(), Fast()):
        run = backend.compile(chip, EVERY)(ones, membranes=True)
        assert run.spikes["y"].flatten().tolist() == spikes
        assert run.membranes["y"].flatten().tolist() == [64 * v for v in membranes]


def test_what_is_taken_off_is_taken_off_before_clipping():
    """It is within the register once the threshold is off, so nothing is clipped in that step."""
    layer = population("y", (1,), feed("x", [[254]], exp=7), threshold=131_071)
    layer = with_constants(layer, reset="subtract")
    chip = segment(layer, inputs={"x": (1,)}, steps=3)
    run = Reference().compile(chip, EVERY)({"x": torch.tensor([1, 1, 0]).bool().view(3, 1, 1)})
    limit, threshold = (1 << 23) - 1, 131_071 << 6
    assert threshold > 2 * (254 << 13)  # so it never fires, whatever follows
    assert run.overflows["y"].v_clips == 0
    twice = replace(chip, populations=(with_constants(layer, threshold=np.array(20_000)),))
    run = Reference().compile(twice, EVERY)(
        {"x": torch.ones(3, 1, 1, dtype=torch.bool)}, membranes=True
    )
    v = [254 << 13, 2 * (254 << 13) - (20_000 << 6), 3 * (254 << 13) - 2 * (20_000 << 6)]
    assert v[2] < limit
    assert run.membranes["y"].flatten().tolist() == v


# --------------------------------------------------------------------------------- backends


@law(60)
@given(segments(delays=2, exps=(0, 7)), SEEDS, st.booleans())
def test_fast_equals_the_reference_whatever_the_rules(chip, seed, keeps):
    inputs = random_inputs(chip, 3, seed % 100)
    try:
        program = Fast().compile(chip, EVERY)
    except BackendError:
        return
    results = []
    for run in (Reference().compile(chip, EVERY), program):
        results.append({"without state": shown(run(inputs, membranes=True))})  # by the kernel
        found = run(inputs, membranes=True, keep_state=True)
        results[-1] |= shown(found)
        if keeps:
            results[-1]["again"] = shown(run(inputs, state=found.state, keep_state=True))
    assert results[0] == results[1]


@law(40)
@given(segments(loops=True))
def test_a_segment_travels_with_its_rules(chip):
    check_segment(chip, EVERY)
    plain, arrays = pack(chip)
    again = unpack(plain, arrays)
    check_segment(again, EVERY)
    for one, other in zip(chip.populations, again.populations, strict=True):
        assert type(other.neuron.refractory) is int
        assert (one.neuron.reset, one.neuron.refractory) == (
            other.neuron.reset,
            other.neuron.refractory,
        )


def test_what_was_written_before_there_were_rules_resets_to_zero():
    chip = segment(population("y", (1,), feed("x", [[60]])), inputs={"x": (1,)})
    plain, arrays = pack(chip)
    del plain["populations"][0]["neuron"]["refractory"]
    neuron = unpack(plain, arrays).populations[0].neuron
    assert (neuron.reset, neuron.refractory) == ("zero", 0)


@pytest.mark.parametrize(
    ("changes", "register", "words"),
    [
        ({"reset": "none"}, {}, "resets by 'none', and the target by 'zero' or 'subtract'"),
        ({"reset": ["zero"]}, {}, r"resets by \['zero'\]"),
        ({"refractory": 2}, {}, "refractory steps must be from 0 to 1, not 2"),
        ({"refractory": -1}, {}, "refractory steps must be from 0 to 1, not -1"),
        ({"refractory": True}, {}, "refractory steps must be from 0 to 1, not True"),
        ({"refractory": [1]}, {}, "refractory steps must be from 0 to 1, not"),
        ({"refractory": 1}, {"refractory_max": 0}, "refractory steps must be from 0 to 0, not 1"),
        ({"refractory": 1, "reset": "subtract"}, {}, "refractory steps must be from 0 to 0, not 1"),
    ],
)
def test_rules_that_the_target_lacks_are_refused(changes, register, words):
    layer = with_constants(population("y", (1,), feed("x", [[60]])), **changes)
    chip = segment(layer, inputs={"x": (1,)})
    with pytest.raises(BadInput, match=words):
        check_segment(chip, registers(**register))


# ------------------------------------------------------------------------- floats to integers


def graph_of(attrs: dict[str, Any], seed: int = 0, scale: float = 0.3, bias: bool = False) -> Graph:
    """encode -> conv -> neuron with such attributes -> decode."""
    torch.manual_seed(seed)
    conv = nn.Conv2d(2, 3, 3, padding=1, bias=bias)
    conv.weight.data = torch.randn_like(conv.weight) * scale
    net = nn.Sequential(
        BitPlaneEncoder(), OverTime(conv), Leaky(), Decoder(bitplane_weights("lsb"))
    )
    calibrate(net, torch.rand(2, 2, 5, 5))
    return with_attrs(run_passes(trace(net, (2, 5, 5))), attrs)


def with_attrs(graph: Graph, attrs: dict[str, Any]) -> Graph:
    """The graph with neurons of such constants, which may be tensors."""

    def changed(node: Node) -> Node:
        merged = {**node.attrs, **attrs}
        tensors = {k: v for k, v in merged.items() if isinstance(v, torch.Tensor)}
        return replace(
            node, attrs={k: v for k, v in merged.items() if k not in tensors}, tensors=tensors
        )

    return Graph(tuple(changed(node) if node.op == "neuron" else node for node in graph))


def only_chip(graph: Graph, target: Any = LOIHI) -> Any:
    return cut(graph, target.registers).on_chip[0]


ATTRS = st.fixed_dictionaries(
    {
        "alpha": st.sampled_from([0.0, 0.0, 0.3, 0.5, 0.9, 1.0]),
        "beta": st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
        "threshold": st.sampled_from([0.5, 1.0]),
        "gain": st.sampled_from([0.5, 1.0]),
    }
)


@st.composite
def several(draw: st.DrawFn) -> dict[str, Any]:
    """Constants of neurons (3, 5, 5), of which each has one value, one a channel or a neuron."""
    found: dict[str, Any] = draw(ATTRS)
    for name, low in {"alpha": 0.0, "beta": 0.0, "threshold": 0.2, "gain": 0.2}.items():
        shape = draw(st.sampled_from([None, (3, 1, 1), (3, 5, 5), (5,)]))
        if shape is not None:
            generator = torch.manual_seed(draw(st.integers(0, 1000)))
            found[name] = low + (1 - low) * torch.rand(shape, generator=generator)
    return found


def rule(reset: str, refractory: int = 0) -> dict[str, Any]:
    return {"reset": reset, "refractory": refractory}


@law(60)
@given(several(), RULES, SEEDS, st.sampled_from([0.02, 0.3, 4.0]), st.integers(2, 8))
def test_a_membrane_is_within_its_bound_until_a_spike_differs_or_a_register_overflows(
    attrs, rules, seed, scale, bits
):
    attrs = {**attrs, **rule(*rules)}
    graph = graph_of(attrs, seed % 1000, scale)
    part = only_chip(graph, ALL_RESETS)
    chip, errors = quantize(graph, part, EVERY, weight_bits=bits)
    (layer,) = chip.populations
    neuron, error = layer.neuron, errors[layer.name]
    full = 1 << EVERY.decay_bits
    alpha = np.asarray(attrs["alpha"], np.float64)
    left = 1 - (np.broadcast_to(neuron.du, layer.shape) + 1) / full
    assert error.current_decay == np.abs(alpha - left).max()
    (synapse,) = layer.synapses
    spikes = torch.rand(chip.steps, 1, 2, 5, 5, generator=torch.manual_seed(seed)) < 0.5
    conv = graph[synapse.name].tensors["weight"].double()
    current = nn.functional.conv2d(spikes.flatten(0, 1).double(), conv, padding=1)
    node = constants_of(graph[layer.name])
    fired, membranes = stepped(node, current.unflatten(0, (chip.steps, 1)))
    run = Reference().compile(chip, EVERY)({chip.inputs[0].name: spikes}, membranes=True)
    assert run.overflows[layer.name].u_wraps == 0
    if run.overflows[layer.name].v_clips:
        return
    same = (run.spikes[layer.name] == fired.bool()).cumprod(0).bool()
    agreed = torch.cat([torch.ones_like(same[:1]), same[:-1]])
    if (node["reset"], node["refractory"]) == ("zero", 0):
        agreed &= ~fired.bool() & same  # where it fires its register is cleared already
    if node["reset"] == "subtract_at_once":
        agreed &= same  # the register is as this step's spike leaves it
    unit = torch.from_numpy(np.broadcast_to(neuron.threshold, layer.shape).copy())
    unit = unit.flatten(1).amax(1)[:, None, None] << EVERY.threshold_shift
    gain, high = (torch.as_tensor(node[k]).double() for k in ("gain", "threshold"))
    high = torch.broadcast_to(high / gain, layer.shape).flatten(1).amax(1)[:, None, None]
    off = (membranes / gain / high - run.membranes[layer.name] / unit).abs()
    assert (off[agreed] <= error.membrane + 1e-9).all()


def exact_layer(weight: int, attrs: dict[str, Any], steps: int) -> tuple[FloatLayer, Population]:
    """One neuron with one synapse that no rounding changes, whose threshold is the largest."""
    threshold = 131_071
    layer = FloatLayer(
        (), (), (torch.full((1, 1), weight / threshold, dtype=torch.float64),),
        torch.zeros(1, dtype=torch.float64), **attrs, steps=steps,
    )  # fmt: skip
    du, dv = decay_for(attrs["alpha"], 1, EVERY), decay_for(attrs["beta"], 0, EVERY)
    integers = population("y", (1,), feed("x", [[weight]]), threshold=threshold, du=du, dv=dv)
    rules = {name: attrs[name] for name in ("reset", "refractory")}
    return layer, with_constants(integers, **rules)


@law(100)
@given(st.integers(1, 51), st.floats(0, 1), st.floats(0, 1), st.integers(1, 50))
@example(1, 0.9, 1.0, 50)  # what each step rounds off the current is most of its error
@example(51, 1.0, 1.0, 50)  # a current that ought to last for ever
@example(51, 0.99988, 1.0, 50)  # half a step of the current's decay
@example(51, 0.0, 0.99988, 50)  # and of the membrane's
def test_what_the_decays_alone_cost_is_within_the_bound(half, alpha, beta, steps):
    attrs = {"alpha": alpha, "beta": beta, **rule("none")}
    layer, integers = exact_layer(2 * half, attrs, steps)
    error = layer_error(layer, integers, 0, EVERY)
    assert error.weight == error.current == error.bias == 0
    chip = segment(integers, inputs={"x": (1,)}, steps=steps)
    ones = {"x": torch.ones(steps, 1, 1, dtype=torch.bool)}
    run = Reference().compile(chip, EVERY)(ones, membranes=True)
    current = torch.full((steps, 1, 1), 2 * half / 131_071, dtype=torch.float64)
    _, membranes = stepped({**attrs, "threshold": 1.0, "gain": 1.0}, current)
    off = (membranes - run.membranes["y"] / (131_071 << 6)).abs()
    assert off.max() <= error.membrane * (1 + 1e-9)


@law(200)
@given(ATTRS, RULES, SEEDS, st.sampled_from([0.1, 0.6, 1.5]))
@example({"alpha": 0.0, "beta": 0.0}, ("subtract", 0), 0, 1.5)  # from 1.5 to -1.5 - 1
def test_no_membrane_goes_further_than_its_reach_whatever_the_reset(attrs, rules, seed, size):
    attrs = {**attrs, **rule(*rules), "threshold": 1.0, "gain": 1.0}
    generator = torch.manual_seed(seed)
    current = size * torch.randn(12, 1, 500, generator=generator, dtype=torch.float64).sign()
    stays = torch.randint(1, 12, (1, 500), generator=generator)
    current[torch.arange(12)[:, None, None] >= stays] *= -1  # it fires, then is inhibited
    layer, _ = exact_layer(
        2, {k: attrs[k] for k in ("alpha", "beta", "reset", "refractory")}, steps=12
    )
    _, membranes = stepped(attrs, current)
    reach = torch.tensor(membrane_reach(layer, size, 0.0)[1:], dtype=torch.float64)
    assert (membranes.abs().flatten(1).amax(1) <= reach * (1 + 1e-9)).all()


@law(40)
@given(several(), RULES, SEEDS, st.sampled_from([0.3, 60.0]))
def test_no_input_makes_a_lasting_current_wrap(attrs, rules, seed, scale):
    """The worst that can arrive arrives in every step, at the scale of rounding and at any."""
    attrs = {**attrs, **rule(*rules)}
    graph = graph_of(attrs, seed % 1000, scale)
    part = only_chip(graph, ALL_RESETS)
    name = part.outputs[0]
    rounded = at_largest_scale(layer_of(graph, name), name, EVERY, 8).scale
    for given_scale in (None, {name: replace(rounded, exponents=(7,), thresholds=(131_071,) * 3)}):
        chip, _ = quantize(graph, part, EVERY, scales=given_scale)
        (layer,) = chip.populations
        (synapse,) = layer.synapses
        port, c = chip.inputs[0], seed % 3
        excites = torch.from_numpy(synapse.weight[c] > 0)
        spikes = torch.zeros(chip.steps, 2, *port.shape, dtype=torch.bool)
        spikes[:, 0, :, 1:4, 1:4], spikes[:, 1, :, 1:4, 1:4] = excites, ~excites
        run = Reference().compile(chip, EVERY)({port.name: spikes})
        assert run.overflows[name].u_wraps == 0


def test_the_decay_of_a_current_is_the_nearest_that_the_chip_holds():
    for alpha, du in ((0.0, 4095), (0.5, 2047), (0.9, 409), (1.0, 0)):
        graph = graph_of({"alpha": alpha})
        chip, errors = quantize(graph, only_chip(graph), LOIHI.registers)
        assert int(chip.populations[0].neuron.du) == du
        (error,) = errors.values()
        assert error.current_decay == abs(alpha - (4095 - du) / 4096)
    assert error.current_decay == 1 / 4096  # a current never lasts for ever
    loose = registers(current_decay_offset=0)
    graph = graph_of({"alpha": 0.0})
    _, errors = quantize(graph, cut(graph, loose).on_chip[0], loose)
    assert next(iter(errors.values())).current_decay == 1 / 4096  # nor one step only


def test_what_a_target_lacks_stays_on_the_host_with_a_reason():
    def reason(attrs, *, bias=False, **changed):
        graph = graph_of(attrs, bias=bias)
        name = next(node.name for node in graph if node.op == "neuron")
        return reject(graph, registers(**changed)).get(name)

    for attrs in ({}, rule("subtract"), rule("zero", 1), {"alpha": 0.5}):
        assert reason(attrs) is None
    assert reason(rule("none")) == "the target has no reset by 'none', it has 'zero' or 'subtract'"
    assert "no reset by 'subtract'" in reason(rule("subtract"), resets={"zero": 1})
    assert "no refractory steps" in reason(rule("zero", 1), refractory_max=0)
    assert reason({"alpha": 0.0}, bias=True) is None
    assert "train it with bias=False" in reason({"alpha": 0.5}, bias=True)


# ------------------------------------------------------------------------------ scale search


@law(60)
@given(
    RULES,
    st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.3, 1.0]),
    SEEDS,
    st.lists(st.sampled_from([(), (3, 1, 1), (3, 2, 2)]), min_size=3, max_size=3),
)
def test_neurons_of_a_search_are_those_of_the_chip(rules, alpha, beta, seed, shapes):
    reset, refractory = rules
    random = np.random.default_rng(seed + 1)
    alpha, beta, relative = (
        high * random.random(shape) if shape else np.array(high)
        for high, shape in zip((alpha, beta, 1.0), shapes, strict=True)
    )
    rules = {"reset": reset, "refractory": refractory}
    floats = float_neurons(beta, alpha, **rules, threshold=relative)
    chip = ChipNeurons.of(floats, EVERY, torch.device("cpu"))
    rng = np.random.default_rng(seed)
    steps, thresholds, bias = 8, (1, 300, 2000), rng.integers(-4000, 4000, 3)
    drive = rng.integers(-14_000, 16_000, (steps, 4, 3, 2, 2))  # no current can wrap
    integers = Integers(Scale(thresholds, (0,), ("mixed",)), (), torch.tensor(bias), 1, 0, 0)
    given_drive = torch.from_numpy(drive << 6).flatten(0, 1).to(chip.dtype)
    found = chip(given_drive, steps, integers)
    neuron = lif(
        (3, 2, 2),
        threshold=np.rint(np.array(thresholds)[:, None, None] * relative),
        bias=bias,
        bias_exp=1,
        du=(np.rint((1 - alpha) * 4096) - 1).clip(0),
        dv=np.rint((1 - beta) * 4096).clip(None, 4095),
    )
    neuron = replace(neuron, **rules)
    state = neuron.cleared(np.zeros((4, 3, 2, 2), np.int64))
    for t, arriving in enumerate(drive):
        step = neuron.step(state, arriving, EVERY)
        state = step.state
        assert step.wraps == 0
        assert (found[t].bool().numpy() == step.spikes).all()


OF_EACH = {
    "alpha": torch.linspace(0, 0.8, 3)[:, None, None],
    "beta": torch.linspace(0, 1, 75).view(3, 5, 5),
    "threshold": torch.linspace(1, 0.5, 25).view(5, 5),
}


@pytest.mark.parametrize("attrs", [rule("subtract"), {"alpha": 0.8}, rule("zero", 1), OF_EACH])
def test_a_search_says_how_many_spikes_of_such_neurons_differ(attrs):
    graph = graph_of({"beta": 0.7, **attrs})
    partition, images = cut(graph, LOIHI.registers), torch.rand(12, 2, 5, 5)
    (part,) = partition.on_chip
    (name,) = part.outputs
    found = search_scales(graph, partition, LOIHI.registers, images, weight_bits=4)
    chip, errors = quantize(graph, part, LOIHI.registers, weight_bits=4, scales=found)
    fed = encoded(graph, part.inputs[0], images)
    wanted = encoded(graph, name, images)
    run = Reference().compile(chip, LOIHI.registers)({part.inputs[0]: fed.bool()})
    differ = (run.spikes[name] != wanted.bool()).double().mean()
    assert errors[name].mismatch == pytest.approx(float(differ), abs=1e-12)
    assert float(differ) < 0.1


def encoded(graph: Graph, name: str, images: torch.Tensor) -> torch.Tensor:
    """What a node of the graph makes of some images."""
    values = {graph.input.name: images}
    nodes = [node.name for node in graph if node.op != "input"]
    evaluate_nodes(graph, moved(graph, nodes, images), values)
    return values[name]


# ------------------------------------------------------------------------- cores and prices


def flat(name: str, neurons: int, source: str, size: int, **rules: Any) -> Population:
    layer = population(name, (neurons,), feed(source, np.zeros((neurons, size), int)))
    return with_constants(layer, **rules)


@pytest.mark.parametrize(("neurons", "zero", "subtract"), [(1024, 1, 2), (512, 1, 1), (513, 1, 2)])
def test_a_layer_of_two_compartments_a_neuron_fills_twice_as_much(neurons, zero, subtract):
    for reset, cores in (("zero", zero), ("subtract", subtract)):
        chip = segment(flat("y", neurons, "x", 4, reset=reset), inputs={"x": (4,)})
        tiles = allocate([chip], LOIHI)
        assert 1 + max(tile.core for tile in tiles) == cores
        each = LOIHI.registers.resets[reset]
        assert sum(tile.compartments for tile in tiles) == neurons * each
        assert [tile.compartments for tile in tiles] == [tile.size * each for tile in tiles]
        place(tiles, [chip], LOIHI)


@law(30)
@given(segments(), st.integers(2, 40))
def test_tiles_of_any_rules_fit_and_stand_behind_one_another(chip, limit):
    core = msgspec.structs.replace(LOIHI.core, neurons=limit)
    target = msgspec.structs.replace(ALL_RESETS, core=core)
    try:
        tiles = allocate([chip], target)
    except DoesNotFit as error:
        assert error.need > error.have
        return
    on_core: dict[int, list[Any]] = {}
    for tile in tiles:
        on_core.setdefault(tile.core, []).append(tile)
    for held in on_core.values():
        end = 0
        for tile in sorted(held, key=lambda tile: tile.offset):
            assert tile.offset == end
            reset = chip.population(tile.population).neuron.reset
            end += tile.size * EVERY.resets[reset]
        assert end <= limit
    taken = sum(p.size * EVERY.resets[p.neuron.reset] for p in chip.populations)
    assert len(on_core) >= ceil(taken / limit)


def test_a_neuron_that_needs_more_than_a_core_has_does_not_fit():
    core = msgspec.structs.replace(LOIHI.core, neurons=1)
    target = msgspec.structs.replace(LOIHI, core=core)
    chip = segment(flat("y", 2, "x", 4, reset="subtract"), inputs={"x": (4,)})
    with pytest.raises(DoesNotFit, match="neurons"):
        allocate([chip], target)


def mapped_with(attrs: dict[str, Any], target: Any = LOIHI) -> Mapped:
    """A small mapping whose neurons have such attributes."""
    graph = graph_of({"beta": 0.7, **attrs})
    parts = cut(graph, target.registers)
    made = [quantize(graph, part, target.registers) for part in parts.on_chip]
    chips = tuple(chip for chip, _ in made)
    errors = {name: error for _, of_segment in made for name, error in of_segment.items()}
    placement = place(allocate(chips, target), chips, target)
    mapped = Mapped(graph, parts, chips, errors, placement, target, {})
    check_mapped(mapped)
    return mapped


EXAMPLES = {
    "zero": {},
    "subtract": rule("subtract"),
    "refractory": rule("zero", 1),
    "lasting": {"alpha": 0.9},
    "both": {"alpha": 0.9, **rule("subtract")},
    "several": OF_EACH,
}


@pytest.mark.parametrize("what", EXAMPLES)
def test_an_artefact_brings_all_of_it_back(what, tmp_path):
    mapped = mapped_with(EXAMPLES[what])
    again = load(save(mapped, tmp_path / "x.h8"))
    images = torch.rand(3, 2, 5, 5)
    one, other = (simulate(m, images, "reference", record=("spikes",)) for m in (mapped, again))
    fast = simulate(again, images, record=("spikes",))
    assert again.errors == mapped.errors
    for run in (other, fast):
        for name, spikes in one.spikes["chip"].items():
            assert spikes.any()
            assert torch.equal(run.spikes["chip"][name], spikes)


def test_no_reset_and_a_target_that_offers_it_are_kept_too(tmp_path):
    mapped = mapped_with(rule("none"), ALL_RESETS)
    again = load(save(mapped, tmp_path / "x.h8"))
    assert again.target.registers.resets == EVERY.resets
    assert again.chip_segments[0].populations[0].neuron.reset == "none"


def test_two_compartments_cost_two_visits_and_two_updates_and_the_report_says_so():
    images = torch.rand(3, 2, 5, 5)
    for attrs, each in (({}, 1), (rule("subtract"), 2)):
        mapped = mapped_with(attrs)
        run = simulate(mapped, images)
        report = estimate(mapped, run)
        (counts,) = report.populations
        assert counts.neurons == 75
        assert counts.accessed == 75 * 8 * 3 * each
        assert counts.updated == int(run.activity.updated[counts.name].sum()) * each
        assert counts.spikes == int(run.activity.events[counts.name].sum())
        load_of = report.loads[0].events()
        assert load_of["neuron_update"] == counts.updated
        assert load_of["neuron_spike"] == counts.spikes
        assert (
            load_of["neuron_access"]
            == 75 * each * 3 * report.loads[0].by_core["neuron_access"].shape[1]
        )
        found = [a for a in report.assumptions if "compartments" in a.text and a.main]
        assert len(found) == each - 1
    (sentence,) = found
    assert sentence.text.startswith(
        f"The neurons of {counts.name} reset by 'subtract', which takes 2 compartments for each"
    )
    assert sentence.source.startswith("NX") and sentence.trust == "P"


# ----------------------------------------------------------------------- the target's data


def test_loihi_says_what_each_reset_takes_and_where_that_is_from():
    r = LOIHI.registers
    assert dict(r.resets) == {"zero": 1, "subtract": 2}
    assert r.refractory_max == 62
    assert "NX" in LOIHI.citations["registers.resets.subtract"].source


def test_a_reset_without_compartments_is_no_target(tmp_path):
    text = (load_target.__globals__["_HERE"] / "loihi.yaml").read_text()
    for old, new, words in (
        ("    zero: 1\n", "    zero: 0\n", "resets"),
        ("    zero: 1\n", "    soft: 1\n", "resets"),
    ):
        (tmp_path / "x.yaml").write_text(text.replace(old, new))
        with pytest.raises(TargetError, match=words):
            load_target(tmp_path / "x.yaml")


@pytest.mark.parametrize("change", [{"reset": "zero"}, {"refractory": 1, "reset": "zero"}])
def test_integers_of_another_rule_than_the_graphs_are_refused(change):
    mapped = mapped_with(rule("subtract"))
    (chip,) = mapped.chip_segments
    layer = with_constants(chip.populations[0], **change)
    forged = replace(mapped, chip_segments=(replace(chip, populations=(layer,)),))
    with pytest.raises(BadInput, match="are .'zero', [01]., and the graph has .'subtract'"):
        check_mapped(forged)
