"""Layers of sequences (C, L): convolutions and pooling along one axis, on the chip."""

import pytest
import snntorch as snn
import torch
from builders import law
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import has8
from hwsim import estimate, simulate
from mapping import load, map_model, save
from mapping.graph.evaluate import evaluate


def neuron():
    return snn.Leaky(beta=0.5, threshold=0.5, init_hidden=True, reset_mechanism="zero")


def sequences(*middle, features, channels=4):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv1d(2, channels, 3, padding=1),
        nn.BatchNorm1d(channels),
        neuron(),
        *middle,
        nn.Flatten(),
        nn.Linear(features, 5),
        neuron(),
    ).eval()
    for layer in net:
        if isinstance(layer, nn.Conv1d | nn.Linear):
            layer.weight.data = layer.weight.abs() * 32 // 4 / 8 + 0.125
            layer.bias = None
    return net


MIDDLES = {
    "plain": ([], 48),
    "strided": ([nn.Conv1d(4, 6, 4, stride=2, padding=2, dilation=2), neuron()], 30),
    "groups": ([nn.Conv1d(4, 4, 3, groups=2, padding="same", bias=False), neuron()], 48),
    "max": ([nn.MaxPool1d(2)], 24),
    "average": ([nn.AvgPool1d(3)], 16),
    "average of a convolution": ([nn.AvgPool1d(2), nn.Conv1d(4, 4, 3), neuron()], 16),
    "mean": ([nn.AdaptiveAvgPool1d(1)], 4),
}


@pytest.mark.parametrize("middle", MIDDLES)
def test_sequences_run_on_the_chip(middle, tmp_path):
    layers, features = MIDDLES[middle]
    net = has8.over_time(sequences(*layers, features=features), input="steps", readout="spikes")
    x = (torch.rand(7, 12, 2, 12) < 0.5).float()
    mapped = map_model(net, calibration=x, inputs="spikes")
    assert not mapped.partition.on_host, "every layer goes to the chip"
    with torch.no_grad():
        expected = net(x)
    assert expected.any() and torch.equal(evaluate(mapped.graph, x), expected)
    fast = simulate(mapped, x)
    assert torch.equal(fast.logits, simulate(mapped, x, "reference").logits)
    if middle in ("strided", "max"):
        assert torch.equal(fast.logits[:, :1], simulate(mapped, x[:, :1], "lava").logits)
        assert estimate(mapped, fast).energy_uj.total.value > 0
        again = load(save(mapped, tmp_path / "sequence.h8"))
        assert torch.equal(simulate(again, x).logits, fast.logits)


@law(25)
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    length=st.integers(9, 14),
)
def test_any_convolution_of_sequences(kernel, stride, padding, dilation, groups, length):
    conv = nn.Conv1d(4, 8, kernel, stride, padding, dilation, groups)
    conv.weight.data = (conv.weight * 8).round() / 4
    conv.bias.data = (conv.bias * 8).round() / 4
    net = has8.over_time(nn.Sequential(conv, neuron()), input="steps", readout="spikes")
    x = (torch.rand(3, 4, 4, length) < 0.5).float()
    mapped = map_model(net, calibration=x, inputs="spikes")
    with torch.no_grad():
        assert torch.equal(evaluate(mapped.graph, x), net(x))
    assert torch.equal(simulate(mapped, x).logits, simulate(mapped, x, "reference").logits)
