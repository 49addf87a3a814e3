"""Cores on the mesh, and the messages between them, against torch."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise, product
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from builders import (
    LOIHI,
    PATIENT,
    conv,
    in_time,
    law,
    linear,
    networks,
    population,
    segment,
    single_synapses,
)
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from has8.errors import BadInput
from hwsim.activity import Activity
from hwsim.price.traffic import segment_loads
from mapping.chip.segment import ChipSegment, Synapse
from mapping.cores.allocate import Tile, allocate
from mapping.cores.check import check_placement
from mapping.cores.placement import Core, Placement, place
from mapping.cores.routes import routes
from mapping.graph.ir import Node, Signal
from mapping.targets.schema import Target
from mapping.targets.topology import Link, Topology

SMALL = msgspec.structs.replace(LOIHI, core=msgspec.structs.replace(LOIHI.core, neurons=12))


def network() -> ChipSegment:
    """A stride, borders, groups, a shortcut, one that spreads its source, and a linear end."""

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, int)

    wide = (4, 5, 5)
    stem = population("stem", wide, conv("stem.w", "in", (2, 5, 5), zeros(4, 2, 3, 3), padding=1))
    deep = population(
        "deep",
        (4, 3, 3),
        conv("deep.w", "stem", wide, zeros(4, 2, 3, 3), stride=2, padding=1, groups=2),
    )
    both = population(
        "both",
        (6, 3, 3),
        conv("both.w", "deep", (4, 3, 3), zeros(6, 4, 1, 1)),
        conv("both.skip", "stem", wide, zeros(6, 4, 1, 1), stride=2),
    )
    up = population(
        "up",
        (4, 6, 6),
        conv("up.w", "both", (6, 3, 3), zeros(4, 3, 3, 3), padding=1, groups=2, spread=2, extra=1),
    )
    head = population(
        "head",
        (15,),
        linear("head.w", "both", (6, 3, 3), zeros(15, 54)),
        linear("head.up", "up", (4, 6, 6), zeros(15, 144)),
    )
    tail = population("tail", (3,), linear("tail.w", "head", (15,), zeros(3, 15)))
    layers = stem, deep, both, up, head, tail
    return segment(*layers, inputs={"in": (2, 5, 5)}, outputs=["tail"], steps=8, name="seg")


def placed(segment: ChipSegment, target: Target) -> Placement:
    return place(allocate([segment], target), [segment], target)


def row(count: int) -> tuple[list[Tile], ChipSegment]:
    """A population of one neuron a core."""
    need = dict.fromkeys(LOIHI.core.limits, 1)
    tiles = [Tile("seg", "a", (i,), (i + 1,), {}, need, i, 0) for i in range(count)]
    return tiles, segment(population("a", (count,)), inputs={}, name="seg")


def sends(segment: ChipSegment, synapse: Synapse, tile: Tile) -> np.ndarray:
    """Which neurons of the source reach a tile, says torch."""
    wires, axes = synapse.wiring, (synapse.wiring.rows, synapse.wiring.cols)
    shape = segment.shape_of(synapse.source)
    x = torch.zeros(1, *shape, dtype=torch.float64, requires_grad=True)
    image = x.view(1, *wires.in_shape)
    attrs = {"dilation": [axis.dilation for axis in axes], "groups": wires.groups}
    if wires.rows.spread == 1:
        ones = torch.ones(wires.weight_shape, dtype=torch.float64)
        stride, padding = ([getattr(a, name) for a in axes] for name in ("stride", "padding"))
        y = F.conv2d(image, ones, stride=stride, padding=padding, **attrs)
    else:
        outs, *kernel = wires.channels_out // wires.groups, *wires.weight_shape[2:]
        ones = torch.ones(wires.channels_in, outs, *kernel, dtype=torch.float64)
        y = F.conv_transpose2d(
            image,
            ones,
            stride=[axis.spread for axis in axes],
            padding=[axis.dilation * (axis.kernel - 1) - axis.padding for axis in axes],
            output_padding=[axis.extra for axis in axes],
            **attrs,
        )
    block = y[0].view(segment.population(tile.population).shape)
    block[tuple(map(slice, tile.start, tile.stop))].sum().backward()
    assert x.grad is not None
    return x.grad[0].numpy() > 0


def way(a: Core, b: Core) -> tuple[int, int, int]:
    """Links along x and along y, and how many of them lie between chips."""
    links = Topology.of(LOIHI.chip).route(a, b)
    along = [link.along for link in links]
    return along.count("x"), along.count("y"), sum(link.chips is not None for link in links)


# ----------------------------------------------------------------------------------- the routes


@law(10)
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


@law(40)
@given(networks(delays=3, loops=True).map(in_time), st.integers(0, 2**32 - 1))
def test_loops_are_placed_and_their_messages_are_those_of_plain_counting(
    chip: ChipSegment, seed: int
) -> None:
    target = msgspec.structs.replace(
        SMALL, core=msgspec.structs.replace(SMALL.core, synapse_formats=16)
    )
    placement = placed(chip, target)
    check_placement(placement, [chip], target)
    rng, sources = np.random.default_rng(seed), (*chip.inputs, *chip.populations)
    spikes = {item.name: rng.integers(0, 3, (chip.steps, *item.shape)) for item in sources}

    owner = {
        (tile.population, at): number
        for number, tile in enumerate(placement.tiles)
        for at in product(*map(range, tile.start, tile.stop))
    }
    senders: set[tuple[str, int, tuple[int, ...]]] = set()
    synops = 0
    for layer, synapse in chip.synapses():
        shape = chip.shape_of(synapse.source)
        for origin, to, _ in single_synapses(synapse.wiring):
            flat = np.ravel_multi_index(origin, synapse.wiring.in_shape)
            sender = tuple(map(int, np.unravel_index(flat, shape)))
            senders.add((synapse.name, owner[layer.name, to[: len(layer.shape)]], sender))
            synops += int(spikes[synapse.source][(slice(None), *sender)].sum())
    source_of = {synapse.name: synapse.source for _, synapse in chip.synapses()}
    expected: Counter[tuple[str, int]] = Counter()
    for name, tile, sender in senders:
        expected[name, tile] += int(spikes[source_of[name]][(slice(None), *sender)].sum())

    found: Counter[tuple[str, int]] = Counter()
    for route in routes(placement, [chip]):
        found[route.synapse, route.destination] += route.messages(spikes[route.source].sum(0))
    assert +found == +expected

    nodes = {
        synapse.name: Node(synapse.name, "conv2d", (synapse.source,), Signal(layer.shape))
        for layer, synapse in chip.synapses()
    }
    activity = Activity(3, spikes, {}, {})
    mapped = SimpleNamespace(chip_segments=(chip,), placement=placement, target=target, graph=nodes)
    if too_quick(chip):
        with pytest.raises(BadInput, match="a loop with fewer steps of delay than connections"):
            segment_loads(mapped, activity)  # type: ignore[arg-type]
        return
    (load,) = segment_loads(mapped, activity)  # type: ignore[arg-type]
    assert load.from_host + load.between_tiles == expected.total()
    assert load.by_core["message_in"].sum() == expected.total()
    assert load.by_core["synop_conv"].sum() == synops
    sent = sum(int(spikes[name].sum()) for name in chip.outputs)
    assert load.to_host == sent
    assert load.by_core["message_out"].sum() == load.between_tiles + sent


def too_quick(chip: ChipSegment) -> bool:
    """Whether spikes run round some loop in fewer steps of delay than it has connections."""
    names = [item.name for item in (*chip.inputs, *chip.populations)]
    nearest = dict.fromkeys(product(names, names), math.inf)
    for layer, synapse in chip.synapses():
        if synapse.delay < chip.steps:  # others arrive after the end
            pair = synapse.source, layer.name
            nearest[pair] = min(nearest[pair], synapse.delay - 1)
    for via, start, end in product(names, repeat=3):  # Floyd and Warshall's shortest paths
        way = nearest[start, via] + nearest[via, end]
        nearest[start, end] = min(nearest[start, end], way)
    return any(nearest[name, name] < 0 for name in names)


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
    first = population("a", (3,), linear("a.w", "in", (2,), np.zeros((3, 2))))
    second = population("b", (2,), linear("b.w", "a", (3,), np.zeros((2, 3))))
    both = segment(first, second, inputs={"in": (2,)}, outputs=["b"])
    found = [
        (route.synapse, route.sender, route.destination, route.neurons)
        for route in routes(placed(both, LOIHI), [both])
    ]
    assert found == [("a.w", None, 0, 2), ("b.w", 0, 1, 3)]


# ------------------------------------------------------------------------------------- the mesh


@PATIENT
@given(st.integers(1, 400))
def test_neighbours_along_the_snake_are_neighbours_on_the_mesh(count: int) -> None:
    tiles, segment = row(count)
    placement = place(tiles, [segment], LOIHI)
    assert placement.cores_used == count
    assert placement.chips_used == -(-count // 128)
    seats = {(core.chip, core.index) for core in placement.cores}
    assert len(seats) == count
    assert all(0 <= index < 128 for _, index in seats)
    for a, b in pairwise(placement.cores):
        along_x, along_y, between_chips = way(a, b)
        assert along_x + along_y <= 1
        assert between_chips == b.chip - a.chip


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


def core(chip: int, x: int, y: int) -> Core:
    return Core(chip, 0, x, y, (), {})


def test_hops_go_along_x_then_y() -> None:
    assert way(core(0, 0, 0), core(0, 0, 0)) == (0, 0, 0)
    assert way(core(0, 1, 3), core(0, 6, 1)) == way(core(0, 6, 1), core(0, 1, 3)) == (5, 2, 0)
    assert way(core(0, 7, 0), core(1, 8, 0)) == (1, 0, 1)


# ------------------------------------------------------------------------------- the topology

TOPOLOGIES = st.builds(
    Topology,
    mesh_width=st.integers(1, 9),
    mesh_height=st.integers(1, 5),
    cores_per_tile=st.integers(1, 4),
    board_height=st.integers(1, 3),
)


@PATIENT
@given(TOPOLOGIES, st.integers(0, 500), st.integers(0, 500))
def test_a_route_leads_from_router_to_router_along_x_first(
    topology: Topology, one: int, other: int
) -> None:
    a, b = topology.position(one), topology.position(other)
    links = topology.route(a, b)
    assert len(links) == abs(a.x - b.x) + abs(a.y - b.y)
    stops = [(a.x, a.y), *(link.end for link in links)]
    assert [link.start for link in links] == stops[:-1]
    assert stops[-1] == (b.x, b.y)
    steps = [(abs(x - to_x), abs(y - to_y)) for (x, y), (to_x, to_y) in pairwise(stops)]
    along = [link.along for link in links]
    assert steps == [{"x": (1, 0), "y": (0, 1)}[name] for name in along]
    assert along == sorted(along)
    chips = [topology.chip_at(*stop) for stop in stops]
    assert (chips[0], chips[-1]) == (a.chip, b.chip)
    assert [link.chips for link in links] == [
        pair if pair[0] != pair[1] else None for pair in pairwise(chips)
    ]


@PATIENT
@given(TOPOLOGIES, st.integers(1, 3))
def test_chips_are_filled_one_after_another_and_share_no_router(
    topology: Topology, chips: int
) -> None:
    cores = topology.mesh_width * topology.mesh_height * topology.cores_per_tile
    seats = [topology.position(number) for number in range(chips * cores)]
    assert len({(seat.chip, seat.on_chip) for seat in seats}) == len(seats)
    assert [seat.chip for seat in seats] == [n // cores for n in range(chips * cores)]
    assert all(0 <= seat.on_chip < cores for seat in seats)
    at = [(seat.x, seat.y) for seat in seats]
    assert {at.count(router) for router in set(at)} == {topology.cores_per_tile}
    for seat in seats:
        assert topology.chip_at(seat.x, seat.y) == seat.chip
        column, row = divmod(seat.chip, topology.board_height)
        x, y = seat.x - column * topology.mesh_width, seat.y - row * topology.mesh_height
        assert seat.on_chip // topology.cores_per_tile == y * topology.mesh_width + x
    for a, b in pairwise(seats):
        if a.chip == b.chip:
            assert len(topology.route(a, b)) <= 1


@PATIENT
@given(TOPOLOGIES, st.integers(0, 2000))
def test_chips_in_a_row_lie_as_they_always_did(topology: Topology, number: int) -> None:
    chip = replace(topology, board_height=1)
    which, on_chip = divmod(number, chip.mesh_width * chip.mesh_height * chip.cores_per_tile)
    router, slot = divmod(on_chip, chip.cores_per_tile)
    x, y = divmod(router, chip.mesh_height)
    if x % 2:
        y = chip.mesh_height - 1 - y
    index = chip.cores_per_tile * (y * chip.mesh_width + x) + slot
    assert chip.position(number) == (which, index, which * chip.mesh_width + x, y)


def test_chips_on_a_board_of_two_rows() -> None:
    """Chips 0 and 1 above each other in the west, 2 and 3 in the east."""
    chip = msgspec.structs.replace(LOIHI.chip, board_height=2)
    board = Topology.of(chip)
    corners = [board.position(128 * number) for number in range(5)]
    assert [(corner.x, corner.y) for corner in corners] == [
        (0, 0), (0, 4), (8, 0), (8, 4), (16, 0)
    ]  # fmt: skip
    links = board.route(core(0, 7, 1), core(3, 8, 5))
    assert links == (
        Link("x", (7, 1), (8, 1), (0, 2)),
        Link("y", (8, 1), (8, 2), None),
        Link("y", (8, 2), (8, 3), None),
        Link("y", (8, 3), (8, 4), (2, 3)),
        Link("y", (8, 4), (8, 5), None),
    )
    assert Topology.of(LOIHI.chip).route(core(0, 7, 1), core(1, 8, 1))[0].chips == (0, 1)


def test_chips_lie_as_on_the_board_that_was_chosen_and_there_are_no_more_of_them() -> None:
    tiles, segment = row(8 * 128)
    board = LOIHI.on_board("nahuku-8")
    placement = place(tiles, [segment], board)
    corners = {c.chip: (c.x, c.y) for c in placement.cores if c.index == 0}
    assert corners == {n: (8 * (n // 2), 4 * (n % 2)) for n in range(8)}
    tiles, segment = row(8 * 128 + 1)
    with pytest.raises(BadInput, match="needs 9 chips and board 'nahuku-8' has 8: take a larger"):
        place(tiles, [segment], board)
    assert place(tiles, [segment], LOIHI).chips_used == 9


def test_utilisation() -> None:
    first = population("a", (1024,), linear("a.w", "in", (4,), np.zeros((1024, 4))))
    second = population("b", (512,), linear("b.w", "in", (4,), np.zeros((512, 4))))
    placement = placed(segment(first, second, inputs={"in": (4,)}), LOIHI)
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
