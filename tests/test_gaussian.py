"""Gaussian coding: mean and deviation as learned, draws by the sample's number wherever it runs."""

import pytest
import torch
from torch import nn

from has8.blocks import OverTime
from has8.encoders import (
    Decoder,
    GaussianEncoder,
    count_weights,
    encode_gaussian,
    normal_draws,
    numbered,
    rate_draws,
)
from has8.errors import BadInput
from has8.neurons import Leaky
from hwsim import compare, simulate
from mapping import load, map_model, save

X = torch.tensor([[0.5, -2.0, 0.0, -1.0]])
"""mu, then ln sigma, of two values."""


def test_means_and_deviations_are_the_learned_ones():
    noise = normal_draws(4000, (1, 2), 0).double()
    assert torch.equal(noise * 2**20, (noise * 2**20).round())
    assert noise.mean().abs() < 0.04 and abs(noise.std() - 1) < 0.03
    quartile = (noise.abs() < 0.6745).double().mean().item()
    assert noise.abs().max() < 5.9 and quartile == pytest.approx(0.5, abs=0.02)
    halves = noise[:2000], noise[2000:]
    assert abs((halves[0] * halves[1]).mean()) < 0.05  # of one radius, and independent
    one, other = rate_draws(2, (1, 1), 7).double().flatten()
    pair = torch.polar(torch.sqrt(-2 * torch.log(1 - one)), 2 * torch.pi * other)
    found = normal_draws(2, (1, 1), 7).flatten().tolist()
    assert found == pytest.approx([pair.real.item(), pair.imag.item()], abs=2**-20)
    coded = encode_gaussian(X.double(), 4000, 0)
    sigma = torch.tensor([1.0, 1 / torch.e], dtype=torch.float64)
    assert torch.allclose(coded, X[:, :2].double() + sigma * noise)
    released = encode_gaussian(X.double(), 4000, 0, "paper")  # both through ReLU
    assert torch.allclose(released, torch.tensor([0.5, 0]).double() + noise)
    released = encode_gaussian(torch.tensor([[1.0, 3.0]]), 9, 0, "paper")
    deviation = torch.tensor(1.5).exp()
    assert torch.allclose(released, 1 + deviation * normal_draws(9, (1, 1), 0))


def test_gradients_reach_mean_and_deviation():
    leaf = X.clone().requires_grad_()
    encode_gaussian(leaf, 3, 1).sum().backward()
    of_log = X[:, 2:].exp() * normal_draws(3, (1, 2), 1).sum(0)
    assert torch.allclose(leaf.grad, torch.cat([torch.full((1, 2), 3.0), of_log], 1))


def test_a_sample_s_draws_follow_from_its_number_in_evaluation():
    x, encoder = torch.randn(5, 6), GaussianEncoder(4, 3).eval()
    whole = encoder(x)
    assert whole.shape == (4, 5, 3)
    with numbered(2):
        assert torch.equal(encoder(x[2:]), whole[:, 2:])
    assert not torch.equal(GaussianEncoder(4, 4).eval()(x), whole)
    encoder.train()
    torch.manual_seed(0)
    one = encoder(x)
    assert not torch.equal(encoder(x), one)
    torch.manual_seed(0)
    assert torch.equal(encoder(x), one)


def test_mapping_and_every_simulator_draw_the_same(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(5, 12),
        GaussianEncoder(6, 2),
        OverTime(nn.Linear(6, 8)),
        Leaky(),
        OverTime(nn.Linear(8, 4)),
        Leaky(threshold=0.1),
        Decoder(count_weights(6)),
    ).eval()
    x = torch.randn(7, 5)
    mapped = map_model(net, input_shape=(5,), calibration=x)
    assert [p.name for p in mapped.chip_segments[0].populations] == ["5"]
    reasons = {r.node: r.reason for r in mapped.partition.rejections}
    assert "a chip takes only spikes" in reasons["3"]
    with torch.no_grad():
        expected = net(x)
    answers = simulate(mapped, x, batch_size=7).logits
    assert expected.any() and torch.equal(answers, expected)
    again = simulate(load(save(mapped, tmp_path / "net.h8")), x, "reference", batch_size=2)
    assert torch.equal(again.logits, answers)
    assert compare(mapped, x, "reference", "fast").equal


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: GaussianEncoder(0), "gaussian coding needs at least 1 step"),
        (lambda: GaussianEncoder(1, -1), "the seed of gaussian coding must be from 0"),
        (lambda: GaussianEncoder(1, mode="released"), "mode must be 'hw' or 'paper'"),
        (lambda: encode_gaussian(torch.rand(2, 3), 1), r"mu and ln sigma, not \(3,\)"),
        (lambda: encode_gaussian(X * float("nan"), 1), "gaussian coding takes numbers"),
    ],
)
def test_what_it_cannot_take(call, sentence):
    with pytest.raises(BadInput, match=sentence):
        call()
