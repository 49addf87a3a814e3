"""Tables 1 to 3 of Muramatsu & Yu 2021, with the paper's numbers and ours.

    python -m benchmarks.hnn_tables
    python -m benchmarks.hnn_tables --run mlp --epochs 10 --seeds 0,1,2

Accuracies are those of the runs in benchmarks/results/hnn, over the seeds of each budget; "-"
stands where there is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.hnn import COLUMNS, ROWS, TABLES
from benchmarks.machine import wide_console
from benchmarks.paper import Setting, choose
from benchmarks.paper_tables import NONE, moved, percent, run_missing, run_options
from benchmarks.runs import Budget, Plan, Result, find, read_results, seeds_option
from has8 import Has8Error

RESULTS = Path(__file__).parent / "results" / "hnn"
WORK = Path("runs") / "hnn_tables"


def accuracies(settings: Sequence[Setting], results: Sequence[Result]) -> list[dict[str, Any]]:
    """One entry for each setting, in order: the paper's accuracy, and ours for each budget.

    Accuracies are in percent: the mean over the seeds, their standard deviation (None of one), and
    the difference of the mean from the paper's.
    """
    entries = []
    for setting in settings:
        found = sorted(find(results, setting), key=lambda run: str(_seedless(run.budget)))
        runs = []
        for budget, group in groupby(found, key=lambda run: _seedless(run.budget)):
            same = sorted(group, key=lambda run: run.seed)
            values = [100 * run.accuracy for run in same]
            runs.append(
                {
                    "budget": str(budget).partition(", seed")[0],
                    "seeds": [run.seed for run in same],
                    "accuracies": values,
                    "mean": mean(values),
                    "spread": stdev(values) if len(values) > 1 else None,
                    "difference": None if setting.paper is None else mean(values) - setting.paper,
                    "seconds": sum(run.seconds for run in same),
                    "hardware": sorted({run.hardware for run in same}),
                }
            )
        entries.append(
            {
                "setting": setting.name,
                "row": ROWS[setting.model][setting.options["split"]],
                "column": setting.family,
                "options": dict(setting.options),
                "separate": setting.after is not None,
                "data": setting.data,
                "paper": setting.paper,
                "runs": runs,
            }
        )
    return entries


def _seedless(budget: Budget) -> Budget:
    return replace(budget, seed=0)


def table(title: str, entries: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each setting and budget."""
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in ("network", "code", "paper", "ours", "spread", "diff.", "seeds"):
        shown.add_column(column, no_wrap=True)
    shown.add_column("our budget")
    for entry in entries:
        for run in entry["runs"] or [{}]:
            shown.add_row(
                entry["row"],
                entry["column"],
                percent(entry["paper"]),
                percent(run.get("mean")),
                percent(run.get("spread")),
                percent(run.get("difference"), signed=True),
                str(len(run["seeds"])) if run else NONE,
                run.get("budget", NONE),
            )
    return shown


@click.command()
@click.option("--run", "asked", type=click.Choice(list(TABLES)), help="Train what is missing.")
@click.option("--columns", default="", help=f"Only these: {', '.join(COLUMNS)}.")
@seeds_option
@click.option(
    "--recipe", type=click.Choice(["hnn", "hnn-short"]), help="Of training.  [default: hnn]"
)
@run_options(RESULTS, WORK, 64)
def main(
    asked: str | None,
    seeds: tuple[int, ...],
    threads: int | None,
    columns: str,
    only: tuple[str, ...],
    data: str | None,
    results: Path,
    as_json: bool,
    **budget: Any,
) -> None:
    """Print the paper's tables beside ours; with --run, train first what is missing."""
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        if asked is not None:
            families = tuple(filter(None, columns.split(",")))
            settings = moved(choose(TABLES[asked], families, only), data)
            # Networks that others take their artificial layers of come first.
            settings = tuple(sorted(settings, key=lambda setting: setting.after is not None))
            for seed in seeds:
                plan = Plan(table=f"hnn_{asked}", results=results, seed=seed, **budget)
                run_missing(settings, plan, Console(stderr=True))
        found = read_results(results)
        report = {name: accuracies(moved(rows, data), found) for name, rows in TABLES.items()}
    except Has8Error as error:
        raise click.ClickException(str(error)) from error
    console = wide_console()
    console.print(table(f"MLPs on {data or 'MNIST'}, top-1 accuracy in %", report["mlp"]))
    console.print(table(f"CNNs on {data or 'CIFAR-10'}, top-1 accuracy in %", report["cnn"]))
    if as_json:
        click.echo(json.dumps({"benchmark": "hnn_tables", **report}))


if __name__ == "__main__":
    main()
