"""A co-simulation experiment: for a person at a terminal, and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from hwsim.activity import Overflow
from hwsim.experiments.faults import FaultPoint, Faults
from hwsim.experiments.fidelity import Agreement, LayerAgreement
from hwsim.report.screen import Row, Text, empty_table, facts, heading, indented
from hwsim.report.units import count, many, percent

BAR_WIDTH = 24
"""Characters of a bar that stands for all samples."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """What was run, and what came out.

    Args:
        model: the artefact's name.
        target: the chip's.
        data: where the samples are from.
        backend: what ran the chip's part.
        faults: what was broken, at severity 1; None where nothing was.
        points: one for each severity; a single one where there was no sweep.
        sweep: whether severities were asked for.
    """

    model: str
    target: str
    data: str
    backend: str
    faults: Faults | None
    points: tuple[FaultPoint, ...]
    sweep: bool


def experiment_to_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain dictionaries, lists, strings and numbers.

    Shares and accuracies are from 0 to 1; ``first`` is where a layer first parts from the float
    model's, null if it never does; ``overflows`` are null where the backend does not count them.
    In a sweep ``severities`` holds what else stands at the top, once for each severity.
    """
    whole = experiment.points[0].agreement
    found = {
        "model": experiment.model,
        "target": experiment.target,
        "data": experiment.data,
        "backend": experiment.backend,
        "samples": whole.samples,
        "faults": None if experiment.faults is None else asdict(experiment.faults),
    }
    accuracy = {"float": whole.float_accuracy}
    if whole.trained_answers is not None:
        found["reset"] = {"agreement": whole.reset_share}
        accuracy = {"trained": whole.trained_accuracy, **accuracy}
    if experiment.sweep:
        return {**found, "accuracy": accuracy, "severities": [*map(_point, experiment.points)]}
    return {
        **found,
        "accuracy": {**accuracy, "mapped": whole.accuracy},
        **_agreement(whole),
    }


def render_experiment(console: Console, experiment: Experiment) -> None:
    """Print an experiment.

    Args:
        console: where to; its width and colours are respected.
        experiment: what to show.
    """
    title = ((experiment.model, "bold"), " on ", (experiment.target, "bold"))
    console.print(Text.assemble(*title, f", simulated by {experiment.backend}"))
    indented(console, facts(_headline(experiment)))
    if experiment.sweep:
        heading(console, "By severity")
        indented(console, _sweep([(p.severity, p.agreement) for p in experiment.points]))
    elif layers := experiment.points[0].agreement.layers:
        heading(console, "Layers on the chip, and where they first part from the float model's")
        indented(console, _layers(layers))


def _headline(experiment: Experiment) -> Iterator[Row]:
    found, faults = experiment.points[0].agreement, experiment.faults
    known = f"float {_percent(found.float_accuracy)}"
    if found.trained_answers is not None:
        known = f"as trained {_percent(found.trained_accuracy)}, {known} with reset to zero"
    if not experiment.sweep:
        known += f", mapped {_percent(found.accuracy)}"
    yield "accuracy", Text(f"{known}, over {many(found.samples, 'sample')} of {experiment.data}")
    if not experiment.sweep:
        same = f"({int(found.same.sum()):,} of {found.samples:,})"
        yield "agreement", Text(f"{_percent(found.share)} get the float model's answer {same}")
    if found.reset_share is not None:
        kept = f"{_percent(found.reset_share)} keep the answer that they have as trained"
        yield "reset", Text(f"to zero, not by subtraction: of that alone, {kept}", "yellow")
    if faults is not None:
        rates = ", ".join(f"{name} {rate:g}" for name, rate in faults.rates.items() if rate)
        where = " at severity 1" if experiment.sweep else ""
        yield "faults", Text(f"{rates or 'none'}{where}, seed {faults.seed}", "yellow")
    values, differing = _values(found)
    if not experiment.sweep and values:
        yield "spikes", Text(f"{_percent(differing / values)} of {count(values)} values differ")
    if not found.layers:
        yield "chip", Text("nothing of this model runs on the chip", "yellow")
    yield from _arithmetic(found.layers)
    yield from _overflows(point.agreement.layers for point in experiment.points)


def _arithmetic(layers: Sequence[LayerAgreement]) -> Iterator[Row]:
    """What was computed in what: the commonest alone, the others with their layers."""
    ways: dict[str, list[str]] = {}
    for layer in layers:
        ways.setdefault(layer.arithmetic, []).append(layer.population)
    ways.pop("", None)
    for place, (way, names) in enumerate(sorted(ways.items(), key=lambda item: -len(item[1]))):
        where = f" in {', '.join(names)}" if place else ""
        yield "arithmetic", Text(f"{way}{where}")


def _overflows(runs: Iterable[Sequence[LayerAgreement]]) -> Iterator[Row]:
    """The layers in which registers left their range, over all runs; or that nobody knows."""
    layers = [layer for run in runs for layer in run]
    if any(layer.overflow is None for layer in layers):
        yield "overflow", Text("this backend does not count overflows", "yellow")
        return
    for name in dict.fromkeys(layer.population for layer in layers):
        known = (layer.overflow for layer in layers if layer.population == name)
        total = sum((overflow for overflow in known if overflow), Overflow())
        if total != Overflow():
            wraps, clips = many(total.u_wraps, "current"), many(total.v_clips, "membrane")
            yield "overflow", Text(f"{wraps} wrapped, {clips} clipped in {name}", "yellow")


def _layers(layers: Sequence[LayerAgreement]) -> Table:
    table = empty_table(
        "layer", "spikes", "differ", "step", "sample", "neuron", "chip, float", left=1
    )
    for layer in layers:
        where: list[str] = []
        if (first := layer.first) is not None:
            index = ",".join(map(str, first.index))
            where = [f"{first.step}", f"{first.sample}", index, f"{first.left}, {first.right}"]
        name = Text(layer.population, overflow="fold")
        table.add_row(name, count(layer.spikes), _percent(layer.share), *where)
    return table


def _sweep(points: Sequence[tuple[float, Agreement]]) -> Table:
    table = empty_table("severity", "accuracy", left=0)
    table.add_column("")
    for name in ("as float", "spikes that differ"):
        table.add_column(name, justify="right")
    for severity, found in points:
        values, differing = _values(found)
        table.add_row(
            f"{severity:g}",
            _percent(found.accuracy),
            Bar(1, 0, found.accuracy or 0, width=BAR_WIDTH, color="cyan"),
            _percent(found.share),
            _percent(differing / values if values else 0),
        )
    return table


def _values(found: Agreement) -> tuple[int, int]:
    """Spike values (0 or 1) of all layers: how many were compared, how many differ."""
    layers = found.layers
    return sum(layer.values for layer in layers), sum(layer.differing for layer in layers)


def _percent(share: float | None) -> str:
    return "unknown" if share is None else percent(share, 2)


def _point(point: FaultPoint) -> dict[str, Any]:
    found = point.agreement
    return {
        "severity": point.severity,
        "faults": asdict(point.faults),
        "accuracy": found.accuracy,
        **_agreement(found),
    }


def _agreement(found: Agreement) -> dict[str, Any]:
    return {
        "agreement": found.share,
        "overflows": None if found.overflow is None else asdict(found.overflow),
        "layers": [*map(_layer, found.layers)],
    }


def _layer(layer: LayerAgreement) -> dict[str, Any]:
    first = layer.first
    return {
        "segment": layer.segment,
        "population": layer.population,
        "values": layer.values,
        "differing": layer.differing,
        "share": layer.share,
        "spikes": layer.spikes,
        "float_spikes": layer.float_spikes,
        "first": first
        and {
            "step": first.step,
            "sample": first.sample,
            "index": list(first.index),
            "chip": first.left,
            "float": first.right,
        },
        "overflows": layer.overflow and asdict(layer.overflow),
        "arithmetic": layer.arithmetic or None,
    }
