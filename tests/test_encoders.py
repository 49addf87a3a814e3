"""Bit planes: exact round trip, binary, independent of the batch; slopes are the derivatives.

Rate, latency and phase: binary, equal to their definitions, and decoded within half a step.
"""

import math

import pytest
import torch
from builders import law
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from has8 import calibrate
from has8.encoders import (
    IMAGE_CODINGS,
    BitPlaneEncoder,
    Decoder,
    LatencyEncoder,
    PaperBitPlaneEncoder,
    PhaseEncoder,
    RateEncoder,
    bitplane_weights,
    encode_bitplanes,
    latency_weights,
    numbered,
    phase_weights,
    rate_draws,
    rate_weights,
)
from has8.errors import BadInput, CheckpointError, UnknownName
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


@law(30)
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
        assert torch.equal(SLOPES.get("constant_half")(x, k), torch.full_like(x, 0.5))
    for weights in (bitplane_weights("lsb"), rate_weights(8)):
        encoder = BitPlaneEncoder(slope="straight_through").eval()
        leaf = torch.linspace(0.1, 0.9, 7).requires_grad_()
        Decoder(weights)(encoder(leaf)).sum().backward()
        assert torch.allclose(leaf.grad, torch.ones(7), atol=1e-5)


def test_rescale_table():
    assert [rescale(k) for k in range(8)] == [0, 1 / 64, 1 / 16, 3 / 16, 0.5, 5 / 4, 3, 7]
    assert plane_factors("fourier", rescaled=False) == (1.0,) * 8
    assert plane_factors("straight_through", rescaled=True) == (1.0,) * 8
    assert plane_factors("constant_half", rescaled=True) == tuple(map(rescale, range(8)))


@pytest.mark.parametrize("shape", [(5,), (5, 4), (2, 3, 4, 4)])
@pytest.mark.parametrize("order", ["lsb", "msb"])
def test_backward_is_the_sum_over_planes_for_any_number_of_axes(shape, order):
    encoder = BitPlaneEncoder(slope="sigmoid", order=order).eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(*shape, generator=generator, dtype=torch.float64).requires_grad_()
    grad = torch.randn(8, *shape, generator=generator, dtype=torch.float64)
    encoder(x).backward(grad)
    code = x.detach() * 255
    planes = range(8) if order == "lsb" else reversed(range(8))
    expected = sum(
        g * SLOPES.get("sigmoid")(code + 0.5, k) * rescale(k) * 255
        for g, k in zip(grad, planes, strict=True)
    )
    assert torch.allclose(x.grad, expected)


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
    x = torch.rand(3, 5, generator=generator, dtype=torch.float64)
    grad = torch.randn(8, 3, 5, generator=generator, dtype=torch.float64)
    flat, image = x.clone().requires_grad_(), x.clone().requires_grad_()
    PaperBitPlaneEncoder()(flat).backward(grad)
    PaperBitPlaneEncoder()(image.view(3, 5, 1, 1)).backward(grad.view(8, 3, 5, 1, 1))
    slope = SLOPES.get("fourier_released")
    slopes = [slope(x * 255, k) * rescale(k) for k in range(8)]
    crossed = grad.sum(0) * sum(slopes) * 255
    right = sum(g * s for g, s in zip(grad, slopes, strict=True)) * 255
    assert torch.allclose(flat.grad, crossed)
    assert torch.allclose(image.grad, right)


def test_bad_names_are_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'fourier'"):
        BitPlaneEncoder(slope="fouriere")
    with pytest.raises(BadInput, match="order must be"):
        BitPlaneEncoder(order="up")


UNITS = torch.rand(5, 7, generator=torch.Generator().manual_seed(3))
UNITS[0, :5] = torch.tensor([0.0, 1.0, 0.5, 0.25, 1 / 255])


def by_definition(coding, steps, draws):
    """The published encoders, one value at a time."""
    spikes = torch.zeros(steps, *UNITS.shape)
    for i, j in torch.cartesian_prod(torch.arange(5), torch.arange(7)).tolist():
        x = UNITS[i, j].item()
        if coding == "rate":
            for t in range(steps):
                spikes[t, i, j] = draws[t, i, j].item() <= x
        elif coding == "even":
            held, level = (j + 1) * 40503 % 2**16, round(x * 2**16)
            for t in range(steps):
                spikes[t, i, j], held = divmod(held + level, 2**16)
        elif coding == "phase":
            rest, weight = x, 0.5
            for t in range(steps):
                spikes[t, i, j] = rest >= weight
                rest, weight = rest - weight * spikes[t, i, j].item(), weight / 2
        elif coding == "ttfs":
            spikes[round((steps - 1) * (1 - x)), i, j] = 1  # Python, too, rounds half to even
        else:
            alpha = math.exp(steps - 1) - 1
            spikes[round(steps - 1 - math.log(alpha * x + 1)), i, j] = 1
    return spikes


@pytest.mark.parametrize("steps", [2, 5, 8, 10])
@pytest.mark.parametrize("coding", ["rate", "even", "ttfs", "ttfs_log", "phase"])
def test_codings_of_images_are_binary_and_as_defined(coding, steps):
    encoder = IMAGE_CODINGS.get(coding)(steps)
    torch.manual_seed(7)
    spikes = encoder(UNITS)  # of rate coding, in training
    torch.manual_seed(7)
    assert torch.equal(spikes, by_definition(coding, steps, torch.rand(steps, 5, 7)))
    assert torch.equal(spikes, spikes.bool().float())
    assert spikes.shape == (steps, 5, 7)
    assert encoder.steps == steps
    assert f"steps={steps}" in repr(encoder)
    assert encoder(UNITS.half()).dtype == torch.float16
    assert encoder(torch.zeros(0, 3)).shape == (steps, 0, 3)


def test_rate_decodes_to_the_value_on_average():
    torch.manual_seed(0)
    x = torch.linspace(0, 1, 11)
    steps = 40_000
    decoded = Decoder(rate_weights(steps))(RateEncoder(steps)(x).double())
    deviation = (x * (1 - x) / steps).sqrt()
    assert ((decoded - x).abs() <= 5 * deviation + 1e-5).all()
    assert decoded[-1].item() == pytest.approx(1)  # 1 fires always
    assert decoded[0].item() == 0
    encoder = RateEncoder(10)
    assert not torch.equal(encoder(UNITS), encoder(UNITS))


@law(30)
@given(
    steps=st.integers(1, 9),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, (1 << 63) - 1),
    first=st.integers(0, 1 << 40),
)
def test_in_evaluation_the_draws_of_a_sample_follow_from_its_number_and_the_seed(
    steps, sizes, seed, first
):
    x = torch.rand(sum(sizes), 3, 5)
    encoder = RateEncoder(steps, seed).eval()
    with numbered(first):
        whole = encoder(x)
    for size in sizes:
        with numbered(first):
            assert torch.equal(encoder(x[:size]), whole[:, :size])
        x, whole, first = x[size:], whole[:, size:], first + size
    draws = rate_draws(steps, (2, 4), seed)
    assert 0 <= draws.min() <= draws.max() < 1
    assert torch.equal(draws * 2**24, (draws * 2**24).round())


def test_every_second_sample_has_every_second_number():
    x, encoder = torch.rand(6, 40), RateEncoder(8, 3).eval()
    with numbered(1, apart=2):
        assert torch.equal(encoder(x[1::2]), encoder_of_all(encoder, x)[:, 1::2])


def encoder_of_all(encoder, x):
    with numbered(0):
        return encoder(x)


def philox(counter, key):
    """Philox4x64-10 as published (Salmon et al. 2011), four words of 64 bits."""
    mask = (1 << 64) - 1
    for _ in range(10):
        one, other = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = (
            (other >> 64) ^ counter[1] ^ key[0],
            other & mask,
            (one >> 64) ^ counter[3] ^ key[1],
            one & mask,
        )
        key = ((key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask)
    return counter


def test_draws_of_rate_coding_are_the_published_generator_s_bits():
    known = 0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B
    assert philox((0, 0, 0, 0), (0, 0)) == known  # its authors' own known answers
    words = [word for block in (1, 2) for word in philox((block, 0, 0, 0), (5, 7))]
    expected = [half >> 8 for word in words for half in (word & 0xFFFFFFFF, word >> 32)]
    with numbered(7):
        found = (rate_draws(5, (1, 3), 5).flatten() * 2**24).long().tolist()
    assert found == expected[:15]
    with pytest.raises(BadInput, match=r"seed of rate coding must be from 0"):
        RateEncoder(4, -1)


@law(40)
@given(steps=st.integers(2, 40), seed=st.integers(0, 99))
def test_latency_fires_once_and_decodes_within_half_a_step(steps, seed):
    x = torch.rand(64, generator=torch.Generator().manual_seed(seed)).double()
    last = steps - 1
    linear = LatencyEncoder(steps)(x)
    assert (linear.sum(0) == 1).all()
    error = Decoder(latency_weights(steps))(linear) - x
    assert (error.abs() <= 0.5 / last + 1e-6).all()
    log = LatencyEncoder(steps, "log")(x)
    assert (log.sum(0) == 1).all()
    # Half a step of the logarithm, on either side.
    level = torch.log(math.expm1(last) * x + 1)
    decoded = Decoder(latency_weights(steps, "log"))(log)
    assert (decoded <= torch.expm1(level + 0.5) / math.expm1(last) * (1 + 1e-6) + 1e-12).all()
    assert (decoded >= torch.expm1(level - 0.5) / math.expm1(last) * (1 - 1e-6) - 1e-12).all()


@pytest.mark.parametrize("function", ["linear", "log"])
def test_latency_is_the_identity_on_its_own_values(function):
    weights = latency_weights(10, function)
    assert (weights[0], weights[-1]) == (1, 0)
    spikes = LatencyEncoder(10, function)(torch.tensor(weights))
    assert torch.equal(spikes, torch.eye(10))  # the value of step t fires at step t
    assert torch.equal(Decoder(weights)(spikes), torch.tensor(weights))


def test_latency_rounds_halves_to_even():
    times = LatencyEncoder(3)(torch.tensor([0.75, 0.25])).argmax(0)
    assert times.tolist() == [0, 2]  # of 0.5 and 1.5


@pytest.mark.parametrize("steps", [1, 4, 8, 12])
def test_phase_is_exact_on_its_grid_and_one_takes_the_largest_code(steps):
    encoder, decoder = PhaseEncoder(steps), Decoder(phase_weights(steps))
    grid = torch.arange(2.0**steps) / 2**steps
    assert torch.equal(decoder(encoder(grid)), grid)
    error = UNITS - decoder(encoder(UNITS))
    assert (error >= 0).all()
    assert (error[UNITS < 1] < 2.0**-steps).all()
    assert decoder(encoder(torch.ones(1))).item() == 1 - 2.0**-steps


def test_phase_in_eight_steps_is_the_bit_planes_of_a_pixel_most_significant_first():
    codes = (UNITS * 256).floor().clamp(max=255)
    assert torch.equal(PhaseEncoder(8)(UNITS), encode_bitplanes(codes, 0.0, 255.0, "msb"))
    pixels = encode_bitplanes(CODES, 0.0, 255.0, "msb")
    assert torch.equal(PhaseEncoder(8)(CODES / 255), pixels)


@pytest.mark.parametrize("coding", ["rate", "even", "ttfs", "ttfs_log", "phase"])
def test_codings_of_images_refuse_what_is_not_in_the_unit_range(coding):
    encoder = IMAGE_CODINGS.get(coding)(4)
    for value in (-0.01, 1.01, math.nan):
        with pytest.raises(BadInput, match=r"takes values in \[0, 1\].*leave out normalisation"):
            encoder(torch.tensor([0.5, value]))
    with pytest.raises(BadInput, match="at least"):
        IMAGE_CODINGS.get(coding)(0)
    x = torch.rand(3, requires_grad=True)
    assert not encoder(x).requires_grad


def test_latency_refuses_what_it_cannot_place():
    with pytest.raises(BadInput, match="at least 2 steps"):
        LatencyEncoder(1)
    with pytest.raises(BadInput, match="at most 89 if logarithmic, not 90"):
        latency_weights(90, "log")
    assert LatencyEncoder(90)(UNITS).sum() == UNITS.numel()
    assert (LatencyEncoder(89, "log")(UNITS).sum(0) == 1).all()
    with pytest.raises(BadInput, match="one of linear, log, not 'exp'"):
        LatencyEncoder(4, "exp")
    with pytest.raises(UnknownName, match="did you mean 'ttfs'"):
        IMAGE_CODINGS.get("tfs")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lo": torch.tensor(float("nan"))}, "finite range"),
        ({"hi": torch.tensor(float("inf"))}, "finite range"),
        ({"hi": torch.tensor(-1.0)}, "finite range"),
        ({"lo": torch.zeros(3)}, "single number, not .3,"),
        ({"frozen": torch.tensor([True, False])}, "single number, not .2,"),
    ],
)
def test_a_range_that_cannot_be_is_refused_while_loading(changes, message):
    encoder = BitPlaneEncoder()
    with pytest.raises(CheckpointError, match=message):
        encoder.load_state_dict(encoder.state_dict() | changes)
    assert (encoder.lo, encoder.hi) == (0, 1)
