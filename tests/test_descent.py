"""Cores that change places: exact prices of swaps, and placements as short as they can be."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import msgspec
import numpy as np
import pytest
from builders import LOIHI, law
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import mapping as mapping_benchmark
from benchmarks.cost_cases import CASES
from has8.errors import BadInput
from mapping.cores import descent
from mapping.cores.allocate import allocate
from mapping.cores.check import check_placement
from mapping.cores.descent import Board, Swaps, descend
from mapping.cores.flows import Flows, flows_of, hops, hops_at_random, hops_bound, hops_of, routers
from mapping.cores.placement import place, seated, seats_of
from mapping.targets.schema import Chip
from mapping.targets.topology import Topology

DOCS = (Path(__file__).parent.parent / "docs" / "mapping.md").read_text(encoding="utf-8")


def chip(width: int, height: int, cores: int, board_height: int = 1) -> Chip:
    sizes = {"mesh_width": width, "mesh_height": height, "cores_per_tile": cores}
    return msgspec.structs.replace(LOIHI.chip, **sizes, board_height=board_height)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Flows, Chip]:
    cores = draw(st.integers(2, 30))
    core = st.integers(0, cores - 1)
    pairs = draw(st.dictionaries(st.tuples(core, core), st.integers(0, 999), max_size=60))
    mesh = chip(*(draw(st.integers(1, 3)) for _ in range(4)))
    return Flows.of(cores, {(0, 1): 1, **pairs}), mesh


def plainly(flows: Flows, places: list[tuple[int, int]]) -> int:
    """Messages times hops, pair by pair."""
    total = 0
    for one, other, messages in zip(flows.ones, flows.others, flows.messages, strict=True):
        if one < other:
            (x, y), (to_x, to_y) = places[one], places[other]
            total += int(messages) * (abs(x - to_x) + abs(y - to_y))
    return total


@law(25)
@given(problems(), st.integers(0, 2**70), st.integers(0, 2000), st.integers(1, 3))
def test_the_price_of_swaps_is_exact_compiled_or_not(
    problem: tuple[Flows, Chip], seed: int, threshold: int, reach: int
) -> None:
    flows, mesh = problem
    topology = Topology.of(mesh)
    board = Board.of(topology, routers(topology, flows.cores), 30)
    compiled, plain = Swaps(flows, board, seed), Swaps(flows, board, seed)
    compiled.run(60, threshold, reach)
    plain._plain(60, threshold, reach)
    assert (compiled.seat == plain.seat).all()
    assert (compiled.state, compiled.cost) == (plain.state, plain.cost)
    assert sorted(compiled.seat) == list(range(flows.cores))
    assert (compiled.seat[compiled.core] == np.arange(flows.cores)).all()
    links = [
        topology.route(topology.position(int(a)), topology.position(int(b)))
        for a, b in zip(plain.seat[flows.ones], plain.seat[flows.others], strict=True)
    ]
    ways = [sum(30 if link.chips else 1 for link in way) for way in links]
    assert 2 * plain.cost == sum(map(int.__mul__, flows.messages.tolist(), ways))


@law(8)
@given(problems(), st.integers(0, 9))
def test_descent_is_no_worse_than_the_snake_no_better_than_the_bound_and_always_the_same(
    problem: tuple[Flows, Chip], seed: int
) -> None:
    flows, mesh = problem
    few = pytest.MonkeyPatch()
    few.setattr(descent, "TRIES", (5, 5))
    told: list[tuple[int, int]] = []
    seats = descend(flows, mesh, seed, lambda *now: told.append(now))
    assert (descend(flows, mesh, seed) == seats).all()
    few.undo()
    topology = Topology.of(mesh)
    where = routers(topology, flows.cores)
    board, snake = Board.of(topology, where, 30), np.arange(flows.cores)
    assert sorted(seats) == list(snake)
    assert hops(flows, board.where, seats) <= hops(flows, board.where, snake)
    assert hops_bound(flows, topology, where) <= hops(flows, where, seats)
    assert not told or told[-1] == (descent.STARTS * descent.LEVELS,) * 2


@pytest.mark.parametrize("mesh", [chip(4, 2, 1), chip(2, 1, 2), chip(2, 2, 1, 2)])
def test_tiny_networks_are_placed_within_a_tenth_of_the_best_of_all_ways(mesh: Chip) -> None:
    cores, rng = 7, np.random.default_rng(0)
    topology = Topology.of(mesh)
    where = routers(topology, cores)
    stretched = Board.of(topology, where, 30).where
    every = np.array(list(permutations(range(cores))))
    for _ in range(3):
        pairs = {(int(a), int(b)): int(n) for a, b, n in rng.integers(0, (7, 7, 99), (12, 3))}
        flows = Flows.of(cores, pairs)
        found = {}
        for name, at in (("hops", where), ("ways", stretched)):
            far = np.abs(at[:, :, None] - at[:, None]).sum(0)
            apart = far[every[:, flows.ones], every[:, flows.others]]
            found[name] = (apart * flows.messages).sum(1) // 2
        assert hops(flows, stretched, descend(flows, mesh)) <= 1.1 * found["ways"].min()
        assert hops_at_random(flows, where) == pytest.approx(found["hops"].mean())
        assert hops_bound(flows, topology, where) <= found["hops"].min()
        some = every[1234]
        assert hops(flows, where, some) == plainly(flows, [tuple(where[:, s]) for s in some])


def test_messages_stay_on_a_chip_before_they_stay_near() -> None:
    """Two groups of four talk among themselves, and lie mixed along the snake of two chips."""
    groups = [(0, 2, 4, 6), (1, 3, 5, 7)]
    flows = Flows.of(8, {(a, b): 1 for group in groups for a in group for b in group if a < b})
    mesh = chip(4, 1, 1)
    seats = descend(flows, mesh)
    assert {frozenset(seats[list(group)] // 4) for group in groups} == {
        frozenset({0}), frozenset({1})
    }  # fmt: skip


def test_a_published_network_takes_a_third_fewer_hops_and_its_placement_is_legal() -> None:
    case = CASES["MNIST of NxTF's notebook"]
    assert case.net is not None
    net = case.net.chip(2)
    along = place(allocate([net], LOIHI), [net], LOIHI)
    flows = flows_of(along, [net])
    placed = seated(along, descend(flows, LOIHI.chip), LOIHI)
    check_placement(placed, [net], LOIHI)
    assert placed.chips_used == along.chips_used
    assert placed.active_routers == along.active_routers
    found = hops_of(placed, [net], Topology.of(LOIHI.chip))
    assert found.bound < found.placed < 0.7 * found.snake < found.random
    assert found.snake == hops_of(along, [net], Topology.of(LOIHI.chip)).placed
    twice = {layer.name: np.full(layer.shape, 2) for layer in net.populations}
    assert hops_of(placed, [net], Topology.of(LOIHI.chip), twice).placed == 2 * found.placed


def test_placements_that_are_none_are_refused() -> None:
    net = CASES["N-TIDIGITS"].net
    assert net is not None
    segment = net.chip(2)
    along = place(allocate([segment], LOIHI), [segment], LOIHI)
    first, second, *rest = along.cores
    assert seats_of(along, LOIHI) == [0, 1]
    for cores in (
        (first, replace(second, index=0)),  # both on one core
        (first, replace(second, index=2)),  # one is left free
        (first, replace(second, x=1)),
        (first, replace(second, chip=-1)),
    ):
        broken = replace(along, cores=(*cores, *rest))
        with pytest.raises(BadInput, match="not on the first places of its chips"):
            check_placement(broken, [segment], LOIHI)
    check_placement(seated(along, [1, 0], LOIHI), [segment], LOIHI)


def test_the_table_of_mappings_has_what_binds_a_networks_cores() -> None:
    row = mapping_benchmark.measure("n-mnist")
    need = 512 * (2312 * 8 // 64) / LOIHI.core.synapse_words  # dense weights alone, no headers
    assert need < row["cores_lower_bound"] <= row["cores"] <= row["cores_published"] == 17
    assert row["binds"] == "synapse_bits"
    assert row["neurons"] == 2312 + 512 + 10
    assert row["hops_bound"] < row["hops"] < row["hops_snake"]


@pytest.mark.parametrize("name", ["mnist", "n-mnist", "dvs"])
def test_cores_beside_published_ones_are_those_of_the_docs(name: str) -> None:
    net, published = mapping_benchmark.published_net(name)
    segment = net.chip(2)
    placed = place(allocate([segment], LOIHI), [segment], LOIHI)
    least = placed.cores_bound
    neurons = sum(layer.size for layer in segment.populations)
    row = f"| {neurons:,} | {placed.cores_used} | {least.cores} | {least.resource} | {published} |"
    (printed,) = (line for line in DOCS.splitlines() if line.startswith(f"| `{name}`"))
    assert printed.endswith(row)
