"""A summary as one HTML page that opens without a network."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from has8 import given
from has8.errors import BadInput
from hwsim.alternatives import Alternative
from hwsim.price.learning import LearningPrice
from hwsim.report import units
from hwsim.report.html.charts import charts_of, front
from hwsim.report.html.chips import LOADS, ChipView, chips_of
from hwsim.report.html.figures import chip_svg, layers_svg, legend_html, segments_svg
from hwsim.report.html.plots import Chart
from hwsim.report.json import to_dict
from hwsim.report.sentences import verdict
from hwsim.report.summary import Summary, summary_of
from hwsim.report.terminal import LEARNING_PARTS, TRUST, comparison, headline
from mapping.targets.figures import Figure

if TYPE_CHECKING:
    from jinja2 import Environment


def html_report(summary: Summary, *, beside: Sequence[Alternative] = ()) -> str:
    """The report of a mapped and priced model as one HTML file.

    It loads nothing: plotly.js, the style and all numbers are in it, and a policy in its head keeps
    a browser from asking any network.

    Args:
        summary: from :func:`hwsim.report.summarize`.
        beside: mappings that it was chosen from, itself among them, for a chart of their front.

    Raises:
        BadInput: if one of them is something else.
    """
    given.instance(summary, Summary, "a summary from hwsim.report.summarize")
    for one in beside:
        given.instance(one, Alternative, "an alternative from hwsim.alternative")
    charts = charts_of(summary)
    report = _report(summary, charts)
    if beside:
        charts["front"] = front(beside)
    return _page(f"{summary.model} on {summary.cost.target}", [report], charts)


def html_comparison(title: str, found: Sequence[Alternative]) -> str:
    """Reports of several mappings side by side as one HTML file, as :func:`html_report` makes one.

    Args:
        title: of the page: the model's name.
        found: from :func:`hwsim.alternative`; their front stands above.

    Raises:
        BadInput: if there is none, or one is something else.
    """
    given.instance(title, str, "a title")
    if not isinstance(found, Sequence) or not found:
        raise BadInput("there is nothing to compare: give a list of what hwsim.alternative makes")
    reports, charts = [], {"front": front(found)}
    for number, one in enumerate(found):
        summary, prefix = (
            summary_of(given.instance(one, Alternative, "an alternative"), title),
            f"r{number}-",
        )
        own = charts_of(summary)
        reports.append(_report(summary, own, one.name, prefix))
        charts |= {f"{prefix}{name}": chart for name, chart in own.items()}
    return _page(title, reports, charts)


def _page(title: str, reports: Sequence[dict[str, Any]], charts: Mapping[str, Chart]) -> str:
    cores = {f"{one['prefix']}chips": _cores(one["view"]) for one in reports if one["view"].cores}
    return (
        _templates()
        .get_template("report.html.j2")
        .render(
            title=title,
            reports=reports,
            version=version("has8"),
            style=_file("style.css"),
            script=_file("page.js"),
            charts=_data(charts),
            front=charts.get("front"),
            cores=_data(cores),
            numbers=_data([one["numbers"] for one in reports]),
            plotly=plotly_gz(),
        )
    )


def _report(
    summary: Summary, charts: Mapping[str, Chart], name: str = "", prefix: str = ""
) -> dict[str, Any]:
    cost, view = summary.cost, chips_of(summary.cost.work.mapped, summary.cost)
    mapped = cost.work.mapped
    return {
        "name": name,
        "prefix": prefix,
        "summary": summary,
        "cost": cost,
        "charts": charts,
        "numbers": to_dict(summary),
        "verdict": _verdict(summary),
        "tiles": list(_tiles(summary)),
        "facts": list(_facts(summary)),
        "segments_svg": segments_svg(mapped, cost),
        "layers_svg": layers_svg(mapped, cost),
        "view": view,
        "chips": [(number, chip_svg(view, number)) for number in view.numbers],
        "legend": legend_html(view),
        "colourings": _colourings(summary),
        "utilisation": list(_utilisation(summary)),
        "reasons": _reasons(summary),
        "learning": () if summary.learning is None else list(_learning(summary.learning)),
        "trust": TRUST,
    }


def _verdict(summary: Summary) -> str:
    cost = summary.cost
    if not cost.cores_used:
        return "everything runs on the host"
    alone = cost.host_only
    return verdict(cost.energy_uj.total, alone.energy_uj, cost.pays, complete=alone.complete)


def _tiles(summary: Summary) -> Iterator[tuple[str, str, str]]:
    """The numbers that a reader looks for first: (what, value, more)."""
    cost = summary.cost
    total, time = cost.energy_uj.total, cost.latency_us
    yield "energy a sample", units.energy(total), _spread(total, units.energy)
    yield "latency a sample", units.time(time), _spread(time, units.time)
    alone = cost.host_only.energy_uj
    yield "host alone", units.energy(alone), _spread(alone, units.energy)
    if summary.accuracy_mapped is not None:
        before = summary.accuracy_float
        was = "" if before is None else f"float {units.percent(before, 2)}, "
        samples = units.many(cost.samples, "sample")
        yield "accuracy", units.percent(summary.accuracy_mapped, 2), f"{was}{samples}"
    chips = units.many(cost.chips_used, "chip")
    yield (
        "neuron cores",
        f"{cost.cores_used:,}",
        f"on {chips}, at least {summary.cores_bound.cores:,}",
    )
    found = summary.verified
    if found is None:
        yield "against Lava", "not verified", summary.unverified
    else:
        spikes = (
            f"{units.count(found.spikes)} spike values of {units.many(found.samples, 'sample')}"
        )
        yield f"against {found.right}", "equal" if found.equal else "differs", spikes


def _spread(figure: Figure, text: Any) -> str:
    return units.span(figure, text)


def _facts(summary: Summary) -> Iterator[tuple[str, str]]:
    """What the terminal says around its tables: (what, sentence)."""
    for what, text in (*headline(summary), *comparison(summary.cost)):
        if what != "verdict":  # which stands above
            yield what, text.plain


def _learning(price: LearningPrice) -> Iterator[tuple[str, str, str, str, str]]:
    """What learning a sample takes: (part, energy, its range, time, its range)."""
    titles = {"answering": price.inference}
    titles |= {LEARNING_PARTS[name]: part for name, part in price.parts.items()}
    for name, share in {**titles, "learning": price.total}.items():
        energy, time = share.energy_uj, share.time_us
        spans = units.span(energy, units.energy), units.span(time, units.time)
        yield name, units.energy(energy), spans[0], units.time(time), spans[1]


def _reasons(summary: Summary) -> list[tuple[str, list[str]]]:
    """Why nodes stayed on the host, the commonest reason first, and which they are."""
    found: dict[str, list[str]] = {}
    for rejection in summary.rejections:
        found.setdefault(rejection.reason, []).append(rejection.node)
    return sorted(found.items(), key=lambda item: -len(item[1]))


def _colourings(summary: Summary) -> list[tuple[str, str]]:
    """What cores can be coloured by: (key, what a person reads)."""
    resources = summary.cost.work.mapped.placement.limits
    return [
        ("layer", "layer"),
        *((f"load:{name}", title) for name, title in LOADS.items()),
        *((f"used:{name}", f"{name.replace('_', ' ')} in use") for name in resources),
    ]


def _utilisation(summary: Summary) -> Iterator[tuple[str, int, int, float, float]]:
    """(resource, used, available, mean share, share of the fullest core) over the cores in use."""
    placement = summary.cost.work.mapped.placement
    for name, (mean, peak) in summary.utilisation.items():
        used = sum(core.used[name] for core in placement.cores)
        yield (
            name.replace("_", " "),
            used,
            placement.limits[name] * len(placement.cores),
            mean,
            peak,
        )


def _cores(view: ChipView) -> dict[str, Any]:
    """What the page's script knows of each core, by its number."""
    return {
        str(core.number): {
            "layer": core.layer,
            "used": core.used,
            "load": core.loads,
            "about": core.about,
        }
        for core in view.cores
    }


def _data(value: Any) -> Markup:
    """JSON that can stand in a script element whatever it holds."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _file(name: str) -> Markup:
    return Markup(files("hwsim.report.html").joinpath(name).read_text("utf-8"))


@cache
def plotly_gz() -> Markup:
    """plotly.js, compressed, in base64; the page unpacks it."""
    text = (files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return Markup(b64encode(gzip.compress(text, 9, mtime=0)).decode())


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, select_autoescape  # only a page needs it

    found = Environment(
        loader=PackageLoader("hwsim.report.html", "."),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["percent"] = units.percent
    return found
