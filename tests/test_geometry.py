"""Receptive fields, against torch and against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from has8.errors import BadInput
from mapping.chip.wiring import channel_multiplicity, fan_out, multiplicity, patterns, reach, wiring


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]:
    """Attributes, weight shape and input shape of a convolution that has an output."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = (draw(st.integers(1, 2)) for _ in range(2))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(pair), draw(pair), draw(pair)
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    size = tuple(
        draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), d * (k - 1) + 6))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    )
    attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return attrs, (groups * outputs, inputs, *kernel), (groups * inputs, *size)


@given(convolutions())
def test_fan_out_is_the_transposed_convolution_of_ones(
    case: tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]],
) -> None:
    attrs, weight_shape, in_shape = case
    x = torch.zeros(1, *in_shape, dtype=torch.float64, requires_grad=True)
    w = torch.ones(weight_shape, dtype=torch.float64)
    F.conv2d(x, w, **attrs).sum().backward()
    assert x.grad is not None
    found = fan_out("conv2d", attrs, weight_shape, in_shape)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, x.grad[0].numpy())


@given(convolutions(), st.data())
def test_a_block_is_reached_by_the_sources_that_torch_says(
    case: tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]], data: st.DataObject
) -> None:
    attrs, weight_shape, in_shape = case
    wires = wiring("conv2d", attrs, weight_shape, in_shape)
    start = tuple(data.draw(st.integers(0, extent - 1)) for extent in wires.out_shape)
    stop = tuple(
        data.draw(st.integers(a + 1, b)) for a, b in zip(start, wires.out_shape, strict=True)
    )
    x = torch.zeros(1, *in_shape, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, torch.ones(weight_shape, dtype=torch.float64), **attrs)
    y[0][tuple(map(slice, start, stop))].sum().backward()
    assert x.grad is not None
    channels, rows, cols = reach(wires, start, stop)  # type: ignore[arg-type]
    found = channels[:, None, None] & rows[:, None] & cols
    np.testing.assert_array_equal(found, x.grad[0].numpy() > 0)


@given(convolutions(), st.integers(1, 4))
def test_multiplicity_counts_the_blocks_that_reach_counts_one_by_one(
    case: tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]], block: int
) -> None:
    wires = wiring("conv2d", *case)
    _, height, _ = wires.out_shape
    times = np.zeros(wires.rows.size_in, dtype=np.int64)
    for start in range(0, height, block):
        times[patterns(wires.rows, start, min(start + block, height)).reached] += 1
    np.testing.assert_array_equal(multiplicity(wires.rows, block), times)

    times = np.zeros(wires.channels_in, dtype=np.int64)
    for start in range(0, wires.channels_out, block):
        stop = min(start + block, wires.channels_out)
        times += reach(wires, (start, 0, 0), (stop, *wires.out_shape[1:]))[0]
    np.testing.assert_array_equal(channel_multiplicity(wires, block), times)


def test_synapses_of_small_layers() -> None:
    same = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    found = fan_out("conv2d", same, (1, 1, 3, 3), (1, 3, 3))
    assert found.tolist() == [[[4, 6, 4], [6, 9, 6], [4, 6, 4]]]
    assert found.sum() == 49
    # with a stride of 2 over 5 pixels, odd ones reach two outputs along an axis, even ones one
    found = fan_out("conv2d", {**same, "stride": (2, 2)}, (8, 3, 3, 3), (3, 5, 5))
    assert found[0, 0].tolist() == [8, 16, 8, 16, 8]
    assert found.sum() == 3 * 8 * 7 * 7
    depthwise = fan_out("conv2d", {**same, "groups": 4}, (4, 1, 3, 3), (4, 3, 3))
    assert depthwise.sum() == 4 * 49


def test_a_linear_layer_reaches_all_its_outputs() -> None:
    assert fan_out("linear", {}, (5, 3), (3,)).tolist() == [5, 5, 5]
    assert fan_out("linear", {}, (5, 12), (3, 2, 2)).tolist() == np.full((3, 2, 2), 5).tolist()


def test_the_patterns_of_a_row_of_pixels() -> None:
    same = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    axis = wiring("conv2d", same, (1, 1, 3, 3), (1, 6, 6)).rows
    # outputs 0..2 of 6: sources 0 and 1 at the border, 2 and 3 at the edge of the block
    found = patterns(axis, 0, 3)
    assert found.reached.tolist() == [0, 1, 2, 3]
    assert found.first.tolist() == [0, 0, 1, 2]
    assert found.count[found.pattern].tolist() == [2, 3, 2, 1]
    assert found.span[found.pattern].tolist() == [2, 3, 2, 1]
    inner = patterns(axis, 2, 4), patterns(axis, 3, 5)
    assert inner[0].key == inner[1].key != patterns(axis, 4, 6).key


def test_shapes_that_do_not_agree() -> None:
    plain = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    with pytest.raises(BadInput, match=r"linear weights \(5, 4\) do not fit a source \(3,\)"):
        wiring("linear", {}, (5, 4), (3,))
    with pytest.raises(BadInput, match=r"conv2d weights \(5, 4, 1, 1\) do not fit a source"):
        wiring("conv2d", plain, (5, 4, 1, 1), (3, 2, 2))
    with pytest.raises(BadInput, match="conv2d weights"):
        wiring("conv2d", plain, (5, 3, 4, 4), (3, 2, 2))
    with pytest.raises(BadInput, match="expected a synapse of kind conv2d or linear, found 'pool'"):
        wiring("pool", {}, (5, 3), (3,))
    with pytest.raises(BadInput, match=r"expected a shape \(N,\) or \(C, H, W\)"):
        wiring("linear", {}, (5, 4), (2, 2))
