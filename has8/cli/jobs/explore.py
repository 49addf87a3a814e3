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
from has8.cli.progress import stages
from has8.cli.stdout import show
from has8.steps import Readout
from hwsim.exploration import explore
from hwsim.names import Objective
from hwsim.report.exploration import exploration_to_dict, render_exploration
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
    weight_bits: int | None,
    scales: Method | None,
    per_channel: bool,
    as_json: bool,
    quiet: bool,
    **preparation: Any,
) -> None:
    """Do what the options of :func:`has8.cli.explore.explore` ask for."""
    limits = limits_of(preparation)
    chip, processor = load_target(target), load_host(host)
    network = open_network(model, weights, args, preparation["steps"])
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
            on_stage=stage,
        )
    if as_json:
        click.echo(json.dumps(exploration_to_dict(network.name, found), indent=2))
    else:
        show(lambda console: render_exploration(console, network.name, found))
