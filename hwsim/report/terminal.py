"""A summary in a terminal, for a person who sees it for the first time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console, RenderableType
from rich.table import Table

from hwsim.price.assumptions import Kind
from hwsim.price.cost import CostReport
from hwsim.price.draws import Draws
from hwsim.price.learning import LearningPrice
from hwsim.report import units
from hwsim.report.screen import Row, Text, empty_table, facts, heading, indented
from hwsim.report.sentences import break_even, meanwhile, throughput, turns, verdict, waits
from hwsim.report.summary import ResetSummary, Summary
from hwsim.report.units import count, many, percent
from mapping.targets.figures import Figure

ENERGY_PARTS = {
    "synapse": "synaptic operations",
    "soma": "neuron updates",
    "network": "messages",
    "used_cores": "cores in use, without work",
    "other_cores": "all other cores",
    "embedded": "embedded processors",
    "reset": "resetting",
    "link": "messages to and from host",
    "host": "host layers",
    "launching": "host starting operations",
    "waiting": "host waiting",
}
"""What a person reads for each part of the energy."""

TIME_PARTS = {
    "chip": "chip steps",
    "barrier": "barriers",
    "management": "managing steps",
    "host": "host layers",
    "messages": "messages to and from host",
    "exchange": "exchanges with the host",
    "sample": "starting and resetting",
    "overlap": "host layers meanwhile",
}
"""What a person reads for each part of the latency."""

ASSUMPTIONS: dict[Kind, str] = {
    "sentence": "Assumptions",
    "figures": "Other figures that the prices rest on",
    "caveat": "Caveats",
}
"""The headings of the full list, by the kind of assumption."""

TRUST = "P primary, or measured; Q primary, as quoted elsewhere; S secondary; D derived; M assumed"

SIDE_STYLE = {"host": "", "chip": "cyan"}
NOTHING = Figure.exact(0.0)
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
    indented(console, facts(headline(summary)))
    heading(console, "Partition")
    indented(console, _partition(summary))
    console.print()
    indented(console, facts(_reasons(summary, full=full)))
    heading(console, "Cost of one sample")
    if cost.cores_used:
        indented(console, _prices(cost))
        console.print()
    indented(console, facts(comparison(cost)))
    if summary.learning is not None:
        heading(console, "Learning one sample on the chip")
        indented(console, _learning(summary.learning))
        console.print()
        indented(console, *(_bullet(Text(item.text)) for item in summary.learning.assumptions))
    if full and cost.steps:
        heading(console, "Steps on the chip")
        indented(console, _steps(cost))
    if full:
        _all_assumptions(console, cost)
    else:
        heading(console, "Assumptions")
        indented(console, *_main_assumptions(cost))


def headline(summary: Summary) -> Iterator[Row]:
    """What stands above all tables: (what, sentence)."""
    cost = summary.cost
    accuracies = {"float": summary.accuracy_float, "mapped": summary.accuracy_mapped}
    if summary.reset.changed:
        accuracies = {"as trained": summary.reset.accuracy_trained, **accuracies}
    known = [f"{name} {percent(a, 2)}" for name, a in accuracies.items() if a is not None]
    if known:
        yield "accuracy", Text(f"{', '.join(known)}, over {many(cost.samples, 'sample')}")
    if read := summary.provenance.get("read"):
        yield "read as", Text(", ".join(f"{name} {value}" for name, value in read.items()))
    yield from _reset(summary.reset)
    if summary.verified is not None:
        yield "verified", _verified(summary)
    elif summary.unverified:
        yield "verified", Text(f"no: {summary.unverified}", "yellow")
    if summary.weights:
        yield "weights", Text(summary.weights)
    if cost.cores_used:
        resource, (_, peak) = max(summary.utilisation.items(), key=lambda item: item[1][1])
        used = f"{many(cost.cores_used, 'core')} on {many(cost.chips_used, 'chip')}"
        fullest = f"the fullest has {percent(peak)} of its {resource.replace('_', ' ')} in use"
        least = summary.cores_bound
        bound = f"at least {least.cores:,} by {least.resource.replace('_', ' ')}"
        yield "chip", Text(f"{used}, {bound}; {fullest}")
        if hops := summary.hops.snake:
            there = f"{summary.hops.placed:,} hops between cores if each neuron fires once"
            beside = f"{hops:,} along the snake, {summary.hops.random:,.0f} at random"
            yield "placement", Text(f"{there}; {beside}, at least {summary.hops.bound:,}")
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
    for place, (what, total, draws) in enumerate(_totals(cost)):
        span = units.behind(total, units.energy, draws)
        text = Text.assemble((units.energy(total), "bold"), f" a sample{span}, {what}")
        yield "" if place else "energy", text
    partial = cost.price.latency.host_us is None
    without = ", without the host's layers" if partial else ""
    latency = cost.latency_us
    span = units.behind(latency, units.time, cost.draws["latency"])
    yield "latency", Text.assemble((units.time(latency), "bold"), " a sample", span, without)
    if cost.price.latency.meanwhile_us:
        yield "meanwhile", Text(meanwhile(cost))
    yield "throughput", Text(throughput(cost))
    if cost.cores_used:
        yield (
            "bottleneck",
            Text(f"of {many(len(cost.steps), 'chip step')}: {waits(cost, cost.steps)}"),
        )
        yield "run mode", Text(f"{cost.run_mode}: {turns(cost)}")


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


def _totals(cost: CostReport) -> Iterator[tuple[str, Figure, Draws]]:
    """The three circles of what a sample costs, from the inside, and their draws."""
    energy, draws = cost.energy_uj, cost.draws
    if cost.cores_used:
        yield "events on the chip", energy.events, draws["events"]
        yield "these and the cores in use", energy.cores, draws["cores"]
    whole = "the whole board with its host" if cost.cores_used else "the host"
    yield whole, energy.total, draws["total"]


SUMS = {"network": ("events", "events on the chip"), "used_cores": ("cores", "these and the cores")}
"""Sums in the table of prices: the part that each stands behind, its name, what a person reads."""


def _prices(cost: CostReport) -> Table:
    """Energy and latency by part, a column for each accounting; the default one has its range."""
    names = sorted(cost.prices, key=lambda name: name != cost.default_accounting)
    prices = [cost.prices[name] for name in names]
    table = empty_table("accounting", names[0], "range", *names[1:], "share", left=1)
    energies = [price.energy_uj for price in prices]
    totals = [energy.total for energy in energies]
    for part, title in ENERGY_PARTS.items():
        _add_row(table, f"  {title}", [e.parts[part] for e in energies], totals, units.energy)
        if part in SUMS:
            name, title = SUMS[part]
            sums = [getattr(energy, name) for energy in energies]
            _add_row(table, f" {title}", sums, totals, units.energy, style="bold")
    _add_row(table, "energy", totals, totals, units.energy, style="bold")
    table.add_section()
    times = [price.latency for price in prices]
    totals = [time.total_us for time in times]
    for part, title in TIME_PARTS.items():
        figures = [time.parts_us[part] or NOTHING for time in times]
        _add_row(table, f"  {title}", figures, totals, units.time)
    _add_row(table, "latency", totals, totals, units.time, style="bold")
    return table


LEARNING_PARTS = {
    "engine": "learning engine",
    "steps": "label and reward",
    "host": "host: thresholds",
}


def _learning(price: LearningPrice) -> Table:
    """What learning a sample takes beside an answer; each with what the board draws meanwhile."""
    table = empty_table("", "energy", "range", "time", "range", left=1)
    rows = {"answering": price.inference}
    rows |= {LEARNING_PARTS[name]: part for name, part in price.parts.items()}
    for name, share in {**rows, "learning": price.total}.items():
        energy, time = share.energy_uj, share.time_us
        spans = units.span(energy, units.energy), units.span(time, units.time)
        table.add_row(
            Text(name), Text(units.energy(energy)), Text(spans[0], "dim"),
            Text(units.time(time)), Text(spans[1], "dim"),
            style="bold" if name == "learning" else "",
        )  # fmt: skip
    return table


def _add_row(
    table: Table,
    title: str,
    figures: Sequence[Figure],
    totals: Sequence[Figure],
    text: Callable[[float], str],
    style: str = "",
) -> None:
    """A part of a price, unless it is nothing in all accountings."""
    if not any(figure.low or figure.high for figure in figures):
        return
    first, *others = figures
    span = units.span(first, text)
    share = percent(first.value / totals[0].value) if totals[0].value else ""
    values = (Text(text(figure.value)) for figure in others)
    cells = Text(text(first.value)), Text(span, "dim"), *values, Text(share, "dim")
    table.add_row(Text(title), *cells, style=style)


def _steps(cost: CostReport) -> Table:
    """What the steps of each run on the chip wait for longest."""
    table = empty_table("segment", "steps", "time", "longest wait of the steps", left=1)
    table.columns[-1].justify = "left"
    for segment in dict.fromkeys(step.segment for step in cost.steps):
        own = [step for step in cost.steps if step.segment == segment]
        table.add_row(
            Text(segment, SIDE_STYLE["chip"], overflow="fold"),
            Text(count(len(own))),
            Text(units.time(sum(step.us for step in own))),
            Text(waits(cost, own)),
        )
    return table


def comparison(cost: CostReport) -> Iterator[Row]:
    """The host alone, whether the chip pays, and what decides it: (what, sentence)."""
    alone = cost.host_only
    latency = "" if alone.latency_us is None else f", {units.time(alone.latency_us)}"
    span = units.behind(alone.energy_uj, units.energy)
    price = f"{units.energy(alone.energy_uj)}{span} for {count(alone.macs)} MACs{latency}"
    yield "host alone", Text(price)
    if cost.cores_used:
        yield (
            "verdict",
            Text(
                verdict(cost.energy_uj.total, alone.energy_uj, cost.pays, complete=alone.complete)
            ),
        )
        yield "break-even", Text(break_even(cost.break_even))
    for driver in cost.drivers[:1]:
        span = f"{units.energy(driver.low)} to {units.energy(driver.high)}"
        yield "range", Text(f"widest by {driver.figure.path}, which alone makes {span} of it")
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
