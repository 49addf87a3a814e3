"""Cores on the mesh, and the messages between them, against torch."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from has8.errors import BadInput
from mapping.chip.segment import ChipSegment, Population, Port, Synapse
from mapping.cores.allocate import Tile, allocate
from mapping.cores.placement import Core, Placement, hops, place
from mapping.cores.routes import routes
from mapping.targets.schema import Target, load_target

LOIHI = load_target("loihi")
SMALL = msgspec.structs.replace(LOIHI, core=msgspec.structs.replace(LOIHI.core, neurons=12))


def conv(name: str, source: str, shape: tuple[int, ...], **attrs: int) -> Synapse:
    plain = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **attrs}
    pairs = {key: (plain[key],) * 2 for key in ("stride", "padding", "dilation")}
    attributes = {**pairs, "groups": plain["groups"]}
    return Synapse(name, source, "conv2d", attributes, np.zeros(shape, int), 0, "mixed", 8)


def linear(name: str, source: str, shape: tuple[int, int]) -> Synapse:
    return Synapse(name, source, "linear", {}, np.zeros(shape, int), 0, "mixed", 8)


def neurons(name: str, shape: tuple[int, ...], *synapses: Synapse) -> Population:
    bias = np.zeros(shape[0], int)
    return Population(name, shape, synapses, "lif", np.full(shape[0], 100), bias, 0, 4095, 0)


def network() -> ChipSegment:
    """A stride, borders, groups, a shortcut and a linear end."""
    stem = neurons("stem", (4, 5, 5), conv("stem.w", "in", (4, 2, 3, 3), padding=1))
    deep = neurons(
        "deep", (4, 3, 3), conv("deep.w", "stem", (4, 2, 3, 3), stride=2, padding=1, groups=2)
    )
    both = neurons(
        "both",
        (6, 3, 3),
        conv("both.w", "deep", (6, 4, 1, 1)),
        conv("both.skip", "stem", (6, 4, 1, 1), stride=2),
    )
    head = neurons("head", (15,), linear("head.w", "both", (15, 54)))
    tail = neurons("tail", (3,), linear("tail.w", "head", (3, 15)))
    return ChipSegment(
        "seg", 8, (Port("in", (2, 5, 5)),), (stem, deep, both, head, tail), ("tail",)
    )


def placed(segment: ChipSegment, target: Target) -> Placement:
    return place(allocate([segment], target), [segment], target)


def row(count: int) -> tuple[list[Tile], ChipSegment]:
    """A population of one neuron a core."""
    need = dict.fromkeys(LOIHI.core.limits, 1)
    tiles = [Tile("seg", "a", (i,), (i + 1,), {}, need, i, 0) for i in range(count)]
    return tiles, ChipSegment("seg", 8, (), (neurons("a", (count,)),), ("a",))


def sends(segment: ChipSegment, synapse: Synapse, tile: Tile) -> np.ndarray:
    """Which neurons of the source reach a tile, says torch."""
    shape = segment.shape_of(synapse.source)
    x = torch.zeros(1, *shape, dtype=torch.float64, requires_grad=True)
    ones = torch.ones(synapse.weight.shape, dtype=torch.float64)
    if synapse.kind == "linear":
        y = F.linear(x.flatten(1), ones)
    else:
        y = F.conv2d(x, ones, **synapse.attrs)
    y[0][tuple(map(slice, tile.start, tile.stop))].sum().backward()
    assert x.grad is not None
    return x.grad[0].numpy() > 0


# ----------------------------------------------------------------------------------- the routes


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([LOIHI, SMALL]))
def test_messages_are_spikes_times_destinations(seed: int, target: Target) -> None:
    segment = network()
    placement = placed(segment, target)
    rng = np.random.default_rng(seed)
    spikes = {
        item.name: rng.integers(0, 9, item.shape)
        for item in (*segment.inputs, *segment.populations)
    }
    found: dict[tuple[str, int], int] = {}
    for route in routes(placement, [segment]):
        key = route.synapse, route.destination
        found[key] = found.get(key, 0) + route.messages(spikes[route.source])
    expected = {
        (synapse.name, at): int(spikes[synapse.source][sends(segment, synapse, tile)].sum())
        for at, tile in enumerate(placement.tiles)
        for synapse in segment.population(tile.population).synapses
    }
    assert found == expected


def test_each_sender_is_on_the_tile_that_the_route_names() -> None:
    segment = network()
    placement = placed(segment, SMALL)
    for route in routes(placement, [segment]):
        mask = np.zeros(segment.shape_of(route.source), dtype=bool)
        mask.reshape([*mask.shape, 1, 1][:3])[np.ix_(*route.indices)] = True
        assert mask.sum() == route.neurons > 0
        if route.sender is None:
            assert route.source == "in"
        else:
            tile = placement.tiles[route.sender]
            assert tile.population == route.source
            mask[tuple(map(slice, tile.start, tile.stop))] = False
            assert not mask.any()


def test_routes_need_the_output_axons_that_their_tiles_have() -> None:
    """With one axon for each neuron and destination, a tile's axons are its routes' neurons."""
    axons = {"discrete": LOIHI.core.axons["discrete"]}
    target = msgspec.structs.replace(
        SMALL, core=msgspec.structs.replace(SMALL.core, axons=axons, neurons=20)
    )
    segment = network()
    placement = placed(segment, target)
    sent = [0] * len(placement.tiles)
    for route in routes(placement, [segment]):
        if route.sender is not None:
            sent[route.sender] += route.neurons
    for at, tile in enumerate(placement.tiles):
        to_host = tile.size if tile.population == "tail" else 0
        assert tile.need["output_axons"] == sent[at] + to_host


def test_the_routes_of_two_layers_by_hand() -> None:
    first = neurons("a", (3,), linear("a.w", "in", (3, 2)))
    second = neurons("b", (2,), linear("b.w", "a", (2, 3)))
    segment = ChipSegment("seg", 4, (Port("in", (2,)),), (first, second), ("b",))
    found = [
        (route.synapse, route.sender, route.destination, route.neurons)
        for route in routes(placed(segment, LOIHI), [segment])
    ]
    assert found == [("a.w", None, 0, 2), ("b.w", 0, 1, 3)]


# ------------------------------------------------------------------------------------- the mesh


@given(st.integers(1, 400))
def test_neighbours_along_the_snake_are_neighbours_on_the_mesh(count: int) -> None:
    tiles, segment = row(count)
    placement = place(tiles, [segment], LOIHI)
    assert placement.cores_used == count
    assert placement.chips_used == -(-count // 128)
    seats = {(core.chip, core.index) for core in placement.cores}
    assert len(seats) == count
    assert all(0 <= index < 128 for _, index in seats)
    for a, b in zip(placement.cores, placement.cores[1:], strict=False):
        way = hops(a, b)
        assert way.east_west + way.north_south <= 1
        assert way.chip_links == b.chip - a.chip


def test_places_on_loihi() -> None:
    tiles, segment = row(130)
    cores = place(tiles, [segment], LOIHI).cores
    at = {number: cores[number] for number in (0, 3, 4, 15, 16, 127, 128)}
    seats = {number: (core.chip, core.index, core.x, core.y) for number, core in at.items()}
    assert seats == {
        0: (0, 0, 0, 0),
        3: (0, 3, 0, 0),
        4: (0, 4 * 8, 0, 1),
        15: (0, 4 * 24 + 3, 0, 3),
        16: (0, 4 * 25, 1, 3),
        127: (0, 4 * 7 + 3, 7, 0),
        128: (1, 0, 8, 0),
    }


def test_hops_go_along_x_then_y() -> None:
    def core(chip: int, x: int, y: int) -> Core:
        return Core(chip, 0, x, y, (), {})

    assert hops(core(0, 0, 0), core(0, 0, 0)) == (0, 0, 0)
    assert hops(core(0, 1, 3), core(0, 6, 1)) == hops(core(0, 6, 1), core(0, 1, 3)) == (5, 2, 0)
    assert hops(core(0, 7, 0), core(1, 8, 0)) == (1, 0, 1)


def test_utilisation() -> None:
    first = neurons("a", (1024,), linear("a.w", "in", (1024, 4)))
    second = neurons("b", (512,), linear("b.w", "in", (512, 4)))
    segment = ChipSegment("seg", 4, (Port("in", (4,)),), (first, second), ("a", "b"))
    placement = placed(segment, LOIHI)
    assert placement.cores_used == 2
    assert placement.active_routers == 1
    assert placement.utilisation["neurons"] == 0.75
    assert placement.peak_utilisation["neurons"] == 1.0
    assert placement.utilisation["threshold_configs"] == 1 / 8


def test_placement_is_the_same_each_time_and_survives_json() -> None:
    segment = network()
    placement = placed(segment, SMALL)
    assert placement == placed(network(), SMALL)
    encoded = msgspec.json.encode(placement)
    assert msgspec.json.decode(encoded, type=Placement) == placement
    assert list(map(str, routes(placement, [segment]))) == list(
        map(str, routes(placement, [segment]))
    )


def test_nothing_to_place() -> None:
    placement = place((), (), LOIHI)
    assert (placement.cores_used, placement.chips_used, placement.active_routers) == (0, 0, 0)
    assert set(placement.utilisation.values()) == {0.0}


# ----------------------------------------------------------------------------------- the failure


def test_tiles_that_do_not_hold_the_network() -> None:
    tiles, segment = row(4)
    with pytest.raises(BadInput, match="must hold each neuron of 'a' exactly once"):
        place(tiles[:3], [segment], LOIHI)
    with pytest.raises(BadInput, match="must hold each neuron of 'a' exactly once"):
        place([*tiles, replace(tiles[0], core=4)], [segment], LOIHI)
    with pytest.raises(BadInput, match="population 'b', which is unknown"):
        place([*tiles, replace(tiles[0], population="b")], [segment], LOIHI)
    with pytest.raises(BadInput, match="count from 0 without gaps"):
        place([*tiles[:3], replace(tiles[3], core=7)], [segment], LOIHI)


def test_a_core_that_is_asked_for_too_much() -> None:
    tiles, segment = row(2)
    greedy = [replace(tile, core=0, need={**tile.need, "neurons": 600}) for tile in tiles]
    with pytest.raises(BadInput, match="core 0 has too few neurons for its tiles"):
        place(greedy, [segment], LOIHI)
