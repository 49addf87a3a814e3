"""IIR filters and neurons: the kernels are the step form, and shared ones a current-based LIF."""

import copy
import math

import pytest
import torch
from builders import law
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from has8 import iir, kernels
from has8.blocks import OverTime
from has8.encoders import DuplicateEncoder
from has8.errors import BadInput
from has8.iir import IIR, Axon, SharedIIR, dual_exponential, potentials, stepped
from has8.kernels import iir as compiled
from has8.kernels import paths
from has8.kernels.linear import Linear
from has8.models.hnn import SpikingLayers
from mapping.graph.ops import neuron

needs_kernels = pytest.mark.skipif(not kernels.available(), reason="no C compiler here")
DOUBLE = torch.float64
part = st.floats(0, 1, width=32, allow_subnormal=False)


def spikes_like(*shape, seed=0, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) < 0.3).to(dtype)


def both(module, x):
    """Outputs and gradients of a module on the compiled and on the plain path."""

    def run():
        mine, leaf = copy.deepcopy(module), x.clone().requires_grad_()
        out = mine(leaf)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
        (out * weight.to(out.dtype)).sum().backward()
        return out.detach(), [leaf.grad, *(p.grad for p in mine.parameters())]

    with paths.plain():
        expected = run()
    return run(), expected


@needs_kernels
@pytest.mark.parametrize("steps", [1, 6])
def test_a_current_that_is_the_same_in_all_steps_is_read_once(steps):
    for shape, fires, dtype in (
        ((3, 600), SharedIIR(), DOUBLE),
        ((2, 3, 5, 4), IIR(0.7, 0.5, 0.4), DOUBLE),
        ((2, 70), IIR(), torch.float32),
    ):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype) * 2
        (out, grads), (expected, slow) = both(SpikingLayers(DuplicateEncoder(steps), fires), x)
        assert torch.equal(out, expected) and expected.any()
        assert torch.allclose(grads[0], slow[0], atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("shape", [(70,), (600,), (3, 5, 4), (300, 2, 3)])
def test_a_neuron_its_axon_and_pooling_are_one_pass_and_their_step_forms(shape, constant):
    generator = torch.Generator().manual_seed(4)
    axon = Axon(shape).double()
    for p in axon.parameters():
        p.data.mul_(0.8 + 0.2 * torch.rand(shape, generator=generator))
    layers = SpikingLayers(IIR(0.7, 0.5, 0.4), axon)
    if constant:
        layers.insert(0, DuplicateEncoder(6))
    if len(shape) == 3:
        layers.append(OverTime(nn.MaxPool2d(2)))
    x = torch.randn((*(() if constant else (6,)), 3, *shape), generator=generator, dtype=DOUBLE)
    fired, calls = compiled.fired, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "fired", lambda *args: calls.append(args) or fired(*args))
        (out, grads), (expected, slow) = both(layers, 2 * x)
    assert [call[-1] for call in calls] == [2 if len(shape) == 3 else 1]
    assert out.shape == expected.shape
    assert torch.allclose(out, expected, atol=1e-12) and expected.any()
    for one, other in zip(grads, slow, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def test_a_linear_layer_of_many_rows_is_pytorch_s():
    generator = torch.Generator().manual_seed(5)
    layer, x = Linear(20, 7), torch.randn(256, 20, generator=generator)
    (out, grads), (expected, slow) = both(layer, x)
    assert layer._pays(x) and not layer._pays(x[1:])
    assert torch.allclose(out, expected, atol=1e-5)
    for one, other in zip(grads, slow, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


@needs_kernels
@law(25)
@given(
    shape=st.sampled_from([(1,), (70,), (600,), (4100,), (3, 5, 4), (1, 1, 7)]),
    steps=st.integers(1, 9),
    batch=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, DOUBLE]),
    channels_last=st.booleans(),
)
def test_an_axon_is_its_step_form(shape, steps, batch, dtype, channels_last):
    axon, x = Axon(shape).to(dtype), spikes_like(steps, batch, *shape, dtype=dtype)
    for p in axon.parameters():  # as training leaves them
        p.data.mul_(0.8 + 0.2 * torch.rand(p.shape, generator=torch.Generator().manual_seed(2)))
    if channels_last and len(shape) == 3:
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
    (out, grads), (expected, slow) = both(axon, x)
    assert torch.equal(out, expected)
    for one, other in zip(grads, slow, strict=True):
        assert torch.allclose(one, other, rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=1e-6)


@needs_kernels
@law(25)
@given(
    constants=st.tuples(part, part, part),
    shape=st.sampled_from([(1,), (600,), (3, 5, 4)]),
    steps=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, DOUBLE]),
    seed=st.integers(0, 99),
)
def test_a_neuron_is_its_step_form(constants, shape, steps, dtype, seed):
    x = torch.randn(steps, 3, *shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    (out, grads), (expected, slow) = both(IIR(*constants, 1.5, 0.75), x.to(dtype))
    assert torch.equal(out, expected)
    scale = slow[0].abs().max() + 1e-6
    assert (grads[0] - slow[0]).abs().max() <= (1e-4 if dtype == torch.float32 else 1e-9) * scale


@pytest.mark.parametrize("filtered", [potentials, compiled.potentials])
def test_gradients_of_filters_are_those_of_finite_differences(filtered):
    if filtered is compiled.potentials and not kernels.available():
        pytest.skip("no C compiler here")
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 2, 2, dtype=DOUBLE, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(filtered, (x, *Axon((2,)).double().parameters()))


class Rate:
    """The rate of equation 5: a smooth function, whose slope the surrogate is."""

    @staticmethod
    def apply(over, sigma):
        return 0.5 * torch.erfc(-over / (math.sqrt(2) * sigma))


def test_gradients_of_neurons_are_those_of_finite_differences_of_rates(monkeypatch):
    over = torch.linspace(-2, 2, 41, dtype=DOUBLE).requires_grad_()
    slopes = []
    for rule in (iir._Fire, Rate):
        slopes += torch.autograd.grad(rule.apply(over, 0.4).sum(), over)
    assert torch.allclose(*slopes, rtol=1e-12)
    monkeypatch.setattr(iir, "_Fire", Rate)
    x = torch.rand(4, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)).requires_grad_()
    constants = IIR(0.7, 0.6, 0.3, 1.5).constants
    assert torch.autograd.gradcheck(lambda x: stepped(x, constants)[1], (x * 2,))


@pytest.mark.parametrize("bias", [False, True])
def test_with_shared_coefficients_a_layer_is_a_current_based_lif(bias):
    """Filter, weights, reset trace against weights, LIF; a bias is in the current."""
    torch.manual_seed(0)
    x, weights = spikes_like(30, 4, 20), nn.Linear(20, 15, bias=bias).double()
    lif = SharedIIR()
    with torch.no_grad():
        weights.weight.mul_(9)
        paper = stepped(potentials(weights(x), *dual_exponential()), IIR().constants)
        if not bias:
            filtered = weights(potentials(x, *dual_exponential()))
            assert torch.allclose(stepped(filtered, IIR().constants)[0], paper[0], atol=1e-12)
        mine = stepped(weights(x), lif.constants)
        attrs = {
            "model": "lif", "alpha": math.exp(-1), "beta": math.exp(-1 / 4), "threshold": 1.0,
            "gain": math.exp(-1 / 4) - math.exp(-1), "reset": "subtract", "refractory": 0,
        }  # fmt: skip
        known = neuron.stepped(attrs, weights(x))
    assert 0.05 < paper[1].mean() < 0.9
    for membranes, spikes in (mine, known[::-1]):
        assert torch.allclose(membranes, paper[0], atol=1e-12)
        assert torch.equal(spikes, paper[1])


def test_the_released_coefficients_and_response():
    assert dual_exponential() == pytest.approx((1.146680, -0.286505, 0.410921), abs=1e-6)
    one = torch.tensor([1.0, 0, 0, 0], dtype=DOUBLE)[:, None]
    response = potentials(one, *dual_exponential()).flatten().tolist()
    assert response == pytest.approx([0.4109, 0.4712, 0.4226, 0.3496], abs=1e-4)


def test_an_example_by_hand():
    x = torch.tensor([1.5, 1.5, 1.5, 1.5, 0])[:, None]
    membranes, spikes = stepped(x, IIR(theta=0.5).constants)
    assert membranes.flatten().tolist() == [1.5, 0.5, 1.0, 1.25, -1.125]  # 1 is not above 1
    assert spikes.flatten().tolist() == [1, 0, 0, 1, 0]
    assert torch.equal(IIR(theta=0.5)(x), spikes)


def test_what_cannot_be_is_refused_in_a_sentence():
    with pytest.raises(BadInput, match="0 < tau_s < tau_m"):
        Axon((3,), tau_m=1, tau_s=1)
    with pytest.raises(BadInput, match=r"theta, beta and alpha in \[0, 1\].*theta=2"):
        IIR(theta=2)
    with pytest.raises(BadInput, match=r"inputs of shape \(3,\), not \(4,\)"):
        Axon((3,))(torch.zeros(2, 1, 4))
