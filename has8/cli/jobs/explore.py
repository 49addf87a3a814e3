"""The job of ``has8 explore``: which layers of a model belong on the chip."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from has8.cli.inputs import check_classes
from has8.cli.jobs.asked import limits_of, scales_for
from has8.cli.jobs.networks import Coding, fitting, open_network, prepared_for, with_loop
from has8.cli.jobs.prepared import data_for, in_steps
from has8.cli.options import BATCH, CALIBRATION
from has8.cli.outputs import DIGEST, Outputs, check_report, is_csv, write_report
from has8.cli.progress import stages
from has8.cli.stdout import show
from has8.files import write_whole
from has8.steps import Readout
from has8.text import printable
from hwsim.alternatives import alternative
from hwsim.exploration import explore
from hwsim.names import Objective
from hwsim.report import html_report
from hwsim.report.exploration import exploration_to_dict, render_exploration
from hwsim.report.summary import summary_of
from mapping import load_target, map_model
from mapping.hosts.schema import load_host
from mapping.integers.methods import Method
from mapping.partition.segments import Side


def run_explore(
    *,
    model: str,
    target: str,
    host: str,
    pins: Sequence[tuple[str, Side]],
    objective: Objective,
    most: int,
    data: str | None,
    data_root: Path | None,
    samples: int,
    weights: Path | None,
    args: str | None,
    readout: Readout | None,
    coding: Coding,
    seed: int,
    output: int,
    out: Path | None,
    weight_bits: int | None,
    scales: Method | None,
    per_channel: bool,
    report: Path | None,
    as_json: bool,
    quiet: bool,
    **preparation: Any,
) -> None:
    """Do what the options of :func:`has8.cli.explore.explore` ask for."""
    limits = limits_of(preparation)
    chip, processor = load_target(target), load_host(host)
    network = open_network(model, weights, args, preparation["steps"])
    others = Path(target), Path(host)
    outputs = Outputs(network.file, out, others, network.weights, network.told, network.called)
    if out is not None:
        outputs.check_exploration()
    check_report(report, network.file, *others, *network.weights)
    how = prepared_for(network, preparation)
    network = with_loop(network, how, data, readout, coding, seed)
    how, source = data_for(network, how, data, data_root, readout)
    bits, chosen = scales_for(network.checkpoint, chip.name, weight_bits, scales, per_channel)
    with stages(quiet) as stage, fitting(network, source):
        stage("mapping")
        how, source = in_steps(network, how, source)
        calibration, _ = source.train.tensors(CALIBRATION)
        mapped = map_model(
            network.model,
            chip,
            pins=dict(pins),
            calibration=calibration,
            weight_bits=bits,
            scales=chosen,
            per_channel=per_channel,
            inputs=how.inputs or "values",
            output=output,
        )
        check_classes(mapped.graph, source)
        images, labels = source.tests(samples)
        found = explore(
            mapped,
            images,
            labels,
            host=processor,
            objective=objective,
            limits=limits,
            pins=dict(pins),
            most=most,
            batch_size=BATCH,
            keep=None if out is None else out / "runs",
            on_stage=stage,
        )
        best = found.best.measured
        if report is not None and not is_csv(report):  # who spiked was not kept
            done = stage("the best once more")
            best = alternative(
                *(best.name, found.best.mapped, images, labels),
                host=processor,
                batch_size=BATCH,
                on_progress=done,
            )
    numbers = {DIGEST: outputs.digest, **exploration_to_dict(network.name, found)}
    if report is not None:
        beside = [choice.measured for choice in found.choices]
        summary = summary_of(best, network.name)
        write_report(report, lambda: html_report(summary, beside=beside), numbers)
    told = json.dumps(numbers, indent=2) if out or as_json else ""
    if out is not None:
        write_whole(outputs.exploration, lambda file: file.write(f"{told}\n".encode()))
    if as_json:
        click.echo(told)
    else:
        show(lambda console: render_exploration(console, network.name, found))
        if report is not None:
            click.echo(f"\n{printable(str(report))}")
