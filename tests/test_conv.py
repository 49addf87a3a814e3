"""The convolution of small images as a matrix product equals torch's."""

import pytest
import torch
from builders import law
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from has8.kernels import conv
from has8.kernels.conv import Conv2d


@law(60)
@given(
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    kernel=st.sampled_from([1, 3, 5, 7, (3, 5)]),
    stride=st.sampled_from([1, 2, 3, (1, 2)]),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 4),
    bias=st.booleans(),
    channels_last=st.booleans(),
    batch=st.sampled_from([1, 32]),
)
def test_equals_torch_forward_and_backward(
    height, width, kernel, stride, inputs, outputs, bias, channels_last, batch
):
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(side // 2 for side in sides)
    torch.manual_seed(0)
    ours = Conv2d(inputs, outputs, kernel, stride, padding, bias=bias).double()
    theirs = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(batch, inputs, height, width, dtype=torch.float64)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
        ours = ours.to(memory_format=torch.channels_last)
    results = []
    for layer in (ours, theirs):
        leaf = x.clone().requires_grad_()
        out = layer(leaf)
        weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
        (out * weight).sum().backward()
        results.append([out, leaf.grad, *(parameter.grad for parameter in layer.parameters())])
    for one, other in zip(*results, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other)


@pytest.mark.parametrize(
    ("kernel", "side", "batch", "product"),
    [
        (3, 1, 1, True),
        (1, 1, 1, True),
        (3, 2, 32, True),
        (3, 2, 31, False),  # the matrix would not pay
        (3, 3, 32, False),  # the kernel does not reach from corner to corner
        (5, 3, 32, False),  # too large a matrix
        (1, 2, 32, False),
    ],
)
def test_only_where_it_pays(monkeypatch, kernel, side, batch, product):
    made = []
    matrix = conv._matrix
    monkeypatch.setattr(conv, "_matrix", lambda *a: made.append(a) or matrix(*a))
    Conv2d(2, 3, kernel, padding=kernel // 2)(torch.rand(batch, 2, side, side))
    assert bool(made) is product


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_that_of_torch(dtype):
    torch.manual_seed(0)
    ours = Conv2d(4, 5, 3, padding=1)
    theirs = nn.Conv2d(4, 5, 3, padding=1)
    theirs.load_state_dict(ours.state_dict())
    results = []
    for layer in (ours, theirs):
        x = torch.rand(32, 4, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with torch.autocast("cpu", dtype):
            out = layer(x)
        out.float().square().sum().backward()
        results.append([out, x.grad, layer.weight.grad, layer.bias.grad])
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype
        assert torch.allclose(
            one.float(), other.float(), rtol=0.05, atol=0.05 * other.abs().max().item()
        )


def test_types_that_do_not_match_are_refused():
    with pytest.raises(RuntimeError):
        Conv2d(1, 1, 3, padding=1)(torch.rand(1, 1, 1, 1, dtype=torch.float64))


@pytest.mark.parametrize(
    "options", [{"groups": 2}, {"dilation": 2}, {"padding_mode": "circular"}, {"padding": 0}]
)
def test_other_convolutions_are_torchs_own(monkeypatch, options):
    monkeypatch.setattr(conv, "_matrix", None)
    Conv2d(2, 2, 1 if "padding" in options else 3, **{"padding": 1, **options})(
        torch.rand(1, 2, 4 if "dilation" in options else 2, 4)
    )
