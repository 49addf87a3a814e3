"""Tables 1, 2 and 3 of the HAS-8 paper, and an ablation, with the paper's numbers and ours.

    python -m benchmarks.paper_tables
    python -m benchmarks.paper_tables --run table1 --models resnet_b32 --epochs 4 --subset 10000

Parameters and MACs are computed from the models. Accuracies are those of the runs in
benchmarks/results, each with its budget; "-" stands where there is none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import click
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table
from torch import nn

from benchmarks.layers import count_macs
from benchmarks.machine import wide_console
from benchmarks.paper import (
    DATA_SETS,
    HAS8_STEPS,
    PAPER_BUDGET,
    SEW_STEPS,
    TABLE3,
    TABLES,
    Setting,
    choose,
)
from benchmarks.runs import Plan, Result, Run, find, missing_runs, perform, read_results
from has8 import Has8Error, create_model
from has8.training.checkpoint import NoInitialisation
from has8.training.history import Progress

RESULTS = Path(__file__).parent / "results"
WORK = Path("runs") / "paper_tables"
WITHIN = 0.015
"""How far a count may be from the paper's and be called the same."""
CLASSES = (10, 100, 1000)
PAPER_SIDE = 224
SIDES = {PAPER_SIDE: 1000, 32: 10}
"""Sides of images, and the classes of a model for such images."""
NONE = "-"
F = TypeVar("F", bound=Callable[..., Any])


def accuracies(settings: Sequence[Setting], results: Sequence[Result]) -> list[dict[str, Any]]:
    """One entry for each setting, in order, with the paper's accuracy and those of all its runs.

    Accuracies are in percent; a difference is ours less the paper's, None where it has none.
    """
    entries = []
    for setting in settings:
        runs = [
            {
                "accuracy": 100 * result.accuracy,
                "difference": _difference(100 * result.accuracy, setting.paper),
                "budget": str(result.budget),
                **{key: getattr(result, key) for key in ("epochs", "images", "batch_size", "seed")},
                **{key: getattr(result, key) for key in ("precision", "recipe", "hardware")},
                **{key: getattr(result, key) for key in ("torch", "seconds", "commit")},
            }
            for result in find(results, setting)
        ]
        entries.append(
            {
                "setting": setting.name,
                "model": setting.model,
                "options": dict(setting.options),
                "data": setting.data,
                "paper": setting.paper,
                "runs": runs,
            }
        )
    return entries


def _difference(ours: float, paper: float | None) -> float | None:
    return None if paper is None else ours - paper


@cache
def costs() -> list[dict[str, Any]]:
    """Table 3: parameters by number of classes, and MACs of one image by its side in pixels."""
    entries = []
    for name, (kind, parameters, gigamacs) in TABLE3.items():
        models = {n: _model(name, n) for n in CLASSES}
        counts = {side: count_macs(models[n], side) for side, n in SIDES.items()}
        one_step = counts[PAPER_SIDE].one_step
        entries.append(
            {
                "model": name,
                "type": kind,
                "paper_parameters_million": parameters,
                "parameters": {n: _parameters(model) for n, model in models.items()},
                "paper_macs_billion": gigamacs,
                "macs": {
                    side: {
                        "ann": macs.ann,
                        "snn_step": macs.snn_step,
                        "one_step": macs.one_step,
                        "steps": macs.steps,
                        "total": macs.total,
                    }
                    for side, macs in counts.items()
                },
                "difference": one_step / (gigamacs * 1e9) - 1,
                "within": abs(one_step / (gigamacs * 1e9) - 1) <= WITHIN,
            }
        )
    return entries


def _model(name: str, num_classes: int) -> nn.Module:
    options: dict[str, Any] = {}
    if name.startswith("sew"):  # the image's coding changes no count, and this one needs no image
        options = {"steps": SEW_STEPS, "coding": "duplicate"}
    with NoInitialisation():  # just the shapes of its weights are counted
        return create_model(name, num_classes=num_classes, **options)


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def percent(value: float | None, signed: bool = False) -> str:
    """Two digits, or :data:`NONE`."""
    return NONE if value is None else f"{value:{'+' if signed else ''}.2f}"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD)


def table1(title: str, entries: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each run, and one for each setting without any."""
    shown = _table(f"{title} (paper: {PAPER_BUDGET})")
    for column in ("model", "T", "rescale", "decoder", "slope", "paper", "ours", "diff."):
        shown.add_column(column, no_wrap=True)
    shown.add_column("our budget")
    for entry in entries:
        label = _label(entry)
        for run in entry["runs"] or [{}]:
            shown.add_row(
                *label,
                percent(entry["paper"]),
                percent(run.get("accuracy")),
                percent(run.get("difference"), signed=True),
                run.get("budget", NONE),
            )
    return shown


def _label(entry: Mapping[str, Any]) -> tuple[str, ...]:
    options = entry["options"]
    if "coding" in options:
        return f"{entry['model']} ({options['coding']})", str(options["steps"]), "", "", ""
    if "slope" not in options:
        return entry["model"], "", "", "", ""
    rescale = "yes" if options["rescale"] else "no"
    return entry["model"], str(HAS8_STEPS), rescale, options["decoder"], options["slope"]


def table2(entries: Sequence[Mapping[str, Any]]) -> Table:
    """For each model a row of the paper's accuracies, then one of ours for each budget."""
    shown = Table(
        title="Table 2: top-1 accuracy in %, difference", title_justify="left", box=SIMPLE_HEAD
    )
    for column in ("model", "whose", *DATA_SETS):
        shown.add_column(column)
    for _, cells in groupby(entries, key=lambda entry: entry["setting"]):
        row = list(cells)
        by_budget: dict[str, dict[str, str]] = {}
        for entry in row:
            for run in entry["runs"]:
                text = f"{percent(run['accuracy'])} ({percent(run['difference'], signed=True)})"
                by_budget.setdefault(run["budget"], {})[entry["data"]] = text
        shown.add_row(_label(row[0])[0], "paper", *(percent(entry["paper"]) for entry in row))
        for budget, texts in by_budget.items() or [("none", {})]:
            ours = [texts.get(entry["data"], NONE) for entry in row]
            shown.add_row("", f"ours: {budget}", *ours)
    return shown


def parameter_table(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Table 3's parameters, which depend on the number of classes."""
    shown = Table(
        title="Table 3: parameters, by number of classes", title_justify="left", box=SIMPLE_HEAD
    )
    for column in ("model", "type", "paper", *map(str, CLASSES)):
        shown.add_column(column, no_wrap=True)
    for entry in entries:
        ours = (f"{entry['parameters'][n]:,}" for n in CLASSES)
        paper = f"{entry['paper_parameters_million']:g} M"
        shown.add_row(entry["model"], entry["type"], paper, *ours)
    return shown


def mac_table(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Table 3's MACs of one image, and those at 32 x 32."""
    shown = _table(
        "Table 3: million MACs of one image; the paper counts the ANN and one step of the "
        "SNN at 224 x 224"
    )
    for column in ("model", "side", "ANN", "SNN step", "T", "all steps", "one step", "paper"):
        shown.add_column(column, no_wrap=True)
    for column in ("diff.", f"within {WITHIN:.1%}"):
        shown.add_column(column)
    for entry in entries:
        for side, macs in entry["macs"].items():
            counts = [f"{macs[key] / 1e6:,.1f}" for key in ("ann", "snn_step")]
            sums = [f"{macs[key] / 1e6:,.1f}" for key in ("total", "one_step")]
            paper = ["", "", ""]
            if side == PAPER_SIDE:
                within = "yes" if entry["within"] else "NO"
                paper = [f"{1e3 * entry['paper_macs_billion']:,.0f}", f"{entry['difference']:+.2%}"]
                paper.append(within)
            shown.add_row(entry["model"], str(side), *counts, str(macs["steps"]), *sums, *paper)
    return shown


@contextmanager
def _progress(console: Console, run: Run) -> Iterator[Callable[[Progress], None]]:
    """A live bar on a terminal, and a line for each epoch everywhere."""
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=run.config.epochs)

        def report(now: Progress) -> None:
            bar.update(task, completed=now.epoch - 1 + now.images / now.total)
            if now.finished:
                bar.console.print(
                    f"  epoch {now.epoch}/{now.epochs}: loss {now.finished.train_loss:.3f}, "
                    f"test accuracy {now.finished.test_accuracy:.2%}, {now.finished.seconds:.0f} s"
                )

        yield report


def run_missing(
    settings: Sequence[Setting],
    plan: Plan,
    console: Console,
    used: Callable[[Run], bool] = lambda run: False,
) -> None:
    """What is missing, one after the other; the arguments are those of :func:`missing_runs`."""
    for run in missing_runs(settings, plan, used):
        console.print(f"{run.setting.name} on {run.data.name}: {run.budget}", soft_wrap=True)
        with _progress(console, run) as report:
            perform(run, plan, report)


def moved(settings: Sequence[Setting], data: str | None) -> tuple[Setting, ...]:
    """The settings on other data, each once; the paper has no numbers for those it lacks."""
    if data is None:
        return tuple(settings)
    there = {setting.name: setting for setting in settings if setting.data == data}
    on = {s.name: there.get(s.name, replace(s, data=data, paper=None)) for s in settings}
    return tuple(on.values())


def run_options(results: Path, work: Path, recipe_batch: int) -> Callable[[F], F]:
    """The options of a command that trains what is missing in tables, and prints them.

    Args:
        results: the default folder of the runs' results.
        work: that of the runs themselves.
        recipe_batch: images in a step of the recipe, for the help.
    """
    folder = click.Path(path_type=Path)
    options = [
        click.option("--epochs", type=click.IntRange(1), help="Instead of the recipe's 100."),
        click.option("--subset", type=click.IntRange(2), help="Training images, instead of all."),
        click.option(
            "--batch-size", type=click.IntRange(2), help=f"Instead of the recipe's {recipe_batch}."
        ),
        click.option(
            "--precision", default="32", show_default=True, type=click.Choice(["32", "bf16"])
        ),
        click.option("--threads", type=click.IntRange(1), help="Of torch."),
        click.option(
            "--only", multiple=True, metavar="SETTING", help="Only this setting; repeatable."
        ),
        click.option("--data", help="Train on these data instead of the table's."),
        click.option("--data-root", type=folder, help="Where data lie."),
        click.option("--results", default=results, type=folder, help="Of the runs."),
        click.option("--work", default=work, type=folder, help="To resume from."),
        click.option("--json", "as_json", is_flag=True, help="End with one line of JSON."),
    ]

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command()
@click.option("--run", "table", type=click.Choice(list(TABLES)), help="Train what is missing.")
@click.option("--models", default="", help="Only these: vgg_b16, resnet_b32, baselines, ...")
@click.option("--seed", type=click.IntRange(0), help="Instead of the recipe's 3407.")
@run_options(RESULTS, WORK, 16)
def main(
    table: str | None,
    threads: int | None,
    models: str,
    only: tuple[str, ...],
    data: str | None,
    results: Path,
    as_json: bool,
    **budget: Any,
) -> None:
    """Print the paper's tables beside ours; with --run, train first what is missing."""
    console, log = wide_console(), Console(stderr=True)
    if threads is not None:
        torch.set_num_threads(threads)
    families = tuple(filter(None, models.split(",")))
    try:
        if table is not None:
            settings = moved(choose(TABLES[table], families, only), data)
            run_missing(settings, Plan(table=table, results=results, **budget), log)
        report = _report(read_results(results))
    except Has8Error as error:
        raise click.ClickException(str(error)) from error
    console.print(table1("Table 1: CIFAR-10, top-1 accuracy in %", report["table1"]))
    console.print(table2(report["table2"]))
    console.print(parameter_table(report["table3"]))
    console.print(mac_table(report["table3"]))
    title = "Ablation: the released Fourier slope, and its constant alone; CIFAR-10"
    console.print(table1(title, report["ablation"]))
    if as_json:
        click.echo(json.dumps(report))


def _report(results: Sequence[Result]) -> dict[str, Any]:
    """All tables."""
    filled = {name: accuracies(settings, results) for name, settings in TABLES.items()}
    return {"benchmark": "paper_tables", **filled, "table3": costs()}


if __name__ == "__main__":
    main()
