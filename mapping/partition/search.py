"""The best side of every layer, where costs are sums over layers and over spikes that cross.

An integer program, solved exactly by HiGHS. Without limits it is a minimum cut, whose linear
relaxation has whole solutions, so that the solver need not branch; limits make it branch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from has8.errors import BadInput
from mapping.partition.segments import Side

Costs = Mapping[str, float]
"""Amounts by what they are of, such as "energy_uj"; what is left out is 0."""
TOLERANCE = 1e-9
"""How far, of itself, a sum may be off where it is held to a limit."""
RESOLUTION = 1e-5
"""Sums that differ by less than this part of the largest single cost are one on a front: the solver
keeps to limits as far as a tenth of it."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """Spikes of one source that some layers take, and what it costs to bring them across.

    Args:
        source: the layer that fires; None for the host, such as an encoder.
        readers: the layers that take them; None for the host, such as a decoder.
        out: paid once if the source is on the chip and a reader is on the host; at least 0.
        into: paid once if the source is on the host and a reader is on the chip; at least 0.
    """

    source: str | None
    readers: tuple[str | None, ...]
    out: Costs = field(default_factory=dict)
    into: Costs = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Costed:
    """Layers that are to be divided between host and chip, with all that it costs.

    Args:
        host: of each layer by name, what it costs on the host.
        chip: the same on the chip.
        crossings: spikes between layers.
        fixed: paid once if any layer is on the chip; at least 0.
        together: layers of loops over steps, which go to one side.
        pins: layers whose side is given.
    """

    host: Mapping[str, Costs]
    chip: Mapping[str, Costs]
    crossings: tuple[Crossing, ...] = ()
    fixed: Costs = field(default_factory=dict)
    together: tuple[tuple[str, ...], ...] = ()
    pins: Mapping[str, Side] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """What is paid for."""
        every = [*self.host.values(), *self.chip.values(), self.fixed]
        every += [costs for c in self.crossings for costs in (c.out, c.into)]
        return tuple(sorted({name for costs in every for name in costs}))

    def allows(self, on_chip: Collection[str]) -> bool:
        """Whether layers may be on the chip, all others on the host: pins and loops say so."""
        pinned = all((side == "chip") == (name in on_chip) for name, side in self.pins.items())
        return pinned and all(len({n in on_chip for n in loop}) == 1 for loop in self.together)

    def totals(self, on_chip: Collection[str]) -> dict[str, float]:
        """What a partition costs: the definition of what :func:`best` makes least."""
        paid = [self.chip[n] if n in on_chip else self.host[n] for n in self.host]
        if on_chip:
            paid.append(self.fixed)
        for crossing in self.crossings:
            ends = {reader in on_chip for reader in crossing.readers}
            if crossing.source in on_chip and False in ends:
                paid.append(crossing.out)
            if crossing.source not in on_chip and True in ends:
                paid.append(crossing.into)
        return {name: sum(costs.get(name, 0.0) for costs in paid) for name in self.names}


@dataclass(frozen=True, slots=True)
class Division:
    """Layers on the chip, all others on the host.

    Args:
        on_chip: by name.
        totals: what it costs.
        gap: how far, of the objective, a better one could be below it, as proven; 0 if none is.
    """

    on_chip: frozenset[str]
    totals: Mapping[str, float]
    gap: float = 0.0


def best(
    costed: Costed, objective: Costs, limits: Costs | None = None, *, seconds: float = 60.0
) -> Division | None:
    """The partition at which a weighted sum of costs is least.

    Args:
        costed: the layers.
        objective: the weight of each cost in the sum, at least 0.
        limits: the most that each cost may come to.
        seconds: after which the best so far is given, with the gap that is proven then.

    Returns:
        None if no partition keeps to pins, loops and limits.

    Raises:
        BadInput: for an objective or a limit of something that nothing costs, or if the time is
            over before any partition was found.
    """
    limits = limits or {}
    known = costed.names
    if odd := [name for name in (*objective, *limits) if name not in known]:
        raise BadInput(f"no layer costs {odd[0]!r}: known are {', '.join(known) or 'none'}")
    program = _Program(costed)
    weights = sum((weight * program.row(name) for name, weight in objective.items()), start=0.0)
    scale = float(np.abs(weights).max(initial=0.0)) or 1.0
    solved = milp(
        weights / scale,
        integrality=np.ones(program.size),
        bounds=program.bounds,
        constraints=[*program.constraints, *(program.limit(*item) for item in limits.items())],
        options={"mip_rel_gap": 0.0, "time_limit": seconds},
    )
    if solved.x is None:
        if solved.status == 1:
            raise BadInput(f"no partition was found in {seconds:g} seconds: allow more time")
        return None
    on_chip = frozenset(n for n, at in program.layers.items() if solved.x[at] > 0.5)
    return Division(on_chip, costed.totals(on_chip), float(solved.mip_gap or 0.0))


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
    """What a partition would cost if one layer alone, or its loop, were on the other side.

    Pinned layers are left out.
    """
    loops = {name: loop for loop in costed.together for name in loop}
    found = {}
    for name in costed.host:
        moved = division.on_chip ^ frozenset(loops.get(name, (name,)))
        if costed.allows(moved):
            found[name] = costed.totals(moved)
    return found


def _product(division: Division, first: str, second: str) -> float:
    return division.totals[first] * division.totals[second]


class _Program:
    """Variables, 1 where a layer is on the chip or a cost is paid, and what holds between them."""

    def __init__(self, costed: Costed) -> None:
        self.costed = costed
        self.layers = {name: at for at, name in enumerate(costed.host)}
        self.paid: list[Costs] = []  # by variable, behind those of the layers
        rules: list[tuple[int | None, int | None, int]] = []  # from, to, the one that pays
        any_layer = self._pays(costed.fixed)
        rules += [(at, None, any_layer) for at in self.layers.values()]
        for crossing in costed.crossings:
            source = self._place(crossing.source)
            readers = [self._place(reader) for reader in crossing.readers]
            for costs, ends in (
                (crossing.out, [(source, reader) for reader in readers]),
                (crossing.into, [(reader, source) for reader in readers]),
            ):
                pays = self._pays(costs)
                rules += [(start, end, pays) for start, end in ends if start is not None]
        self.size = len(self.layers) + len(self.paid)
        self.constraints = [self._at_most(rules)] if rules else []
        for name, first in ((n, loop[0]) for loop in costed.together for n in loop[1:]):
            row = np.zeros(self.size)
            row[self.layers[name]], row[self.layers[first]] = 1, -1
            self.constraints.append(LinearConstraint(row, 0, 0))
        low, high = np.zeros(self.size), np.ones(self.size)
        for name, side in costed.pins.items():
            low[self.layers[name]] = high[self.layers[name]] = side == "chip"
        self.bounds = Bounds(low, high)

    def _place(self, name: str | None) -> int | None:
        """The variable of a layer; None for the host, which is never on the chip."""
        return None if name is None else self.layers[name]

    def _pays(self, costs: Costs) -> int:
        self.paid.append(costs)
        return len(self.layers) + len(self.paid) - 1

    def _at_most(self, rules: list[tuple[int | None, int | None, int]]) -> LinearConstraint:
        """For each rule: from - to - pays <= 0."""
        entries = [
            (row, at, value)
            for row, rule in enumerate(rules)
            for at, value in zip(rule, (1.0, -1.0, -1.0), strict=True)
            if at is not None
        ]
        rows, columns, values = zip(*entries, strict=True)
        matrix = csr_array((values, (rows, columns)), shape=(len(rules), self.size))
        return LinearConstraint(matrix, -np.inf, 0)

    def row(self, name: str) -> NDArray[np.float64]:
        """What each variable adds to a cost, on top of that of all layers on the host."""
        host, chip = self.costed.host, self.costed.chip
        moved = [chip[n].get(name, 0.0) - host[n].get(name, 0.0) for n in self.layers]
        return np.array([*moved, *(costs.get(name, 0.0) for costs in self.paid)])

    def largest(self, name: str) -> float:
        """The most that one variable changes a cost by, or 1 if none does."""
        return float(np.abs(self.row(name)).max(initial=0.0)) or 1.0

    def limit(self, name: str, most: float) -> LinearConstraint:
        """A cost is at most so much."""
        base = sum(costs.get(name, 0.0) for costs in self.costed.host.values())
        row, scale = self.row(name), self.largest(name)
        return LinearConstraint(row / scale, -np.inf, (most - base) / scale)
