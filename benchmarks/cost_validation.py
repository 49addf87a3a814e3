"""Prices of Loihi 1 beside measurements, and what they are if the case in question is held out.

``python -m benchmarks.cost_validation`` prices every network of :mod:`benchmarks.cost_cases` twice:
with the entries of ``mapping/targets/loihi.yaml``, which were fitted to all of these measurements,
and with entries that were fitted to all other networks (:func:`fitted`). Where sanafe is installed,
has8's counts of its network are held to its own too (:mod:`benchmarks.dvs`).
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import exp, log

import click
import msgspec
import numpy as np

from benchmarks import dvs
from benchmarks.cost_cases import CASES, LEFT_OUT, Case, Measured, followed, load, mapped
from benchmarks.oracles import missing
from hwsim.price.energy import chip_energy_pj
from hwsim.price.event_timing import EventTiming
from hwsim.price.latency import latency
from hwsim.price.timing import TimingModel, at_mean_ns
from hwsim.price.traffic import SegmentLoad
from mapping.hosts.schema import DEFAULT_HOST, load_host
from mapping.mapped import Mapped
from mapping.targets.figures import Figure
from mapping.targets.prices import Event
from mapping.targets.schema import Target, load_target
from mapping.targets.sheets import figures_of, with_figures

TARGET = "loihi"
MARGIN = 1.5
"""How far beyond the lowest and highest of the others a fitted range reaches."""

ENTRIES = {
    "energy_error": "accountings.{accounting}.energy_error",
    "time_error": "accountings.{accounting}.time_error",
    "static_mw": "power.static_mw",
    "embedded_mw": "power.embedded_mw",
    "message_us": "link.message_us",
    "exchange_us": "link.exchange_us",
    "step_us": "link.step_us",
}
"""The fitted entries of the sheet, and their places in it."""

PARTS = {
    "energy_error": "events",
    "time_error": "chip",
    "message_us": "messages",
    "exchange_us": "exchange",
    "step_us": "management",
}
"""The part of a price that is an entry times a count; what draws power scales with the time too."""

ASSUMED = {"exchange_us": 50.0}
"""What was assumed before anything was measured, where one network alone tells an entry."""

OBSERVED = {
    "time_error": {"SANA-FE's boards": 1.0},
    "static_mw": {
        "keyword spotting": 29.7,
        "sequential MNIST": 128.8,
        "nearest neighbours": 104.4,
        "Braille": 178.2,
    },
    "embedded_mw": {
        "keyword spotting": 70.0,
        "sequential MNIST": 23.3,
        "nearest neighbours": 66.0,
        "RelNet": 18.95,
    },
}
"""What was read off directly: milliwatts of a chip.

SANA-FE's times of events were fitted to steps of a board whose spikes were known.
"""

PROCESSORS = {
    "keyword spotting": 3,
    "sequential MNIST": 1,
    "nearest neighbours": 3,
    "RelNet": 1,
}
"""How many of a chip's three embedded processors ran.

The log of sequential MNIST names one. The others follow from what was drawn: by one, it is 19 to
23 mW on all four boards. Of other networks it is not known.
"""

ONE = "processor_mw"
"""The entry of one embedded processor; a sheet has that of a chip's."""

Entries = Mapping[str, float]
"""Values of the fitted entries."""

Range = tuple[float, float, float]
"""Low, best and high."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement beside its price.

    Args:
        name: of the network.
        quantity: "energy" or "time".
        what: "total", "dynamic", or "input" for the time that writing it took.
        unit: "mJ" or "ms".
        measured: in this unit.
        low: of the price with the sheet's entries.
        best: of it.
        high: of it.
        held_out: low, best and high with entries fitted to the other networks.
        contained: whether the measurement lies within the sheet's range.
        contained_held_out: whether it lies within the other range.
        factor: best over measured.
        factor_held_out: the same of the entries fitted to others.
        factor_own: the same of the sheet, but for what the network's own board told of its entries
            otherwise than by this measurement; None where it told nothing.
        source: of the measurement.
        cores: that has8 takes; None where there is no network.
        cores_published: None where that is not known.
        note: what was measured, assumed and left out.
    """

    name: str
    quantity: str
    what: str
    unit: str
    measured: float
    low: float
    best: float
    high: float
    held_out: Range
    contained: bool
    contained_held_out: bool
    factor: float
    factor_held_out: float
    factor_own: float | None
    source: str
    cores: int | None
    cores_published: int | None
    note: str


@cache
def ran(name: str) -> tuple[Mapped, tuple[tuple[SegmentLoad, int], ...]]:
    """A case on its cores, and what it does at each level of activity."""
    case = CASES[name]
    on_cores = mapped(case, load_target(TARGET))
    return on_cores, tuple(load(case, on_cores, level) for level in range(3))


@cache
def timed(name: str, level: int, accounting: str) -> EventTiming:
    """Steps of a case at a level of activity, 0 to 2, as long as if every message is followed."""
    target, (on_cores, works) = load_target(TARGET), ran(name)
    prices, (done, _) = target.accountings[accounting], works[level]
    ends = followed(CASES[name], on_cores, level, prices)
    even = at_mean_ns(done, 1, prices, target).value
    longer = np.divide(ends, even, out=np.ones_like(even), where=even > 0)
    return EventTiming({(prices.description, done.segment): longer}, {})


def parts(
    case: Case,
    target: Target,
    on_cores: Mapped,
    work: tuple[SegmentLoad, int],
    timing: TimingModel | None = None,
) -> dict[str, Figure]:
    """All parts of a price that can be compared, in microseconds and microjoules.

    Args:
        case: the network.
        target: whose prices to use.
        on_cores: it on its cores.
        work: what it does on them, and its messages.
        timing: how long a step is; None is by the busiest core or link.
    """
    accounting, (done, messages) = target.accounting(), work
    at, host = replace(on_cores, target=target), load_host(DEFAULT_HOST)
    time = latency(at, [done], (), 1, accounting, host, [messages], timing=timing)
    found = {name: part for name, part in time.parts_us.items() if part is not None}
    found["exchange"] *= case.exchanges
    drawn = _sum(found[name] for name in case.times)
    static_uj = target.power.static_mw * drawn * 1e-3
    used = at.placement.cores_used / target.chip.cores
    chips = case.share * at.placement.chips_used
    return found | {
        "events": _events(done.events(), target),
        "used_cores": used * static_uj,
        "other_cores": max(0.0, chips - used) * static_uj,
        "embedded": chips * (target.power.embedded_mw * drawn) * 1e-3,
    }


def _events(counts: Mapping[Event, int], target: Target) -> Figure:
    return _sum(chip_energy_pj(counts, target.accounting()).values()) * 1e-6


def at_level(case: Case, target: Target, level: int) -> dict[str, Figure]:
    """The parts of a price at a level of activity, 0 to 2; of published counts, the events."""
    if case.net is None:
        counts = {event: int(of[level]) for event, of in case.counts.items()}
        return {"events": _events(counts, target)}
    on_cores, works = ran(case.name)
    timing = timed(case.name, level, target.default_accounting)
    return parts(case, target, on_cores, works[level], timing)


def price(case: Case, measured: Measured, target: Target) -> Range:
    """Low, best and high of what was measured: of the sheet's ranges and of the activity's."""
    low, best, high = (
        _sum(at_level(case, target, level)[name].with_unit("") for name in measured.parts)
        for level in range(3)
    )
    return low.low, best.value, high.high


def powered(case: Case, target: Target, one_mw: Range) -> Target:
    """The target with as many embedded processors as ran, where that is known.

    Args:
        case: the network.
        target: whose entry is of a chip with any of them.
        one_mw: milliwatts of one of them: low, best and high.
    """
    count = PROCESSORS.get(case.name)
    if count is None:
        return target
    low, best, high = (count * mw for mw in one_mw)
    drawn = msgspec.structs.replace(target.power.embedded_mw, low=low, value=best, high=high)
    power = msgspec.structs.replace(target.power, embedded_mw=drawn)
    return msgspec.structs.replace(target, power=power)


def _sum(figures: Iterable[Figure]) -> Figure:
    first, *others = figures
    return sum(others, first)


# ------------------------------------------------------------------------------------- the fit


@cache
def stated(accounting: str = "") -> dict[str, Figure]:
    """The fitted entries as the sheet has them, with one of its accountings or the default one.

    What one embedded processor draws is in no sheet; all networks tell it.
    """
    sheet = {figure.path: figure for figure in figures_of(load_target(TARGET))}
    low, best, high = ranges({ONE: _of_one()}, ())[ONE]
    one = Figure(best, low, high, "mW", "read off", "D")
    return {name: sheet[path] for path, name in paths(accounting).items()} | {ONE: one}


def _of_one() -> dict[str, float]:
    """Milliwatts of one embedded processor by network."""
    return {name: OBSERVED["embedded_mw"][name] / count for name, count in PROCESSORS.items()}


@cache
def _parts(name: str, accounting: str) -> dict[str, float]:
    """The best parts of a price with the sheet's entries."""
    one = stated(accounting)[ONE]
    target = powered(CASES[name], _priced_by(accounting), (one.low, one.value, one.high))
    found = at_level(CASES[name], target, 1)
    return {name: part.value for name, part in found.items()}


def best_parts(case: Case, entries: Entries, accounting: str = "") -> dict[str, float]:
    """The best parts of a price if the fitted entries were these; exact, since it is linear."""
    at = dict(_parts(case.name, accounting))
    sheet = stated(accounting)
    ratio = {name: value / sheet[name].value for name, value in entries.items()}
    before = sum(at[part] for part in case.times if part in at)
    for entry, part in PARTS.items():
        if part in at:
            at[part] *= ratio[entry]
    if case.net is not None:
        longer = sum(at[part] for part in case.times) / before
        at["used_cores"] *= longer * ratio["static_mw"]
        at["other_cores"] *= longer * ratio["static_mw"]
        at["embedded"] *= longer * ratio[ONE if case.name in PROCESSORS else "embedded_mw"]
    return at


def observed(entries: Entries, accounting: str = "") -> dict[str, dict[str, float]]:
    """What each network says of each entry, by the entry's name and the network's.

    Read off directly (:data:`OBSERVED`), or what makes a best price equal to the measurement that
    tells the entry, if all others are ``entries``; where it tells several, all by one factor.
    """
    found: dict[str, dict[str, float]] = {name: dict(OBSERVED.get(name, {})) for name in ENTRIES}
    found[ONE] = _of_one()
    for case in CASES.values():
        at = best_parts(case, entries, accounting)
        for m in (m for m in case.measured if m.tells):
            told = sum(at[PARTS[entry]] for entry in m.tells)
            others = sum(at[name] for name in m.parts) - told
            for entry in m.tells:
                found[entry][case.name] = entries[entry] * (m.value - others) / told
    return found


def ranges(said: Mapping[str, Mapping[str, float]], without: Container[str]) -> dict[str, Range]:
    """Low, best and high of each entry by what networks say of it, some left out.

    The best is the geometric mean, the low the least over :data:`MARGIN`, the high the largest
    times it. What is not above zero counts as a low of zero and has no part in the mean. One
    network, or none but an assumption (:data:`ASSUMED`), may be as far from what others would say
    as the networks of any entry are apart.
    """
    kept = {e: [v for name, v in of.items() if name not in without] for e, of in said.items()}
    above = {entry: [value for value in values if value > 0] for entry, values in kept.items()}
    apart = max(max(values) / min(values) for values in above.values() if values)
    found = {}
    for entry, values in above.items():
        values = values or [ASSUMED[entry]]
        margin = MARGIN if len(values) > 1 else apart
        best = exp(sum(map(log, values)) / len(values))
        low = max(0.0, min([*kept[entry], *values]))
        found[entry] = (low / margin, best, max(values) * margin)
    return found


@cache
def fitted(without: frozenset[str] = frozenset(), accounting: str = "") -> dict[str, Range]:
    """Low, best and high of each entry by all networks but some.

    What a network says of one entry rests on the others, so that they are found together: from
    any start half of the way to what :func:`ranges` makes of them, until nothing moves.

    Args:
        without: the networks to leave out.
        accounting: the prices of events; the target's default ones without.
    """
    entries = {name: figure.value for name, figure in stated(accounting).items()}
    while True:
        found = ranges(observed(entries, accounting), without)
        if all(abs(found[name][1] / value - 1) < 1e-9 for name, value in entries.items()):
            return found
        entries = {name: (value * found[name][1]) ** 0.5 for name, value in entries.items()}


def own_board(case: Case, measured: Measured) -> float | None:
    """Best over measured if the entries are those of the network's own board.

    So it would be for a user who measured the board: what it told of an entry is in the sheet's
    place, unless this measurement told it or it is not above zero. None where it told nothing else.
    """
    entries = {name: figure.value for name, figure in stated().items()}
    own = {
        entry: of[case.name]
        for entry, of in observed(entries).items()
        if entry not in measured.tells and of.get(case.name, 0.0) > 0
    }
    if not own:
        return None
    at = best_parts(case, {**entries, **own})
    return sum(at[name] for name in measured.parts) / measured.value


def paths(accounting: str = "") -> dict[str, str]:
    """The fitted entries by their place in the sheet."""
    accounting = accounting or load_target(TARGET).default_accounting
    return {path.format(accounting=accounting): name for name, path in ENTRIES.items()}


def _priced_by(accounting: str) -> Target:
    target = load_target(TARGET)
    default = accounting or target.default_accounting
    return msgspec.structs.replace(target, default_accounting=default)


def target_without(*names: str) -> Target:
    """The target with entries fitted to all networks but some."""
    by_path, found = paths(), fitted(frozenset(names))

    def change(figure: Figure) -> Figure:
        name = by_path.get(figure.path)
        if name is None:
            return figure
        low, best, high = found[name]
        return msgspec.structs.replace(figure, low=low, value=best, high=high)

    target: Target = with_figures(load_target(TARGET), change)
    return target


def rows(names: Sequence[str] | None = None) -> tuple[Row, ...]:
    """The measurements of some networks, or of all, beside their prices."""
    found = []
    for case in CASES.values():
        if names is None or case.name in names:
            held_out = frozenset({case.name, case.stand_in})
            sheet = powered(case, load_target(TARGET), fitted()[ONE])
            others = powered(case, target_without(*held_out), fitted(held_out)[ONE])
            found += [_row(case, m, sheet, others) for m in case.measured]
    return tuple(found)


def _row(case: Case, m: Measured, sheet: Target, others: Target) -> Row:
    low, best, high = price(case, m, sheet)
    held_out = price(case, m, others)
    return Row(
        name=case.name,
        quantity=m.quantity,
        what=m.what,
        unit="mJ" if m.quantity == "energy" else "ms",
        measured=m.value * 1e-3,
        low=low * 1e-3,
        best=best * 1e-3,
        high=high * 1e-3,
        held_out=(held_out[0] * 1e-3, held_out[1] * 1e-3, held_out[2] * 1e-3),
        contained=low <= m.value <= high,
        contained_held_out=held_out[0] <= m.value <= held_out[2],
        factor=best / m.value,
        factor_held_out=held_out[1] / m.value,
        factor_own=own_board(case, m),
        source=case.source,
        cores=ran(case.name)[0].placement.cores_used if case.net else None,
        cores_published=case.cores,
        note="; ".join(filter(None, (m.note, case.note))),
    )


def held_to(found: Sequence[Row]) -> list[str]:
    """The rows in Markdown."""
    lines = [
        "| network | measured | low / best / high | within | best / measured "
        "| fitted to the others | within | best / measured | own board |",
        "|---|---|---|---|---:|---|---|---:|---:|",
    ]
    for row in found:
        lines.append(
            f"| {row.name}, {row.what} {row.quantity} | {row.measured:.3g} {row.unit} "
            f"| {_range(row.low, row.best, row.high)} | {_yes(row.contained)} | {row.factor:.2f} "
            f"| {_range(*row.held_out)} | {_yes(row.contained_held_out)} "
            f"| {row.factor_held_out:.2f} | {_factor(row.factor_own)} |"
        )
    return lines


TESTS = {
    "within the range": (None, 0.0),
    "totals: best within a factor of 2": ("total", 2.0),
    "dynamic energies: best within a factor of 1.5": ("dynamic", 1.5),
}
"""What is asked of prices: of which rows, and how near the best one must be."""


def tally(found: Sequence[Row]) -> list[str]:
    """How many rows are near enough, in Markdown."""
    lines = ["| | the sheet | fitted to the others | own board |", "|---|---:|---:|---:|"]
    for test, (what, most) in TESTS.items():
        asked = [row for row in found if what in (None, row.what)]

        def near(factor: float, contained: bool, most: float = most) -> bool:
            return contained if not most else 1 / most <= factor <= most

        sheet = sum(near(row.factor, row.contained) for row in asked)
        others = sum(near(row.factor_held_out, row.contained_held_out) for row in asked)
        own = [near(row.factor_own, True) for row in asked if row.factor_own is not None]
        by_own = f"{sum(own)} of {len(own)}" if most else "-"
        lines.append(f"| {test} | {sheet} of {len(asked)} | {others} of {len(asked)} | {by_own} |")
    return lines


def networks(names: Sequence[str]) -> list[str]:
    """Where the measurements are from, and what is priced, in Markdown."""
    lines = ["| network | what is priced | cores, here / there | from |", "|---|---|---|---|"]
    for case in (case for name, case in CASES.items() if name in names):
        ours = ran(case.name)[0].placement.cores_used if case.net else "-"
        there = "-" if case.cores is None else case.cores
        lines.append(f"| {case.name} | {case.note} | {ours} / {there} | {case.source} |")
    return lines


def not_here() -> list[str]:
    """What is left out, in Markdown."""
    reasons = [f"| {name} | {reason} |" for name, reason in LEFT_OUT.items()]
    return ["| network | why not |", "|---|---|", *reasons]


def entries() -> list[str]:
    """The fitted entries in Markdown: the sheet's, those by all networks, and what each says.

    An accounting that is not the default has its own errors of events; all else is the default's.
    """
    lines = ["| entry | in the sheet | by all networks | by network |", "|---|---|---|---|"]
    target = load_target(TARGET)
    for accounting in target.accountings:
        found, sheet = fitted(accounting=accounting), stated(accounting)
        said = observed({name: best for name, (_, best, _) in found.items()}, accounting)
        names = (
            ENTRIES if accounting == target.default_accounting else ["energy_error", "time_error"]
        )
        for name in names:
            figure = sheet[name]
            each = ", ".join(f"{network} {value:.3g}" for network, value in said[name].items())
            now = _range(figure.low, figure.value, figure.high)
            lines.append(f"| `{figure.path}` | {now} | {_range(*found[name])} | {each} |")
    return lines


def _range(*ends: float) -> str:
    return " / ".join(f"{x:.0f}" if x >= 999.5 else f"{x:.3g}" for x in ends)


def _factor(factor: float | None) -> str:
    return "-" if factor is None else f"{factor:.2f}"


def _yes(contained: bool) -> str:
    return "yes" if contained else "**no**"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON instead.")
@click.option("--network", "names", multiple=True, type=click.Choice([*CASES]), help="Only these.")
def main(as_json: bool, names: tuple[str, ...]) -> None:
    """Hold prices to measurements of a Loihi 1."""
    found = rows(names or None)
    unknown = "it was not asked for" if names else missing("sanafe")
    if as_json:
        by_all = fitted()
        answer = {
            "benchmark": "cost_validation",
            "rows": [asdict(row) for row in found],
            "observed": observed({name: best for name, (_, best, _) in by_all.items()}),
            "fitted": by_all,
            "left_out": LEFT_OUT,
            "dvs": unknown or {name: asdict(of) for name, of in dvs.compared().items()},
        }
        click.echo(json.dumps(answer))
    else:
        tables = [held_to(found), tally(found), networks(names or [*CASES]), entries(), not_here()]
        if unknown:
            click.echo(f"SANA-FE's DVS network is left out: {unknown}", err=True)
        else:
            tables.append(dvs.table())
        click.echo("\n\n".join("\n".join(table) for table in tables))


if __name__ == "__main__":
    main()
