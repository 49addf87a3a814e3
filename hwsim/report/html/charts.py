"""The charts of a report as data for plotly.js; colours that begin with "@" are the page's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, SupportsFloat

import numpy as np

from hwsim.alternatives import Alternative
from hwsim.price.cost import CostReport
from hwsim.price.energy import chip_energy_pj
from hwsim.price.timing import host_macs
from hwsim.report import units
from hwsim.report.html.plots import Chart, Text, dots, rows_layout, seconds, ticks
from hwsim.report.summary import Summary
from hwsim.report.terminal import ENERGY_PARTS, TIME_PARTS
from hwsim.report.trace import crossing
from mapping.graph.ir import Kind
from mapping.targets.figures import Figure

NEURONS = 256
"""Neurons of a layer that a raster shows; of more every n-th."""
DRIVERS = 10
"""Entries whose ranges are drawn."""

ERRORS = {
    "weight": "largest of one weight",
    "current": "largest of a step's current",
    "bias": "largest of a bias",
    "decay": "largest of a decay",
    "membrane": "bound on a membrane",
}
"""What a person reads for each quantisation error."""

WAITS = {
    "host": ("host layers", "@host"),
    "link": ("messages and exchanges", "@c2"),
    "core": ("busiest core of a step", "@chip"),
    "way": ("messages under way", "@c0"),
    "barrier": ("barriers", "@c3"),
    "management": ("managing steps", "@c7"),
    "start": ("starting and resetting", "@c6"),
}
"""What a timeline's slices are, what a person reads, and their colours."""


def charts_of(summary: Summary) -> dict[str, Chart]:
    """The charts of a report by name; those without anything to draw are left out.

    Each has plotly's ``data`` and ``layout``, or ``choices``: several of these by name.
    """
    cost = summary.cost
    charts = {"energy": energy(cost), "latency": latency(cost)}
    charts |= {"time_by_segment": time_by_segment(cost)}
    charts |= {"energy_by_segment": energy_by_segment(cost)}
    charts["timeline"] = timeline(cost)
    if cost.drivers:
        charts["drivers"] = drivers(cost)
    if rates := activity_rates(cost):
        charts["rates"] = rates
        charts["raster"] = {"choices": rasters(cost)}
    if summary.errors:
        charts["errors"] = errors(summary)
    return {name: chart for name, chart in charts.items() if chart}


def energy(cost: CostReport) -> Chart:
    """What takes a sample's energy, on a logarithmic scale, with ranges."""
    parts = {name: price.energy_uj.parts for name, price in cost.prices.items()}
    return _parts(cost, parts, ENERGY_PARTS, units.energy, "energy of a sample")


def latency(cost: CostReport) -> Chart:
    """What takes a sample's time, on a logarithmic scale, with ranges."""
    parts = {
        name: {part: time for part, time in price.latency.parts_us.items() if time is not None}
        for name, price in cost.prices.items()
    }
    return _parts(cost, parts, TIME_PARTS, units.time, "time of a sample")


def _parts(
    cost: CostReport,
    prices: Mapping[str, Mapping[str, Figure]],
    titles: Mapping[str, str],
    text: Text,
    unit: str,
) -> Chart:
    """Parts of a price by each accounting, the default first, without those that are nothing."""
    order = sorted(prices, key=lambda name: name != cost.default_accounting)
    data = []
    for number, name in reversed(list(enumerate(order))):  # the default one on top
        rows = {title: prices[name][part] for part, title in titles.items()
                if part in prices[name] and prices[name][part].high > 0}  # fmt: skip
        symbol = ("circle", "diamond-open", "square-open", "triangle-up-open")[number % 4]
        colour = ("@chip", "@host", "@c2", "@c6")[number % 4]
        data.append(dots(rows, name, colour, text, symbol, ranges=not number))
    layout = rows_layout(max(len(trace["y"]) for trace in data), unit, text, log=True)
    layout["legend"] = {"traceorder": "reversed"}
    layout["yaxis"] |= {"categoryorder": "array", "categoryarray": list(titles.values())}
    return {"data": data, "layout": layout}


def time_by_segment(cost: CostReport) -> Chart:
    """How long each segment works, in the order of execution."""
    rows = {s.name: s.work_us + s.barrier_us + s.management_us
            for s in cost.price.latency.segments if s.work_us is not None}  # fmt: skip
    sides = {s.name: s.side for s in cost.price.latency.segments}
    return _by_segment(rows, sides, units.time, "time of a sample")


def energy_by_segment(cost: CostReport) -> Chart:
    """What each segment takes for its own work; what the board draws meanwhile is not split."""
    work, rows = cost.work, {}
    accounting, macs = work.mapped.target.accounting(), host_macs(cost.layers)
    loads = {load.segment: load for load in cost.loads}
    for segment in cost.price.latency.segments:
        if segment.side == "chip":
            parts = chip_energy_pj(loads[segment.name].events(), accounting).values()
            total = sum(parts, Figure.exact(0.0, "pJ"))
            rows[segment.name] = (total / cost.samples * 1e-6).with_unit("µJ")
        else:
            macs_uj = work.host.macs_uj(macs.get(segment.name, 0), [segment.name])
            watts, starting = work.host.launching_w, segment.launching_us
            rows[segment.name] = macs_uj.with_unit("µJ")
            if watts is not None and starting is not None and starting.high:
                rows[segment.name] += (watts * starting).with_unit("µJ")
    sides = {s.name: s.side for s in cost.price.latency.segments}
    return _by_segment(rows, sides, units.energy, "energy of a sample", log=True)


def _by_segment(
    rows: Mapping[str, Figure],
    sides: Mapping[str, str],
    text: Text,
    unit: str,
    *,
    log: bool = False,
) -> Chart:
    data = []
    for side, symbol in (("host", "square"), ("chip", "circle")):
        own = {name: figure for name, figure in rows.items() if sides[name] == side}
        if own:
            data.append(dots(own, side, f"@{side}", text, symbol))
    layout = rows_layout(len(rows), unit, text, log=log)
    layout["yaxis"] |= {"categoryorder": "array", "categoryarray": list(rows)}
    return {"data": data, "layout": layout}


def slices_of(cost: CostReport) -> Iterator[tuple[str, str, str, float, float]]:
    """What happens to one sample: (track, kind, name, start, length), times in microseconds.

    Kinds are those of :data:`WAITS`. Slices of link and chip follow one another, those of the host
    lie beside them where it computes meanwhile. Where the host's speed is not known, its layers
    take no time.
    """
    time, link = cost.price.latency, cost.work.mapped.target.link
    loads = {load.segment: load for load in cost.loads}
    resets, began, now = len(cost.loads) if cost.run_mode == "reset" else 1, 0, 0.0

    def last(track: str, kind: str, name: str, us: float) -> Iterator[Any]:
        nonlocal now
        if us > 0:
            yield track, kind, name, now, us
            now += us

    if cost.loads:
        yield from last("chip", "start", "start and reset", link.sample_us.value)
    start = now
    for segment in time.slots:
        now = start + segment.start
        if segment.side == "host":
            yield from last("host", "host", segment.name, segment.end - segment.start)
            continue
        coming, leaving = (
            count / cost.samples * link.message_us.value
            for count in crossing(cost, loads[segment.name])
        )
        if 0 < began < resets:
            yield from last("chip", "start", "start and reset", link.sample_us.value)
        began += 1
        yield from last("link", "link", "exchange", link.exchange_us.value)
        yield from last("link", "link", f"messages into {segment.name}", coming)
        for step in (step for step in cost.steps if step.segment == segment.name):
            for what, us in step.waits_us.items():
                kind = what if what in WAITS else "core" if what.startswith("core") else "way"
                name = f"{segment.name}, step {step.number}: {what}"
                yield from last("chip", kind, name, us)
        yield from last("link", "link", f"messages out of {segment.name}", leaving)


def timeline(cost: CostReport) -> Chart:
    """Host, link and chip over one sample's time."""
    by_kind: dict[str, list[tuple[str, str, str, float, float]]] = {}
    for one in slices_of(cost):
        by_kind.setdefault(one[1], []).append(one)
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": WAITS[kind][0],
            "y": [one[0] for one in by_kind[kind]],
            "base": [seconds(one[3]) for one in by_kind[kind]],
            "x": [seconds(one[4]) for one in by_kind[kind]],
            "text": [f"{one[2]}: {units.time(one[4])}" for one in by_kind[kind]],
            "textposition": "none",
            "marker": {"color": WAITS[kind][1], "line": {"width": 0}},
            "hovertemplate": "%{text}<extra></extra>",
        }
        for kind in WAITS
        if kind in by_kind
    ]
    layout = rows_layout(3, "time from a sample's arrival", units.time, row=48)
    layout |= {"barmode": "overlay", "bargap": 0.25}
    layout["yaxis"] |= {"categoryorder": "array", "categoryarray": ["host", "link", "chip"]}
    return {"data": data, "layout": layout}


def _rate(rate: SupportsFloat) -> str:
    return f"{float(rate):.3f}"


def drivers(cost: CostReport) -> Chart:
    """How far the range of one entry alone moves the board's energy, the widest first."""
    some = cost.drivers[:DRIVERS]
    paths = [driver.figure.path for driver in some]
    names = [
        path if paths.count(path) == 1 else f"{driver.figure.sheet}: {path}"
        for path, driver in zip(paths, some, strict=True)
    ]
    spans = [units.between(driver.low, driver.high, units.energy) for driver in some]
    data = {
        "type": "bar",
        "orientation": "h",
        "y": names,
        "base": [driver.low * 1e-6 for driver in some],
        "x": [(driver.high - driver.low) * 1e-6 for driver in some],
        "text": spans,
        "textposition": "none",
        "marker": {"color": "@host"},
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }
    layout = rows_layout(len(some), "energy of a sample", units.energy, row=30)
    best = cost.energy_uj.total.value * 1e-6
    layout["shapes"] = [{
        "type": "line", "xref": "x", "yref": "paper", "y0": 0, "y1": 1,
        "x0": best, "x1": best,
        "line": {"color": "@ink", "dash": "dot", "width": 1.5},
    }]  # fmt: skip
    return {"data": [data], "layout": layout}


def _spiking(cost: CostReport) -> Iterator[tuple[str, str, Any]]:
    """(name, side, events) of everything that spikes and was counted, in the order of execution."""
    graph, work = cost.work.mapped.graph, cost.work
    on_chip = {population.name for population in cost.populations}
    for node in graph:
        counts = work.activity.events.get(node.name)
        if counts is not None and node.type.kind is Kind.SPIKE:
            yield node.name, "chip" if node.name in on_chip else "host", counts


def activity_rates(cost: CostReport) -> Chart:
    """Spikes of a neuron in a step, the mean over all of a layer's, with its range over steps."""
    found = [
        (name, side, counts.reshape(len(counts), -1).mean(1) / cost.samples)
        for name, side, counts in _spiking(cost)
        if counts.size
    ]
    data = []
    for side in ("host", "chip"):
        own = {
            name: Figure(float(steps.mean()), float(steps.min()), float(steps.max()))
            for name, of, steps in found
            if of == side
        }
        if own:
            symbol = "square" if side == "host" else "circle"
            data.append(dots(own, side, f"@{side}", _rate, symbol))
    layout = rows_layout(len(found), "spikes a neuron and step")
    names = [name for name, _, _ in found]
    layout["yaxis"] |= {"categoryorder": "array", "categoryarray": names}
    return {"data": data, "layout": layout} if data else {}


def rasters(cost: CostReport) -> dict[str, Chart]:
    """Which neurons of a layer spike in which step of the first sample that was counted apart.

    Where none was, how often each does, the mean over samples.
    """
    apart = cost.work.apart
    title = "spikes of one sample" if apart else "spikes, the mean over samples"
    found = {}
    for name, _, counts in _spiking(cost):
        events = apart[0].events[name] if apart else counts / cost.samples
        flat = events.reshape(len(events), -1)
        every = -(-flat.shape[1] // NEURONS)
        shown = flat[:, ::every].T
        found[name] = _raster(shown, every, title)
    return found


def _raster(shown: Any, every: int, title: str) -> Chart:
    neurons = "neuron" if every == 1 else f"neuron (one in {every})"
    data = {
        "type": "heatmap",
        "z": np.round(shown, 3).tolist(),
        "y0": 0,
        "dy": every,
        "zmin": 0,
        "zmax": max(1.0, float(shown.max(initial=0))),
        "colorscale": "@events",
        "showscale": False,
        "hovertemplate": "neuron %{y}, step %{x}: %{z}<extra></extra>",
    }
    layout = {
        "height": 360,
        "xaxis": {
            "title": {"text": f"step ({title})"},
            "dtick": 1 if shown.shape[1] <= 16 else None,
        },
        "yaxis": {"title": {"text": neurons}, "automargin": True},
    }
    return {"data": [data], "layout": layout}


def errors(summary: Summary) -> Chart:
    """What rounding to integers costs each layer, in thresholds."""
    symbols = ("circle", "square", "diamond", "cross", "triangle-up")
    colours = ("@c4", "@c0", "@c2", "@c6", "@chip")
    names = list(summary.errors)
    data = []
    for (field, title), symbol, colour in zip(ERRORS.items(), symbols, colours, strict=True):
        values = {name: getattr(error, field) for name, error in summary.errors.items()}
        own = {name: value for name, value in values.items() if value > 0}
        if own:
            data.append({
                "type": "scatter", "mode": "markers", "name": title,
                "x": list(own.values()), "y": list(own),
                "marker": {"size": 10, "symbol": symbol, "color": colour},
                "hovertemplate": "%{y}: %{x:.3g} thresholds<extra>%{fullData.name}</extra>",
            })  # fmt: skip
    layout = rows_layout(len(names), "thresholds", log=True, row=30)
    layout["yaxis"] |= {"categoryorder": "array", "categoryarray": names}
    return {"data": data, "layout": layout} if data else {}


def front(found: Sequence[Alternative]) -> Chart:
    """Mappings by latency and energy, and which of them no other is better than in both."""
    ends = [(one.board_uj.value, one.cost.latency_us.value) for one in found]
    best = [not any(a <= e and b <= t and (a, b) != (e, t) for a, b in ends) for e, t in ends]
    points = [
        (one.name, one.board_uj, one.cost.latency_us, on_front)
        for one, on_front in zip(found, best, strict=True)
    ]
    data = []
    for on_front, name, colour, symbol in (
        (False, "beside it", "@c7", "circle-open"), (True, "front", "@chip", "circle"),
    ):  # fmt: skip
        own = [point for point in points if point[3] == on_front]
        if own:
            energies = dots({p[0]: p[1] for p in own}, name, colour, units.energy, symbol)
            times = dots({p[0]: p[2] for p in own}, name, colour, units.time, symbol)
            said = [f"{p[0]}: {units.energy(p[1])}, {units.time(p[2])}" for p in own]
            data.append({
                **times, "y": energies["x"], "error_y": energies["error_x"], "hovertext": said,
                "mode": "markers+text", "text": [p[0] if len(p[0]) < 30 else "" for p in own],
                "textposition": "top right",
                "hovertemplate": "%{hovertext}<extra>%{fullData.name}</extra>",
            })  # fmt: skip
    layout = {
        "height": 420,
        "xaxis": {"title": {"text": "latency"}, "type": "log", **ticks(units.time)},
        "yaxis": {"title": {"text": "energy", "standoff": 12}, "type": "log", "automargin": True,
                  **ticks(units.energy)},
    }  # fmt: skip
    return {"data": data, "layout": layout}
