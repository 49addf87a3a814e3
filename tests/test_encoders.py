"""Bit planes: exact round trip, binary, independent of the batch; slopes are the derivatives."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from has8 import calibrate
from has8.encoders import (
    BitPlaneEncoder,
    Decoder,
    PaperBitPlaneEncoder,
    bitplane_weights,
    encode_bitplanes,
    rate_weights,
)
from has8.errors import BadInput, UnknownName
from has8.surrogate import SLOPES, plane_factors, rescale

CODES = torch.arange(256.0)


@pytest.mark.parametrize("order", ["lsb", "msb"])
def test_decode_of_encode_is_the_code_for_all_256(order):
    planes = encode_bitplanes(CODES, 0.0, 255.0, order)
    assert planes.shape == (8, 256)
    assert set(planes.unique().tolist()) == {0.0, 1.0}
    decoded = Decoder(bitplane_weights(order))(planes) * 255
    assert torch.equal(decoded.round(), CODES)
    assert (decoded - CODES).abs().max() < 1e-4


def test_low_bit_comes_first_unless_told_otherwise():
    assert encode_bitplanes(torch.tensor([200.0]), 0, 255, "lsb").flatten().tolist() == [
        0, 0, 0, 1, 0, 0, 1, 1,
    ]  # fmt: skip
    assert torch.equal(
        encode_bitplanes(CODES, 0, 255, "msb"), encode_bitplanes(CODES, 0, 255, "lsb").flip(0)
    )


@settings(deadline=None, max_examples=30)
@given(lo=st.floats(-10, 9), width=st.floats(0.01, 20), seed=st.integers(0, 99))
def test_the_code_of_a_sample_does_not_depend_on_its_batch(lo, width, seed):
    encoder = BitPlaneEncoder().eval()
    encoder.lo.fill_(lo)
    encoder.hi.fill_(lo + width)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed)) * 8
    together = encoder(x)
    for i in range(6):
        assert torch.equal(encoder(x[i : i + 1])[:, 0], together[:, i])


def test_values_outside_the_range_are_clamped():
    planes = encode_bitplanes(torch.tensor([-1.0, 2.0]), 0.0, 1.0, "lsb")
    assert planes.sum(0).tolist() == [0, 8]


def wave(name, x, k):
    """The smooth waves of equations 16 to 18, whose derivatives the slopes are."""
    phase = x * (math.pi / 2**k)
    if name == "sigmoid":
        return torch.sigmoid(-10 * torch.sin(phase))
    if name == "tanh":
        return 0.5 * (1 + torch.tanh(-10 * torch.sin(phase)))
    return 0.5 - (2 / math.pi) * sum(torch.sin(n * phase) / n for n in (1, 3, 5, 7, 9))


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "fourier"])
@pytest.mark.parametrize("plane", range(8))
def test_slopes_are_derivatives_of_the_papers_waves(name, plane):
    x = torch.linspace(0, 255, 997, dtype=torch.float64)
    h = 1e-5
    expected = (wave(name, x + h, plane) - wave(name, x - h, plane)) / (2 * h)
    assert torch.allclose(SLOPES.get(name)(x, plane), expected, atol=1e-5)


def test_released_fourier_slope_has_an_extra_half_and_straight_through_is_the_identity():
    x = torch.linspace(0, 255, 50)
    for k in range(8):
        extra = SLOPES.get("fourier_released")(x, k) - SLOPES.get("fourier")(x, k)
        assert torch.allclose(extra, torch.full_like(x, 0.5), atol=1e-5)
    for weights in (bitplane_weights("lsb"), rate_weights(8)):
        encoder = BitPlaneEncoder(slope="straight_through").eval()
        leaf = torch.linspace(0.1, 0.9, 7).requires_grad_()
        Decoder(weights)(encoder(leaf)).sum().backward()
        assert torch.allclose(leaf.grad, torch.ones(7), atol=1e-5)


def test_rescale_table():
    assert [rescale(k) for k in range(8)] == [0, 1 / 64, 1 / 16, 3 / 16, 0.5, 5 / 4, 3, 7]
    assert plane_factors("fourier", rescaled=False) == (1.0,) * 8
    assert plane_factors("straight_through", rescaled=True) == (1.0,) * 8


@pytest.mark.parametrize("shape", [(5,), (5, 4), (2, 3, 4, 4)])
@pytest.mark.parametrize("order", ["lsb", "msb"])
def test_backward_is_the_sum_over_planes_for_any_number_of_axes(shape, order):
    encoder = BitPlaneEncoder(slope="sigmoid", order=order).eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(*shape, generator=generator).requires_grad_()
    grad = torch.randn(8, *shape, generator=generator)
    encoder(x).backward(grad)
    code = x.detach() * 255
    planes = range(8) if order == "lsb" else reversed(range(8))
    expected = sum(
        g * SLOPES.get("sigmoid")(code + 0.5, k) * rescale(k) * 255
        for g, k in zip(grad, planes, strict=True)
    )
    assert torch.allclose(x.grad, expected, rtol=1e-4, atol=1e-4)


def test_no_gradient_outside_the_range():
    encoder = BitPlaneEncoder().eval()
    x = torch.tensor([-0.5, 0.5, 1.5]).requires_grad_()
    encoder(x).sum().backward()
    assert (x.grad != 0).tolist() == [False, True, False]


def test_range_follows_training_and_stops_when_frozen():
    encoder = BitPlaneEncoder(momentum=0.5)
    encoder(torch.tensor([-1.0, 3.0]))
    assert (encoder.lo.item(), encoder.hi.item()) == (-1, 3)
    encoder(torch.tensor([1.0, 5.0]))
    assert (encoder.lo.item(), encoder.hi.item()) == (0, 4)
    calibrate(encoder)
    encoder.train()
    encoder(torch.tensor([-100.0, 100.0]))
    assert (encoder.lo.item(), encoder.hi.item()) == (0, 4)


def test_calibrate_measures_what_training_never_tracked():
    model = nn.Sequential(BitPlaneEncoder(), Decoder(bitplane_weights("lsb")))
    with pytest.raises(BadInput, match="never tracked"):
        calibrate(model)
    calibrate(model, torch.tensor([[0.0, 8.0], [-2.0, 1.0], [3.0, 4.0]]), batch_size=1)
    assert (model[0].lo.item(), model[0].hi.item(), bool(model[0].frozen)) == (-2, 8, True)


def test_paper_encoder_behaves_as_released():
    encoder = PaperBitPlaneEncoder()
    inside = encoder(torch.tensor([[0.5, 1.0]]))
    assert inside[0].flatten().tolist() == [127.5 % 2, 255 % 2]  # plane 0 is not binary
    apart = encoder(torch.tensor([[0.0, 4.0]]))
    assert apart[:, 0, 1].tolist() == [1.0] * 8  # the batch's maximum is code 255
    assert torch.equal(encoder(torch.full((2, 2), 7.0)), torch.ones(8, 2, 2))


def test_paper_encoder_reproduces_the_cross_plane_sum_for_vectors():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 5, generator=generator)
    grad = torch.randn(8, 3, 5, generator=generator)
    flat, image = x.clone().requires_grad_(), x.clone().requires_grad_()
    PaperBitPlaneEncoder()(flat).backward(grad)
    PaperBitPlaneEncoder()(image.view(3, 5, 1, 1)).backward(grad.view(8, 3, 5, 1, 1))
    slope = SLOPES.get("fourier_released")
    slopes = [slope(x * 255, k) * rescale(k) for k in range(8)]
    crossed = grad.sum(0) * sum(slopes) * 255
    right = sum(g * s for g, s in zip(grad, slopes, strict=True)) * 255
    assert torch.allclose(flat.grad, crossed, rtol=1e-4, atol=1e-2)
    assert torch.allclose(image.grad, right, rtol=1e-4, atol=1e-2)


def test_bad_names_are_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'fourier'"):
        BitPlaneEncoder(slope="fouriere")
    with pytest.raises(BadInput, match="order must be"):
        BitPlaneEncoder(order="up")
