"""The convolution of small images as a matrix product equals torch's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from has8 import conv
from has8.conv import Conv2d


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    kernel=st.sampled_from([1, 3, 5, 7, (3, 5)]),
    stride=st.sampled_from([1, 2, 3, (1, 2)]),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 4),
    bias=st.booleans(),
    channels_last=st.booleans(),
)
def test_equals_torch_forward_and_backward(
    height, width, kernel, stride, inputs, outputs, bias, channels_last
):
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(side // 2 for side in sides)
    torch.manual_seed(0)
    ours = Conv2d(inputs, outputs, kernel, stride, padding, bias=bias).double()
    theirs = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, inputs, height, width, dtype=torch.float64)
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
    ("kernel", "side", "product"),
    [(3, 1, True), (3, 2, True), (3, 3, False), (5, 3, True), (1, 1, True), (1, 2, False)],
)
def test_only_where_the_kernel_reaches_every_pixel(monkeypatch, kernel, side, product):
    made = []
    matrix = conv._matrix
    monkeypatch.setattr(conv, "_matrix", lambda *a: made.append(a) or matrix(*a))
    Conv2d(2, 3, kernel, padding=kernel // 2)(torch.rand(1, 2, side, side))
    assert bool(made) is product


@pytest.mark.parametrize(
    "options", [{"groups": 2}, {"dilation": 2}, {"padding_mode": "circular"}, {"padding": 0}]
)
def test_other_convolutions_are_torchs_own(monkeypatch, options):
    monkeypatch.setattr(conv, "_matrix", None)
    Conv2d(2, 2, 1 if "padding" in options else 3, **{"padding": 1, **options})(
        torch.rand(1, 2, 4 if "dilation" in options else 2, 4)
    )
