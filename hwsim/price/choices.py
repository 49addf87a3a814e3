"""What every choice of layers for the chip would cost, by one run with all of them there.

Layers fire alike on either side but for rounding, so that one run tells what crosses and what cores
do in every partition. Each group of layers that could run as one segment is mapped alone and priced
as a whole mapping is, less the price of the host alone. These differences add up: two segments
share no core, and run one after the other. Only the power of the chips does not; it is a sum for a
number of chips. What the host writes to start and stop cores, where there are several segments, is
a sum too. So there is a problem for each number of chips, for one segment and for several, and the
best of all is the best of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache

from has8.errors import BadInput, DoesNotFit
from hwsim.activity import Activity
from hwsim.price.cost import CostReport, estimate
from hwsim.price.timing import barrier_ns
from hwsim.program import Run
from mapping.graph.ir import Graph
from mapping.hosts.schema import Host
from mapping.mapped import Mapped
from mapping.partition.groups import Layers, groups_of
from mapping.partition.rules import PASSED_ON
from mapping.partition.search import Costed, Costs, Division, best, front, least_product
from mapping.partition.segments import Side
from mapping.repartition import layers_of, parted, repartition
from mapping.targets.schema import Target

ENERGY, LATENCY, CORES, RUNS = "energy_uj", "latency_us", "cores", "runs"


@dataclass(frozen=True, slots=True)
class Choices:
    """All partitions of a mapping's layers, with what they cost by one run.

    Args:
        mapped: with all layers on the chip that can be there.
        run: of it.
        host: runs the rest.
        problems: the layers with their costs on one chip, on two, and so on, each for one run on
            the chip and for several. Costs are microjoules of the whole board and its host,
            microseconds, cores and runs.
    """

    mapped: Mapped
    run: Run
    host: Host
    problems: tuple[Costed, ...]

    @property
    def costed(self) -> Costed:
        """The layers on as many chips as there can be."""
        return self.problems[-1]

    def price(self, on_chip: Collection[str]) -> CostReport:
        """The price of a partition if its layers fire as they did in the run."""
        mapped = repartition(self.mapped, on_chip, "snake")
        return estimate(mapped, self.run, self.host)

    def totals(self, on_chip: Collection[str]) -> Costs:
        """What a partition costs as the search has it, on as few chips as it fits on.

        Raises:
            BadInput: if pins or loops over steps say otherwise.
        """
        groups = self.costed.divided(on_chip)
        if groups is None:
            raise BadInput("these layers cannot be on the chip without others, or are pinned")
        every = (costed.totals(groups) for costed in self.problems)
        held = zip(self.problems, every, strict=True)
        return next(
            t for costed, t in held if all(t[n] <= most for n, most in costed.limits.items())
        )

    def best(
        self, objective: str, limits: Costs | None = None, without: Collection[Layers] = ()
    ) -> Division | None:
        """The partition with the least of one cost, or of "edp", energy times latency.

        Of those with equally few cores, the one that takes the least energy. None if none keeps to
        limits, pins and loops; the arguments are those of :func:`mapping.partition.search.best`.
        """

        def of(costed: Costed) -> Division | None:
            if objective == "edp":
                return least_product(costed, ENERGY, LATENCY, limits, without=without)
            if objective == CORES:
                points = front(costed, CORES, ENERGY, limits, without=without)
                return next(points, None)
            return best(costed, {objective: 1.0}, limits, without=without)

        found = [division for division in map(of, self.problems) if division is not None]
        return min(found, key=lambda d: amount(d.totals, objective), default=None)

    def front(self, first: str, second: str, limits: Costs | None = None) -> tuple[Division, ...]:
        """The partitions of which no other has less of one cost and not more of the other."""
        points = [p for costed in self.problems for p in front(costed, first, second, limits)]
        points.sort(key=lambda p: (p.totals[first], p.totals[second]))
        kept: list[Division] = []
        for point in points:
            if not kept or point.totals[second] < kept[-1].totals[second]:
                kept.append(point)
        return tuple(kept)


def amount(totals: Costs, objective: str) -> float:
    """What an objective makes least: a cost, or for "edp" joules times seconds, in 1e-12."""
    return totals[ENERGY] * totals[LATENCY] if objective == "edp" else totals[objective]


def choices_of(
    mapped: Mapped,
    run: Run,
    host: Host,
    sides: Mapping[str, Side] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Choices:
    """What the partitions of a mapping cost, group by group of layers.

    Args:
        mapped: with all layers on the chip that can be there.
        run: of it, from :func:`hwsim.simulate`.
        host: runs the rest; one that was not measured, since a measurement is of one mapping.
        sides: of layers that are pinned to one.
        on_progress: called after each group with (groups done, groups in all).

    Raises:
        BadInput: if no layer is on the chip, or the host was measured.
    """
    layers = layers_of(mapped)
    if not layers:
        raise BadInput(
            "no layer can be on the chip, and has8 check says why: there is nothing to choose"
        )
    if host.measured:
        raise BadInput("a measured host knows one mapping alone: choose by its profile instead")
    activity, *apart = (told(mapped.graph, one) for one in (run.activity, *run.apart))
    run = replace(run, activity=activity, apart=tuple(apart))

    @cache
    def divide(on_chip: Layers) -> tuple[Layers, ...]:
        parts = (frozenset(part.nodes) for part in parted(mapped, on_chip).on_chip)
        return tuple(part & on_chip for part in parts)

    groups = [group for group in groups_of(mapped.graph, layers) if divide(group) == (group,)]
    known = Choices(mapped, run, host, ())
    alone, reports = known.price(()), {}
    for done, group in enumerate(groups):
        try:
            reports[group] = known.price(group)
        except DoesNotFit:  # with what is beside it, it did
            continue
        finally:
            if on_progress is not None:
                on_progress(done + 1, len(groups))
    pins = {name: side for name, side in (sides or {}).items() if name in layers}

    def problem(chips: int, several: bool) -> Costed:
        base, fixed = _base(known, alone, chips)
        each = {group: _costs(report, known, chips, several) for group, report in reports.items()}
        more = {
            group: {name: cost - base.get(name, 0.0) for name, cost in costs.items()}
            for group, costs in each.items()
        }
        limits = {CORES: float(chips * mapped.target.chip.cores)} | ({} if several else {RUNS: 1.0})
        on_host = _costs(alone, known, 0)
        return Costed(layers, on_host, more, divide, fixed, limits, pins)

    chips = range(1, mapped.placement.chips_used + 1)
    problems = (problem(count, several) for count in chips for several in (False, True))
    return replace(known, problems=tuple(problems))


def _base(known: Choices, alone: CostReport, chips: int) -> tuple[Costs, Costs]:
    """What the host alone costs beside chips that are on, and what these add to it once."""
    target, base = known.mapped.target, _costs(alone, known, chips)
    sample_us = target.link.sample_us.value
    on = chips * target.power.reset_uj.value
    on += (_static_w(target, chips) + _idle_w(known.host)) * sample_us
    energy = base[ENERGY] - _costs(alone, known, 0)[ENERGY] + on
    return base, {ENERGY: energy, LATENCY: sample_us}


def _costs(
    report: CostReport, known: Choices, chips: int, several: bool = False
) -> dict[str, float]:
    """What a price would be on so many chips, but for starting and resetting them once.

    Args:
        report: of one segment, or of none.
        known: what it was priced with.
        chips: that are on.
        several: whether there are other segments, so that the host starts and stops its cores.
    """
    latency, energy, target = report.price.latency, report.energy_uj, known.mapped.target
    steps = [segment.steps for segment in latency.segments if segment.side == "chip"]
    accounting, link = target.accounting(), target.link
    barriers = (
        count * barrier_ns(target, accounting, load.routers, chips).value / 1e3
        for count, load in zip(steps, report.loads, strict=True)
    )
    controls = 2.0 * report.cores_used if several else 0.0
    more_us = sum(barriers) - latency.barrier_us.value - latency.sample_us.value
    more_us += controls * link.message_us.value
    time_us, waiting_us = latency.total_us.value + more_us, latency.waiting_us.value + more_us
    by_time = ("used_cores", "other_cores", "embedded", "reset", "waiting")
    rest = sum(part.value for name, part in energy.parts.items() if name not in by_time)
    rest += controls * 2 * link.bits_per_message.value * link.pj_per_bit.value * 1e-6
    total = rest + _static_w(target, chips) * time_us + _idle_w(known.host) * waiting_us
    runs, cores = float(len(report.loads)), float(report.cores_used)
    return {ENERGY: total, LATENCY: time_us, CORES: cores, RUNS: runs}


def _idle_w(host: Host) -> float:
    return 0.0 if host.idle_w is None else host.idle_w.value


def _static_w(target: Target, chips: int) -> float:
    """Watts of chips that are on."""
    return chips * (target.power.static_mw.value + target.power.embedded_mw.value) * 1e-3


def told(graph: Graph, activity: Activity) -> Activity:
    """An activity with the spikes of every node that passes on those of another.

    A chip takes them from where they are made, and a host from the node in front of its layer.
    """
    events = dict(activity.events)
    for node in graph:
        if node.op in PASSED_ON and node.name not in events and node.inputs[0] in events:
            steps = () if node.type.steps is None else (node.type.steps,)
            events[node.name] = events[node.inputs[0]].reshape(*steps, *node.type.shape)
    return replace(activity, events=events)
