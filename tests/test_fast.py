"""The fast backend equals the reference: spikes, updates and overflows, whatever the integers."""

import gc
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
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
from mapping.chip.segment import ChipSegment, Population, Port, Synapse
from mapping.targets.schema import load_target

LOIHI = load_target("loihi").registers
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


def population(name, shape, synapses, rng, values, bias_scale):
    bias = rng.integers(-bias_scale, bias_scale + 1, shape[0])
    threshold = rng.choice([values["threshold"], 40, 20_000], shape[0])
    values = {**values, "threshold": threshold, "bias": bias}
    return Population(name, shape, tuple(synapses), "lif", **values)


def weights(rng, shape, mode):
    low, high, step = {"mixed": (-128, 127, 2), "excitatory": (0, 255, 1)}[mode]
    return rng.integers(low, high + 1, shape) * step


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
    extents = [
        (x[1 + a] + 2 * attrs["padding"][a] - attrs["dilation"][a] * (kernel[a] - 1) - 1)
        // attrs["stride"][a]
        + 1
        for a in (0, 1)
    ]
    mode, exp = draw(st.sampled_from(["mixed", "excitatory"])), draw(NUMBERS(0, 7))
    bias_scale = draw(st.sampled_from([0, 1, 4095]))
    outputs = 2 * groups
    shape = (outputs, *extents)
    first = Synapse(
        "c1", "x", "conv2d", attrs, weights(rng, (outputs, fan, *kernel), mode), exp, mode, 8
    )
    again = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    inner = Synapse(
        "c2", "a", "conv2d", again, weights(rng, (outputs, outputs, 1, 1), mode), 0, mode, 8
    )
    side_arm = replace(first, name="c3")
    size = int(np.prod(shape))
    dense = Synapse("fc", "b", "linear", {}, weights(rng, (4, size), "mixed"), 1, "mixed", 8)
    populations = (
        population("a", shape, [first], rng, draw(constants()), bias_scale),
        population("b", shape, [inner, side_arm], rng, draw(constants()), bias_scale),
        population("c", (4,), [dense], rng, draw(constants()), bias_scale),
    )
    return ChipSegment("s", draw(NUMBERS(1, 8)), (Port("x", x),), populations, ("c",))


@st.composite
def small_segments(draw):
    """Convolutions of so few pixels that they run as matrices, between dense layers and images."""
    rng = np.random.default_rng(draw(NUMBERS(0, 10_000)))
    x = (draw(NUMBERS(1, 5)), *draw(st.sampled_from([(1, 1), (1, 3), (2, 2), (4, 1)])))
    kernel, pad = (draw(NUMBERS(1, 3)), draw(NUMBERS(1, 3))), draw(NUMBERS(1, 2))
    attrs = {
        "stride": [draw(NUMBERS(1, 2)), draw(NUMBERS(1, 2))],
        "padding": [pad, pad],
        "dilation": [1, 1],
        "groups": 1,
    }
    extents = [(x[1 + a] + 2 * pad - kernel[a]) // attrs["stride"][a] + 1 for a in (0, 1)]
    shape, back = (3, *extents), (2, 3, 2)
    conv = Synapse(
        "c", "x", "conv2d", attrs, weights(rng, (3, x[0], *kernel), "mixed"), 1, "mixed", 8
    )
    out = Synapse(
        "d", "a", "linear", {}, weights(rng, (12, int(np.prod(shape))), "mixed"), 0, "mixed", 8
    )
    populations = (
        population("a", shape, [conv], rng, draw(constants()), 100),
        population("b", back, [out], rng, draw(constants()), 100),
    )
    return ChipSegment("s", draw(NUMBERS(1, 8)), (Port("x", x),), populations, ("b",))


def spikes_for(segment, seed, samples=3, rate=0.5):
    rng = np.random.default_rng(seed)
    (port,) = segment.inputs
    shape = (segment.steps, samples, *port.shape)
    return {port.name: torch.from_numpy(rng.random(shape) < rate)}


def assert_equal(segment, registers, inputs):
    fast = Fast().compile(segment, registers)(inputs, membranes=True)
    reference = Reference().compile(segment, registers)(inputs, membranes=True)
    for p in segment.populations:
        assert torch.equal(fast.spikes[p.name], reference.spikes[p.name])
        assert torch.equal(fast.membranes[p.name], reference.membranes[p.name])
        assert fast.membranes[p.name].dtype == reference.membranes[p.name].dtype
        assert np.array_equal(fast.updated[p.name], reference.updated[p.name])
        assert np.array_equal(fast.fired[p.name], reference.spikes[p.name].sum(1).numpy())
    assert fast.overflows == reference.overflows
    return fast


@settings(deadline=None, max_examples=120)
@given(segment=segments(), seed=NUMBERS(0, 99), keep_top=st.booleans())
def test_equals_the_reference(segment, seed, keep_top):
    registers = msgspec.structs.replace(LOIHI, keep_top=keep_top)
    assert_equal(segment, registers, spikes_for(segment, seed))


@settings(deadline=None, max_examples=60)
@given(segment=small_segments(), seed=NUMBERS(0, 99))
def test_equals_the_reference_on_a_few_pixels(segment, seed):
    assert_equal(segment, LOIHI, spikes_for(segment, seed))


def test_chunks_of_samples_make_no_difference(monkeypatch):
    segment = dense([254, 2, 130] * 40, threshold=2000, dv=2048)
    inputs = spikes_for(segment, 3, samples=61)
    whole = Fast().compile(segment, LOIHI)(inputs)
    monkeypatch.setattr("hwsim.backends.fast.backend.CHUNK", 4 * 7)
    parts = Fast().compile(segment, LOIHI)(inputs)
    assert torch.equal(whole.spikes["n"], parts.spikes["n"])
    assert np.array_equal(whole.updated["n"], parts.updated["n"])


def dense(weight, *, threshold=131_071, bias=0, bias_exp=0, du=4095, dv=0, exp=0, steps=4):
    """One neuron that every input drives."""
    synapse = Synapse("w", "x", "linear", {}, np.array([weight]), exp, "mixed", 8)
    neuron = Population(
        "n", (1,), (synapse,), "lif", np.array([threshold]), np.array([bias]), bias_exp, du, dv
    )
    return ChipSegment("s", steps, (Port("x", (len(weight),)),), (neuron,), ("n",))


def all_ones(segment):
    (port,) = segment.inputs
    return {port.name: torch.ones(segment.steps, 2, *port.shape, dtype=torch.bool)}


@pytest.mark.parametrize(("keep_top", "u"), [(True, 2**23), (False, -(2**23))])
def test_current_at_the_edge_of_its_register(keep_top, u):
    """A sum of 2**17 weight units makes u = 2**23, where Lava and nengo-loihi disagree."""
    segment = dense([254, 254, 254, 254, 8], exp=7, steps=1)
    registers = msgspec.structs.replace(LOIHI, keep_top=keep_top)
    run = assert_equal(segment, registers, all_ones(segment))
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
    segment = dense([2, 2], dv=4096, steps=3)
    inputs = torch.zeros(3, 2, 2, dtype=torch.bool)
    inputs[1, 0] = True
    run = assert_equal(segment, LOIHI, {"x": inputs})
    # step 1: input; step 2: the membrane it left; the other sample stays at rest
    assert run.updated["n"].flatten().tolist() == [0, 1, 1]


def arithmetic(segment):
    (found,) = Fast().compile(segment, LOIHI).layers
    return found.sums[0].arithmetic, found.lif.compiled


def test_narrow_arithmetic_only_where_it_cannot_round():
    whole = arithmetic(dense([2] * 9))
    assert whole == ("int8", kernels.available())
    assert arithmetic(dense([254, -256] * 9, exp=7)) == whole, "a shared power of two is taken out"
    assert arithmetic(dense([255, 2])) == ("float32", kernels.available()), "9 bits with the sign"
    wide = dense([254] * 9, exp=7)
    (neuron,) = wide.populations
    odd = replace(neuron.synapses[0], weight=np.array([[1] + [1 << 24] * 8]), weight_exp=0)
    assert arithmetic(replace(wide, populations=(replace(neuron, synapses=(odd,)),))) == (
        "float64",
        False,
    )


def test_says_what_each_layer_is_computed_in():
    segment = dense([255, 2])
    run = Fast().compile(segment, LOIHI)(all_ones(segment))
    neurons = "int32" if kernels.available() else "float"
    assert run.arithmetic == {"n": f"float32 sums, {neurons} neurons"}


@pytest.mark.parametrize("missing", ["bytes", "kernels", "both"])
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(segment=segments(), seed=NUMBERS(0, 99), keep_top=st.booleans())
def test_equals_the_reference_on_poorer_machines(missing, segment, seed, keep_top):
    """Without oneDNN's products of bytes, and without a C compiler."""
    registers = msgspec.structs.replace(LOIHI, keep_top=keep_top)
    with pytest.MonkeyPatch.context() as patch:
        if missing != "kernels":
            patch.setattr("hwsim.backends.fast.sums.multiplies_bytes", lambda: False)
        if missing != "bytes":
            patch.setattr("hwsim.kernels.available", lambda: False)
        assert_equal(segment, registers, spikes_for(segment, seed))


def test_exact_without_onednn_too():
    """Without oneDNN torch would take NNPACK's Winograd, which multiplies by fractions."""
    rng = np.random.default_rng(0)
    attrs = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    synapse = Synapse(
        "c", "x", "conv2d", attrs, weights(rng, (16, 16, 3, 3), "mixed"), 0, "mixed", 8
    )
    bias = np.zeros(16, np.int64)
    layer = Population("a", (16, 16, 16), (synapse,), "lif", np.full(16, 300), bias, 0, 4095, 2048)
    segment = ChipSegment("s", 4, (Port("x", (16, 16, 16)),), (layer,), ("a",))
    inputs = spikes_for(segment, 0, samples=8)
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        assert_equal(segment, LOIHI, inputs)
    finally:
        torch._C._set_mkldnn_enabled(before)


def test_odd_currents_that_wrap_do_not_round():
    """The wrap itself computes with 2**23 + 2**24, more than float32 holds."""
    segment = dense([-254] * 4 + [2], exp=7, threshold=67_072, du=2047, dv=4095, steps=8)
    weight = np.array([[-254 << 7] * 4 + [2]])
    (neuron,) = segment.populations
    synapse = replace(neuron.synapses[0], weight=weight, weight_exp=0)
    segment = replace(segment, populations=(replace(neuron, synapses=(synapse,)),))
    assert_equal(segment, LOIHI, spikes_for(segment, 0, samples=50, rate=0.8))


def test_bias_alone_can_drive_a_population():
    thresholds = np.array([100, 90, 80])
    bias = Population("n", (3,), (), "lif", thresholds, np.array([900, 0, 4095]), 1, 4095, 0)
    segment = ChipSegment("s", 6, (Port("x", (2,)),), (bias,), ("n",))
    run = assert_equal(segment, LOIHI, all_ones(segment))
    assert run.spikes["n"].any()


def test_autocast_around_a_simulation_changes_nothing():
    segment = dense([254, 2, 130] * 40, threshold=2000, dv=2048)
    inputs = spikes_for(segment, 3, samples=60)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal(segment, LOIHI, inputs)


def test_registers_too_wide_for_float64_are_refused():
    wide = msgspec.structs.replace(LOIHI, state_bits=48)
    with pytest.raises(BackendError, match="use the reference"):
        Fast().compile(dense([2]), wide)


def test_recurrent_connections_are_refused():
    segment = dense([2])
    (neuron,) = segment.populations
    lateral = replace(neuron.synapses[0], source="n")
    segment = replace(
        segment, populations=(replace(neuron, synapses=(neuron.synapses[0], lateral)),)
    )
    with pytest.raises(BackendError, match="'n' is driven by 'n'"):
        Fast().compile(segment, LOIHI)


def test_memory_does_not_grow_with_the_number_of_batches(vgg, digits):
    """What is alive after a batch is the counts so far and the logits, however many there were."""
    mapped = map_model(vgg, calibration=digits[:64])
    alive = []

    def look(done, total):
        gc.collect()
        tensors = (x for x in gc.get_objects() if type(x) is torch.Tensor)
        alive.append(sum(x.numel() for x in tensors))

    simulate(mapped, digits[:60], batch_size=6, on_progress=look)
    assert len(alive) == 10
    assert alive[-1] - alive[1] <= 8 * 6 * 10, "logits only"


def convolution(x, w, stride, padding, dilation=(1, 1)):
    """One layer of random 8-bit weights whose neurons fire now and then."""
    rng = np.random.default_rng(0)
    attrs = {"stride": list(stride), "padding": list(padding), "dilation": list(dilation)}
    synapse = Synapse(
        "c", "x", "conv2d", {**attrs, "groups": 1}, weights(rng, w, "mixed"), 0, "mixed", 8
    )
    extents = [
        (x[1 + a] + 2 * padding[a] - dilation[a] * (w[2 + a] - 1) - 1) // stride[a] + 1
        for a in (0, 1)
    ]
    shape = (w[0], *extents)
    layer = Population(
        "a", shape, (synapse,), "lif", np.full(w[0], 700), np.zeros(w[0], int), 0, 4095, 2048
    )
    return ChipSegment("s", 4, (Port("x", x),), (layer,), ("a",))


@pytest.mark.parametrize(
    "geometry",
    [
        ((28, 1, 108), (2, 28, 1, 16), (1, 1), (0, 7)),
        ((29, 16, 1), (29, 29, 7, 7), (2, 2), (3, 3)),
        ((30, 19, 5), (19, 30, 6, 5), (2, 4), (2, 1)),
        ((3, 8, 1), (3, 3, 1, 1), (2, 2), (1, 1), (2, 2)),
        ((1, 2, 16), (1, 1, 5, 4), (7, 7), (7, 7), (3, 3)),
    ],
)
def test_geometries_that_onednn_gets_wrong_are_kept_from_it(geometry):
    """Its convolutions of bytes had wrong sums for three of them on AMX, and crashed on two."""
    segment = convolution(*geometry)
    run = assert_equal(segment, LOIHI, spikes_for(segment, 0, samples=8))
    assert run.arithmetic["a"].startswith("float32")


@settings(deadline=None, max_examples=40)
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
    segment = convolution(
        (channels, side, side), (outputs, channels, kernel, kernel), (stride,) * 2, (pad,) * 2
    )
    (population,) = segment.populations
    (sums,), unit = compile_sums(segment, population, torch.device("cpu"))
    spikes = spikes_for(segment, samples, samples)["x"]
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

    segment = convolution((4, 6, 6), (5, 4, 3, 3), (1, 1), (1, 1))
    monkeypatch.setattr(Sums, "_in_bytes", wrong)
    run = assert_equal(segment, LOIHI, spikes_for(segment, 0))
    assert run.arithmetic["a"].startswith("float32")


@pytest.mark.parametrize("backend", [Fast(), Reference()], ids=lambda backend: backend.name)
def test_spikes_that_do_not_fit_are_refused(backend):
    segment = dense([2, 2], steps=3)
    run = backend.compile(segment, LOIHI)
    for shape in [(4, 1, 2), (2, 1, 2), (3, 1, 3), (3, 0, 2)]:
        with pytest.raises(BadInput, match=r"takes \[steps, batch, \*shape\]"):
            run({"x": torch.ones(shape, dtype=torch.bool)})
    with pytest.raises(BadInput, match="needs the spikes of 'x'"):
        run({})
    twos = torch.full((3, 1, 2), 2, dtype=torch.uint8)
    assert torch.equal(run({"x": twos}).spikes["n"], run({"x": twos.bool()}).spikes["n"])


def test_wide_weights_do_not_depend_on_how_torch_multiplies_float32(monkeypatch):
    """13 bits, which bfloat16 would round."""
    segment = dense([4095, -4093] * 8, threshold=60_000)
    assert arithmetic(segment)[0] == "float64"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert_equal(segment, LOIHI, spikes_for(segment, 0, samples=20))
    finally:
        torch.set_float32_matmul_precision(before)
