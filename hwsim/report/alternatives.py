"""Several mappings side by side, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from hwsim.alternatives import Alternative, least
from hwsim.price.draws import Draws, likely, share_below
from hwsim.report import units
from hwsim.report.screen import Row, Text, empty_table, facts, indented
from hwsim.report.sentences import LIKELY, UNKNOWN, break_even, verdict
from hwsim.report.units import count, percent
from mapping.targets.figures import Figure

BETTER, WORSE = "green", "red"
"""How a figure is drawn that is likely below or above the first column's."""

Figures = Callable[[Alternative], Figure]
ENERGIES: dict[str, tuple[str, Figures]] = {
    "events on the chip": ("events", lambda one: one.cost.energy_uj.events),
    "these and the cores": ("cores", lambda one: one.cost.energy_uj.cores),
    "the whole board": ("total", lambda one: one.cost.energy_uj.total),
    "host alone": ("host_only", lambda one: one.cost.host_only.energy_uj),
}
"""What a person reads, the name of the draws, and the figure."""
COUNTS: dict[str, Callable[[Alternative], float]] = {
    "cores": lambda one: one.cost.cores_used,
    "chips": lambda one: one.cost.chips_used,
    "synaptic operations": lambda one: one.cost.synops,
    "MACs on the host": lambda one: one.cost.host_macs,
    "messages, host and chip": lambda one: one.messages,
}


def render_alternatives(console: Console, model: str, found: Sequence[Alternative]) -> None:
    """Print mappings side by side, each figure with its range.

    A figure that is below the first column's in nine draws of ten is green, and one that is above
    it red; a draw has the same entries of target and host for all.
    """
    first = found[0].cost
    where = f" on {first.target} with {first.host}" if not any(_differing(found)) else ""
    title = f"{where}, {units.many(first.samples, 'sample')}, run mode {first.run_mode}"
    console.print(Text.assemble((model, "bold"), title))
    console.print()
    indented(console, _table(found))
    console.print()
    indented(console, facts(_sentences(found)))


def _differing(found: Sequence[Alternative]) -> Iterator[tuple[str, list[str]]]:
    """Target and host of each, unless they are the same for all."""
    targets, hosts = [one.cost.target for one in found], [one.cost.host for one in found]
    if len(set(zip(targets, hosts, strict=True))) > 1:
        yield from (("target", targets), ("host", hosts))


def _table(found: Sequence[Alternative]) -> Table:
    table = empty_table("", *(one.name for one in found), left=1)
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.overflow = "fold"
    if any(one.accuracy is not None for one in found):
        shares = ("" if a is None else percent(a, 2) for a in (one.accuracy for one in found))
        table.add_row(Text("accuracy"), *map(Text, shares))
    for title, names in _differing(found):
        table.add_row(Text(title), *map(Text, names))
    for title, (name, figure) in ENERGIES.items():
        _add(table, title, [figure(one) for one in found], _draws(found, name), units.energy)
    latencies = [one.cost.latency_us for one in found]
    _add(table, "latency", latencies, _draws(found, "latency"), units.time)
    table.add_section()
    for title, number in COUNTS.items():
        table.add_row(Text(title), *(Text(count(number(one))) for one in found))
    return table


def _draws(found: Sequence[Alternative], name: str) -> list[Draws]:
    return [one.cost.draws[name] for one in found]


def _add(
    table: Table,
    title: str,
    figures: Sequence[Figure],
    draws: Sequence[Draws],
    text: Callable[[float], str],
) -> None:
    """A line of values, one of their ranges, and one of where they likely are."""
    styles = [_style(share_below(drawn, draws[0])) for drawn in draws]
    pairs = list(zip(figures, styles, strict=True))
    table.add_row(Text(title, "bold"), *(Text(text(f.value), f"bold {s}") for f, s in pairs))
    if any(figure.low < figure.high for figure in figures):
        table.add_row(Text(""), *(Text(units.span(f, text), s or "dim") for f, s in pairs))
        inner = [
            units.between(*likely(drawn), text) if figure.low < figure.high else ""
            for figure, drawn in zip(figures, draws, strict=True)
        ]
        cells = (Text(t, s or "dim") for t, s in zip(inner, styles, strict=True))
        table.add_row(Text("  likely"), *cells)


def _style(below: float) -> str:
    """By the share of draws in which a figure is below the first column's."""
    return BETTER if below >= LIKELY else WORSE if below <= 1 - LIKELY else ""


def _sentences(found: Sequence[Alternative]) -> Iterator[Row]:
    best, share = least(found)
    how = f"the least in {percent(share)} of draws"
    if not all(one.cost.host_only.complete for one in found):
        how = f"by what is known, {UNKNOWN}"
    if len(found) > 1:
        amount = units.energy(best.board_uj)
        yield "least", Text(f"{best.name} takes the least, {amount} a sample, {how}")
    for one in found:
        if one.cost.cores_used:
            yield one.name, Text(_verdict(one))
            yield "", Text(f"the same as the host alone: {break_even(one.cost.break_even)}", "dim")


def _verdict(one: Alternative) -> str:
    alone = one.cost.host_only
    return verdict(one.board_uj, alone.energy_uj, one.cost.pays, complete=alone.complete)


def alternatives_to_dict(model: str, found: Sequence[Alternative]) -> dict[str, Any]:
    """Mappings side by side as plain dictionaries, lists, strings and numbers.

    Energies are microjoules and times microseconds of one sample, ``[low, best, high]``; ``likely``
    has their 10th and 90th percentile in draws of all entries at once. Shares of draws are 0..1:
    that of ``least`` in which no other takes less, and of each in which its board takes less than
    the first one's (``below_first``) and than the host alone (``pays``).
    """
    best, share = least(found)
    return {
        "model": model,
        "samples": found[0].cost.samples,
        "least": {"name": best.name, "share": share},
        "alternatives": [_plain(one, found[0]) for one in found],
    }


def _plain(one: Alternative, first: Alternative) -> dict[str, Any]:
    cost = one.cost
    return {
        "name": one.name,
        "target": cost.target,
        "host": cost.host,
        "run_mode": cost.run_mode,
        "timing": cost.timing,
        "accuracy": one.accuracy,
        "energy_uj": {
            "events": ends(cost.energy_uj.events),
            "cores": ends(cost.energy_uj.cores),
            "total": ends(cost.energy_uj.total),
        },
        "host_only_uj": ends(cost.host_only.energy_uj),
        "latency_us": ends(cost.latency_us),
        "cores_used": cost.cores_used,
        "chips_used": cost.chips_used,
        "synops": cost.synops,
        "macs": cost.host_macs,
        "messages": one.messages,
        "likely": {name: list(likely(draws)) for name, draws in cost.draws.items()},
        "below_first": share_below(cost.draws["total"], first.cost.draws["total"]),
        "pays": cost.pays,
        "verdict": _verdict(one) if cost.cores_used else None,
        "break_even": [asdict(item) for item in cost.break_even],
    }


def ends(figure: Figure) -> list[float]:
    """Low, best and high."""
    return [figure.low, figure.value, figure.high]
