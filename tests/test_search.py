"""Scales that are searched: no worse than rounding, by the spikes that the reference makes."""

import numpy as np
import pytest

from has8.errors import BadInput
from hwsim.backends.reference import Reference
from mapping import load_target, map_model
from mapping.graph.evaluate import evaluate_nodes, moved

TARGET = load_target("loihi")


def mismatches(mapped, images):
    """By population: the part of its spikes that differ, where segments get the float's spikes."""
    values = {mapped.graph.input.name: images}
    found = {}
    for segment in mapped.partition.segments:
        evaluate_nodes(mapped.graph, moved(mapped.graph, segment.nodes, images), values)
        if segment.side == "chip":
            run = Reference().compile(mapped.chip_segment(segment.name), TARGET.registers)
            fed = {name: values[name].bool() for name in segment.inputs}
            for name, spikes in run(fed).spikes.items():
                found[name] = float((spikes != values[name].bool()).double().mean())
    return found


@pytest.fixture(scope="module")
def images(digits):
    return digits[:24]


@pytest.mark.parametrize("bits", [8, 3, 1])
def test_a_search_says_how_many_spikes_differ_and_is_never_worse_than_rounding(model, images, bits):
    searched, mixed = (
        map_model(
            model, calibration=images, weight_bits=bits, scales="search", per_channel=per_channel
        )
        for per_channel in (False, True)
    )
    for mapped in (searched, mixed):
        measured = mismatches(mapped, images)
        assert {name: error.mismatch for name, error in mapped.errors.items()} == measured
    rounded = None
    if bits > 1:
        rounded = mismatches(map_model(model, calibration=images, weight_bits=bits), images)
    for chip in searched.chip_segments:
        first = chip.populations[0]  # the others' inputs differ too
        found = searched.errors[first.name].mismatch
        assert mixed.errors[first.name].mismatch <= found
        assert rounded is None or found <= rounded[first.name]


def test_a_search_for_few_bits_clips_says_so_and_is_much_better(resnet, images):
    rounded = map_model(resnet, calibration=images, weight_bits=2)
    searched = map_model(resnet, calibration=images, weight_bits=2, scales="search")
    assert sum(error.clipped for error in rounded.errors.values()) == 0
    assert sum(error.clipped for error in searched.errors.values()) > 0
    worst, better = (sum(mismatches(m, images).values()) for m in (rounded, searched))
    assert better < 0.7 * worst
    assert all(error.mismatch is None for error in rounded.errors.values())


def test_the_same_search_gives_the_same_scales(vgg, images):
    first, second = (
        map_model(vgg, calibration=images, weight_bits=3, scales="search", per_channel=True)
        for _ in range(2)
    )
    for a, b in zip(first.chip_segments, second.chip_segments, strict=True):
        for one, other in zip(a.populations, b.populations, strict=True):
            assert (one.neuron.threshold == other.neuron.threshold).all()
            assert (one.neuron.bias == other.neuron.bias).all()
    assert first.errors == second.errors


def test_channels_have_no_more_thresholds_than_a_core_and_every_tile_fits(resnet, images):
    mapped = map_model(resnet, calibration=images, weight_bits=4, scales="search", per_channel=True)
    thresholds = [p.neuron.threshold for chip in mapped.chip_segments for p in chip.populations]
    counts = [len(np.unique(of_channels)) for of_channels in thresholds]
    assert 1 < max(counts) <= TARGET.core.threshold_configs
    limits = TARGET.core.limits
    for tile in mapped.placement.tiles:
        assert tile.need["threshold_configs"] <= limits["threshold_configs"]


def test_what_a_search_needs_is_said(vgg, images):
    with pytest.raises(BadInput, match="calibration images"):
        map_model(vgg, input_shape=(1, 8, 8), scales="search")
    with pytest.raises(BadInput, match="use scales='search'"):
        map_model(vgg, calibration=images, per_channel=True)
    with pytest.raises(BadInput, match="one of round, search"):
        map_model(vgg, calibration=images, scales="best")
