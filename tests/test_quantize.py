"""Integers: legal on the target, exact thresholds, errors within the stated bounds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import law, registers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from has8 import calibrate
from has8.blocks import OverTime
from has8.encoders import BitPlaneEncoder, Decoder, bitplane_weights
from has8.errors import BadInput
from has8.neurons import Leaky
from mapping.chip.arithmetic import decay, saturate, shift_left, wrap
from mapping.chip.grid import stored_bits, weight_grid
from mapping.graph.passes import run_passes
from mapping.graph.trace.modules import trace
from mapping.integers.quantize import quantize
from mapping.integers.rounding import Scale, layer_of, to_integers
from mapping.integers.scales import at_largest_scale
from mapping.partition.cut import cut

REGISTERS = registers()


def one_layer(conv, neuron, shape=(2, 5, 5)):
    """The quantised population of encode -> conv -> neuron -> decode, with its graph."""
    net = nn.Sequential(BitPlaneEncoder(), OverTime(conv), neuron, Decoder(bitplane_weights("lsb")))
    calibrate(net, torch.rand(2, *shape))
    graph = run_passes(trace(net, shape))
    return graph, cut(graph, REGISTERS).on_chip[0]


def random_conv(seed, scale, bias_scale):
    torch.manual_seed(seed)
    conv = nn.Conv2d(2, 3, 3, padding=1)
    conv.weight.data = torch.randn_like(conv.weight) * scale
    conv.bias.data = torch.randn_like(conv.bias) * bias_scale
    return conv


layers = {
    "seed": st.integers(0, 500),
    "scale": st.sampled_from([1e-4, 0.02, 0.3, 4.0, 60.0]),
    "bias_scale": st.sampled_from([0.0, 0.05, 1.0, 30.0]),
    "beta": st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
    "bits": st.integers(2, 8),
}
scales = {
    "threshold": st.sampled_from([1, 3, 200, 5000, 131071]),
    "exponent": st.integers(0, 7),
    "spread": st.booleans(),
}


def drawn_scale(graph, name, bits, threshold, exponent, spread):
    """Any scale at all, however bad, with the signs of the right one."""
    modes = at_largest_scale(layer_of(graph, name), name, REGISTERS, bits).scale.sign_modes
    channels = len(layer_of(graph, name).bias)
    thresholds = [max(1, threshold >> (place if spread else 0)) for place in range(channels)]
    return Scale(tuple(thresholds), (exponent,), modes)


def assert_legal(population, bits):
    """All registers in range, weights on the grid, and no input can make the current wrap."""
    (synapse,), neuron = population.synapses, population.neuron
    low, high, step = weight_grid(REGISTERS, bits, synapse.sign_mode)
    assert low <= synapse.weight.min()
    assert synapse.weight.max() <= high
    assert not (synapse.weight % step).any()
    assert synapse.weight_bits == stored_bits(REGISTERS, bits)
    assert 0 <= synapse.weight_exp <= REGISTERS.weight_exp_max
    assert ((neuron.threshold >= 1) & (neuron.threshold <= REGISTERS.threshold_max)).all()
    assert REGISTERS.bias_min <= neuron.bias.min()
    assert neuron.bias.max() <= REGISTERS.bias_max
    assert 0 <= neuron.bias_exp <= REGISTERS.bias_exp_max
    assert 0 <= neuron.dv <= 1 << REGISTERS.decay_bits
    worst = (np.abs(synapse.weight) << synapse.weight_exp).reshape(3, -1).sum(1).max()
    assert worst << REGISTERS.synapse_shift < 1 << (REGISTERS.state_bits - 1)


@law(25)
@given(**layers)
def test_every_integer_is_legal(seed, scale, bias_scale, beta, bits):
    graph, segment = one_layer(random_conv(seed, scale, bias_scale), Leaky(beta=beta))
    chip, errors = quantize(graph, segment, REGISTERS, weight_bits=bits)
    (population,) = chip.populations
    assert_legal(population, bits)
    assert errors[population.name].clipped == 0
    assert errors[population.name].membrane >= 0


@law(25)
@given(**layers, **scales)
def test_every_integer_is_legal_whatever_the_scale(
    seed, scale, bias_scale, beta, bits, threshold, exponent, spread
):
    graph, segment = one_layer(random_conv(seed, scale, bias_scale), Leaky(beta=beta))
    name = segment.outputs[0]
    drawn = drawn_scale(graph, name, bits, threshold, exponent, spread)
    chip, errors = quantize(graph, segment, REGISTERS, weight_bits=bits, scales={name: drawn})
    (population,) = chip.populations
    assert_legal(population, bits)
    assert population.neuron.threshold.ravel().tolist() == list(drawn.thresholds)
    # what is further off than rounding is counted, and nothing else is
    (synapse,) = population.synapses
    (weight,) = layer_of(graph, name).weights
    unit = population.neuron.threshold[..., None] * 2.0**-synapse.weight_exp
    step = weight_grid(REGISTERS, bits, synapse.sign_mode)[2]
    off = np.abs(weight.numpy() * unit - synapse.weight) > step / 2
    bias = layer_of(graph, name).bias.numpy() * population.neuron.threshold.ravel() * 2.0**6
    outside = np.abs(np.round(bias / 2**population.neuron.bias_exp)) > REGISTERS.bias_max
    count = off.sum() + outside.sum()
    fits = to_integers(layer_of(graph, name), drawn, REGISTERS, bits).worst < 1 << 23
    assert errors[name].clipped == count if fits else errors[name].clipped >= count


@law(25)
@given(**layers, **scales, given_scale=st.booleans())
def test_membrane_error_is_within_its_bound_until_a_spike_differs(
    seed, scale, bias_scale, beta, bits, threshold, exponent, spread, given_scale
):
    neuron = Leaky(beta=beta)
    graph, segment = one_layer(random_conv(seed, scale, bias_scale), neuron)
    chosen = None
    if given_scale:
        name = segment.outputs[0]
        chosen = {name: drawn_scale(graph, name, bits, threshold, exponent, spread)}
    chip, errors = quantize(graph, segment, REGISTERS, weight_bits=bits, scales=chosen)
    (population,) = chip.populations
    (synapse,) = population.synapses
    conv = graph[synapse.name]
    spikes = (torch.rand(chip.steps, 1, 2, 5, 5) < 0.5).double()
    weight = torch.from_numpy(synapse.weight << synapse.weight_exp).double()
    exact = torch.nn.functional.conv2d(
        spikes.flatten(0, 1), conv.tensors["weight"].double(), conv.tensors["bias"].double(), 1, 1
    )
    sums = torch.nn.functional.conv2d(spikes.flatten(0, 1), weight, None, 1, 1)
    lif = population.neuron
    bias = shift_left(lif.bias, lif.bias_exp)
    u = (sums.long().numpy() << REGISTERS.synapse_shift) + bias
    unit = lif.threshold << REGISTERS.threshold_shift
    v_float, v_int = np.zeros((3, 5, 5)), np.zeros((3, 5, 5), np.int64)
    agree = np.ones((3, 5, 5), bool)
    for t in range(chip.steps):
        v_float = v_float * beta + exact[t].numpy()
        unclipped = decay(v_int, lif.dv) + u[t]
        v_int = saturate(unclipped, REGISTERS.state_bits)
        agree &= v_int == unclipped
        error = np.abs(v_float - v_int / unit)
        assert (error[agree] <= errors[population.name].membrane + 1e-9).all()
        fired_float, fired_int = v_float > 1, v_int > unit
        agree &= fired_float == fired_int
        v_float[fired_float], v_int[fired_int] = 0, 0


def test_signs_choose_the_finest_grid_and_the_gain_is_folded():
    conv = random_conv(0, 1.0, 0.0)
    conv.weight.data.abs_()
    graph, segment = one_layer(conv, Leaky(beta=0.5, gain=0.5))
    chip, _ = quantize(graph, segment, REGISTERS)
    (population,) = chip.populations
    assert population.synapses[0].sign_mode == "excitatory"
    effective = population.synapses[0].weight * 2.0 ** population.synapses[0].weight_exp
    expected = graph[population.synapses[0].name].tensors["weight"].numpy() * 0.5
    unit = population.neuron.threshold.flat[0]
    assert np.abs(effective / unit - expected).max() <= 0.5 / unit * 2 ** (
        population.synapses[0].weight_exp
    )
    assert (population.neuron.du, population.neuron.dv) == (4095, 2048)
    conv.weight.data.neg_()
    graph, segment = one_layer(conv, Leaky())
    assert quantize(graph, segment, REGISTERS)[0].populations[0].synapses[0].sign_mode == (
        "inhibitory"
    )


def test_fewer_bits_never_lower_the_error_bound():
    graph, segment = one_layer(random_conv(3, 0.3, 0.1), Leaky())
    bounds = []
    for bits in range(2, 9):
        _, errors = quantize(graph, segment, REGISTERS, weight_bits=bits)
        bounds.append(next(iter(errors.values())).current)
    assert bounds == sorted(bounds, reverse=True)


def test_one_bit_of_mixed_signs_is_refused_unless_clipping_is_asked_for():
    """It stands for 0 and -256: all that excites is lost."""
    graph, segment = one_layer(random_conv(3, 0.3, 0.1), Leaky())
    with pytest.raises(BadInput, match=r"signs: mixed.* without clipping"):
        quantize(graph, segment, REGISTERS, weight_bits=1)
    name = segment.outputs[0]
    layer = layer_of(graph, name)
    scale = at_largest_scale(layer, name, REGISTERS, 1).scale
    chip, errors = quantize(graph, segment, REGISTERS, weight_bits=1, scales={name: scale})
    (weight,) = layer.weights
    assert set(np.unique(chip.populations[0].synapses[0].weight)) == {-256, 0}
    assert 0 < errors[name].clipped <= (weight > 0).sum()
    with pytest.raises(BadInput, match="9 bits"):
        quantize(graph, segment, REGISTERS, weight_bits=9)


def test_scales_of_other_layers_are_refused():
    graph, segment = one_layer(random_conv(3, 0.3, 0.1), Leaky())
    for wrong in ({}, {segment.outputs[0]: Scale((256,) * 4, (0,), ("mixed",))}):
        with pytest.raises(BadInput, match="another model or another partition"):
            quantize(graph, segment, REGISTERS, scales=wrong)


def test_gradients_pass_rounding_and_stop_where_weights_are_clipped():
    graph, segment = one_layer(random_conv(3, 0.3, 0.1), Leaky())
    layer = layer_of(graph, segment.outputs[0])
    (weight,) = layer.weights
    live = weight.clone().requires_grad_()
    scale = at_largest_scale(layer, "", REGISTERS, 4).scale
    doubled = Scale(tuple(2 * v for v in scale.thresholds), scale.exponents, scale.sign_modes)
    integers = to_integers(replace(layer, weights=(live,)), doubled, REGISTERS, 4)
    integers.weights[0].sum().backward()
    unit = doubled.thresholds[0] / 2 ** scale.exponents[0]
    inside = (weight * unit >= -256) & (weight * unit <= 224)
    assert 0 < inside.sum() < weight.numel()
    assert torch.equal(live.grad, torch.where(inside, unit, 0.0).double())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_wide_layers_cannot_wrap_however_coarse_their_grid(bits):
    torch.manual_seed(0)
    linear = nn.Linear(4096, 2)
    net = nn.Sequential(
        BitPlaneEncoder(), OverTime(linear), Leaky(), Decoder(bitplane_weights("lsb"))
    )
    calibrate(net, torch.rand(2, 4096))
    graph = run_passes(trace(net, (4096,)))
    chip, _ = quantize(graph, cut(graph, REGISTERS).on_chip[0], REGISTERS, weight_bits=bits)
    (synapse,) = chip.populations[0].synapses
    worst = (np.abs(synapse.weight) << synapse.weight_exp).sum((1, 2, 3)).max()
    assert worst << REGISTERS.synapse_shift < 1 << (REGISTERS.state_bits - 1)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_fine_threshold_leaves_the_membrane_headroom(beta):
    """Small weights would allow thresholds so large that the membrane register ends at them."""
    torch.manual_seed(0)
    linear = nn.Linear(1000, 4, bias=False)
    linear.weight.data = torch.randn(4, 1000).sign() * 0.0019
    net = nn.Sequential(
        BitPlaneEncoder(), OverTime(linear), Leaky(beta=beta), Decoder(bitplane_weights("lsb"))
    )
    calibrate(net, torch.rand(2, 1000))
    graph = run_passes(trace(net, (1000,)))
    chip, _ = quantize(graph, cut(graph, REGISTERS).on_chip[0], REGISTERS)
    (population,) = chip.populations
    (synapse,) = population.synapses
    drive = (np.abs(synapse.weight) << synapse.weight_exp).sum(
        (1, 2, 3)
    ).max() << REGISTERS.synapse_shift
    reach = drive * sum(beta**t for t in range(8))
    assert reach < (1 << (REGISTERS.state_bits - 1)) * 1.01
    assert (population.neuron.threshold >= 256).all()
    assert 0 <= population.neuron.dv < 1 << REGISTERS.decay_bits


def test_a_layer_of_zeros_is_quantised():
    conv = random_conv(0, 0.0, 0.0)
    graph, segment = one_layer(conv, Leaky())
    population = quantize(graph, segment, REGISTERS)[0].populations[0]
    assert not population.synapses[0].weight.any()
    assert (population.neuron.threshold >= 1).all()


@given(st.integers(-(2**40), 2**40), st.integers(2, 30), st.booleans())
def test_wrap_is_the_same_modulo_and_in_range(x, bits, keep_top):
    half = 1 << (bits - 1)
    value = int(wrap(np.array([x]), bits, keep_top=keep_top)[0])
    assert (value - x) % (1 << bits) == 0
    assert -half < value <= half if keep_top else -half <= value < half


@given(st.integers(-(2**23), 2**23), st.integers(0, 4096))
def test_decay_rounds_to_zero_and_is_odd(x, d):
    value = int(decay(np.array([x]), d)[0])
    assert value == int(np.sign(x)) * (abs(x) * (4096 - d) // 4096)
    assert value == -int(decay(np.array([-x]), d)[0])


def test_saturate_and_shift_at_their_edges():
    assert saturate(np.array([2**23, 2**23 - 1, -(2**23)]), 24).tolist() == [
        2**23 - 1,
        2**23 - 1,
        -(2**23) + 1,
    ]
    assert shift_left(np.array([3, -3]), 2).tolist() == [12, -12]
    assert shift_left(np.array([3, -3]), -1).tolist() == [1, -2]
