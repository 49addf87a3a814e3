"""The compiled kernels equal the plain path, forward and backward, whatever shape and type."""

import copy
import pickle
import warnings
from functools import cache

import pytest
import torch
from builders import law
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from has8 import calibrate, create_model, kernels
from has8.blocks import SpikingLayer
from has8.encoders import BitPlaneEncoder, Decoder, PaperBitPlaneEncoder, bitplane_weights
from has8.kernels import paths
from has8.kernels.coding import SLOPE_KINDS
from has8.neurons import Leaky
from has8.surrogate import SLOPES

needs_kernels = pytest.mark.skipif(
    not kernels.available(), reason="no C compiler here, so there are no kernels to compare"
)
TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-10}


def both(run):
    """What ``run`` returns on the compiled and on the plain path."""
    compiled = run()
    with paths.plain():
        return compiled, run()


def close(given, expected, dtype):
    """Within the type's tolerance of the largest value: gradients of silent channels are tiny."""
    scale = expected.abs().max().clamp(min=1e-3)
    return (given - expected).abs().max() <= TOLERANCE[dtype] * scale


def same_planes_and_gradients(encoder, x, generator):
    """On both paths: planes bit for bit, gradients within float64's tolerance."""
    weight = torch.randn(8, *x.shape, generator=generator, dtype=torch.float64)

    def run():
        leaf = x.clone().requires_grad_()
        planes = encoder(leaf)
        planes.backward(weight)
        return planes.detach(), leaf.grad

    (planes, grad), (expected, slow) = both(run)
    assert torch.equal(planes, expected)
    assert close(grad, slow, torch.float64)


layers = st.fixed_dictionaries(
    {
        "steps": st.integers(1, 12),
        "batch": st.integers(1, 5),
        "inputs": st.integers(1, 5),
        "outputs": st.sampled_from([1, 2, 3, 7, 16, 130]),
        "side": st.integers(1, 7),
        "dtype": st.sampled_from([torch.float32, torch.float64]),
        "beta": st.floats(0, 1, width=32, allow_subnormal=False),
        "threshold": st.floats(0.25, 2, width=32),
        "gain": st.sampled_from([1.0, 0.5]),
        "normed": st.booleans(),
        "training": st.booleans(),
        "decoded": st.booleans(),
        "channels_last": st.booleans(),
        "seed": st.integers(0, 1000),
    }
)


def run_layer(case):
    """Outputs, gradients and running statistics of one spiking layer."""
    torch.manual_seed(case["seed"])
    layer = SpikingLayer(
        nn.Conv2d(case["inputs"], case["outputs"], 3, padding=1, bias=not case["normed"]),
        Leaky(case["beta"], case["threshold"], case["gain"]),
        nn.BatchNorm2d(case["outputs"]) if case["normed"] else None,
    ).to(case["dtype"])
    if case["normed"]:
        nn.init.uniform_(layer.synapses[1].weight, 0.5, 2)
        nn.init.normal_(layer.synapses[1].bias)
        nn.init.normal_(layer.synapses[1].running_mean, std=0.2)
    layer.train(case["training"])
    shape = (case["steps"], case["batch"], case["inputs"], case["side"], case["side"])
    x = torch.randn(shape, dtype=case["dtype"])
    if case["channels_last"]:
        flat = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x = flat.unflatten(0, shape[:2])
    x.requires_grad_()
    decode = Decoder([0.5**t for t in range(case["steps"])]) if case["decoded"] else None
    out = layer(x, decode)
    (out * torch.randn(out.shape, dtype=torch.float64).to(out.dtype)).sum().backward()
    grads = [x.grad, *(parameter.grad for parameter in layer.parameters())]
    return out.detach(), grads, [b.clone() for b in layer.buffers()]


@needs_kernels
@law(60)
@given(case=layers)
def test_spiking_layer_equals_the_plain_path(case):
    many = case["batch"] * case["side"] ** 2 > 1
    if case["normed"] and case["training"] and not many and case["steps"] == 1:
        return  # batch norm refuses a single value a channel
    (out, grads, state), (expected, slow_grads, slow_state) = both(lambda: run_layer(case))
    assert out.shape == expected.shape
    if case["normed"] and not torch.equal(out, expected):
        # Sums in another order can carry a membrane over its threshold; in float64 they do not.
        differing = ((out - expected).abs() > 1e-3).sum()
        assert case["dtype"] == torch.float32 and differing <= 1 + out.numel() // 500
        return
    assert close(out, expected, case["dtype"])
    values, weights = (
        case["steps"] * case["batch"] * case["side"] ** 2,
        case["inputs"] * case["side"],
    )
    cancels = case["normed"] and case["training"] and (values < 8 or weights == 1)
    if cancels and case["dtype"] == torch.float32:
        # Batch norm takes a factor out again: of one weight, or through few values, the gradients
        # cancel down to rounding. In float64 they are compared all the same.
        return
    for one, other in zip(grads, slow_grads, strict=True):
        assert close(one, other, case["dtype"])
    for one, other in zip(state, slow_state, strict=True):
        assert torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-5)


@needs_kernels
def test_float32_spikes_behind_batch_norm_rarely_differ():
    case = dict.fromkeys(("normed", "training", "channels_last"), True)
    case |= {"steps": 8, "batch": 16, "inputs": 3, "outputs": 32, "side": 8, "decoded": False}
    case |= {"dtype": torch.float32, "beta": 0.5, "threshold": 1.0, "gain": 0.5, "seed": 0}
    (out, _, _), (expected, _, _) = both(lambda: run_layer(case))
    assert 0.01 < out.mean() < 0.5
    assert (out != expected).sum() <= 5


@needs_kernels
@law(30)
@given(
    slope=st.sampled_from(SLOPE_KINDS),
    rescaled=st.booleans(),
    order=st.sampled_from(["lsb", "msb"]),
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    low=st.floats(-3, 0.9),
    span=st.floats(0.1, 4),
    seed=st.integers(0, 1000),
)
def test_encoder_equals_the_plain_path(slope, rescaled, order, shape, low, span, seed):
    encoder = BitPlaneEncoder(slope, rescaled, order).double().eval()
    encoder.lo.fill_(low)
    encoder.hi.fill_(low + span)

    generator = torch.Generator().manual_seed(seed)
    # Beyond the range on both sides, where planes are flat.
    x = low + span * (torch.rand(shape, generator=generator, dtype=torch.float64) * 1.4 - 0.2)
    same_planes_and_gradients(encoder, x, generator)


@needs_kernels
@pytest.mark.parametrize("slope", SLOPE_KINDS)
def test_paper_encoder_equals_the_plain_path(slope):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 4, 4, generator=generator, dtype=torch.float64)
    same_planes_and_gradients(PaperBitPlaneEncoder(slope), x, generator)


@needs_kernels
@pytest.mark.parametrize("slope", SLOPE_KINDS)
def test_float32_slopes_are_those_of_float64(slope):
    """The kernels' own sine and exponential, against the library's."""
    code = torch.linspace(0, 255, 4001, dtype=torch.float64)
    for plane in range(8):
        exact = SLOPES.get(slope)(code + 0.5, plane)
        encoder = BitPlaneEncoder(slope, rescaled=False).eval()
        x = (code / 255).float().requires_grad_()
        grad = torch.zeros(8, len(code))
        grad[plane] = 1
        encoder(x).backward(grad)
        inside = (x.detach() * 255 <= 255) & (x.detach() >= 0)
        # A float32 code is off by 1e-5, in units of the plane.
        error = (x.grad / 255 - exact)[inside].abs().max()
        assert error <= 2e-3 * exact.abs().max().clamp(min=1e-3), (slope, plane)


@needs_kernels
def test_decoder_equals_the_plain_path_and_sums_bfloat16_in_float32():
    decode = Decoder(bitplane_weights("lsb"))
    code = torch.arange(256)
    planes = torch.stack([(code >> k) & 1 for k in range(8)]).float()[:, :, None]
    compiled, plain = both(lambda: decode(planes))
    assert torch.allclose(compiled, plain)
    exact = code[:, None] / 255
    assert torch.allclose(decode(planes.bfloat16()), exact)
    x = planes.clone().requires_grad_()
    decode(x).sum().backward()
    assert torch.allclose(x.grad, decode.weights[:, None, None].expand_as(x))
    narrow, grad = planes.bfloat16().requires_grad_(), torch.randn(256, 1)
    decode(narrow).backward(grad)  # rounded to nearest, as torch rounds
    assert torch.equal(narrow.grad, (decode.weights[:, None, None] * grad).bfloat16())


@needs_kernels
@pytest.mark.parametrize("name", ["has8_resnet", "has8_vgg"])
def test_whole_models_equal_the_plain_path(name):
    def run():
        torch.manual_seed(0)
        model = create_model(name, num_classes=4, base=4, depth=2).double()
        logits = model(torch.rand(4, 3, 16, 16, dtype=torch.float64))
        logits.square().sum().backward()
        return logits.detach(), [parameter.grad for parameter in model.parameters()]

    (logits, grads), (expected, slow) = both(run)
    assert close(logits, expected, torch.float64)
    assert all(close(a, b, torch.float64) for a, b in zip(grads, slow, strict=True))


@needs_kernels
def test_autocast_keeps_spikes_in_bfloat16_and_values_in_float32():
    torch.manual_seed(0)
    layer = SpikingLayer(nn.Conv2d(3, 8, 3, padding=1), Leaky(0.5), nn.BatchNorm2d(8))
    encoder, decode = BitPlaneEncoder(), Decoder(bitplane_weights("lsb"))
    x = torch.rand(4, 3, 8, 8).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        planes = encoder(x)
        spikes, values = layer(planes), layer(planes, decode)
    assert planes.dtype == spikes.dtype == torch.bfloat16
    assert values.dtype == torch.float32
    full, seen = layer(encoder(x)), spikes.float()
    assert set(seen.unique().tolist()) == {0.0, 1.0}
    assert (seen != full).float().mean() < 0.02
    values.sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0


@needs_kernels
def test_threads_share_the_work_and_give_the_same_bits_each_time():
    def grads(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            torch.manual_seed(0)
            layer = SpikingLayer(nn.Conv2d(3, 32, 3), Leaky(), nn.BatchNorm2d(32)).double()
            layer(torch.rand(8, 16, 3, 18, 18, dtype=torch.float64)).sum().backward()
            return [parameter.grad for parameter in layer.parameters()]
        finally:
            torch.set_num_threads(before)

    alone, together = grads(1), [grads(3) for _ in range(4)]
    for one, *others in zip(alone, *together, strict=True):
        assert all(torch.allclose(one, other, rtol=1e-9, atol=1e-9) for other in others)
        assert all(torch.equal(others[0], other) for other in others)


def test_a_watched_neuron_is_called():
    layer = SpikingLayer(nn.Conv2d(1, 2, 3), Leaky())
    seen = []
    layer.neuron.register_forward_hook(lambda module, given, out: seen.append(out))
    spikes = layer(torch.rand(4, 2, 1, 5, 5))
    assert torch.equal(seen[0], spikes)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("HAS8_KERNELS", "off", []), ("CC", "no-such-compiler", ["install a C compiler"])],
)
def test_without_a_compiler_everything_runs_on_plain_torch(
    name, value, told, tmp_path, monkeypatch, recwarn
):
    monkeypatch.setenv("HAS8_CACHE", str(tmp_path))
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(kernels, "library", cache(kernels.library.__wrapped__))  # as at the start
    warnings.simplefilter("always")
    model = create_model("has8_vgg", num_classes=3, base=2, depth=1)
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    assert not kernels.available()
    assert all(parameter.grad is not None for parameter in model.parameters())
    words = [str(warning.message) for warning in recwarn]
    assert len(words) == len(told) and all(map(str.__contains__, words, told))
    assert list(tmp_path.iterdir()) == []


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_computed_in_float32_on_either_path(dtype):
    def run():
        torch.manual_seed(0)
        layer = SpikingLayer(nn.Conv2d(3, 16, 3, padding=1), Leaky(), nn.BatchNorm2d(16))
        encoder, decode = BitPlaneEncoder(), Decoder(bitplane_weights("lsb"))
        with torch.autocast("cpu", dtype):
            planes = encoder(torch.rand(8, 3, 8, 8).double())
            return planes, decode(planes), layer(planes, decode)

    (planes, identity, values), (plain_planes, plain_identity, plain) = both(run)
    assert planes.dtype == plain_planes.dtype == dtype
    assert torch.equal(planes, plain_planes)
    codes = identity * 255
    assert (codes - codes.round()).abs().max() < 1e-4
    assert torch.allclose(identity, plain_identity)
    assert values.dtype == plain.dtype == torch.float32
    assert ((values - plain).abs() > 1 / 512).float().mean() < 0.02


@needs_kernels
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: nn.SyncBatchNorm.convert_sync_batchnorm(layer),
        lambda layer: SpikingLayer(layer.synapses[0], Leaky(), nn.GroupNorm(2, 4)),
        lambda layer: SpikingLayer(layer.synapses[0], Doubled(), layer.norm),
        lambda layer: SpikingLayer(layer.synapses[0], nn.Identity(), layer.norm),
        lambda layer: SpikingLayer(layer.synapses[0], Leaky(gain=1, alpha=2), layer.norm),
    ],
    ids=["SyncBatchNorm", "GroupNorm", "subclass", "another neuron", "whole numbers"],
)
def test_what_the_kernels_do_not_know_is_left_to_torch(change):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    nn.init.constant_(norm.bias, 1.0)
    layer = change(SpikingLayer(nn.Conv2d(2, 4, 3), Leaky(), norm)).eval()
    compiled, plain = both(lambda: layer(torch.rand(8, 2, 2, 6, 6, generator=seeded())))
    assert plain.abs().sum() > 0
    assert torch.allclose(compiled, plain)


class Doubled(Leaky):
    """A neuron of the user's own."""

    def forward(self, x):
        return 2 * super().forward(x)


def seeded():
    return torch.Generator().manual_seed(1)


def test_shapes_that_do_not_fit_are_refused_on_either_path():
    narrow = SpikingLayer(nn.Conv2d(2, 64, 3), Leaky(), nn.BatchNorm2d(4)).eval()
    plain = SpikingLayer(nn.Conv2d(2, 4, 3), Leaky())
    x = torch.rand(10, 2, 2, 6, 6)
    for run in (
        lambda: narrow(x),
        lambda: Decoder((1, 2, 4, 8))(x),
        lambda: plain(x, Decoder((1, 2, 4, 8))),
    ):
        with pytest.raises(RuntimeError):
            run()
        with paths.plain(), pytest.raises(RuntimeError):
            run()


def test_one_axis_is_enough():
    assert Leaky()(torch.full((5,), 1.5)).shape == (5,)
    assert Decoder((1, 2))(torch.tensor([1.0, 1.0])) == 3


@needs_kernels
@pytest.mark.filterwarnings("ignore")
def test_a_model_can_be_traced_copied_and_pickled():
    torch.manual_seed(0)
    model = calibrate(
        create_model("has8_vgg", num_classes=3, base=2, depth=2), torch.rand(8, 3, 8, 8)
    )
    x = torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        close = torch.isclose(torch.jit.trace(model, x)(x), expected, atol=1e-4)
    assert close.all(1).sum() >= 3
