"""The fast backend equals the reference: spikes, updates and overflows, whatever the integers."""

import gc
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from builders import (
    conv,
    feed,
    gridded,
    law,
    linear,
    networks,
    population,
    random_inputs,
    registers,
    segment,
    shown,
    with_constants,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from has8.errors import BackendError, BadInput
from hwsim import kernels
from hwsim.activity import Overflow
from hwsim.backends.fast.backend import Fast
from hwsim.backends.fast.layout import stored
from hwsim.backends.fast.sums import Sums, compile_sums, multiplies_bytes
from hwsim.backends.reference import Reference
from hwsim.program import simulate
from mapping import map_model

LOIHI = registers()
NUMBERS = st.integers


@st.composite
def constants(draw):
    """Neuron constants over their whole range, small thresholds among them."""
    return {
        "threshold": draw(st.sampled_from([1, 40, 700, 20_000, 131_071])),
        "bias_exp": draw(NUMBERS(0, 7)),
        "du": draw(st.sampled_from([4095, 4095, 0, 1000, 3071, 2047])),
        "dv": draw(st.sampled_from([0, 2048, 4096, 3072, 163, 819])),
    }


def layer(name, shape, synapses, rng, values, bias_scale):
    """Neurons with a threshold and a bias for each channel."""
    bias = rng.integers(-bias_scale, bias_scale + 1, shape[0]).tolist()
    threshold = rng.choice([values["threshold"], 40, 20_000], shape[0]).tolist()
    return population(name, shape, *synapses, **{**values, "threshold": threshold, "bias": bias})


@st.composite
def segments(draw):
    """Two convolutions, the second's input joined by one from the port, and a dense layer."""
    rng = np.random.default_rng(draw(NUMBERS(0, 10_000)))
    groups, fan = draw(st.sampled_from([(1, 3), (2, 1), (2, 2)]))
    channels, side = groups * fan, draw(NUMBERS(5, 7))
    kernel = (draw(NUMBERS(1, 3)), draw(NUMBERS(1, 3)))
    attrs = {
        "stride": [draw(NUMBERS(1, 2)), draw(NUMBERS(1, 2))],
        "padding": [draw(NUMBERS(0, 2)), draw(NUMBERS(0, 2))],
        "dilation": [draw(NUMBERS(1, 2)), draw(NUMBERS(1, 2))],
        "groups": groups,
    }
    x = (channels, side, side + 1)
    mode, exp = draw(st.sampled_from(["mixed", "excitatory"])), draw(NUMBERS(0, 7))
    bias_scale = draw(st.sampled_from([0, 1, 4095]))
    outputs = 2 * groups
    first = conv(
        "c1",
        "x",
        x,
        gridded(rng, (outputs, fan, *kernel), mode),
        exp=exp,
        sign_mode=mode,
        **attrs,
    )
    shape = first.wiring.out_shape
    inner = conv("c2", "a", shape, gridded(rng, (outputs, outputs, 1, 1), mode), sign_mode=mode)
    side_arm = replace(first, name="c3")
    size = int(np.prod(shape))
    dense = linear("fc", "b", shape, gridded(rng, (4, size)), exp=1)
    return segment(
        layer("a", shape, [first], rng, draw(constants()), bias_scale),
        layer("b", shape, [inner, side_arm], rng, draw(constants()), bias_scale),
        layer("c", (4,), [dense], rng, draw(constants()), bias_scale),
        inputs={"x": x},
        outputs=["c"],
        steps=draw(NUMBERS(1, 8)),
    )


@st.composite
def small_segments(draw):
    """Convolutions of so few pixels that they run as matrices, between dense layers and images."""
    rng = np.random.default_rng(draw(NUMBERS(0, 10_000)))
    x = (draw(NUMBERS(1, 5)), *draw(st.sampled_from([(1, 1), (1, 3), (2, 2), (4, 1)])))
    kernel, pad = (draw(NUMBERS(1, 3)), draw(NUMBERS(1, 3))), draw(NUMBERS(1, 2))
    stride = [draw(NUMBERS(1, 2)), draw(NUMBERS(1, 2))]
    first = conv("c", "x", x, gridded(rng, (3, x[0], *kernel)), exp=1, stride=stride, padding=pad)
    shape, back = first.wiring.out_shape, (2, 3, 2)
    out = linear("d", "a", shape, gridded(rng, (12, int(np.prod(shape)))))
    return segment(
        layer("a", shape, [first], rng, draw(constants()), 100),
        layer("b", back, [out], rng, draw(constants()), 100),
        inputs={"x": x},
        outputs=["b"],
        steps=draw(NUMBERS(1, 8)),
    )


def spikes_for(chip, seed, samples=3, rate=0.5):
    return random_inputs(chip, samples, seed, rate)


def assert_equal(chip, registers, inputs):
    fast = Fast().compile(chip, registers)(inputs, membranes=True)
    reference = Reference().compile(chip, registers)(inputs, membranes=True)
    for p in chip.populations:
        assert torch.equal(fast.spikes[p.name], reference.spikes[p.name])
        assert torch.equal(fast.membranes[p.name], reference.membranes[p.name])
        assert fast.membranes[p.name].dtype == reference.membranes[p.name].dtype
        assert np.array_equal(fast.updated[p.name], reference.updated[p.name])
        assert np.array_equal(fast.fired[p.name], reference.spikes[p.name].sum(1).numpy())
    assert fast.overflows == reference.overflows
    return fast


@law(120)
@given(chip=segments(), seed=NUMBERS(0, 99), keep_top=st.booleans())
def test_equals_the_reference(chip, seed, keep_top):
    registers = msgspec.structs.replace(LOIHI, keep_top=keep_top)
    assert_equal(chip, registers, spikes_for(chip, seed))


@law(60)
@given(chip=small_segments(), seed=NUMBERS(0, 99))
def test_equals_the_reference_on_a_few_pixels(chip, seed):
    assert_equal(chip, LOIHI, spikes_for(chip, seed))


def test_chunks_of_samples_make_no_difference(monkeypatch):
    chip = dense([254, 2, 130] * 40, threshold=2000, dv=2048)
    inputs = spikes_for(chip, 3, samples=61)
    whole = Fast().compile(chip, LOIHI)(inputs)
    monkeypatch.setattr("hwsim.backends.fast.backend.CHUNK", 4 * 7)
    parts = Fast().compile(chip, LOIHI)(inputs)
    assert torch.equal(whole.spikes["n"], parts.spikes["n"])
    assert np.array_equal(whole.updated["n"], parts.updated["n"])


def dense(weight, *, threshold=131_071, bias=0, bias_exp=0, du=4095, dv=0, exp=0, steps=4):
    """One neuron that every input drives."""
    synapse = linear("w", "x", (len(weight),), np.array([weight]), exp=exp)
    values = {"threshold": threshold, "bias": bias, "bias_exp": bias_exp, "du": du, "dv": dv}
    neuron = population("n", (1,), synapse, **values)
    return segment(neuron, inputs={"x": (len(weight),)}, steps=steps)


def with_weights(chip, weight):
    """A segment of one synapse with other weights, as they are."""
    (neuron,) = chip.populations
    weight = np.array(weight, np.int64).reshape(neuron.synapses[0].weight.shape)
    synapse = replace(neuron.synapses[0], weight=weight, weight_exp=0)
    return replace(chip, populations=(replace(neuron, synapses=(synapse,)),))


def all_ones(chip):
    (port,) = chip.inputs
    return {port.name: torch.ones(chip.steps, 2, *port.shape, dtype=torch.bool)}


@pytest.mark.parametrize(("keep_top", "u"), [(True, 2**23), (False, -(2**23))])
def test_current_at_the_edge_of_its_register(keep_top, u):
    """A sum of 2**17 weight units makes u = 2**23, where Lava and nengo-loihi disagree."""
    chip = dense([254, 254, 254, 254, 8], exp=7, steps=1)
    registers = msgspec.structs.replace(LOIHI, keep_top=keep_top)
    run = assert_equal(chip, registers, all_ones(chip))
    assert bool(run.spikes["n"].all()) == (u > 0)
    assert run.overflows["n"].u_wraps == (0 if u > 0 else 2)


def test_wraps_and_clips_are_counted():
    wrapping = dense([254] * 5, exp=7)  # 162,560 units * 64 > 2**23
    run = assert_equal(wrapping, LOIHI, all_ones(wrapping))
    assert run.overflows["n"].u_wraps == 2 * 4
    clipping = dense([254] * 4, exp=7)  # 8,323,072 a step: every second one clips, fires, resets
    run = assert_equal(clipping, LOIHI, all_ones(clipping))
    assert run.overflows["n"] == Overflow(0, 2 * 2)


def test_neurons_without_bias_rest_until_something_reaches_them():
    chip = dense([2, 2], dv=4096, steps=3)
    inputs = torch.zeros(3, 2, 2, dtype=torch.bool)
    inputs[1, 0] = True
    run = assert_equal(chip, LOIHI, {"x": inputs})
    # step 1: input; step 2: the membrane it left; the other sample stays at rest
    assert run.updated["n"].flatten().tolist() == [0, 1, 1]


def arithmetic(chip):
    ((found,),) = Fast().compile(chip, LOIHI).parts
    return found.sums[0].arithmetic, found.neurons.arithmetic == "int32"


def test_narrow_arithmetic_only_where_it_cannot_round():
    whole = arithmetic(dense([2] * 9))
    assert whole == ("int8", kernels.available())
    assert arithmetic(dense([254, -256] * 9, exp=7)) == whole, "a shared power of two is taken out"
    assert arithmetic(dense([255, 2])) == ("float32", kernels.available()), "9 bits with the sign"
    wide = with_weights(dense([254] * 9, exp=7), [1] + [1 << 24] * 8)
    assert arithmetic(wide) == ("float64", False)


def test_says_what_each_layer_is_computed_in():
    chip = dense([255, 2])
    run = Fast().compile(chip, LOIHI)(all_ones(chip))
    neurons = "int32" if kernels.available() else "float"
    assert run.arithmetic == {"n": f"float32 sums, {neurons} neurons"}


@pytest.mark.parametrize("missing", ["bytes", "kernels", "both"])
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(chip=segments(), seed=NUMBERS(0, 99), keep_top=st.booleans())
def test_equals_the_reference_on_poorer_machines(missing, chip, seed, keep_top):
    """Without oneDNN's products of bytes, and without a C compiler."""
    registers = msgspec.structs.replace(LOIHI, keep_top=keep_top)
    with pytest.MonkeyPatch.context() as patch:
        if missing != "kernels":
            patch.setattr("hwsim.backends.fast.sums.multiplies_bytes", lambda: False)
        if missing != "bytes":
            patch.setattr("hwsim.kernels.available", lambda: False)
        assert_equal(chip, registers, spikes_for(chip, seed))


def test_exact_without_onednn_too():
    """Without oneDNN torch would take NNPACK's Winograd, which multiplies by fractions."""
    x, rng = (16, 16, 16), np.random.default_rng(0)
    synapse = conv("c", "x", x, gridded(rng, (16, 16, 3, 3)), padding=1)
    chip = segment(population("a", x, synapse, threshold=300, dv=2048), inputs={"x": x})
    inputs = spikes_for(chip, 0, samples=8)
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        assert_equal(chip, LOIHI, inputs)
    finally:
        torch._C._set_mkldnn_enabled(before)


def test_odd_currents_that_wrap_do_not_round():
    """The wrap itself computes with 2**23 + 2**24, more than float32 holds."""
    chip = dense([-254] * 4 + [2], exp=7, threshold=67_072, du=2047, dv=4095, steps=8)
    chip = with_weights(chip, [-254 << 7] * 4 + [2])
    assert_equal(chip, LOIHI, spikes_for(chip, 0, samples=50, rate=0.8))


def test_bias_alone_can_drive_a_population():
    bias = population("n", (3,), threshold=[100, 90, 80], bias=[900, 0, 4095], bias_exp=1)
    chip = segment(bias, inputs={"x": (2,)}, steps=6)
    run = assert_equal(chip, LOIHI, all_ones(chip))
    assert run.spikes["n"].any()


def test_a_segment_without_ports_runs_one_sample():
    bias = population("n", (3,), threshold=[100, 90, 80], bias=[900, 0, 4095], bias_exp=1)
    behind = population("m", (2,), feed("n", [[2, -4, 6], [0, 2, 2]]), threshold=5)
    ringing = population("o", (1,), feed("m", [[2, 4]]), replace(feed("o", [[3]]), delay=1))
    for populations in ((bias, behind), (bias, behind, ringing)):  # one goes step by step
        chip = segment(*populations, inputs={}, steps=6)
        run = assert_equal(chip, LOIHI, {})
        assert all(run.spikes[p.name].any() for p in populations)
        assert run.spikes["m"].shape == (6, 1, 2)


def test_autocast_around_a_simulation_changes_nothing():
    chip = dense([254, 2, 130] * 40, threshold=2000, dv=2048)
    inputs = spikes_for(chip, 3, samples=60)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal(chip, LOIHI, inputs)


@law(30)
@given(chip=networks(), seed=NUMBERS(0, 99), shift=NUMBERS(20, 30))
def test_equals_the_reference_in_registers_wider_than_float64_holds_products_of(chip, seed, shift):
    """A state of 48 bits times a decay of 12: floats of 53 bits would round, int64 does not."""
    wide = registers(state_bits=48, synapse_shift=shift, threshold_shift=shift)
    run = assert_equal(chip, wide, random_inputs(chip, 3, seed))
    assert all(name.endswith("int64 neurons") for name in run.arithmetic.values())
    assert all(membrane.dtype == torch.int64 for membrane in run.membranes.values())


def test_registers_too_wide_for_int64_are_refused():
    wide = registers(state_bits=48, decay_bits=14)
    with pytest.raises(BackendError, match="needs integers of 63 bits .*; use the reference"):
        Fast().compile(dense([2]), wide)


# ----------------------------------------------------------------------------------------- loops


LOOPED = networks(delays=2, loops=True)


@law(150)
@given(chip=LOOPED, seed=NUMBERS(0, 99), samples=NUMBERS(1, 4))
def test_loops_equal_the_reference(chip, seed, samples):
    assert_equal(chip, LOIHI, random_inputs(chip, samples, seed))


@law(20)
@given(chip=LOOPED, seed=NUMBERS(0, 99))
def test_chunks_make_no_difference_to_loops(chip, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hwsim.backends.fast.backend.CHUNK", 40)
        assert_equal(chip, LOIHI, random_inputs(chip, 5, seed))


@law(40)
@given(chip=LOOPED)
def test_only_loops_run_step_by_step(chip):
    """A population that does not reach itself runs whole samples, in the kernel if it fits."""
    fed = {p.name: {s.source for s in p.synapses} for p in chip.populations}
    for part in Fast().compile(chip, LOIHI).parts:
        names = {layer.name for layer in part}
        alone = len(names) == 1 and not names & fed[part[0].name]
        assert alone == (not any(layer.looped for layer in part))
        assert all(s.source not in names for layer in part for s in layer.sums)


def test_a_neuron_that_drives_itself_by_hand():
    """One spike from outside, then one of its own in every second step, for ever."""
    once, itself = (linear(*of, (1,), np.array([[2]])) for of in (("w", "x"), ("back", "n")))
    layer = population("n", (1,), once, replace(itself, delay=2), threshold=1)
    chip = segment(layer, inputs={"x": (1,)}, steps=6)
    x = torch.tensor([1, 0, 0, 0, 0, 0]).bool().view(6, 1, 1)
    for backend in (Fast(), Reference()):
        run = backend.compile(chip, LOIHI)({"x": x})
        assert run.spikes["n"].flatten().tolist() == [True, False] * 3


# ------------------------------------------------------------------- delays, constants and state


@law(150)
@given(chip=networks(delays=3), seed=NUMBERS(0, 99), samples=NUMBERS(1, 4))
def test_equals_the_reference_with_any_wiring_delay_and_constant(chip, seed, samples):
    """Dense, windows, spread sources; constants of all, of channels, of neurons; any order."""
    assert_equal(chip, LOIHI, random_inputs(chip, samples, seed))


@law(20)
@given(chip=networks(delays=3), seed=NUMBERS(0, 99))
def test_chunks_make_no_difference_to_delays(chip, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hwsim.backends.fast.backend.CHUNK", 40)
        assert_equal(chip, LOIHI, random_inputs(chip, 5, seed))


@pytest.mark.parametrize("name", ["du", "dv", "threshold", "bias", "bias_exp"])
@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 2, 4)], ids=["channel", "neuron"])
def test_each_constant_may_differ(name, shape):
    """Alone, so that no other one hides it."""
    limits = {"du": 4095, "dv": 4095, "threshold": 2000, "bias": 200, "bias_exp": 7}
    values = np.random.default_rng(0).integers(0, limits[name] + 1, shape)
    synapse = conv("w", "x", (1, 2, 4), np.full((3, 1, 1, 1), 40), exp=3)
    alike = {"du": 3000, "dv": 100, "threshold": 900, "bias": 60, "bias_exp": 4}
    layer = population("n", (3, 2, 4), synapse, **{**alike, name: values})
    chip = segment(layer, inputs={"x": (1, 2, 4)}, steps=6)
    inputs = random_inputs(chip, 4)
    run = assert_equal(chip, LOIHI, inputs)
    for value in (values.flat[0], values.flat[-1]):
        one = replace(chip, populations=(with_constants(layer, **{name: np.array(value)}),))
        other = assert_equal(one, LOIHI, inputs)
        assert not torch.equal(run.membranes["n"], other.membranes["n"])


HALVES = st.booleans().flatmap(lambda loops: networks(delays=3, loops=loops, du=(0, 1000, 3071)))


def in_halves(backend, chip, inputs):
    """A run of all steps, and two of half of them each, the second from where the first ended."""
    half = chip.steps // 2
    first, second = ({n: x[a : a + half] for n, x in inputs.items()} for a in (0, half))
    program = backend.compile(replace(chip, steps=half), LOIHI)
    one = program(first, membranes=True, keep_state=True)
    two = program(second, membranes=True, state=one.state, keep_state=True)
    whole = backend.compile(chip, LOIHI)(inputs, membranes=True, keep_state=True)
    return whole, one, two


@pytest.mark.parametrize("backend", [Fast(), Reference()], ids=lambda backend: backend.name)
@law(60)
@given(chip=HALVES, seed=NUMBERS(0, 99), samples=NUMBERS(1, 3))
def test_state_goes_on_where_a_run_ended(backend, chip, seed, samples):
    chip = replace(chip, steps=2 * chip.steps)
    whole, one, two = in_halves(backend, chip, random_inputs(chip, samples, seed))
    for p in chip.populations:
        for what in ("spikes", "membranes"):
            parts = [getattr(run, what)[p.name] for run in (one, two)]
            assert torch.equal(torch.cat(parts), getattr(whole, what)[p.name])
        parts = [run.updated[p.name] for run in (one, two)]
        assert np.array_equal(np.concatenate(parts), whole.updated[p.name])
        assert one.overflows[p.name] + two.overflows[p.name] == whole.overflows[p.name]
    assert shown(two)["registers"] == shown(whole)["registers"]
    assert shown(two)["past"] == shown(whole)["past"]


@law(60)
@given(chip=HALVES, seed=NUMBERS(0, 99), samples=NUMBERS(1, 3))
def test_state_is_that_of_the_reference(chip, seed, samples):
    """What the one kept, the other goes on from."""
    inputs = random_inputs(chip, samples, seed)
    fast, reference = (b.compile(chip, LOIHI) for b in (Fast(), Reference()))
    kept = [run(inputs, membranes=True, keep_state=True) for run in (fast, reference)]
    assert shown(kept[0]) == shown(kept[1])
    more = random_inputs(chip, samples, seed + 1)
    crossed = [
        run(more, membranes=True, state=before.state, keep_state=True)
        for run, before in zip((reference, fast), kept, strict=True)
    ]
    assert shown(crossed[0]) == shown(crossed[1])
    assert Fast().compile(chip, LOIHI)(inputs).state is None


def test_the_state_of_a_neuron_by_hand():
    """A half leak of both registers, and a spike that is still under way when the run ends."""
    synapse = linear("w", "x", (1,), np.array([[2]]), delay=2)
    layer = population("n", (1,), synapse, du=2047, dv=2048, threshold=131_071)
    chip = segment(layer, inputs={"x": (1,)}, steps=3)
    x = torch.tensor([1, 0, 1]).bool().view(3, 1, 1)
    for backend in (Fast(), Reference()):
        program = backend.compile(chip, LOIHI)
        kept = program({"x": x}, keep_state=True).state
        assert {k: v.item() for k, v in kept.registers["n"].items()} == {"u": 128, "v": 128}
        assert kept.past["x"].flatten().tolist() == [False, True]
        after = program({"x": torch.zeros_like(x)}, membranes=True, state=kept)
        # u: 64, then 32 + 128, then 80; v: 64 + 64, 64 + 160, 112 + 80
        assert after.membranes["n"].flatten().tolist() == [128, 224, 192]


def test_memory_does_not_grow_with_the_number_of_batches(vgg, digits):
    """What is alive after a batch is the counts so far and the logits, however many there were."""
    mapped = map_model(vgg, calibration=digits[:64])
    alive = []

    def look(done, total):
        gc.collect()
        tensors = (x for x in gc.get_objects() if type(x) is torch.Tensor)
        alive.append(sum(x.numel() for x in tensors))

    gc.collect()
    gc.freeze()  # what was there before is not looked at
    try:
        simulate(mapped, digits[:60], batch_size=6, on_progress=look)
    finally:
        gc.unfreeze()
    assert len(alive) == 10
    assert alive[-1] - alive[1] <= 8 * 6 * 10, "logits only"


def convolution(x, w, stride, padding, dilation=(1, 1)):
    """One layer of random 8-bit weights whose neurons fire now and then."""
    rng = np.random.default_rng(0)
    synapse = conv("c", "x", x, gridded(rng, w), stride=stride, padding=padding, dilation=dilation)
    neurons = population("a", synapse.wiring.out_shape, synapse, threshold=700, dv=2048)
    return segment(neurons, inputs={"x": x})


@pytest.mark.parametrize(
    "geometry",
    [
        ((28, 1, 108), (2, 28, 1, 16), (1, 1), (0, 7)),
        ((29, 16, 1), (29, 29, 7, 7), (2, 2), (3, 3)),
        ((30, 19, 5), (19, 30, 6, 5), (2, 4), (2, 1)),
        ((3, 8, 1), (3, 3, 1, 1), (2, 2), (1, 1), (2, 2)),
        ((1, 2, 16), (1, 1, 5, 4), (7, 7), (7, 7), (3, 3)),
        ((1, 12, 2), (2, 1, 2, 3), (1, 2), (1, 1)),
        ((1, 16, 3), (4, 1, 5, 3), (1, 3), (0, 1), (2, 1)),
    ],
)
def test_geometries_that_onednn_gets_wrong_are_kept_from_it(geometry):
    """On AMX, bytes had wrong sums for three of the first five and crashed on two.

    Of the others float32 itself has wrong sums.
    """
    chip = convolution(*geometry)
    run = assert_equal(chip, LOIHI, spikes_for(chip, 0, samples=8))
    assert run.arithmetic["a"].startswith("float32")


@law(40)
@given(
    channels=NUMBERS(1, 70),
    outputs=NUMBERS(1, 70),
    side=NUMBERS(3, 12),
    kernel=NUMBERS(1, 7),
    stride=NUMBERS(1, 4),
    pad=NUMBERS(0, 3),
    samples=NUMBERS(1, 20),
)
def test_common_geometries_multiply_bytes(channels, outputs, side, kernel, stride, pad, samples):
    kernel = min(kernel, side)
    stride = stride if kernel == 1 else min(stride, kernel - 1)
    pad = min(pad, kernel - 1)
    chip = convolution(
        (channels, side, side), (outputs, channels, kernel, kernel), (stride,) * 2, (pad,) * 2
    )
    (population,) = chip.populations
    (sums,), unit = compile_sums(chip, population, torch.device("cpu"))
    spikes = spikes_for(chip, samples, samples)["x"]
    found = sums(stored(spikes).flatten(0, 1))
    assert sums.arithmetic == ("int8" if multiplies_bytes() else "float32")
    weight = torch.from_numpy(population.synapses[0].weight).double() / 2**unit
    images = spikes.transpose(0, 1).flatten(0, 1).double()
    expected = F.conv2d(images, weight, None, stride, pad).permute(0, 2, 3, 1)
    assert torch.equal(found.double().flatten(), expected.flatten())


def test_bytes_that_come_out_wrong_are_not_used(monkeypatch):
    """As if oneDNN's product were off by one in one place."""
    real = Sums._in_bytes

    def wrong(self, spikes):
        sums = real(self, spikes)
        sums.view(-1)[-1] += 1
        return sums

    chip = convolution((4, 6, 6), (5, 4, 3, 3), (1, 1), (1, 1))
    monkeypatch.setattr(Sums, "_in_bytes", wrong)
    run = assert_equal(chip, LOIHI, spikes_for(chip, 0))
    assert run.arithmetic["a"].startswith("float32")


@pytest.mark.parametrize("backend", [Fast(), Reference()], ids=lambda backend: backend.name)
def test_spikes_that_do_not_fit_are_refused(backend):
    chip = dense([2, 2], steps=3)
    run = backend.compile(chip, LOIHI)
    for shape in [(4, 1, 2), (2, 1, 2), (3, 1, 3), (3, 0, 2)]:
        with pytest.raises(BadInput, match=r"takes \[steps, batch, \*shape\]"):
            run({"x": torch.ones(shape, dtype=torch.bool)})
    with pytest.raises(BadInput, match="needs the spikes of 'x'"):
        run({})
    ones = torch.ones(3, 1, 2, dtype=torch.uint8)
    assert torch.equal(run({"x": ones}).spikes["n"], run({"x": ones.bool()}).spikes["n"])
    with pytest.raises(BadInput, match="'x' sends spikes, 0 or 1 in a step, not 2"):
        run({"x": ones * 2})


def test_wide_weights_do_not_depend_on_how_torch_multiplies_float32(monkeypatch):
    """13 bits, which bfloat16 would round."""
    chip = dense([4095, -4093] * 8, threshold=60_000)
    assert arithmetic(chip)[0] == "float64"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert_equal(chip, LOIHI, spikes_for(chip, 0, samples=20))
    finally:
        torch.set_float32_matmul_precision(before)
