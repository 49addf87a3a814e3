"""The partition search, held to every partition there is."""

from itertools import chain, combinations, islice, pairwise

import networkx as nx
import pytest
from builders import law
from hypothesis import given
from hypothesis import strategies as st

from has8.errors import BadInput
from mapping.partition.search import Costed, best, flips, front, least_product

CHANGES = st.fixed_dictionaries(
    {
        "energy": st.integers(-20, 20).map(float),
        "time": st.integers(-9, 9).map(float),
        "cores": st.integers(1, 9).map(float),
    }
)


def runs(names, linked):
    """Every stretch of layers beside each other."""
    for start in range(len(names)):
        for stop in range(start + 1, len(names) + 1):
            if all(linked[start : stop - 1]):
                yield frozenset(names[start:stop])


def as_one(links):
    """The rule by which linked layers on the chip run as one."""

    def divide(on_chip):
        graph = nx.Graph()
        graph.add_nodes_from(on_chip)
        graph.add_edges_from(pair for pair in links if on_chip.issuperset(pair))
        return [frozenset(part) for part in nx.connected_components(graph)]

    return divide


@st.composite
def problems(draw, most=6):
    """Chains of layers, beside each other; what a group costs is no sum over its layers."""
    names = [f"layer{place}" for place in range(draw(st.integers(1, most)))]
    linked = [draw(st.booleans()) for _ in names[1:]]
    links = [pair for pair, on in zip(pairwise(names), linked, strict=True) if on]
    groups = {group: draw(CHANGES) for group in runs(names, linked)}
    loop = draw(st.sampled_from([(), *(link for link in links)]))  # goes to one side
    for group in [group for group in groups if len(group & set(loop)) == 1]:
        del groups[group]
    return Costed(
        tuple(names),
        {"energy": 130.0, "time": 70.0},
        groups,
        as_one(links),
        {"energy": draw(st.integers(0, 20).map(float))},
        draw(st.sampled_from([{}, {"cores": 30.0}])),
        {names[0]: draw(st.sampled_from(["host", "chip"]))} if draw(st.booleans()) else {},
        beyond=draw(st.sampled_from([None, shared])),
    )


def shared(groups):
    """Something that is had once, however many groups there are: each alone would have it."""
    return dict.fromkeys(("energy", "time"), 2.0 * max(len(groups) - 1, 0))


def every(costed, limits):
    """The costs of all partitions that keep to pins, links and limits, without any solver."""
    subsets = chain.from_iterable(
        combinations(costed.layers, size) for size in range(len(costed.layers) + 1)
    )
    divided = (costed.divided(subset) for subset in subsets)
    allowed = (costed.totals(groups) for groups in divided if groups is not None)
    held = [*limits.items(), *costed.limits.items()]
    return [t for t in allowed if all(t[name] <= most for name, most in held)]


LIMITS = st.sampled_from([{}, {"cores": 8.0}, {"time": 65.0}, {"cores": 12.0, "energy": 125.0}])


@law(8)
@given(problems(), LIMITS)
def test_nothing_is_better_than_what_is_found(costed, limits):
    there = every(costed, limits)
    found = best(costed, {"energy": 1.0, "time": 2.0}, limits)
    if not there:
        assert found is None and least_product(costed, "energy", "time", limits) is None
        return
    assert set(costed.divided(found.on_chip)) == set(found.groups)
    assert found.totals in there and found.gap == 0
    least = min(totals["energy"] + 2 * totals["time"] for totals in there)
    assert found.totals["energy"] + 2 * found.totals["time"] == least
    product = least_product(costed, "energy", "time", limits).totals
    assert product["energy"] * product["time"] == min(t["energy"] * t["time"] for t in there)
    free = best(costed, {"energy": 1.0, "time": 2.0})  # a limit more never makes it less
    assert free.totals["energy"] + 2 * free.totals["time"] <= least
    other = best(costed, {"energy": 1.0, "time": 2.0}, limits, without=[found.on_chip])
    assert (other is None) == (len(there) == 1)
    assert other is None or other.on_chip != found.on_chip


@law(5)
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


def test_twelve_layers():
    """A chain of 4,096 partitions, whose steps last as long as the slowest layer of a group."""
    names = [str(place) for place in range(12)]
    works = {name: float(7 * place % 11) for place, name in enumerate(names)}
    groups = {
        group: {
            "energy": 5.0 + 2 * max(works[n] for n in group) - 6 * len(group),
            "cores": float(sum(int(n) % 3 + 1 for n in group)),
        }
        for group in runs(names, [True] * 11)
    }
    links = as_one([*pairwise(names)])
    costed = Costed(tuple(names), {"energy": 60.0}, groups, links, {"energy": 3.0})
    there = every(costed, {})
    for cores in (30.0, 9.0):
        found = best(costed, {"energy": 1.0}, {"cores": cores})
        assert found.on_chip and found.gap == 0
        inside = (totals["energy"] for totals in there if totals["cores"] <= cores)
        assert found.totals["energy"] == min(inside)
        assert flips(costed, found.on_chip) == {name: found.on_chip ^ {name} for name in names}


def test_a_loop_flips_as_a_whole():
    loop = frozenset(("a", "b"))
    costed = Costed(("a", "b"), {"energy": 9.0}, {loop: {"energy": -4.0}}, as_one([("a", "b")]))
    assert costed.divided({"a"}) is None and best(costed, {"energy": 1.0}).on_chip == loop
    none = best(costed, {"energy": 1.0}, without=[loop])
    assert not none.on_chip and flips(costed, none.on_chip) == dict.fromkeys("ab", loop)


def test_a_front_ends_where_the_solver_takes_a_limit_for_kept():
    """A step of a millionth of 4 is within the solver's tolerance of a limit, scaled by 20."""
    groups = {
        frozenset("a"): {"energy": -6.0, "time": 16.0},
        frozenset("b"): {"energy": 29.0, "time": 20.0},
    }
    costed = Costed(("a", "b"), {"energy": 10.0, "time": 4.0}, groups, as_one([]))
    points = list(islice(front(costed, "energy", "time"), 9))
    assert [tuple(point.totals.values()) for point in points] == [(4.0, 20.0), (10.0, 4.0)]


def test_what_nothing_costs_is_refused_by_name():
    costed = Costed(("a",), {"energy": 1.0}, {frozenset("a"): {"energy": 1.0}}, as_one([]))
    with pytest.raises(BadInput, match="no layer costs 'enregy': known are energy"):
        best(costed, {"enregy": 1.0})
    with pytest.raises(BadInput, match="no layer costs 'cores'"):
        best(costed, {"energy": 1.0}, {"cores": 3.0})
