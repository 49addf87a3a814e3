"""Cores of chips that are on anyway: the work of each counted plainly, and dealt out exactly."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from builders import LOIHI, conv, law, linear, population, segment, single_synapses
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cost_cases import ASSUMED, Layer, Stack
from has8.errors import BadInput
from mapping import map_model
from mapping.cores.allocate import allocate
from mapping.cores.check import check_placement
from mapping.cores.placement import place
from mapping.cores.spread import Option, least, spread
from mapping.cores.tilings import Work, layers_of
from mapping.targets.figures import Figure
from mapping.targets.sheets import with_figures


def test_the_work_of_a_block_is_that_of_plain_counting() -> None:
    image = (2, 5, 6)
    kernel = conv("a.w", "in", image, np.zeros((4, 1, 3, 3)), stride=2, padding=1, groups=2)
    seg = segment(population("a", (4, 3, 3), kernel), inputs={"in": image})
    (layer,) = layers_of(seg, LOIHI.registers)
    for start, stop in (((0, 0, 0), (4, 3, 3)), ((1, 1, 0), (3, 3, 2))):
        inside = [
            origin
            for origin, to, _ in single_synapses(layer.wires[0])
            if all(a <= x < b for a, x, b in zip(start, to, stop, strict=True))
        ]
        neurons = np.prod(np.subtract(stop, start))
        expected = 10_000 * neurons + 100 * len(inside) + len(set(inside))
        assert Work(0, 10_000, 100, 1).of(layer, start, stop) == expected


options = st.lists(
    st.builds(Option, st.integers(1, 6), st.integers(0, 50), st.just(()), st.just(0)),
    min_size=1,
    max_size=4,
)


@law(30)
@given(st.lists(options, max_size=4), st.integers(0, 12))
def test_cores_are_dealt_out_as_well_as_in_the_best_of_all_ways(
    of_segments: list[list[Option]], more: int
) -> None:
    free = sum(each[0].cores for each in of_segments) + more
    found = least(of_segments, free)
    ways = [way for way in product(*of_segments) if sum(o.cores for o in way) <= free]
    assert sum(o.cores for o in found) <= free
    assert sum(o.time_us for o in found) == min(sum(o.time_us for o in way) for way in ways)
    assert all(o in each for o, each in zip(found, of_segments, strict=True))


def test_a_network_driven_by_biases_takes_the_free_cores_of_its_chip() -> None:
    net = Stack((1, 12, 12), (Layer(8, 3), Layer(10)), ASSUMED, written=True).chip(2)
    few, many = allocate([net], LOIHI), spread([net], LOIHI)
    placed = place(many, [net], LOIHI)
    check_placement(placed, [net], LOIHI)
    assert placed.chips_used == 1 and placed.cores_used > 15 > len({tile.core for tile in few})


def test_fewer_cores_where_power_costs_less_than_messages() -> None:
    """With chips that draw nothing messages alone count, of which the fewest cores have fewest."""
    net = Stack((1, 12, 12), (Layer(8, 3), Layer(10)), ASSUMED, written=True).chip(2)

    def cores(factor: float) -> int:
        def change(figure: Figure) -> Figure:
            if figure.path not in ("power.static_mw", "power.embedded_mw"):
                return figure
            return Figure.exact(factor * figure.value, figure.unit)

        return len({tile.core for tile in spread([net], with_figures(LOIHI, change), "energy")})

    soonest = len({tile.core for tile in spread([net], LOIHI)})
    assert cores(0.0) == len({tile.core for tile in allocate([net], LOIHI)})
    assert cores(0.0) < cores(1.0) <= soonest == cores(1e6)


def test_spikes_of_the_host_are_not_sent_twice_to_save_less_work() -> None:
    """Cut in channels, each would be a message more; inner layers are cut all the same."""
    wide = population("a", (64,), linear("a.w", "in", (500,), np.zeros((64, 500))))
    alone = segment(wide, inputs={"in": (500,)})
    assert spread([alone], LOIHI) == allocate([alone], LOIHI)


def test_segments_have_cores_of_their_own() -> None:
    layer = population("a", (8, 6, 6), conv("a.w", "in", (8, 6, 6), np.zeros((8, 8, 1, 1))))
    tiles = spread([segment(layer, inputs={"in": (8, 6, 6)}, name=name) for name in "xy"], LOIHI)
    owners: dict[int, set[str]] = {}
    for tile in tiles:
        owners.setdefault(tile.core, set()).add(tile.segment)
        assert set(tile.need) == set(LOIHI.core.limits)
    assert sorted(owners) == list(range(len(owners))) and len(owners) > 2
    assert all(len(names) == 1 for names in owners.values())


@pytest.mark.parametrize("wrong", ["edp", 1, None])
def test_allocations_that_there_are_not(wrong: object) -> None:
    with pytest.raises(BadInput, match="allocation"):
        map_model(None, allocation=wrong)  # type: ignore[arg-type]
