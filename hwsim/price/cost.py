"""What one sample costs: exact counts times the prices of target and host.

Every price is data with a source, and whatever is assumed or left out is a sentence in
``CostReport.assumptions``. Published prices of one chip disagree, so each accounting of the
target gives a price of its own; the target's default one is the answer unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from has8 import given
from has8.errors import BadInput, UnknownName
from has8.markup import block, ranges, table
from has8.units import between, count, energy, many, time
from hwsim.activity import Activity, Overflow
from hwsim.names import DEFAULT_RUN_MODE, DEFAULT_TIMING, RUN_MODES, TIMINGS, RunMode, Timing
from hwsim.price.assumptions import Assumption, assumptions
from hwsim.price.breakeven import BreakEven, activity_crossing, batch_crossing, price_crossing
from hwsim.price.counts import (
    BoundaryCounts,
    LayerCounts,
    PopulationCounts,
    boundary_counts,
    layer_counts,
    not_counted,
    population_counts,
)
from hwsim.price.draws import Draws, draws_of, share_below
from hwsim.price.energy import Energy, chip_energy_pj, convention_uj, joined_events
from hwsim.price.event_timing import event_timing
from hwsim.price.latency import Latency, latency, run_tasks
from hwsim.price.steps import Step, steps_of
from hwsim.price.timeline import Task
from hwsim.price.timing import MeanTiming, TimingModel, host_macs, launches_of
from hwsim.price.traffic import SegmentLoad, segment_loads, sent_by_port
from hwsim.program import Run, checked_mapping
from mapping.graph.ops import OPS
from mapping.hosts.schema import ALONE, DEFAULT_HOST, Host, load_host
from mapping.mapped import Mapped
from mapping.partition.grading import ungraded
from mapping.partition.packing import unpacked
from mapping.targets.figures import Figure
from mapping.targets.prices import Accounting, Event, HostLink
from mapping.targets.sheets import with_figures

CONVENTION = "horowitz-45nm"
"""The host profile with the constants that most papers on spiking networks use."""


@dataclass(frozen=True, slots=True)
class Price:
    """What one sample costs by one accounting of the target."""

    energy_uj: Energy
    latency: Latency

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All parts of both."""
        times = self.latency.parts_us.values()
        return *self.energy_uj.parts.values(), *(time for time in times if time is not None)


@dataclass(frozen=True, slots=True)
class HostOnly:
    """What one sample would cost if the host ran every layer, in all steps.

    Args:
        macs: dense multiply-accumulates.
        macs_uj: of these, in microjoules; of all that it does, where that was measured.
        launching_uj: of starting operations, in microjoules; 0 if the host's power is not known.
        latency_us: microseconds; None if the host's speed is not known.
        complete: whether the energies of host and board are; not if what the host draws while it
            starts operations and waits is not known.
    """

    macs: int
    macs_uj: Figure
    launching_uj: Figure
    latency_us: Figure | None
    complete: bool = True

    @property
    def energy_uj(self) -> Figure:
        """All of it, in microjoules."""
        return self.macs_uj + self.launching_uj

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Its prices that are known."""
        return (self.energy_uj, *(() if self.latency_us is None else (self.latency_us,)))


@dataclass(frozen=True, slots=True)
class Driver:
    """How far the range of one entry of target or host alone moves the energy of a sample.

    Args:
        figure: the entry.
        low: microjoules of the whole board where all others have their values.
        high: of the same.
    """

    figure: Figure
    low: float
    high: float


@dataclass(frozen=True, repr=False)
class CostReport:
    """Counts over all samples of a run, and prices of one sample.

    Prices are figures: each has a value, the range of it, and the entries of target and host that
    it rests on.

    Args:
        samples: of the run; the counts of what follows are sums over these unless said
            otherwise.
        target: the chip's name.
        host: the host profile's name.
        cores_used: neuron cores.
        chips_used: chips.
        layers: operations of each convolution and linear layer.
        not_counted: nodes on the host whose operations no rule counts; each costs its start.
        populations: neuron updates of each layer on the chip.
        boundaries: spikes between host and chip, and biases that the host writes.
        loads: messages, hops, and the work of each core in each step, by run on the chip.
        run_mode: how chip segments take turns, one of :data:`hwsim.names.RUN_MODES`.
        timing: how long a chip step is, one of :data:`hwsim.names.TIMINGS`.
        prices: of one sample, by accounting.
        default_accounting: the target's.
        host_only: the same model without the chip.
        convention_uj: microjoules of one sample by the convention of the literature: a constant
            for each dense MAC and for each synaptic operation. No measurement.
        overflow: registers on the chip that left their range.
        assumptions: what the prices rest on, and what they leave out.
        references: the full titles of the short names that the assumptions' sources use.
        work: what was priced, to be priced again otherwise.
    """

    samples: int
    target: str
    host: str
    cores_used: int
    chips_used: int
    layers: tuple[LayerCounts, ...]
    not_counted: tuple[str, ...]
    populations: tuple[PopulationCounts, ...]
    boundaries: tuple[BoundaryCounts, ...]
    loads: tuple[SegmentLoad, ...]
    run_mode: RunMode
    timing: Timing
    prices: Mapping[str, Price]
    default_accounting: str
    host_only: HostOnly
    convention_uj: Figure
    overflow: Overflow
    assumptions: tuple[Assumption, ...]
    references: Mapping[str, str]
    work: _Work = field(compare=False)

    @cached_property
    def drivers(self) -> tuple[Driver, ...]:
        """What makes the range of its energy, by the default accounting, the widest first.

        Found by pricing the board again for each entry, when first asked for.
        """
        return _drivers(self.work, self.energy_uj.total)

    @cached_property
    def draws(self) -> Mapping[str, Draws]:
        """What a sample costs by the default accounting in draws of all entries at once.

        ``float64[256]`` by name: microjoules of "events", "cores" (these and what the cores in use
        draw), "total" and "host_only", and microseconds as "latency". The same draw has the same
        entries in all reports, so that two can be compared draw by draw. Found by pricing again and
        again, when first asked for.
        """
        figures = (*self.price.figures, *self.host_only.figures)
        return _draws(self.work, frozenset().union(*(figure.cited for figure in figures)))

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """What each chip step waits for, by the default accounting, in the order of execution."""
        work, accounting = self.work, self.work.mapped.target.accounting()
        return tuple(steps_of(work.mapped, self.loads, self.samples, accounting, work.timing))

    @cached_property
    def break_even(self) -> tuple[BreakEven, ...]:
        """Where the board costs as much as the host alone, by the default accounting.

        Found by pricing both again and again, when first asked for.
        """
        return _break_even(self.work) if self.loads else ()

    @property
    def other_modes(self) -> dict[RunMode, Price]:
        """The price in other run modes, by the default accounting, of several chip segments.

        Those in which the mapping cannot run are left out. Counted and priced anew at each call.
        """
        if len(self.work.mapped.chip_segments) < 2:
            return {}
        return dict(_other_modes(self.work))

    @property
    def pays(self) -> float:
        """In which share of the draws the board takes less energy than the host alone, 0..1."""
        return share_below(self.draws["total"], self.draws["host_only"])

    @property
    def price(self) -> Price:
        """The price by the target's default accounting."""
        return self.prices[self.default_accounting]

    @property
    def energy_uj(self) -> Energy:
        """Microjoules of one sample by the target's default accounting."""
        return self.price.energy_uj

    @property
    def latency_us(self) -> Figure:
        """Microseconds of one sample by the target's default accounting."""
        return self.price.latency.total_us

    @property
    def host_macs(self) -> int:
        """Dense multiply-accumulates of one sample on the host, as the model has them."""
        return sum(layer.host_macs for layer in self.layers if layer.side == "host")

    @property
    def synops(self) -> float:
        """Synaptic operations of one sample on the chip."""
        return self._mean(layer.synops for layer in self.layers if layer.side == "chip")

    @property
    def effective_macs(self) -> float:
        """NeuroBench's ``Effective_MACs`` of one sample: layers that values feed."""
        return self._mean(layer.effective for layer in self.layers if not layer.spiking)

    @property
    def effective_acs(self) -> float:
        """NeuroBench's ``Effective_ACs`` of one sample: layers that spikes feed."""
        return self._mean(layer.effective for layer in self.layers if layer.spiking)

    @property
    def dense(self) -> int:
        """NeuroBench's ``Dense`` of one sample: all layers, nothing skipped but padding."""
        return sum(layer.dense for layer in self.layers)

    @property
    def messages(self) -> float:
        """Spikes, writes and reads between host and chip, of one sample."""
        crossed = crossing(self.loads, self.boundaries, self.work.mapped.target.link)
        return sum(messages.value for messages in crossed) / self.samples

    @property
    def events(self) -> dict[Event, int]:
        """How often each event on the chip happened, over all samples."""
        return joined_events(load.events() for load in self.loads)

    @property
    def cited(self) -> frozenset[Figure]:
        """The entries of target and hosts that any of the prices rests on."""
        return _cited(self.prices, self.host_only, self.convention_uj)

    def __repr__(self) -> str:
        cores, chips = many(self.cores_used, "core"), many(self.chips_used, "chip")
        return "\n".join(
            (
                f"CostReport({self.target} with {self.host}, {many(self.samples, 'sample')})",
                f"  energy   {self.energy_uj.total} a sample by {self.default_accounting}",
                f"  latency  {self.latency_us} a sample",
                f"  chip     {cores} on {chips}",
            )
        )

    def _repr_html_(self) -> str:
        """Energy by circle, latency and work of a sample, for notebooks."""
        circles = {
            "events on the chip": self.energy_uj.events,
            "these and the cores": self.energy_uj.cores,
            "the whole board": self.energy_uj.total,
            "the host alone": self.host_only.energy_uj,
        }
        bars = [(name, one.low, one.value, one.high) for name, one in circles.items()]
        latency = self.latency_us
        work = (
            ("latency", f"{time(latency)} ({between(latency.low, latency.high, time)})"),
            ("on the chip", f"{count(self.synops)} synaptic operations"),
            ("on the host", f"{count(self.host_macs)} MACs"),
            ("chip", f"{many(self.cores_used, 'core')} on {many(self.chips_used, 'chip')}"),
        )
        where = f"{self.target} with {self.host}, {many(self.samples, 'sample')}"
        return block(
            f"Energy of a sample: {where}", ranges(bars, energy), table(("", ""), work, left=2)
        )

    def _mean(self, counts: Iterable[int]) -> float:
        return sum(counts) / self.samples


def estimate(
    mapped: Mapped,
    run: Run,
    host: str | Path | Host = DEFAULT_HOST,
    run_mode: RunMode = DEFAULT_RUN_MODE,
    timing: Timing = DEFAULT_TIMING,
) -> CostReport:
    """Price a run.

    Args:
        mapped: the mapping that ran.
        run: from :func:`hwsim.simulate`; if samples are counted apart, the busiest core of a step
            is found for each of them, else for the mean of all.
        host: the profile of the host: a bundled one's name, a YAML file, or a profile.
        run_mode: how several chip segments take turns: "reset", "gated" or "pipeline", as
            :data:`hwsim.names.RUN_MODES` says. With one chip segment all cost the same.
        timing: how long a chip step is: "mean" or "events", as :data:`hwsim.names.TIMINGS` says;
            "events" follows the messages of the samples that are counted apart.

    Raises:
        BadInput: if the run is not one of this mapping, or it cannot run in this mode, or timing
            "events" has no sample to follow.
        UnknownName, TargetError: if there is no such mode or timing, or the host profile cannot be
            read.
    """
    checked_mapping(mapped)
    activity = given.instance(run, Run, "a run from hwsim.simulate").activity
    _check(mapped, activity)
    if given.instance(run_mode, str, "a run mode") not in RUN_MODES:
        raise UnknownName("run mode", run_mode, RUN_MODES)
    if given.instance(timing, str, "a timing") not in TIMINGS:
        raise UnknownName("timing", timing, TIMINGS)
    processor = host if isinstance(host, Host) else load_host(host)
    _check_measured(mapped, processor)
    convention = load_host(CONVENTION)
    layers = layer_counts(mapped, activity)
    without = not_counted(mapped, layers)
    loads = segment_loads(mapped, activity, run_mode, run.apart)
    populations = population_counts(mapped, activity, [load.idle for load in loads])
    boundaries = boundary_counts(mapped, activity, sent_by_port(loads))
    target = mapped.target
    model = _timing_model(mapped, loads, run.apart, run_mode, timing)
    counted = layers, boundaries, loads, run_tasks(mapped, loads)
    work = _Work(mapped, processor, activity, run.apart, *counted, run_mode, model)
    prices = {name: work.price(accounting) for name, accounting in target.accountings.items()}
    alone = _host_only(mapped, layers, processor)
    literature = convention_uj(layers, activity.samples, convention)
    cited = _cited(prices, alone, literature)
    return CostReport(
        samples=activity.samples,
        target=target.name,
        host=processor.name,
        cores_used=mapped.placement.cores_used,
        chips_used=mapped.placement.chips_used,
        layers=layers,
        not_counted=without,
        populations=populations,
        boundaries=boundaries,
        loads=loads,
        run_mode=run_mode,
        timing=timing,
        prices=prices,
        default_accounting=target.default_accounting,
        host_only=alone,
        convention_uj=literature,
        overflow=sum(activity.overflows.values(), Overflow()),
        assumptions=assumptions(
            mapped, processor, convention, populations, without, cited, run_mode, timing
        ),
        references={**convention.references, **processor.references, **target.references},
        work=work,
    )


def _timing_model(
    mapped: Mapped,
    loads: Sequence[SegmentLoad],
    apart: Sequence[Activity],
    run_mode: RunMode,
    timing: Timing,
) -> TimingModel:
    if timing == "mean" or not loads:
        return MeanTiming()
    return event_timing(mapped, loads, apart, run_mode)


def _cited(prices: Mapping[str, Price], alone: HostOnly, convention: Figure) -> frozenset[Figure]:
    figures = [*alone.figures, convention]
    for price in prices.values():
        figures += price.figures
    return frozenset().union(*(figure.cited for figure in figures))


@dataclass(frozen=True, slots=True)
class _Work:
    """What every accounting prices."""

    mapped: Mapped
    host: Host
    activity: Activity
    apart: tuple[Activity, ...]
    layers: tuple[LayerCounts, ...]
    boundaries: tuple[BoundaryCounts, ...]
    loads: tuple[SegmentLoad, ...]
    tasks: tuple[Task, ...]
    run_mode: RunMode
    timing: TimingModel

    def with_figures(self, change: Callable[[Figure], Figure]) -> _Work:
        """The same work at other prices."""
        target = with_figures(self.mapped.target, change)
        mapped = replace(self.mapped, target=target)
        return replace(self, mapped=mapped, host=with_figures(self.host, change))

    def with_entries(self, *entries: Figure) -> _Work:
        """The same work with other figures in the places of these."""
        at = {(entry.sheet, entry.path): entry for entry in entries}
        return self.with_figures(lambda figure: at.get((figure.sheet, figure.path), figure))

    @property
    def board_uj(self) -> Figure:
        """The whole board's energy by the default accounting."""
        return self.price(self.mapped.target.accounting()).energy_uj.total

    def price(self, accounting: Accounting) -> Price:
        target, chips = self.mapped.target, self.mapped.placement.chips_used
        crossed = crossing(self.loads, self.boundaries, target.link)
        samples = self.activity.samples
        resets = len(self.loads) if self.run_mode == "reset" else 1
        time = latency(
            *(self.mapped, self.loads, self.layers, samples, accounting, self.host, crossed),
            resets=resets,
            timing=self.timing,
            tasks=self.tasks,
        )
        events = joined_events(load.events() for load in self.loads)
        chip = chip_energy_pj(events, accounting)
        bits = 2 * sum(crossed) * target.link.bits_per_message  # at both ends
        macs = sum(host_macs(self.layers).values())
        # milliwatts times microseconds are nanojoules
        static_nj = target.power.static_mw * time.total_us
        used = self.mapped.placement.cores_used / target.chip.cores
        energy = {
            **{part: pj / samples * 1e-6 for part, pj in chip.items()},
            "used_cores": used * static_nj * 1e-3,
            "other_cores": (chips - used) * static_nj * 1e-3,
            "embedded": chips * (target.power.embedded_mw * time.total_us) * 1e-3,
            "reset": resets * chips * target.power.reset_uj,
            "link": bits * target.link.pj_per_bit / samples * 1e-6,
            "host": self.host.macs_uj(macs, [s.name for s in self.mapped.partition.on_host]),
            "launching": _drawn(self.host.launching_w, time.launching_us),
            "waiting": _drawn(self.host.idle_w, time.waiting_us),
        }
        return Price(Energy(**{part: uj.with_unit("µJ") for part, uj in energy.items()}), time)


def _other_modes(work: _Work) -> Iterator[tuple[RunMode, Price]]:
    for mode in RUN_MODES:
        if mode != work.run_mode:
            with suppress(BadInput):  # one in which it cannot run
                loads = segment_loads(work.mapped, work.activity, mode, work.apart)
                model = _timing_model(work.mapped, loads, work.apart, mode, work.timing.name)
                tasks = run_tasks(work.mapped, loads)
                other = replace(work, loads=loads, tasks=tasks, run_mode=mode, timing=model)
                yield mode, other.price(work.mapped.target.accounting())


def _draws(work: _Work, entries: Iterable[Figure]) -> Mapping[str, Draws]:
    names = ("events", "cores", "total", "host_only", "latency")

    exact = work.with_figures(_without_range)

    def prices(entries: Sequence[Figure]) -> Sequence[float]:
        changed = exact.with_entries(*entries)
        price = changed.price(changed.mapped.target.accounting())
        alone = _host_only(changed.mapped, changed.layers, changed.host).energy_uj
        energy = price.energy_uj
        sums = (energy.events, energy.cores, energy.total, alone, price.latency.total_us)
        return [figure.value for figure in sums]

    return dict(zip(names, draws_of(prices, entries), strict=True))


def _drivers(work: _Work, total: Figure) -> tuple[Driver, ...]:
    """Each entry that has a range, with what the total would be if no other had one."""

    exact = work.with_figures(_without_range)

    def alone(entry: Figure) -> Driver:
        found = exact.with_entries(entry).board_uj
        return Driver(entry, found.low, found.high)

    ranged = [figure for figure in total.cited if figure.low < figure.high]
    found = [alone(figure) for figure in ranged]
    return tuple(sorted(found, key=lambda d: (d.low - d.high, d.figure.sheet, d.figure.path)))


def _break_even(work: _Work) -> tuple[BreakEven, ...]:
    """By the spikes, the time of a message, the power of a host that waits, and its batches."""
    exact = work.with_figures(_without_range)
    alone = _host_only(work.mapped, work.layers, exact.host)

    def excess(changed: _Work) -> float:
        host = _host_only(changed.mapped, changed.layers, changed.host)
        return changed.board_uj.value - host.energy_uj.value

    def at_activity(factor: float) -> float:
        loads = tuple(load.times(factor) for load in exact.loads)
        return excess(replace(exact, loads=loads))

    found = [BreakEven("activity", 1.0, *_places(activity_crossing(at_activity), ""))]
    entries = (exact.mapped.target.link.message_us, exact.host.idle_w)
    for entry in (entry for entry in entries if entry is not None and entry.value > 0):

        def at(number: float, entry: Figure = entry) -> float:
            return excess(exact.with_entries(entry.at(number)))

        power = exact.host.power_w if entry == exact.host.idle_w else None
        most = float("inf") if power is None else power.value  # no host draws more while it waits
        value, below = price_crossing(at, entry.value, most)
        found.append(BreakEven(entry.path, entry.value, value, entry.unit, below))
    launching = alone.launching_uj.value
    if launching > 0:
        batch = batch_crossing(exact.board_uj.value, alone.macs_uj.value, launching)
        found.append(BreakEven("batch", 1.0, batch, "", below=True))
    return tuple(found)


def _places(found: tuple[float | None, bool], unit: str) -> tuple[float | None, str, bool]:
    value, below = found
    return value, unit, below


def _without_range(figure: Figure) -> Figure:
    return figure.at(figure.value)


def crossing(
    loads: Iterable[SegmentLoad], boundaries: Iterable[BoundaryCounts], link: HostLink
) -> tuple[Figure, ...]:
    """Messages of spikes, writes and reads between host and chip in each run; controls are writes.

    A spike is one, with a payload as many as the link says.
    """
    others: dict[str, int] = {}
    for boundary in boundaries:
        own = others.get(boundary.segment, 0)
        others[boundary.segment] = own + boundary.writes + boundary.reads

    def messages(load: SegmentLoad) -> Figure:
        own = sum(others[name] for name in load.segments)
        plain = Figure.exact(load.from_host + load.to_host + load.controls + own)
        if not load.graded or link.graded_messages is None:
            return plain
        return plain + (link.graded_messages - 1) * load.graded

    return tuple(map(messages, loads))


def _drawn(power_w: Figure | None, time_us: Figure | None) -> Figure:
    """Microjoules of a power over a time: watts times microseconds; 0 if not known."""
    nothing = Figure.exact(0.0, "µJ")
    return nothing if power_w is None or time_us is None or not time_us.high else power_w * time_us


def _host_only(mapped: Mapped, layers: Sequence[LayerCounts], host: Host) -> HostOnly:
    graph = ungraded(unpacked(mapped.graph))  # nothing crosses
    macs = sum(layer.host_macs for layer in layers if layer.name in graph)
    launches = launches_of(graph)
    macs_uj = host.macs_uj(macs, [ALONE]).with_unit("µJ")
    time_us = host.latency_us(macs, launches)
    launching_uj = _drawn(host.launching_w, host.launching_us(launches)).with_unit("µJ")
    complete = host.launching_w is not None and time_us is not None
    return HostOnly(macs, macs_uj, launching_uj, time_us, complete)


def _check_measured(mapped: Mapped, host: Host) -> None:
    """A host that was measured must have run the host segments of this mapping."""
    parts = {ALONE, *(segment.name for segment in mapped.partition.on_host)}
    if host.measured and (lacking := sorted(parts - host.measured.keys())):
        raise BadInput(
            f"the host was measured while it ran another mapping, without {', '.join(lacking)}: "
            f"measure it with this one"
        )


def _check(mapped: Mapped, activity: Activity) -> None:
    """The run must have counted what feeds each layer and leaves each population."""
    shapes: dict[str, tuple[int, ...]] = {}
    for chip in mapped.chip_segments:
        names = [*(port.name for port in chip.inputs), *(p.name for p in chip.populations)]
        shapes.update({name: (chip.steps, *chip.shape_of(name)) for name in names})
        shapes.update({port.name: port.shape for port in chip.inputs if port.kind == "bias"})
    for segment in mapped.partition.on_host:
        for node in (mapped.graph[name] for name in segment.nodes):
            if OPS[node.op].role == "synapse":
                source = mapped.graph[node.inputs[0]]
                steps = () if source.type.steps is None else (source.type.steps,)
                shapes[source.name] = (*steps, *source.type.shape)
    for name, shape in shapes.items():
        if name not in activity.events or activity.events[name].shape != shape:
            raise BadInput(
                f"the run is not of this mapping: it should have counted {name!r} as "
                f"{list(shape)}; simulate the mapping and price that run"
            )
