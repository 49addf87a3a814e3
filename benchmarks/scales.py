"""What the search for scales costs, and how many spikes change at the scales that it finds.

python -m benchmarks.scales --model examples/models/cifar10.pt --images 64
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.bits import BITS, CALIBRATION, METHODS, listed
from benchmarks.machine import ROOT, commit, hardware, versions, wide_console
from has8 import Has8Error, load_checkpoint, load_data
from mapping import load_target
from mapping.pipeline import choose_scales, lower

SEARCHES = ("search", "per-channel")


def measure(model: Path, images: int, bits: list[int], rounds: int) -> dict[str, Any]:
    """One row for each number of bits and each search; for all layers on the chip together.

    Args:
        model: the trained model's file.
        images: of its training data, on which scales are searched.
        bits: of a weight.
        rounds: how often each search is timed, after one to warm up.

    Returns:
        JSON-able: ``rows`` with ``bits``, ``method``, the median ``cpu_s`` of this process, and
        ``mismatch`` by layer: the part of its spikes that change.
    """
    checkpoint = load_checkpoint(model)
    trained_on = checkpoint.provenance
    data = load_data(trained_on["data"], preprocess=trained_on.get("preprocess", "crop"))
    calibration, _ = data.train.tensors(images)
    target = load_target("loihi")
    graph, parts = lower(checkpoint.model, target, calibration=calibration)
    rows = []
    for width in bits:
        for method in SEARCHES:
            spread, times = bool(METHODS[method].get("per_channel")), []
            for _ in range(rounds + 1):
                start = time.process_time()
                found = choose_scales(graph, parts, target, calibration, width, "search", spread)
                times.append(time.process_time() - start)
            mismatch = {name: getattr(rounded, "mismatch", None) for name, rounded in found.items()}
            cpu = round(median(times[1:]), 3)
            rows.append({"bits": width, "method": method, "cpu_s": cpu, "mismatch": mismatch})
    return {"model": model.name, "images": len(calibration), "rounds": rounds, "rows": rows}


def _rendered(measured: dict[str, Any]) -> Table:
    title = f"{measured['model']}, scales searched on {measured['images']} images"
    shown = Table("bits", "method", "CPU s", title=title, box=SIMPLE_HEAD)
    for name in measured["rows"][0]["mismatch"]:
        shown.add_column(f"{name} %", justify="right")
    for row in measured["rows"]:
        changed = [f"{100 * part:.3f}" for part in row["mismatch"].values()]
        shown.add_row(str(row["bits"]), row["method"], f"{row['cpu_s']:.2f}", *changed)
    return shown


@click.command()
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=ROOT / "examples" / "models" / "digits.pt",
    show_default=True,
    help="The trained model.",
)
@click.option("--images", type=click.IntRange(min=1), default=CALIBRATION, show_default=True)
@click.option("--bits", default="8,4", show_default=True, help="Bits of a weight.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--threads", type=int, default=1, show_default=True, help="Of torch.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def main(model: Path, images: int, bits: str, rounds: int, threads: int, as_json: bool) -> None:
    """Time the search for scales, and show what part of the spikes change."""
    torch.set_num_threads(threads)
    try:
        widths = [int(width) for width in listed(bits, [str(b) for b in BITS], "--bits")]
        measured = measure(model, images, widths, rounds)
    except Has8Error as error:
        raise click.ClickException(str(error)) from error
    wide_console().print(_rendered(measured))
    if as_json:
        facts = {"hardware": hardware(), "threads": threads, "commit": commit(), **versions()}
        click.echo(json.dumps({"benchmark": "scales", **facts, **measured}))


if __name__ == "__main__":
    main()
