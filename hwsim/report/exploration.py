"""Partitions of one model, for people and for programs: the front, and what each layer decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from hwsim.exploration import Choice, Exploration
from hwsim.names import OBJECTIVES
from hwsim.price.choices import CORES, ENERGY, LATENCY
from hwsim.price.draws import likely
from hwsim.report import units
from hwsim.report.alternatives import ends
from hwsim.report.screen import Row, Text, empty_table, facts, heading, indented
from hwsim.report.sentences import break_even, verdict
from hwsim.report.units import percent

BAR = 16
"""Characters of the longest bar."""


def render_exploration(console: Console, model: str, found: Exploration) -> None:
    """Print the front, what it was chosen from, and what moving each layer alone would cost."""
    first = found.best.measured.cost
    where = f" on {first.target} with {first.host}, {units.many(first.samples, 'sample')}"
    console.print(Text.assemble((model, "bold"), where))
    others = [choice for choice in found.choices if choice not in found.front]
    for title, some in (("Front", list(found.front)), ("Beside it", others)):
        if some:
            heading(console, title)
            indented(console, _table(some, found))
    heading(console, "Answer")
    indented(console, facts(_sentences(found)))
    if found.flips:
        heading(console, f"One layer moved from the best, {found.best.measured.name}")
        indented(console, _flips(found))


def _table(some: list[Choice], found: Exploration) -> Table:
    table = empty_table("on the chip", "", "energy", "likely", "latency", "cores", "right", left=2)
    table.columns[0].overflow = "fold"
    table.columns[3].no_wrap = True
    largest = max(choice.amounts[0] for choice in found.choices)
    for choice in some:
        one = choice.measured
        energy, style = one.board_uj, "bold" if choice is found.best else ""
        ranged = energy.low < energy.high
        span = units.between(*likely(one.cost.draws["total"]), units.energy) if ranged else ""
        cells = (
            units.energy(energy.value),
            span,
            units.time(one.cost.latency_us),
            units.count(one.cost.cores_used),
            "" if one.accuracy is None else percent(one.accuracy, 2),
        )
        bar = "█" * max(1, round(BAR * energy.value / largest)) if largest else ""
        name = Text(one.name.replace(",", ", "), style)
        table.add_row(name, Text(bar, "dim"), *(Text(cell, style) for cell in cells))
    return table


def _sentences(found: Exploration) -> Iterator[Row]:
    best, some = found.best, found.with_chip
    proof = "proven" if found.gap == 0 else f"within {percent(found.gap, 2)}, as proven"
    yield (
        "best",
        Text(
            f"{best.measured.name}, {OBJECTIVES[found.objective]}, {proof} over all partitions of "
            f"{units.many(len(found.layers), 'layer')} by one run with all on the chip"
        ),
    )
    if some is not None:
        cost = some.measured.cost
        alone = cost.host_only
        text = verdict(cost.energy_uj.total, alone.energy_uj, cost.pays, complete=alone.complete)
        yield "the chip", Text(f"with {some.measured.name} there, {text}")
        yield "turns", Text(f"the same as the host alone: {break_even(cost.break_even)}")
    far = max(found.choices, key=lambda choice: choice.off)
    yield (
        "expected",
        Text(
            f"within {percent(far.off, 2)} of what each of these partitions cost when it was run "
            f"itself"
        ),
    )


def _flips(found: Exploration) -> Table:
    table = empty_table("layer", "would go to", "energy", "latency", "cores", left=2)
    for name, more in found.flips.items():
        side = "the host" if name in found.best.on_chip else "the chip"
        cells = (
            _more(more[ENERGY], units.energy),
            _more(more[LATENCY], units.time),
            _more(more[CORES], units.count),
        )
        table.add_row(Text(name), Text(side), *map(Text, cells))
    return table


def _more(number: float, text: Callable[[float], str]) -> str:
    return f"{'-' if number < 0 else '+'}{text(abs(number))}"


def exploration_to_dict(model: str, found: Exploration) -> dict[str, Any]:
    """Partitions as plain dictionaries, lists, strings and numbers.

    Energies are microjoules and times microseconds of one sample; measured ones ``[low, best,
    high]``, expected ones by the run with all layers on the chip. ``flips`` is what moving one
    layer alone would add to the best partition's costs.
    """
    first = found.best.measured.cost
    return {
        "model": model,
        "target": first.target,
        "host": first.host,
        "samples": first.samples,
        "layers": list(found.layers),
        "objective": found.objective,
        "best": found.best.measured.name,
        "gap": found.gap,
        "groups": found.groups,
        "front": [choice.measured.name for choice in found.front],
        "partitions": [_plain(choice) for choice in found.choices],
        "flips": {name: dict(more) for name, more in found.flips.items()},
    }


def _plain(choice: Choice) -> dict[str, Any]:
    cost, one = choice.measured.cost, choice.measured
    return {
        "name": one.name,
        "on_chip": list(choice.on_chip),
        "accuracy": one.accuracy,
        "energy_uj": ends(one.board_uj),
        "latency_us": ends(cost.latency_us),
        "likely": {name: list(likely(cost.draws[name])) for name in ("total", "latency")},
        "cores_used": cost.cores_used,
        "chips_used": cost.chips_used,
        "messages": one.messages,
        "expected": {"energy_uj": choice.expected[ENERGY], "latency_us": choice.expected[LATENCY]},
        "host_only_uj": ends(cost.host_only.energy_uj),
        "pays": cost.pays,
        "break_even": [asdict(item) for item in cost.break_even],
    }
