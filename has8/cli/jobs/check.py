"""The job of ``has8 check``: what of a network can go to a chip, and why the rest cannot."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from torch import Tensor

from has8.cli.jobs.networks import (
    Coding,
    Network,
    check_steps,
    fitting,
    open_network,
    prepared_for,
    steps_axis_of,
    with_loop,
)
from has8.cli.jobs.prepared import data_for, in_steps
from has8.cli.preparation import Preparation
from has8.cli.stdout import show
from has8.errors import BadInput
from has8.steps import Readout
from hwsim.report.screen import Text, empty_table, facts, indented
from hwsim.report.units import count, many, percent
from mapping import Overview, check_model, load_target
from mapping.overview import Layer

EXAMPLES = 16
"""Samples that a network is followed on."""
SIDE_STYLE = {"host": "", "chip": "cyan"}


def run_check(
    *,
    model: str,
    target: str,
    input_shape: tuple[int, ...] | None,
    data: str | None,
    data_root: Path | None,
    weights: Path | None,
    args: str | None,
    readout: Readout | None,
    coding: Coding,
    seed: int,
    output: int,
    as_json: bool,
    **preparation: Any,
) -> None:
    """Do what the options of :func:`has8.cli.check.check` ask for."""
    chip = load_target(target)
    network = open_network(model, weights, args, preparation["steps"])
    how = prepared_for(network, preparation)
    network = with_loop(network, how, data, readout, coding, seed)
    if data is not None and input_shape is not None:
        raise BadInput("--input-shape is in place of --data: give one of them")
    options: dict[str, Any] = {"inputs": how.inputs or "values", "output": output}
    if data is not None:
        how, source = data_for(network, how, data, data_root, readout)
        how, source = in_steps(network, how, source)
        options["inputs"] = how.inputs
        calibration, _ = source.train.tensors(EXAMPLES)
        with fitting(network, source):
            found = check_model(network.model, chip, calibration=calibration, **options)
    else:
        given = _shapes(network, how, input_shape)
        check_steps(how.inputs, how, readout)
        found = check_model(network.model, chip, **given, **options)
    name = network.name
    if as_json:
        click.echo(json.dumps(_plain(name, found), indent=2))
    else:
        show(lambda console: _render(console, name, found))
    if not any(layer.side == "chip" for layer in found.layers):
        why = "see the reasons" if found.neuron_layers else "it has no neurons, such as snn.Leaky"
        raise BadInput(f"nothing of {name} can go to {found.target}: {why}")


def _shapes(
    network: Network, how: Preparation, input_shape: tuple[int, ...] | None
) -> dict[str, Any]:
    """What a network is followed on without data."""
    shape = input_shape or network.shape
    if shape is None:
        raise BadInput("say what the network takes: --data NAME, or --input-shape such as 1,28,28")
    if how.inputs in (None, "values") or not isinstance(network.model, torch.nn.Module):
        return {"input_shape": shape}
    if how.steps is None:
        raise BadInput(f"--inputs {how.inputs} come in steps: say how many with --steps")
    x = _example(how.steps, shape)
    return {"calibration": x.movedim(0, steps_axis_of(network, how.inputs, x))}


def _example(steps: int, shape: tuple[int, ...]) -> Tensor:
    """Some spikes, the same each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(steps, 2, *shape, generator=generator).round()


def _plain(name: str, found: Overview) -> dict[str, Any]:
    return {
        "model": name,
        "target": found.target,
        "neuron_layers": {"chip": found.on_chip, "all": found.neuron_layers},
        "operations": found.operations,
        "chip_share": found.chip_share,
        "layers": [asdict(layer) for layer in found.layers],
    }


def _render(console: Console, name: str, found: Overview) -> None:
    console.print(Text.assemble((name, "bold"), " on ", (found.target, "bold")))
    console.print()
    reasons = list(dict.fromkeys(map(_reason, found.layers)))
    table = empty_table("layer", "kind", "side", "output", "steps", "operations", "why", left=3)
    for layer in found.layers:
        table.add_row(
            Text(layer.name, SIDE_STYLE[layer.side], overflow="fold"),
            Text(layer.kind),
            Text(layer.side, SIDE_STYLE[layer.side]),
            Text("x".join(map(str, layer.shape))),
            "" if layer.steps is None else str(layer.steps),
            count(layer.operations) if layer.operations else "",
            str(reasons.index(_reason(layer)) + 1),
        )
    indented(console, table)
    console.print()
    indented(console, facts((str(n), Text(reason)) for n, reason in enumerate(reasons, 1)))
    console.print()
    console.print(Text(_summary(found), "bold"))


def _reason(layer: Layer) -> str:
    if not layer.elsewhere:
        return layer.reason
    return f"{layer.reason}; {' and '.join(layer.elsewhere)} would take it"


def _summary(found: Overview) -> str:
    layers = many(found.neuron_layers, "neuron layer")
    share = f"{percent(found.chip_share)} of {count(found.operations)} operations a sample"
    return f"{found.on_chip} of {layers} can go to {found.target}, with {share}"
