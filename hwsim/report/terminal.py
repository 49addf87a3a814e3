"""A summary in a terminal, for a person who sees it for the first time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Console, RenderableType
from rich.table import Table

from hwsim.price.assumptions import Kind
from hwsim.price.cost import CostReport
from hwsim.report import units
from hwsim.report.screen import Row, Text, empty_table, facts, heading, indented
from hwsim.report.summary import ResetSummary, Summary
from hwsim.report.units import count, many, percent
from mapping.targets.figures import Figure

ENERGY_PARTS = {
    "synapse": "synaptic operations",
    "soma": "neuron updates",
    "network": "messages",
    "static": "static power",
    "x86": "embedded processors",
    "link": "spikes to and from host",
    "host": "host layers",
}
"""What a person reads for each part of the energy."""

TIME_PARTS = {
    "chip": "chip steps",
    "barrier": "barriers",
    "host": "host layers",
    "exchange": "exchanges with the host",
    "sample": "feeding and resetting",
}
"""What a person reads for each part of the latency."""

ASSUMPTIONS: dict[Kind, str] = {
    "sentence": "Assumptions",
    "figures": "Other figures that the prices rest on",
    "caveat": "Caveats",
}
"""The headings of the full list, by the kind of assumption."""

TRUST = (
    "P read in a primary source; Q primary, as quoted elsewhere; S secondary; D derived; M assumed"
)

SIDE_STYLE = {"host": "", "chip": "cyan"}
NAMES = 3
"""Nodes named for one reason, unless all are asked for."""


def render(console: Console, summary: Summary, *, full: bool = False) -> None:
    """Print a summary.

    Args:
        console: where to; its width and colours are respected.
        summary: from :func:`hwsim.report.summarize`.
        full: print every assumption with its source, and every node with its reason.
    """
    cost = summary.cost
    title = ((summary.model, "bold"), " on ", (cost.target, "bold"), f" with {cost.host}")
    console.print(Text.assemble(*title))
    indented(console, facts(_headline(summary)))
    heading(console, "Partition")
    indented(console, _partition(summary))
    console.print()
    indented(console, facts(_reasons(summary, full=full)))
    heading(console, "Cost of one sample")
    if cost.cores_used:
        indented(console, _prices(cost))
        console.print()
    indented(console, facts(_comparison(cost)))
    if full:
        _all_assumptions(console, cost)
    else:
        heading(console, "Assumptions")
        indented(console, *_main_assumptions(cost))


def _headline(summary: Summary) -> Iterator[Row]:
    cost = summary.cost
    accuracies = {"float": summary.accuracy_float, "mapped": summary.accuracy_mapped}
    if summary.reset.changed:
        accuracies = {"as trained": summary.reset.accuracy_trained, **accuracies}
    known = [f"{name} {percent(a, 2)}" for name, a in accuracies.items() if a is not None]
    if known:
        yield "accuracy", Text(f"{', '.join(known)}, over {many(cost.samples, 'sample')}")
    yield from _reset(summary.reset)
    if summary.verified is not None:
        yield "verified", _verified(summary)
    elif summary.unverified:
        yield "verified", Text(f"no: {summary.unverified}", "yellow")
    if cost.cores_used:
        resource, (_, peak) = max(summary.utilisation.items(), key=lambda item: item[1][1])
        used = f"{many(cost.cores_used, 'core')} on {many(cost.chips_used, 'chip')}"
        fullest = f"the fullest has {percent(peak)} of its {resource.replace('_', ' ')} in use"
        yield "chip", Text(f"{used}; {fullest}")
    if summary.errors:
        name, error = max(summary.errors.items(), key=lambda item: item[1].membrane)
        bound = f"no membrane is off by more than {error.membrane:.2f} thresholds ({name})"
        yield "rounding", Text(f"as long as spikes are the float model's, {bound}")
    work = f"{count(cost.host_macs)} MACs on the host"
    if cost.cores_used:
        work = f"{count(cost.synops)} synaptic operations on the chip, {work}"
    yield "work", Text(work)
    if cost.overflow.u_wraps or cost.overflow.v_clips:
        wraps = many(cost.overflow.u_wraps, "current")
        clips = many(cost.overflow.v_clips, "membrane")
        yield "overflow", Text(f"{wraps} wrapped, {clips} clipped", "yellow")
    if cost.overflow.biases:
        clipped = many(cost.overflow.biases, "bias", "biases")
        yield "overflow", Text(f"{clipped} clipped as the host wrote them", "yellow")
    if writes := sum(boundary.writes for boundary in cost.boundaries):
        yield "biases", Text(f"{count(writes / cost.samples)} written by the host for each sample")
    if reads := sum(boundary.reads for boundary in cost.boundaries):
        yield "membranes", Text(f"{count(reads / cost.samples)} read by the host once a sample")
    dynamic = f", {units.energy(cost.energy_uj.dynamic)} of it for chip events"
    total = cost.energy_uj.total
    energy = (units.energy(total), "bold"), " a sample", units.span(total, units.energy)
    yield "energy", Text.assemble(*energy, dynamic if cost.cores_used else "")
    partial = cost.price.latency.host_us is None
    without = ", without the host's layers" if partial else ""
    latency = cost.latency_us
    span = units.span(latency, units.time)
    yield "latency", Text.assemble((units.time(latency), "bold"), " a sample", span, without)


def _reset(reset: ResetSummary) -> Iterator[Row]:
    if reset.subtracting:
        more = f"{many(reset.compartments, 'compartment')} beside their own"
        yield "reset", Text(f"by subtraction in {many(reset.subtracting, 'neuron')}, takes {more}")
    if reset.changed:
        layers = f"{many(len(reset.changed), 'layer')} trained to reset by subtraction"
        kept = ""
        if reset.share is not None:
            kept = f"; that alone leaves {percent(reset.share, 2)} of the answers as they were"
        yield "reset", Text(f"to zero in {layers}{kept}", "yellow")


def _verified(summary: Summary) -> Text:
    found = summary.verified
    assert found is not None
    if found.equal:
        values = f"{count(found.spikes)} spike values"
        if found.membranes:
            values += f" and {many(found.membranes, 'membrane')} that are read"
        values += f" of {many(found.samples, 'sample')}"
        return Text(f"{found.right} equals {found.left} in all {values}", "green")
    return Text(f"{found.right} differs from {found.left}: {found.divergence}", "bold red")


def _partition(summary: Summary) -> Table:
    table = empty_table("segment", "side", "layers", "neurons", "cores", left=2)
    for segment in summary.partition:
        table.add_row(
            Text(segment.name, SIDE_STYLE[segment.side], overflow="fold"),
            Text(segment.side, SIDE_STYLE[segment.side]),
            count(segment.layers) if segment.layers else "",
            count(segment.neurons) if segment.neurons else "",
            count(segment.cores) if segment.cores else "",
        )
    return table


def _reasons(summary: Summary, *, full: bool) -> Iterator[Row]:
    """Why segments are on the chip, and why nodes are not; equal reasons are gathered."""
    chip = [s for s in summary.partition if s.side == "chip"]
    for reason in dict.fromkeys(segment.reason for segment in chip):
        found = many(sum(segment.reason == reason for segment in chip), "segment")
        yield "chip", Text.assemble(reason, (f" ({found})", "dim"))
    grouped: dict[str, list[str]] = {}
    for rejection in summary.rejections:
        grouped.setdefault(rejection.reason, []).append(rejection.node)
    for reason, nodes in sorted(grouped.items(), key=lambda item: -len(item[1])):
        shown = nodes if full else nodes[:NAMES]
        more = f" and {len(nodes) - len(shown)} more" if len(nodes) > len(shown) else ""
        names = f" ({many(len(nodes), 'node')}: {', '.join(shown)}{more})"
        yield "host", Text.assemble(reason, (names, "dim"))


def _prices(cost: CostReport) -> Table:
    """Energy and latency by part, a column for each accounting, the default one first."""
    names = sorted(cost.prices, key=lambda name: name != cost.default_accounting)
    prices = [cost.prices[name] for name in names]
    table = empty_table("accounting", *names, "share", left=1)
    energies = [[p.energy_uj.total, *p.energy_uj.parts.values()] for p in prices]
    _add_parts(table, "energy", ENERGY_PARTS.values(), energies, units.ENERGY, "µJ")
    table.add_section()
    times = [[p.latency.total_us, *p.latency.parts_us.values()] for p in prices]
    _add_parts(table, "latency", TIME_PARTS.values(), times, units.TIME, "µs")
    return table


def _add_parts(
    table: Table,
    title: str,
    parts: Iterable[str],
    figures: Sequence[Sequence[Figure | None]],
    scale: tuple[str, ...],
    base: str,
) -> None:
    """The total, then its parts; ``figures`` holds a list for each column, the total first."""
    values = [[0.0 if figure is None else figure.value for figure in column] for column in figures]
    unit, numbers = units.column([v for column in values for v in column], scale, base)
    rows = len(values[0])
    columns = [numbers[place : place + rows] for place in range(0, len(numbers), rows)]
    table.add_row(Text(f"{title}, {unit}"), *(Text(c[0]) for c in columns), "", style="bold")
    for row, part in enumerate(parts, 1):
        if not any(column[row] for column in values):
            continue
        share = percent(values[0][row] / values[0][0]) if values[0][0] else ""
        table.add_row(Text(f"  {part}"), *(Text(c[row]) for c in columns), Text(share, "dim"))


def _comparison(cost: CostReport) -> Iterator[Row]:
    alone = cost.host_only
    latency = "" if alone.latency_us is None else f", {units.time(alone.latency_us)}"
    price = f"{units.energy(alone.energy_uj)} for {count(alone.macs)} MACs{latency}"
    yield "host alone", Text(f"{price}; power while waiting is not counted")
    if cost.cores_used:
        work = units.energy(cost.energy_uj.work)
        yield "mapped", Text(f"{work} for MACs, events and messages, without power while waiting")
    literature = units.energy(cost.convention_uj)
    yield "convention", Text(f"{literature} by the constants of the literature, no measurement")


def _main_assumptions(cost: CostReport) -> Iterator[RenderableType]:
    shown = [item for item in cost.assumptions if item.main]
    for item in shown:
        yield _bullet(Text(item.text))
    hidden = len(cost.assumptions) - len(shown)
    if hidden:
        yield Text(f"and {hidden} more", "dim")


def _all_assumptions(console: Console, cost: CostReport) -> None:
    """Every assumption with its source and trust, and the titles of the sources."""
    for kind, title in ASSUMPTIONS.items():
        items = [item for item in cost.assumptions if item.kind == kind]
        if items:
            heading(console, title)
        for item in items:
            text = Text.assemble(item.text, (f" [{item.source}; {item.trust}]", "dim"))
            indented(console, _bullet(text))
    heading(console, "Sources")
    indented(console, facts((name, Text(title, "dim")) for name, title in _cited(cost).items()))
    indented(console, Text(TRUST, "dim"))


def _bullet(text: RenderableType) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_row("-", text)
    return row


def _cited(cost: CostReport) -> Mapping[str, str]:
    """Short names of sources that the assumptions use, with their titles."""
    sources = " ".join(item.source + item.text for item in cost.assumptions)
    return {name: title for name, title in cost.references.items() if name in sources}
