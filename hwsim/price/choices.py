"""What every choice of layers for the chip would cost, by one run with all of them there.

Layers fire alike on either side but for rounding, so that one run tells what crosses and what cores
do in every partition. Each group of layers that could run as one segment is mapped alone and priced
as a whole mapping is, less the price of the host alone. These differences add up: two segments
share no core, and run one after the other. Only the power of the chips does not; it is a sum for a
number of chips. What the host writes to start and stop cores, where there are several segments, is
a sum too. So there is a problem for each number of chips, for one segment and for several, and the
best of all is the best of theirs. What the host does while chips work adds up over parts of the
network that wait for each other (:mod:`hwsim.price.meanwhile`); several segments of one such part
are a choice of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain

from has8.errors import BadInput, DoesNotFit
from hwsim.activity import Activity
from hwsim.price.cost import CostReport, estimate
from hwsim.price.meanwhile import REGION, Meanwhile, subsets
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
from mapping.targets.figures import Figure
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
    def segments(on_chip: Layers) -> tuple[Layers, ...]:
        return tuple(frozenset(part.nodes) for part in parted(mapped, on_chip).on_chip)

    def divide(on_chip: Layers) -> tuple[Layers, ...]:
        return tuple(nodes & on_chip for nodes in segments(on_chip))

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
    macs = {layer.name: layer.host_macs for layer in alone.layers}
    shared = Meanwhile(mapped.graph, layers, macs, host)
    beside = {group: shared.beside_us(*segments(group)) for group in reports}
    small = tuple(region for region in shared.regions if len(region) <= REGION)
    joint = [
        (subset, parts)
        for subset in chain.from_iterable(map(subsets, small))
        for parts in [divide(subset)]
        if len(parts) > 1 and reports.keys() >= set(parts) and sum(map(len, parts)) == len(subset)
    ]

    def units(on_chip: Layers) -> Iterator[Layers]:
        parts = divide(on_chip)
        for region in small:
            inside = [part for part in parts if part <= region]
            if inside:
                yield frozenset().union(*inside)
        yield from (part for part in parts if not any(part <= region for region in small))

    def problem(chips: int, several: bool) -> Costed:
        base, fixed = _base(known, alone, chips)
        runs = {group: _run_us(report, known, chips, several) for group, report in reports.items()}
        meanwhile = {group: min(us, beside[group]) for group, us in runs.items()}
        watts = _static_w(mapped.target, chips) + _idle_w(host)

        def less_us(parts: Collection[Layers]) -> float:
            """What groups have less of the host's work than each would alone."""
            there = {segments(part)[0]: runs[part] for part in parts}
            return max(sum(meanwhile[part] for part in parts) - shared.us(there), 0.0)

        def costing(us: float) -> Costs:
            return {LATENCY: us, ENERGY: us * watts}

        def beyond(chosen: Collection[Layers]) -> Costs:
            """What choices of which several have layers of one region cost beyond their sum."""
            apart = all(sum(bool(one & region) for one in chosen) < 2 for region in shared.regions)
            if apart or not several:
                return {}
            listed = sum(less_us(parts) for one, parts in joint if one in chosen)
            every = [part for one in chosen for part in divide(one)]
            return costing(max(less_us(every) - listed, 0.0))

        added = {
            group: _less(_costs(report, known, chips, several, meanwhile[group]), base)
            for group, report in reports.items()
        }
        for subset, parts in joint:
            more = costing(less_us(parts) if several else 0.0)
            added[subset] = _sum([*(added[part] for part in parts), more])
        limits = {CORES: float(chips * mapped.target.chip.cores)} | ({} if several else {RUNS: 1.0})
        on_host = _costs(alone, known, 0)
        return Costed(
            *(layers, on_host, added, lambda on_chip: tuple(units(on_chip)), fixed, limits, pins),
            one_of=small,
            beyond=beyond if shared.regions else None,
        )

    chips = range(1, mapped.placement.chips_used + 1)
    problems = (problem(count, several) for count in chips for several in (False, True))
    return replace(known, problems=tuple(problems))


def _less(costs: Costs, base: Costs) -> dict[str, float]:
    return {name: cost - base.get(name, 0.0) for name, cost in costs.items()}


def _sum(every: Sequence[Costs]) -> dict[str, float]:
    return {name: sum(costs.get(name, 0.0) for costs in every) for name in every[0]}


def _base(known: Choices, alone: CostReport, chips: int) -> tuple[Costs, Costs]:
    """What the host alone costs beside chips that are on, and what these add to it once."""
    target, base = known.mapped.target, _costs(alone, known, chips)
    sample_us = target.link.sample_us.value
    on = chips * target.power.reset_uj.value
    on += (_static_w(target, chips) + _idle_w(known.host)) * sample_us
    energy = base[ENERGY] - _costs(alone, known, 0)[ENERGY] + on
    return base, {ENERGY: energy, LATENCY: sample_us}


def _costs(
    report: CostReport, known: Choices, chips: int, several: bool = False, meanwhile: float = 0.0
) -> dict[str, float]:
    """What a price would be on so many chips, but for starting and resetting them once.

    Args:
        report: of one segment, or of none.
        known: what it was priced with.
        chips: that are on.
        several: whether there are other segments, so that the host starts and stops its cores.
        meanwhile: microseconds in which the host computes while the segment runs.
    """
    energy, link = report.energy_uj, known.mapped.target.link
    waiting_us = _run_us(report, known, chips, several) - meanwhile
    time_us = waiting_us + _known_us(report.price.latency.host_us)
    by_time = ("used_cores", "other_cores", "embedded", "reset", "waiting")
    rest = sum(part.value for name, part in energy.parts.items() if name not in by_time)
    bits = 2 * _controls(report, several) * link.bits_per_message.value  # at both ends
    rest += bits * link.pj_per_bit.value * 1e-6
    static_w = _static_w(known.mapped.target, chips)
    total = rest + static_w * time_us + _idle_w(known.host) * waiting_us
    runs, cores = float(len(report.loads)), float(report.cores_used)
    return {ENERGY: total, LATENCY: time_us, CORES: cores, RUNS: runs}


def _run_us(report: CostReport, known: Choices, chips: int, several: bool) -> float:
    """Microseconds of a segment's run on so many chips, from its exchange to its last message."""
    latency, target = report.price.latency, known.mapped.target
    steps = [segment.steps for segment in latency.segments if segment.side == "chip"]
    barriers = (
        count * barrier_ns(target, target.accounting(), load.routers, chips).value / 1e3
        for count, load in zip(steps, report.loads, strict=True)
    )
    parts = latency.chip_us, latency.management_us, latency.messages_us, latency.exchange_us
    controls_us = _controls(report, several) * target.link.message_us.value
    return sum(part.value for part in parts) + sum(barriers) + controls_us


def _controls(report: CostReport, several: bool) -> float:
    """Writes that start and stop the cores of a segment."""
    return 2.0 * report.cores_used if several else 0.0


def _known_us(time: Figure | None) -> float:
    return 0.0 if time is None else time.value


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
