"""Receptive fields, against torch and against plain loops."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from builders import (
    PATIENT,
    conv,
    gridded,
    linear,
    population,
    segment,
    single_synapses,
    window,
    wirings,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional as F

from has8.errors import BadInput
from hwsim.backends.reference import weighted_sum
from mapping.chip.check import check_segment
from mapping.chip.segment import Synapse
from mapping.chip.wiring import (
    Wiring,
    channel_multiplicity,
    dense,
    fan_out,
    multiplicity,
    patterns,
    reach,
)
from mapping.graph.ir import Kind, Signal
from mapping.graph.ops import OPS
from mapping.integers.sums import convolved, weighted_sums
from mapping.targets.schema import load_target

Case = tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    """Attributes, weight shape and input shape of a convolution that has an output."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = (draw(st.integers(1, 2)) for _ in range(2))
    kernel, stride, dilation = draw(PAIRS), draw(PAIRS), draw(PAIRS)
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    size = tuple(
        draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), d * (k - 1) + 6))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    )
    attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return attrs, (groups * outputs, inputs, *kernel), (groups * inputs, *size)


def wires_of(case: Case) -> Wiring:
    attrs, weight_shape, in_shape = case
    return window(in_shape, weight_shape, **attrs)


@PATIENT
@given(convolutions())
def test_fan_out_is_the_transposed_convolution_of_ones(case: Case) -> None:
    attrs, weight_shape, in_shape = case
    x = torch.zeros(1, *in_shape, dtype=torch.float64, requires_grad=True)
    w = torch.ones(weight_shape, dtype=torch.float64)
    F.conv2d(x, w, **attrs).sum().backward()
    assert x.grad is not None
    found = fan_out(wires_of(case))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, x.grad[0].numpy())


@PATIENT
@given(convolutions(), st.data())
def test_a_block_is_reached_by_the_sources_that_torch_says(case: Case, data: st.DataObject) -> None:
    attrs, weight_shape, in_shape = case
    wires = wires_of(case)
    start, stop = a_block(wires, data)
    x = torch.zeros(1, *in_shape, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, torch.ones(weight_shape, dtype=torch.float64), **attrs)
    y[0][tuple(map(slice, start, stop))].sum().backward()
    assert x.grad is not None
    channels, rows, cols = reach(wires, start, stop)  # type: ignore[arg-type]
    found = channels[:, None, None] & rows[:, None] & cols
    np.testing.assert_array_equal(found, x.grad[0].numpy() > 0)


def a_block(wires: Wiring, data: st.DataObject) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First neuron and one past the last of some block of outputs."""
    start = tuple(data.draw(st.integers(0, extent - 1)) for extent in wires.out_shape)
    stop = tuple(
        data.draw(st.integers(a + 1, b)) for a, b in zip(start, wires.out_shape, strict=True)
    )
    return start, stop


@PATIENT
@given(st.one_of(convolutions().map(wires_of), SHAPES.flatmap(wirings)), st.integers(1, 4))
def test_multiplicity_counts_the_blocks_that_reach_counts_one_by_one(
    wires: Wiring, block: int
) -> None:
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


# ---------------------------------------------------- sources that are spread out, one by one


@PATIENT
@given(SHAPES.flatmap(wirings), st.data())
def test_any_wiring_is_that_of_its_single_synapses(wires: Wiring, data: st.DataObject) -> None:
    single = single_synapses(wires)
    counts = Counter(origin for origin, *_ in single)
    found = fan_out(wires)
    assert {at: int(found[at]) for at in np.ndindex(*wires.in_shape) if found[at]} == counts

    start, stop = a_block(wires, data)
    inside = [
        all(a <= x < b for a, x, b in zip(start, to, stop, strict=True)) for _, to, _ in single
    ]
    reaching = {origin for (origin, *_), within in zip(single, inside, strict=True) if within}
    masks = reach(wires, start, stop)  # type: ignore[arg-type]
    assert set(product(*(np.flatnonzero(mask).tolist() for mask in masks))) == reaching


@PATIENT
@given(SHAPES.flatmap(wirings), st.integers(0, 2**32 - 1))
def test_sums_are_those_of_single_synapses(wires: Wiring, seed: int) -> None:
    """Both the reference's and those in torch."""
    rng = np.random.default_rng(seed)
    weight, spikes = gridded(rng, wires.weight_shape), rng.integers(0, 2, (2, *wires.in_shape))
    expected = np.zeros((2, *wires.out_shape), np.int64)
    for origin, to, tap in single_synapses(wires):
        expected[(slice(None), *to)] += weight[tap] * spikes[(slice(None), *origin)]
    synapse = Synapse("w", "x", wires, weight, 0, "mixed", 8)
    np.testing.assert_array_equal(weighted_sum(synapse, spikes), expected)
    for dtype in (torch.float32, torch.float64):
        x, w = (torch.tensor(values).to(dtype) for values in (spikes, weight))
        np.testing.assert_array_equal(weighted_sums(wires, x, w).numpy(), expected)


def test_sums_one_column_wide_of_one_channel_are_right_in_float32() -> None:
    """oneDNN's are not, where the strides differ and the images lie with their channel last."""
    rng = np.random.default_rng(0)
    weight = torch.tensor(gridded(rng, (8, 1, 2, 2))).float()
    images = torch.tensor(rng.integers(0, 2, (8, 2, 1, 1))).float().permute(0, 3, 1, 2)
    window = [1, 2], [1, 1], [1, 1], 1
    expected = F.conv2d(images.double(), weight.double(), None, *window).float()
    assert torch.equal(convolved(images, weight, window), expected)


@st.composite
def transposed(draw: st.DrawFn) -> Case:
    """Attributes, weight shape and input shape of a transposed convolution with an output."""
    groups, kernel, stride, dilation = (
        draw(st.sampled_from([1, 1, 2])),
        *(draw(PAIRS) for _ in range(3)),
    )
    inputs, outputs = (draw(st.integers(1, 2)) for _ in range(2))
    size = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    extra = tuple(
        draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    )
    attrs = {
        "stride": list(stride),
        "padding": list(padding),
        "output_padding": list(extra),
        "dilation": list(dilation),
        "groups": groups,
    }
    return attrs, (groups * inputs, outputs, *kernel), (groups * inputs, *size)


@PATIENT
@given(transposed(), st.integers(0, 2**32 - 1))
def test_a_transposed_convolution_is_that_of_torch(case: Case, seed: int) -> None:
    attrs, weight_shape, in_shape = case
    rng = np.random.default_rng(seed)
    weight = torch.tensor(gridded(rng, weight_shape)).double()
    spikes = rng.integers(0, 2, (2, *in_shape))
    kind = OPS["conv_transpose2d"].synapse
    assert kind is not None
    wires = kind.wiring(attrs, weight, Signal(in_shape, Kind.SPIKE, 4))
    assume(min(wires.out_shape) >= 1)
    x = torch.tensor(spikes).double().requires_grad_()
    expected = F.conv_transpose2d(x, weight, **attrs)
    assert wires.out_shape == expected.shape[1:]
    canonical = kind.canonical(attrs, weight, wires)
    assert tuple(canonical.shape) == wires.weight_shape
    synapse = Synapse("w", "x", wires, canonical.long().numpy(), 0, "mixed", 8)
    np.testing.assert_array_equal(weighted_sum(synapse, spikes), expected.detach().numpy())
    torch.testing.assert_close(weighted_sums(wires, x, canonical), expected, rtol=0, atol=0)

    ones = torch.ones_like(weight)
    F.conv_transpose2d(x, ones, **attrs)[0].sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(fan_out(wires), x.grad[0].numpy())


# --------------------------------------------------------------------------------- exact examples


def test_synapses_of_small_layers() -> None:
    found = fan_out(window((1, 3, 3), (1, 1, 3, 3), padding=1))
    assert found.tolist() == [[[4, 6, 4], [6, 9, 6], [4, 6, 4]]]
    assert found.sum() == 49
    # with a stride of 2 over 5 pixels, odd ones reach two outputs along an axis, even ones one
    found = fan_out(window((3, 5, 5), (8, 3, 3, 3), padding=1, stride=2))
    assert found[0, 0].tolist() == [8, 16, 8, 16, 8]
    assert found.sum() == 3 * 8 * 7 * 7
    depthwise = fan_out(window((4, 3, 3), (4, 1, 3, 3), padding=1, groups=4))
    assert depthwise.sum() == 4 * 49


def test_a_linear_layer_reaches_all_its_outputs() -> None:
    assert fan_out(dense(5, (3,))).reshape(-1).tolist() == [5, 5, 5]
    assert fan_out(dense(5, (3, 2, 2))).tolist() == np.full((3, 2, 2), 5).tolist()
    assert dense(5, (3, 2, 2)).full


def test_an_upsampling_by_two() -> None:
    """Each of 2 x 2 pixels reaches 3 x 3 outputs, those at the far ends too: 5 pixels a side."""
    wires = window((1, 2, 2), (1, 1, 3, 3), padding=2, spread=2)
    assert wires.out_shape == (1, 5, 5)
    assert fan_out(wires).tolist() == [[[9, 9], [9, 9]]]
    assert patterns(wires.rows, 0, 5).first.tolist() == [0, 2]
    # PyTorch's usual way to double a map: padding 1 cuts one pixel in front and two behind, and
    # output padding puts one of these back
    wires = window((1, 2, 2), (1, 1, 3, 3), padding=1, spread=2, extra=1)
    assert wires.out_shape == (1, 4, 4)
    assert fan_out(wires).tolist() == [[[4, 6], [6, 9]]]


def test_the_patterns_of_a_row_of_pixels() -> None:
    axis = window((1, 6, 6), (1, 1, 3, 3), padding=1).rows
    # outputs 0..2 of 6: sources 0 and 1 at the border, 2 and 3 at the edge of the block
    found = patterns(axis, 0, 3)
    assert found.reached.tolist() == [0, 1, 2, 3]
    assert found.first.tolist() == [0, 0, 1, 2]
    assert found.count[found.pattern].tolist() == [2, 3, 2, 1]
    assert found.span[found.pattern].tolist() == [2, 3, 2, 1]
    inner = patterns(axis, 2, 4), patterns(axis, 3, 5)
    assert inner[0].key == inner[1].key != patterns(axis, 4, 6).key


# ------------------------------------------------------------------------------------ the failure


def test_shapes_that_do_not_agree() -> None:
    """A wiring says what it expects; whoever checks a segment or a graph refuses what does not."""
    registers = load_target("loihi").registers

    def refused(shape: tuple[int, ...], out: tuple[int, ...], synapse: Synapse) -> str:
        with pytest.raises(BadInput) as caught:
            check_segment(segment(population("a", out, synapse), inputs={"x": shape}), registers)
        return str(caught.value)

    four = linear("w", "x", (4,), np.zeros((5, 4)))
    said = "layer 'w' does not fit the target's arithmetic: it wires"
    assert refused((3,), (5,), four) == f"{said} (4, 1, 1) to (5, 1, 1), not (3,) to (5,)"
    one = conv("w", "x", (4, 2, 2), np.zeros((5, 4, 1, 1)))
    assert refused((3, 2, 2), (5, 2, 2), one).startswith(f"{said} (4, 2, 2) to (5, 2, 2), not (3,")
    too_large = conv("w", "x", (3, 2, 2), np.zeros((5, 3, 4, 4)))
    assert "its wiring must have whole numbers in range" in refused((3, 2, 2), (5, 1, 1), too_large)

    source = Signal((3, 2, 2), Kind.SPIKE, 4)
    attrs = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
    conv2d, fc = OPS["conv2d"].infer, OPS["linear"].infer
    with pytest.raises(ValueError, match="it takes images of 4 channels"):
        conv2d(attrs, {"weight": torch.zeros(5, 4, 1, 1)}, (source,))
    with pytest.raises(ValueError, match="a window of 4x4 .* does not fit into"):
        conv2d(attrs, {"weight": torch.zeros(5, 3, 4, 4)}, (source,))
    with pytest.raises(ValueError, match="it takes vectors of 4, not"):
        fc({}, {"weight": torch.zeros(5, 4)}, (Signal((3,), Kind.SPIKE, 4),))
    with pytest.raises(BadInput, match=r"expected a shape \(N,\), \(C, L\) or \(C, H, W\)"):
        dense(5, (2, 2, 2, 2))
