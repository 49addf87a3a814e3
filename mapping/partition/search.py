"""The best side of every layer, where each group of layers on the chip has its cost.

Layers that are on the chip beside each other run as one: their steps last as long as the slowest of
them, and what passes between them stays there. So costs belong to groups, all that could run as
one, and a partition is a choice of groups. Where several groups share what the host does meanwhile,
they are one choice together. That is an integer program, solved exactly by HiGHS; for
a chain of layers it is a shortest path, whose linear relaxation has whole solutions, so that the
solver need not branch; limits make it branch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, eye_array, hstack

from has8.errors import BadInput
from mapping.partition.segments import Side

Costs = Mapping[str, float]
"""Amounts by what they are of, such as "energy_uj"; what is left out is 0."""
Layers = frozenset[str]
"""Layers by name."""
TOLERANCE = 1e-9
"""How far, of itself, a sum may be off where it is held to a limit."""
WHOLE = 1e-7
"""How far from 0 and 1 a variable of the relaxation may be."""
SECONDS = 60.0
"""A search takes about so long at most; the gap that is proven until then goes with its answer."""
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
            it saves.
        divide: the groups in which some layers run if they alone are on the chip; what stays on
            the host all the same, as a loop over steps of which a layer is there, is left out.
        fixed: added once if any layer is on the chip; at least 0.
        limits: the most that costs may come to, whatever else limits them.
        pins: layers whose side is given.
        one_of: sets of layers in each of which at most one of ``groups`` is chosen, since what
            several together cost is no sum: those that can be chosen together are one of them.
        beyond: what several groups cost beyond their sum, at least 0; None if nothing.
    """

    layers: tuple[str, ...]
    host: Costs
    groups: Mapping[Layers, Costs]
    divide: Callable[[Layers], Collection[Layers]]
    fixed: Costs = field(default_factory=dict)
    limits: Costs = field(default_factory=dict)
    pins: Mapping[str, Side] = field(default_factory=dict)
    one_of: tuple[Layers, ...] = ()
    beyond: Callable[[Collection[Layers]], Costs] | None = None

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
        groups = tuple(self.divide(frozenset(on_chip)))
        whole = sum(map(len, groups)) == len(on_chip)
        return groups if whole and all(group in self.groups for group in groups) else None

    def totals(self, groups: Iterable[Layers]) -> dict[str, float]:
        """What a partition costs: the definition of what :func:`best` makes least."""
        groups = tuple(groups)
        found = self.summed(groups)
        for name, more in (self.beyond(groups) if self.beyond else {}).items():
            found[name] += more
        return found

    def summed(self, groups: Iterable[Layers]) -> dict[str, float]:
        """What it costs at least: what its groups cost alone."""
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
    seconds: float = SECONDS,
) -> Division | None:
    """The partition at which a weighted sum of costs is least.

    Args:
        costed: the layers.
        objective: the weight of each cost in the sum, at least 0.
        limits: the most that each cost may come to.
        without: partitions that are not to be found, by what is on the chip.
        seconds: after which the best so far is given, with the gap that is proven then.

    Returns:
        None if no partition keeps to pins, loops and limits.

    Raises:
        BadInput: for an objective or a limit of something that nothing costs, or if the time is
            over before any partition was found.
    """
    limits = _stricter(costed.limits, limits or {})
    known = costed.names
    if odd := [name for name in (*objective, *limits) if name not in known]:
        raise BadInput(f"no layer costs {odd[0]!r}: known are {', '.join(known) or 'none'}")
    program, refused = _Program(costed, objective, limits), list(without)
    least: Division | None = None
    end = monotonic() + seconds
    while (bound := program.solved(refused, max(end - monotonic(), 1.0))) is not None:
        groups = costed.divided(bound.on_chip)
        if groups is not None:  # those of the bound, unless it kept apart what would run as one
            division = Division(groups, costed.totals(groups), bound.gap)
            summed = set(groups) == set(bound.groups) and division.totals == bound.totals
            if summed or _within(division.totals, limits):
                least = min(
                    [division, *([least] if least else [])], key=lambda d: _sum(d.totals, objective)
                )
        if least is not None:
            reached, floor = _sum(least.totals, objective), _sum(bound.totals, objective)
            if reached <= floor:
                break
            if monotonic() > end:
                gap = (reached - floor * (1 - bound.gap)) / reached
                return replace(least, gap=max(least.gap, gap))
        refused.append(bound.on_chip)
    return least


def least_product(
    costed: Costed,
    first: str,
    second: str,
    limits: Costs | None = None,
    *,
    without: Collection[Layers] = (),
) -> Division | None:
    """The partition at which the product of two costs is least, such as energy and time.

    Walks the partitions that are best in both, from the least of the first to that of the second,
    and stops where no later one can have a smaller product.

    Args:
        costed: the layers; both costs of every partition are at least 0.
        first, second: names of the costs.
        limits, without: as :func:`best` takes them.
    """
    ideal = best(costed, {second: 1.0}, limits, without=without)
    found: Division | None = None
    for point in front(costed, first, second, limits, without=without):
        if found is None or _product(point, first, second) < _product(found, first, second):
            found = point
        assert ideal is not None
        if point.totals[first] * ideal.totals[second] >= _product(found, first, second):
            break
    return found


def front(
    costed: Costed,
    first: str,
    second: str,
    limits: Costs | None = None,
    *,
    without: Collection[Layers] = (),
) -> Iterator[Division]:
    """Partitions of which no other has less of one cost and not more of the other.

    By growing ``first``; of those that are equal in both, one.

    Args:
        costed: the layers.
        first, second: names of the costs.
        limits, without: as :func:`best` takes them.
    """
    limits = dict(limits or {})
    changes = (abs(costs.get(second, 0.0)) for costs in (*costed.groups.values(), costed.fixed))
    step = RESOLUTION * (max(changes, default=0.0) or 1.0)
    before = np.inf
    while (least := best(costed, {first: 1.0}, limits, without=without)) is not None:
        at = least.totals[first]
        inside = {**limits, first: min(at + TOLERANCE * abs(at), limits.get(first, np.inf))}
        point = best(costed, {second: 1.0}, inside, without=without) or least
        reached = point.totals[second]
        if reached < before:
            yield point
        else:  # the solver took the limit for kept
            step *= 2
        before = min(before, reached)
        limits[second] = before - step


def flips(costed: Costed, on_chip: Layers) -> dict[str, Layers]:
    """What is on the chip if one layer alone is on the other side, by the layer.

    With what has to go along, as in a loop over steps; layers that cannot go are left out.
    """
    found = {}
    for name in costed.layers:
        along = sorted((group for group in costed.groups if name in group), key=len)
        for moved in (frozenset([name]), *along[:1]):
            if costed.divided(on_chip ^ moved) is not None:
                found[name] = on_chip ^ moved
                break
    return found


def _product(division: Division, first: str, second: str) -> float:
    return division.totals[first] * division.totals[second]


def _stricter(one: Costs, two: Costs) -> Costs:
    return {name: min(one.get(name, np.inf), two.get(name, np.inf)) for name in {**one, **two}}


def _within(totals: Costs, limits: Costs) -> bool:
    return all(totals[name] <= most + TOLERANCE * abs(most) for name, most in limits.items())


def _sum(totals: Costs, objective: Costs) -> float:
    return sum(weight * totals[name] for name, weight in objective.items())


class _Program:
    """Variables, 1 for a group on the chip, a layer on the host, and if any group is on the chip.

    Groups may stand beside each other here although they would run as one, so that its least is at
    most that of any partition.
    """

    def __init__(self, costed: Costed, objective: Costs, limits: Costs) -> None:
        self.costed = costed
        hosted = {name for name, side in costed.pins.items() if side == "host"}
        self.groups = [group for group in costed.groups if not group & hosted]
        places = {name: at for at, name in enumerate(costed.layers)}
        count, some = len(places), len(self.groups)
        entries = [(places[name], at) for at, group in enumerate(self.groups) for name in group]
        rows, columns = zip(*entries, strict=True) if entries else ((), ())
        holds = csr_array((np.ones(len(entries)), (rows, columns)), shape=(count, some))
        # each layer is in one group or on the host; a row less the one above has few entries
        once = hstack([holds, eye_array(count), csr_array((count, 1))], format="csr")
        less = eye_array(count) - eye_array(count, k=-1)
        first = np.zeros(count)
        first[0] = 1
        any_group = hstack([csr_array((count, some)), eye_array(count), np.ones((count, 1))])
        self.constraints = [
            LinearConstraint(less @ once, first, first),
            LinearConstraint(any_group, 1, np.inf),
            *(self._limit(*item) for item in limits.items()),
            *map(self._at_most_one, costed.one_of),
        ]
        hosted_by = {"host": 1.0, "chip": 0.0}
        pins = [hosted_by.get(costed.pins.get(name, ""), np.nan) for name in costed.layers]
        low, high = np.nan_to_num(pins, nan=0.0), np.nan_to_num(pins, nan=1.0)
        around = np.zeros(some), np.ones(some)
        self.bounds = Bounds(
            np.concatenate([around[0], low, [0]]), np.concatenate([around[1], high, [1]])
        )
        weights = sum((weight * self._row(name) for name, weight in objective.items()), start=0.0)
        self.weights: NDArray[np.float64] = np.asarray(
            weights / (np.abs(weights).max(initial=0.0) or 1.0)
        )

    def solved(self, without: Iterable[Layers], seconds: float) -> Division | None:
        """The least choice of groups that is none of some partitions; None if there is none."""
        constraints = [*self.constraints, *map(self._other_than, without)]
        for whole in (0, 1):  # without limits the relaxation is mostly whole already
            solved = milp(
                self.weights,
                integrality=np.full(len(self.weights), whole),
                bounds=self.bounds,
                constraints=constraints,
                options={"mip_rel_gap": 0.0, "time_limit": seconds},
            )
            if solved.x is None or np.abs(solved.x - np.rint(solved.x)).max() < WHOLE:
                break
        if solved.x is None:
            if solved.status == 1:
                raise BadInput(f"no partition was found in {seconds:g} seconds: allow more time")
            return None
        chosen = tuple(group for group, on in zip(self.groups, solved.x, strict=False) if on > 0.5)
        return Division(chosen, self.costed.summed(chosen), float(solved.mip_gap or 0.0))

    def _row(self, name: str) -> NDArray[np.float64]:
        """What each variable adds to a cost, on top of that of all layers on the host."""
        groups = [self.costed.groups[group].get(name, 0.0) for group in self.groups]
        hosts = [0.0] * len(self.costed.layers)
        return np.array([*groups, *hosts, self.costed.fixed.get(name, 0.0)])

    def _limit(self, name: str, most: float) -> LinearConstraint:
        """A cost is at most so much."""
        row = self._row(name)
        scale, room = np.abs(row).max(initial=0.0) or 1.0, most - self.costed.host.get(name, 0.0)
        return LinearConstraint(row / scale, -np.inf, room / scale)

    def _at_most_one(self, layers: Layers) -> LinearConstraint:
        """Of the groups within these layers at most one is chosen."""
        inside = [float(group <= layers) for group in self.groups]
        return LinearConstraint(np.array([*inside, *(0.0 for _ in self.costed.layers), 0.0]), 0, 1)

    def _other_than(self, on_chip: Layers) -> LinearConstraint:
        """The partition is not this one."""
        moved = [1.0 if name in on_chip else -1.0 for name in self.costed.layers]
        row = np.array([*(0.0 for _ in self.groups), *moved, 0.0])
        return LinearConstraint(row, 1.0 - moved.count(-1.0), np.inf)
