"""The best side of every layer, where each group of layers on the chip has its cost.

Layers that are on the chip beside each other run as one: their steps last as long as the slowest of
them, and what passes between them stays there. So costs belong to groups, all that could run as
one, and a partition is a choice of groups. That is an integer program, solved exactly by HiGHS; for
a chain of layers it is a shortest path, whose linear relaxation has whole solutions, so that the
solver need not branch; limits make it branch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from has8.errors import BadInput
from mapping.partition.segments import Side

Costs = Mapping[str, float]
"""Amounts by what they are of, such as "energy_uj"; what is left out is 0."""
Layers = frozenset[str]
"""Layers by name."""
TOLERANCE = 1e-9
"""How far, of itself, a sum may be off where it is held to a limit."""
RESOLUTION = 1e-5
"""Sums that differ by less than this part of the largest single cost are one on a front: the solver
keeps to limits as far as a tenth of it."""


@dataclass(frozen=True, slots=True)
class Costed:
    """Layers that are to be divided between host and chip, with all that it costs.

    Args:
        layers: by name, in their order.
        host: what all costs if every layer is on the host.
        groups: of layers that can run as one on the chip, what that adds to it; less than 0 where
            it saves. All layers of a group are linked.
        links: pairs of layers that run as one if both are on the chip.
        fixed: added once if any layer is on the chip; at least 0.
        limits: the most that costs may come to, whatever else limits them.
        pins: layers whose side is given.
    """

    layers: tuple[str, ...]
    host: Costs
    groups: Mapping[Layers, Costs]
    links: tuple[tuple[str, str], ...] = ()
    fixed: Costs = field(default_factory=dict)
    limits: Costs = field(default_factory=dict)
    pins: Mapping[str, Side] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """What is paid for."""
        every = [self.host, self.fixed, *self.groups.values()]
        return tuple(sorted({name for costs in every for name in costs}))

    def divided(self, on_chip: Collection[str]) -> tuple[Layers, ...] | None:
        """The groups in which layers run if they are on the chip and all others on the host.

        None if pins or what has to stay together say otherwise.
        """
        if any((side == "chip") != (name in on_chip) for name, side in self.pins.items()):
            return None
        links = nx.Graph()
        links.add_nodes_from(name for name in self.layers if name in on_chip)
        links.add_edges_from(pair for pair in self.links if set(pair) <= set(on_chip))
        found = tuple(frozenset(part) for part in nx.connected_components(links))
        return found if all(group in self.groups for group in found) else None

    def totals(self, groups: Iterable[Layers]) -> dict[str, float]:
        """What a partition costs: the definition of what :func:`best` makes least."""
        chosen = [self.groups[group] for group in groups]
        paid = [self.host, *chosen, *([self.fixed] if chosen else [])]
        return {name: sum(costs.get(name, 0.0) for costs in paid) for name in self.names}


@dataclass(frozen=True, slots=True)
class Division:
    """Layers on the chip, all others on the host.

    Args:
        groups: that run as one each.
        totals: what it costs.
        gap: how far, of the objective, a better one could be below it, as proven; 0 if none is.
    """

    groups: tuple[Layers, ...]
    totals: Costs
    gap: float = 0.0

    @property
    def on_chip(self) -> Layers:
        """By name."""
        return frozenset().union(*self.groups)


def best(
    costed: Costed,
    objective: Costs,
    limits: Costs | None = None,
    *,
    without: Collection[Layers] = (),
    seconds: float = 60.0,
) -> Division | None:
    """The partition at which a weighted sum of costs is least.

    Args:
        costed: the layers.
        objective: the weight of each cost in the sum, at least 0.
        limits: the most that each cost may come to.
        without: partitions that are not to be found, by what is on the chip.
        seconds: after which the best so far is given, with the gap that is proven then.

    Returns:
        None if no partition keeps to pins, links and limits.

    Raises:
        BadInput: for an objective or a limit of something that nothing costs, or if the time is
            over before any partition was found.
    """
    limits = _stricter(costed.limits, limits or {})
    known = costed.names
    if odd := [name for name in (*objective, *limits) if name not in known]:
        raise BadInput(f"no layer costs {odd[0]!r}: known are {', '.join(known) or 'none'}")
    program = _Program(costed)
    weights = sum((weight * program.row(name) for name, weight in objective.items()), start=0.0)
    scale = float(np.abs(weights).max(initial=0.0)) or 1.0
    solved = milp(
        weights / scale,
        integrality=np.ones(program.size),
        bounds=Bounds(0, 1),
        constraints=[
            *program.constraints,
            *(program.limit(*item) for item in limits.items()),
            *map(program.other_than, without),
        ],
        options={"mip_rel_gap": 0.0, "time_limit": seconds},
    )
    if solved.x is None:
        if solved.status == 1:
            raise BadInput(f"no partition was found in {seconds:g} seconds: allow more time")
        return None
    groups = tuple(g for g, chosen in zip(program.groups, solved.x, strict=False) if chosen > 0.5)
    return Division(groups, costed.totals(groups), float(solved.mip_gap or 0.0))


def least_product(
    costed: Costed, first: str, second: str, limits: Costs | None = None
) -> Division | None:
    """The partition at which the product of two costs is least, such as energy and time.

    Walks the partitions that are best in both, from the least of the first to that of the second,
    and stops where no later one can have a smaller product.

    Args:
        costed: the layers; both costs of every partition are at least 0.
        first, second: names of the costs.
        limits: as :func:`best` takes them.
    """
    ideal = best(costed, {second: 1.0}, limits)
    found: Division | None = None
    for point in front(costed, first, second, limits):
        if found is None or _product(point, first, second) < _product(found, first, second):
            found = point
        assert ideal is not None
        if point.totals[first] * ideal.totals[second] >= _product(found, first, second):
            break
    return found


def front(
    costed: Costed, first: str, second: str, limits: Costs | None = None
) -> Iterator[Division]:
    """Partitions of which no other has less of one cost and not more of the other.

    By growing ``first``; of those that are equal in both, one.

    Args:
        costed: the layers.
        first, second: names of the costs.
        limits: as :func:`best` takes them.
    """
    limits = dict(limits or {})
    step = RESOLUTION * _Program(costed).largest(second)
    before = np.inf
    while (least := best(costed, {first: 1.0}, limits)) is not None:
        at = least.totals[first]
        inside = {**limits, first: min(at + TOLERANCE * abs(at), limits.get(first, np.inf))}
        point = best(costed, {second: 1.0}, inside) or least
        reached = point.totals[second]
        if reached < before:
            yield point
        else:  # the solver took the limit for kept
            step *= 2
        before = min(before, reached)
        limits[second] = before - step


def flips(costed: Costed, division: Division) -> dict[str, dict[str, float]]:
    """What a partition would cost if one layer alone were on the other side.

    With what has to go along, as in a loop over steps; layers that cannot go are left out.
    """
    found = {}
    for name in costed.layers:
        along = sorted((group for group in costed.groups if name in group), key=len)
        for moved in (frozenset([name]), *along[:1]):
            groups = costed.divided(division.on_chip ^ moved)
            if groups is not None:
                found[name] = costed.totals(groups)
                break
    return found


def _product(division: Division, first: str, second: str) -> float:
    return division.totals[first] * division.totals[second]


def _stricter(one: Costs, two: Costs) -> Costs:
    return {name: min(one.get(name, np.inf), two.get(name, np.inf)) for name in {**one, **two}}


class _Program:
    """Variables, 1 where a group runs on the chip and where any does, and what holds of them."""

    def __init__(self, costed: Costed) -> None:
        self.costed = costed
        hosted = {name for name, side in costed.pins.items() if side == "host"}
        self.groups = [group for group in costed.groups if not group & hosted]
        self.size = len(self.groups) + 1  # the last one says whether any is there
        places = {name: at for at, name in enumerate(costed.layers)}
        entries = [(places[name], at) for at, group in enumerate(self.groups) for name in group]
        rows, columns = zip(*entries, strict=True) if entries else ((), ())
        shape = (len(places), self.size)
        self.holds = csr_array((np.ones(len(entries)), (rows, columns)), shape=shape)
        any_group = np.zeros((len(places), self.size))
        any_group[:, -1] = 1
        pinned = [float(costed.pins.get(name) == "chip") for name in costed.layers]
        self.constraints = [
            LinearConstraint(self.holds - csr_array(any_group), -np.inf, 0),
            LinearConstraint(self.holds, pinned, 1),
        ]
        if costed.links:
            first, second = (
                self.holds[[places[pair[end]] for pair in costed.links]] for end in (0, 1)
            )
            apart = first + second - 2 * first.multiply(second)
            self.constraints.append(LinearConstraint(csr_array(apart), -np.inf, 1))

    def row(self, name: str) -> NDArray[np.float64]:
        """What each variable adds to a cost, on top of that of all layers on the host."""
        paid = [*(self.costed.groups[group] for group in self.groups), self.costed.fixed]
        return np.array([costs.get(name, 0.0) for costs in paid])

    def largest(self, name: str) -> float:
        """The most that one variable changes a cost by, or 1 if none does."""
        return float(np.abs(self.row(name)).max(initial=0.0)) or 1.0

    def limit(self, name: str, most: float) -> LinearConstraint:
        """A cost is at most so much."""
        row, scale = self.row(name), self.largest(name)
        return LinearConstraint(
            row / scale, -np.inf, (most - self.costed.host.get(name, 0.0)) / scale
        )

    def other_than(self, on_chip: Layers) -> LinearConstraint:
        """The partition is not this one."""
        inside = np.array([-1.0 if name in on_chip else 1.0 for name in self.costed.layers])
        return LinearConstraint(inside @ self.holds, 1 - len(on_chip), np.inf)
