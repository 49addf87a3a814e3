"""Which layers belong on the chip: partitions chosen by costs, then mapped, run and priced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from has8 import given
from has8.errors import BadInput, UnknownName
from has8.markup import block, ranges, table
from has8.units import energy as energy_text
from has8.units import percent
from has8.units import time as time_text
from has8.values import check_fields, described, path, value, whole
from hwsim.activity import Activity
from hwsim.alternatives import Alternative, judged
from hwsim.kept_runs import simulate_or_read
from hwsim.names import APART, OBJECTIVES, Objective
from hwsim.price.choices import CORES, ENERGY, LATENCY, Choices, choices_of
from hwsim.program import OnProgress, Run, checked_mapping, checked_samples, sample_axis, simulate
from mapping.hosts.schema import DEFAULT_HOST, Host, load_host
from mapping.mapped import Mapped
from mapping.partition.groups import Layers
from mapping.partition.pins import Pins, called, pinned
from mapping.partition.search import Costs, flips
from mapping.partition.segments import Side
from mapping.repartition import layers_of, repartition

OnStage = Callable[[str], OnProgress]
"""Called with what begins; what it returns is called with (done, in all)."""

COSTS: Mapping[Objective, str] = {
    "energy": ENERGY,
    "latency": LATENCY,
    "cores": CORES,
    "edp": "edp",
}
"""What each objective makes least, by its name in :mod:`hwsim.price.choices`."""
TRIES = 8
"""Partitions that are run in a search for one that keeps to its limits."""
NONE = (
    "none of the partitions that were run keeps to the limits: allow more, or see with has8 "
    "explore what there is"
)
MOST = 6
"""Partitions that are run for a front, beside those with all and no layers on the chip."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a sample and the chip may take, and the least accuracy; None does not limit.

    Args:
        cores, chips: in use.
        latency_us: microseconds of a sample.
        energy_uj: microjoules of a sample, of the whole board with its host.
        accuracy: share of the samples, 0..1.

    Raises:
        BadInput: if one is less than 0, or the accuracy above 1.
    """

    cores: int | None = None
    chips: int | None = None
    latency_us: float | None = None
    energy_uj: float | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        count = (lambda n: n >= 0, "a whole number of at least 0")
        amount = (lambda x: 0 <= x < np.inf, "a number of at least 0")
        share = (lambda x: 0 <= x <= 1, "a share, 0 to 1")
        counts = dict.fromkeys(("cores", "chips"), count)
        amounts = dict.fromkeys(("latency_us", "energy_uj"), amount)
        check_fields(self, {**counts, **amounts, "accuracy": share})

    def costs(self, cores_of_chip: int) -> dict[str, float]:
        """Those of costs."""
        most = {CORES: self.cores, LATENCY: self.latency_us, ENERGY: self.energy_uj}
        found = {name: float(limit) for name, limit in most.items() if limit is not None}
        if self.chips is not None:
            found[CORES] = min(found.get(CORES, np.inf), self.chips * cores_of_chip)
        return found

    def hold(self, one: Alternative) -> bool:
        """Whether a partition that was run keeps to them."""
        cost = one.cost
        pairs = (
            (float(cost.cores_used), self.cores),
            (float(cost.chips_used), self.chips),
            (cost.latency_us.value, self.latency_us),
            (one.board_uj.value, self.energy_uj),
        )
        right = self.accuracy is None or (
            one.accuracy is not None and one.accuracy >= self.accuracy
        )
        return right and all(most is None or value <= most for value, most in pairs)


@dataclass(frozen=True, slots=True)
class Choice:
    """A partition that was mapped, run and priced.

    Args:
        on_chip: its layers on the chip, by their neurons.
        mapped: its mapping.
        expected: what it costs by the run with all layers on the chip.
        measured: what it costs by its own.
    """

    on_chip: tuple[str, ...]
    mapped: Mapped
    expected: Costs
    measured: Alternative

    @property
    def amounts(self) -> tuple[float, float, float, float]:
        """Energy, latency, cores and errors: the less, the better."""
        one = self.measured
        wrong = 0.0 if one.accuracy is None else 1 - one.accuracy
        return one.board_uj.value, one.cost.latency_us.value, float(one.cost.cores_used), wrong

    @property
    def off(self) -> float:
        """How far energy or latency was expected wrongly, the larger part of what was measured."""
        energy, latency, *_ = self.amounts
        pairs = (self.expected[ENERGY], energy), (self.expected[LATENCY], latency)
        return max(abs(a - b) / b for a, b in pairs if b) if energy or latency else 0.0


@dataclass(frozen=True, slots=True)
class Exploration:
    """Partitions of one model between host and chip.

    Args:
        layers: that can be on the chip, by their neurons.
        choices: all that were run.
        front: of these, those within the limits of which no other takes less energy, latency, cores
            or errors and not more of the rest; by growing energy.
        best: that of the front with the least of the objective.
        objective: what that was.
        flips: what moving one layer alone would add to the best one's costs, by the layer.
        groups: of layers that were priced.
        gap: how far, of the objective, a better partition could be below, as proven.
    """

    layers: tuple[str, ...]
    choices: tuple[Choice, ...]
    front: tuple[Choice, ...]
    best: Choice
    objective: Objective
    flips: Mapping[str, Costs]
    groups: int
    gap: float

    @property
    def with_chip(self) -> Choice | None:
        """The one with a layer on the chip that takes the least energy."""
        some = (choice for choice in self.choices if choice.on_chip)
        return min(some, key=lambda choice: choice.amounts, default=None)

    def _repr_html_(self) -> str:
        """The front with its energies, for notebooks."""
        rows, bars = [], []
        for choice in self.front:
            one, layers = choice.measured, ", ".join(choice.on_chip) or "none"
            right = "" if one.accuracy is None else percent(one.accuracy, 2)
            cost, board = one.cost, one.board_uj
            best = " (best)" if choice is self.best else ""
            rows.append(
                (
                    one.name,
                    f"{layers}{best}",
                    time_text(cost.latency_us),
                    f"{cost.cores_used:,}",
                    right,
                )
            )
            bars.append((one.name, board.low, board.value, board.high))
        head = ("", "on the chip", "latency", "cores", "right")
        return block(
            "Energy of a sample on the front", ranges(bars, energy_text), table(head, rows, left=2)
        )


def explore(
    mapped: Mapped,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    host: str | Path | Host = DEFAULT_HOST,
    objective: Objective = "energy",
    limits: Limits | None = None,
    pins: Pins | None = None,
    most: int = MOST,
    batch_size: int = 128,
    keep: str | Path | None = None,
    on_stage: OnStage | None = None,
) -> Exploration:
    """The front of partitions over energy, latency, cores and accuracy, each of them measured.

    All partitions are priced by one run with all layers on the chip; those that this finds best
    are mapped and run themselves. Chip segments take turns in the run mode "gated".

    Args:
        mapped: from :func:`mapping.map_model`, with all layers on the chip that can be there.
        x: samples, as :func:`hwsim.simulate` takes them.
        labels: ``int64[N]``, the right classes; without them there is no accuracy.
        host: as :func:`hwsim.estimate` takes it; not a measured one.
        objective: what the best one has the least of, or the most in "accuracy".
        limits: of the best one and the front.
        pins: layers whose side is given, as :func:`mapping.map_model` takes them.
        most: partitions to run beside those with all and no layers on the chip, at least 1.
        batch_size: samples at a time.
        keep: folder in which each run is kept when it is done, and from which it is taken if it is
            there; None keeps nothing.
        on_stage: called with what begins; what it returns is called with (done, in all).

    Raises:
        BadInput: if no layer is on the chip, no partition keeps to the limits, or an argument does
            not fit.
        UnknownName, TargetError: if there is no such objective, or the host cannot be read.
    """
    most = whole(most, "most", 1)
    folder = None if keep is None else path(keep, "the folder of runs")
    search = _Search(mapped, x, labels, host, objective, limits, pins, batch_size, on_stage, folder)
    return search.front(most)


def choose(
    mapped: Mapped,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    host: str | Path | Host = DEFAULT_HOST,
    objective: Objective = "energy",
    limits: Limits | None = None,
    pins: Pins | None = None,
    batch_size: int = 128,
    on_stage: OnStage | None = None,
) -> tuple[Choice, Run]:
    """The partition with the least of an objective that keeps to limits when it is run.

    Returns:
        The partition, and its run with some samples apart.

    The arguments and the errors are those of :func:`explore`.
    """
    return _Search(mapped, x, labels, host, objective, limits, pins, batch_size, on_stage).chosen()


class _Search:
    """Partitions of one mapping, run as they are asked for."""

    def __init__(
        self,
        mapped: Mapped,
        x: Tensor,
        labels: Tensor | None,
        host: str | Path | Host,
        objective: Objective,
        limits: Limits | None,
        pins: Pins | None,
        batch_size: int,
        on_stage: OnStage | None,
        keep: Path | None = None,
    ) -> None:
        checked_mapping(mapped)
        x = checked_samples(mapped, x, batch_size, (), 0, None)
        if given.instance(objective, str, "an objective") not in OBJECTIVES:
            raise UnknownName("objective", objective, OBJECTIVES)
        limits = Limits() if limits is None else limits
        self.objective, self.limits = objective, given.instance(limits, Limits, "hwsim.Limits")
        if labels is not None:
            samples, classes = x.shape[sample_axis(mapped)], mapped.graph.output.type.shape[-1]
            labels = given.labels(labels, samples, classes)
        elif objective == "accuracy" or limits.accuracy is not None:
            raise BadInput("accuracy needs labels")
        if on_stage is not None and not callable(on_stage):
            raise BadInput(f"on_stage must be a function, or None, not {described(on_stage)}")
        self.x, self.labels, self.batch_size, self.keep = x, labels, batch_size, keep
        self.host = host if isinstance(host, Host) else load_host(host)
        self.stage = on_stage or (lambda _: lambda done, total: None)
        pins = given.instance({} if pins is None else pins, dict, "pins as a dictionary")
        sides = pinned(mapped.graph, value(pins, dict[str, Side], "pins"), {})
        run = self._run(mapped, "all on the chip")
        pricing = self.stage("pricing partitions")
        self.choices: Choices = choices_of(mapped, run, self.host, sides, pricing)
        self.layers = layers_of(mapped)
        self.gap = 0.0
        self.most = self.limits.costs(mapped.target.chip.cores)

    def _run(self, mapped: Mapped, name: str) -> Run:
        done, size = self.stage(name), self.batch_size
        if self.keep is None:
            return simulate(mapped, self.x, batch_size=size, apart=APART, on_progress=done)
        kept = self.keep, mapped, self.x
        return simulate_or_read(*kept, batch_size=size, apart=APART, on_progress=done)

    def measured(self, on_chip: Layers) -> tuple[Choice, Run]:
        """A partition, mapped and run; the whole one is as it is."""
        names = tuple(name for name in self.layers if name in on_chip)
        name = called(self.choices.mapped.graph, names, self.layers)
        if on_chip == frozenset(self.layers):
            mapped, run = self.choices.mapped, self.choices.run
        else:
            mapped = repartition(self.choices.mapped, names)
            run = self._run(mapped, name)
        one = judged(name, mapped, run, self.labels, host=self.host)
        return Choice(names, mapped, self.choices.totals(on_chip), one), run

    def chosen(self) -> tuple[Choice, Run]:
        """The best that keeps to the limits."""
        best: tuple[Choice, Run] | None = None
        for choice, run in self._in_turn():
            if self.limits.hold(choice.measured):
                if self.objective != "accuracy":
                    return choice, run
                if best is None or self.rank(choice) < self.rank(best[0]):
                    best = choice, run
        if best is None:
            raise BadInput(NONE)
        return best

    def _in_turn(self) -> Iterator[tuple[Choice, Run]]:
        """Partitions that were run, the one with the least of the objective first.

        Accuracy is not known before they are run: for it those of the front of other costs.
        """
        if self.objective == "accuracy":
            yield from map(self.measured, self.wanted(MOST))
            return
        tried: list[Layers] = []
        while len(tried) < TRIES:
            division = self.choices.best(COSTS[self.objective], self.most, tried)
            if division is None:
                return
            tried.append(division.on_chip)
            yield self.measured(division.on_chip)

    def rank(self, choice: Choice) -> tuple[float, ...]:
        """What the best one has the least of; of equals, energy."""
        energy, latency, cores, wrong = choice.amounts
        first = {"energy": energy, "latency": latency, "cores": cores, "accuracy": wrong}
        return first.get(self.objective, energy * latency), energy

    def front(self, most: int) -> Exploration:
        """Partitions with all and no layers on the chip, and the most promising of the others."""
        choices = [_light(self.measured(on_chip)[0]) for on_chip in self.wanted(most)]
        held = [choice for choice in choices if self.limits.hold(choice.measured)]
        if not held:
            raise BadInput(NONE)
        front = sorted(_undominated(held), key=lambda choice: choice.amounts)
        best = min(front, key=self.rank)
        moves = flips(self.choices.costed, frozenset(best.on_chip))
        totals = {name: self.choices.totals(on_chip) for name, on_chip in moves.items()}
        return Exploration(
            self.layers,
            tuple(choices),
            tuple(front),
            best,
            self.objective,
            {
                name: {cost: amount - best.expected[cost] for cost, amount in total.items()}
                for name, total in totals.items()
            },
            len(self.choices.costed.groups),
            self.gap,
        )

    def wanted(self, most: int) -> list[Layers]:
        """Partitions to run, each once, as far as pins and loops let them be."""
        ends: list[Layers] = [frozenset(self.layers), frozenset()]
        found = dict.fromkeys(end for end in ends if self.choices.costed.divided(end) is not None)
        count = len(found) + most
        avoided = [frozenset[str]()] if frozenset[str]() in found else []
        for without in ([], avoided):
            for cost in dict.fromkeys((COSTS.get(self.objective, ENERGY), *COSTS.values())):
                division = self.choices.best(cost, self.most, without)
                if division is not None and len(found) < count:
                    found.setdefault(division.on_chip)
                    self.gap = max(self.gap, division.gap)
        for first, second in ((ENERGY, LATENCY), (ENERGY, CORES), (LATENCY, CORES)):
            points = self.choices.front(first, second, self.most)
            for at in np.linspace(0, len(points) - 1, min(most, len(points))).round():
                if len(found) < count:
                    found.setdefault(points[int(at)].on_chip)
        return list(found)


def _light(choice: Choice) -> Choice:
    """A partition without the counts of single neurons, which take much memory."""
    cost = choice.measured.cost
    nothing = Activity(cost.samples, {}, {}, {})
    cost = replace(cost, work=replace(cost.work, activity=nothing, apart=()))
    return replace(choice, measured=replace(choice.measured, cost=cost))


def _undominated(choices: Sequence[Choice]) -> Iterator[Choice]:
    """Those of which no other has less of one amount and not more of the others; of equals one."""
    for place, choice in enumerate(choices):
        others = [
            other
            for at, other in enumerate(choices)
            if all(a <= b for a, b in zip(other.amounts, choice.amounts, strict=True))
            and (other.amounts != choice.amounts or at < place)
        ]
        if not others:
            yield choice
