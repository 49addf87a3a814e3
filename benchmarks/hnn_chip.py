"""Hybrid networks with shared filters on the chip: accuracy, energy and latency of each split.

    python -m benchmarks.hnn_chip
    python -m benchmarks.hnn_chip --run mlp --epochs 2

Networks are trained as those of benchmarks/hnn_tables.py, with ``shared=True``, mapped for Loihi,
run over the test images and priced; those of Gaussian coding for Loihi 2 too, whose graded spikes
take its values. Results are in benchmarks/results/hnn_chip.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.hnn import ROWS, TABLES, released_energy_nj
from benchmarks.machine import wide_console
from benchmarks.paper import Setting, choose
from benchmarks.paper_tables import moved, run_missing, run_options
from benchmarks.runs import Plan, Run, planned_runs, read_all, write_result
from has8 import Has8Error, load_checkpoint
from has8.errors import BadInput
from has8.iir import SharedIIR
from hwsim import alternative, compare
from hwsim.experiments.fidelity import float_answers
from mapping import map_model
from mapping.partition.packing import Coding

RESULTS = Path(__file__).parent / "results" / "hnn_chip"
WORK = Path("runs") / "hnn_tables"
CALIBRATION = 256
"""Training images on which scales are chosen."""
COLUMNS = ("duplicate", "gaussian", "poisson")


def _settings(table: str) -> tuple[Setting, ...]:
    """The networks of a table with filters that all inputs share; all artificial ones come first.

    Pixels are no means and deviations, and what the released code does is not mapped.
    """
    made = []
    for setting in TABLES[table]:
        if setting.family not in COLUMNS:
            continue
        if setting.options["split"] < max(ROWS[setting.model]):
            name = setting.name.replace(setting.family, f"{setting.family}-shared")
            options = {**setting.options, "shared": True}
            setting = replace(setting, name=name, options=options, paper=None)
        made.append(setting)
    return tuple(sorted(made, key=lambda setting: setting.after is not None))


SETTINGS: Mapping[str, tuple[Setting, ...]] = {name: _settings(name) for name in TABLES}
"""Every network that is mapped."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a mapped network came to; the content of its JSON file.

    Args:
        setting: its name.
        row: the network as the paper writes it.
        coding: what stands between its artificial and its spiking layers.
        split: artificial layers.
        budget: of its training.
        samples: test images that it was run over, spread over all.
        float_accuracy: of the trained network on these, 0..1.
        mapped_accuracy: of the chip's integers on these.
        on_chip, spiking: layers of neurons on the chip, and in the network.
        board_uj: microjoules of an image, the whole board: value, low, high.
        events_uj: of the events on the chip alone.
        latency_us: microseconds of an image.
        messages: between host and chip, of an image.
        released_uj: by :func:`benchmarks.hnn.released_energy_nj`.
        lava_samples: images whose every spike on the chip is the same in Lava; 0 where not run.
        lava_spikes: how many spikes that were.
        target: the chip; values cross to "loihi2" as graded spikes.
    """

    setting: str
    row: str
    coding: str
    split: int
    budget: str
    samples: int
    float_accuracy: float
    mapped_accuracy: float
    on_chip: int
    spiking: int
    board_uj: tuple[float, float, float]
    events_uj: float
    latency_us: tuple[float, float, float]
    messages: float
    released_uj: float
    lava_samples: int
    lava_spikes: int
    target: str = "loihi"


def targets(setting: Setting) -> tuple[str, ...]:
    """The chips that a network is mapped for."""
    hybrid = setting.options["split"] < max(ROWS[setting.model])
    return ("loihi", "loihi2") if setting.family == "gaussian" and hybrid else ("loihi",)


def measure(run: Run, plan: Plan, samples: int | None, lava: int, target: str) -> Result:
    """Map a trained network, run it and price it.

    Args:
        run: that trained it.
        plan: in whose folder it lies.
        samples: test images; None for all.
        lava: of these, how many Lava runs too.
        target: one of :func:`targets`.
    """
    model = load_checkpoint(run.model(plan)).model.eval()
    calibration, _ = run.data.train.tensors(CALIBRATION)
    x, labels = run.data.test.tensors(samples)
    coding: Coding = "graded" if target == "loihi2" else "binary"
    mapped = map_model(model, target, calibration=calibration, coding=coding)
    priced = alternative(run.setting.name, mapped, x, labels)
    chip = [p.name for part in mapped.chip_segments for p in part.populations]
    spiking = [name for name, m in model.named_modules() if isinstance(m, SharedIIR)]
    found = compare(mapped, x[:lava], "fast", "lava") if lava and chip else None
    if found is not None and not found.equal:
        raise BadInput(f"Lava differs for {run.setting.name}: {found.divergence}")
    energy, latency = priced.board_uj, priced.cost.latency_us
    return Result(
        setting=run.setting.name,
        row=ROWS[run.setting.model][run.setting.options["split"]],
        coding=run.setting.options["coding"],
        split=run.setting.options["split"],
        budget=str(run.budget),
        samples=len(x),
        float_accuracy=float((float_answers(mapped, x) == labels).double().mean()),
        mapped_accuracy=priced.accuracy or 0.0,
        on_chip=len({*spiking} & {*chip}),
        spiking=len(spiking),
        board_uj=(energy.value, energy.low, energy.high),
        events_uj=priced.cost.energy_uj.events.value,
        latency_us=(latency.value, latency.low, latency.high),
        messages=priced.messages,
        released_uj=released_energy_nj(model, x[:1]) / 1000,
        lava_samples=lava if found else 0,
        lava_spikes=found.spikes if found else 0,
        target=target,
    )


def table(name: str, results: Sequence[Result]) -> Table:
    """A row for each network that is one of a table's."""
    shown = Table(title=name, title_justify="left", box=SIMPLE_HEAD)
    for column in (
        "network", "code", "target", "on chip", "float %", "mapped %", "board mJ", "chip uJ", "ms",
        "messages", "released uJ", "Lava",
    ):  # fmt: skip
        shown.add_column(column, no_wrap=True, justify="left" if column == "network" else "right")
    for one in results:
        shown.add_row(
            one.row,
            one.coding,
            one.target,
            f"{one.on_chip} of {one.spiking}",
            f"{100 * one.float_accuracy:.2f}",
            f"{100 * one.mapped_accuracy:.2f}",
            f"{one.board_uj[0] / 1000:.3g}",
            f"{one.events_uj:.3g}",
            f"{one.latency_us[0] / 1000:.3g}",
            f"{one.messages:,.0f}",
            f"{one.released_uj:.3g}",
            f"{one.lava_spikes:,}" if one.lava_samples else "-",
        )
    return shown


@click.command()
@click.option("--run", "asked", type=click.Choice(list(SETTINGS)), help="Do what is missing.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--samples", type=click.IntRange(1), help="Test images.  [default: all]")
@click.option("--lava", default=2, show_default=True, help="Images that Lava runs too.")
@click.option(
    "--recipe", type=click.Choice(["hnn", "hnn-short"]), help="Of training.  [default: hnn]"
)
@run_options(RESULTS, WORK, 64)
def main(
    asked: str | None,
    samples: int | None,
    lava: int,
    threads: int | None,
    only: tuple[str, ...],
    data: str | None,
    results: Path,
    as_json: bool,
    **budget: Any,
) -> None:
    """Print what is known of each mapped network; with --run, train and map what is missing."""
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        if asked is not None:
            settings = moved(choose(SETTINGS[asked], (), only), data)
            plan = Plan(table="hnn_chip", results=results / "training", **budget)
            log = Console(stderr=True)

            def unmapped(run: Run) -> list[tuple[str, Path]]:
                each = {"loihi": f"{run.name}.json", "loihi2": f"{run.name}-loihi2.json"}
                paths = [(target, results / each[target]) for target in targets(run.setting)]
                return [(target, path) for target, path in paths if not path.exists()]

            run_missing(settings, plan, log, lambda run: bool(unmapped(run)))
            for run in planned_runs(settings, plan):
                for target, path in unmapped(run):
                    log.print(f"{run.setting.name}: mapping for {target}", soft_wrap=True)
                    write_result(path, asdict(measure(run, plan, samples, lava, target)))
        found = read_all(results, Result)
    except Has8Error as error:
        raise click.ClickException(str(error)) from error
    known = {name: [one for one in found if f"hnn_{name}" in one.setting] for name in SETTINGS}
    for name, ones in known.items():
        wide_console().print(
            table(name, sorted(ones, key=lambda one: (one.coding, one.split, one.target)))
        )
    if as_json:
        plain = {name: [asdict(one) for one in ones] for name, ones in known.items()}
        click.echo(json.dumps({"benchmark": "hnn_chip", **plain}))


if __name__ == "__main__":
    main()
