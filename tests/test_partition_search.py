"""The partition search, held to every partition there is."""

from itertools import chain, combinations, islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from has8.errors import BadInput
from mapping.partition.search import Costed, Crossing, best, flips, front, least_product

WHOLE = st.integers(0, 20).map(float)
COSTS = st.fixed_dictionaries({"energy": WHOLE, "time": st.integers(1, 20).map(float)})


@st.composite
def problems(draw, most=6):
    names = [f"layer{place}" for place in range(draw(st.integers(1, most)))]
    ends = st.sampled_from([None, *names])
    crossings = st.builds(
        Crossing, ends, st.lists(ends, min_size=1, max_size=3).map(tuple), COSTS, COSTS
    )
    loop = draw(st.lists(st.sampled_from(names), unique=True, max_size=3))
    return Costed(
        {name: draw(COSTS) for name in names},
        {name: {**draw(COSTS), "cores": float(draw(st.integers(1, 9)))} for name in names},
        tuple(draw(st.lists(crossings, max_size=5))),
        draw(COSTS),
        (tuple(loop),) if len(loop) > 1 else (),
        {names[0]: draw(st.sampled_from(["host", "chip"]))} if draw(st.booleans()) else {},
    )


def every(costed, limits):
    """The costs of all partitions that keep to pins, loops and limits, without any solver."""
    subsets = chain.from_iterable(
        combinations(costed.host, size) for size in range(len(costed.host) + 1)
    )
    allowed = (costed.totals(subset) for subset in subsets if costed.allows(subset))
    return [t for t in allowed if all(t[name] <= most for name, most in limits.items())]


LIMITS = st.sampled_from([{}, {"cores": 8.0}, {"time": 30.0}, {"cores": 12.0, "energy": 40.0}])


@settings(max_examples=25, deadline=None)
@given(problems(), LIMITS)
def test_nothing_is_better_than_what_is_found(costed, limits):
    there = every(costed, limits)
    found = best(costed, {"energy": 1.0, "time": 2.0}, limits)
    if not there:
        assert found is None and least_product(costed, "energy", "time", limits) is None
        return
    assert costed.allows(found.on_chip) and found.totals in there and found.gap == 0
    assert found.totals["energy"] + 2 * found.totals["time"] == min(
        totals["energy"] + 2 * totals["time"] for totals in there
    )
    product = least_product(costed, "energy", "time", limits).totals
    assert product["energy"] * product["time"] == min(t["energy"] * t["time"] for t in there)


@settings(max_examples=10, deadline=None)
@given(problems(5), LIMITS)
def test_the_front_is_all_that_nothing_dominates(costed, limits):
    there = {(totals["energy"], totals["time"]) for totals in every(costed, limits)}
    undominated = {
        (e, t)
        for e, t in there
        if not any(a <= e and b <= t and (a, b) != (e, t) for a, b in there)
    }
    points = [
        (p.totals["energy"], p.totals["time"]) for p in front(costed, "energy", "time", limits)
    ]
    assert points == sorted(undominated)


@pytest.mark.parametrize("layers", [12])
def test_twelve_layers(layers):
    """A chain, each layer with a shortcut over the next, of 4,096 partitions."""
    names = [str(place) for place in range(layers)]
    costed = Costed(
        {name: {"energy": float(7 * place % 11)} for place, name in enumerate(names)},
        {name: {"energy": 4.0, "cores": float(place % 3 + 1)} for place, name in enumerate(names)},
        tuple(
            Crossing(name, tuple(names[at + 1 : at + 3]) or (None,), {"energy": 2}, {"energy": 1})
            for at, name in enumerate(names)
        ),
        {"energy": 3.0},
    )
    for limits in ({}, {"cores": 9.0}):
        found = best(costed, {"energy": 1.0}, limits)
        assert found.on_chip and found.gap == 0
        assert found.totals["energy"] == min(t["energy"] for t in every(costed, limits))
        other = flips(costed, found)
        assert set(other) == set(names)
        assert other["3"] == costed.totals(found.on_chip ^ {"3"})


def test_a_front_ends_where_the_solver_takes_a_limit_for_kept():
    """A step of a millionth of 4 is within the solver's tolerance of a limit, scaled by 20."""
    costed = Costed(
        {"a": {"energy": 9.0, "time": 4.0}, "b": {"energy": 1.0}},
        {"a": {"energy": 3.0, "time": 20.0}, "b": {"energy": 30.0, "time": 20.0}},
    )
    points = list(islice(front(costed, "energy", "time"), 9))
    assert [tuple(point.totals.values()) for point in points] == [(4.0, 20.0), (10.0, 4.0)]


def test_what_nothing_costs_is_refused_by_name():
    costed = Costed({"a": {"energy": 1.0}}, {"a": {"energy": 2.0}})
    with pytest.raises(BadInput, match="no layer costs 'enregy': known are energy"):
        best(costed, {"enregy": 1.0})
    with pytest.raises(BadInput, match="no layer costs 'cores'"):
        best(costed, {"energy": 1.0}, {"cores": 3.0})
