"""The job of ``has8 simulate``: run a mapped model beside its float model, whole or broken."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
import torch
from torch import Tensor

from has8.cli.inputs import check_new_file, find_data
from has8.cli.options import LOCAL
from has8.cli.preparation import PREPARATION, Preparation
from has8.cli.progress import stages
from has8.cli.stdout import show
from has8.data import Data, batches
from has8.data.images import spread
from has8.errors import BadInput, CheckpointError
from has8.text import printable
from hwsim import Faults, Recording
from hwsim.backends.lava.backend import Lava
from hwsim.backends.protocol import Backend
from hwsim.backends.registry import find_backend
from hwsim.experiments.cluster import agreements_on_ray
from hwsim.experiments.faults import FaultPoint, fault_points
from hwsim.experiments.fidelity import Agreement, agreements
from hwsim.names import RECORDS
from hwsim.report import Experiment, experiment_to_dict, render_experiment
from mapping import Mapped, load


def run_simulate(
    *,
    artefact: Path,
    data: str | None,
    data_root: Path | None,
    samples: int,
    backend: str,
    batch_size: int,
    record: str | None,
    out: Path | None,
    inject: str | None,
    severity: str | None,
    seed: int,
    timeout_s: float,
    ray: str | None,
    ray_timeout_s: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Do what the options of :func:`has8.cli.simulate.simulate` ask for."""
    faults, severities = _faults(inject, severity, seed)
    records = _records(record, out, severities)
    if records and ray is not None:
        raise BadInput("--record keeps a run of one process: leave out --ray")
    if out is not None:
        check_new_file(out, artefact)
    mapped = load(artefact)
    inner = find_backend(Lava(timeout_s) if backend == Lava.name else backend)
    source = artefact_data(mapped, data, data_root)
    indices = spread(len(source.test), samples)
    recording = Recording(mapped, len(indices), records) if records else None
    if recording is not None and out is not None:
        recording.check_disk(out)
    with stages(quiet) as stage:
        done = stage("simulation" if ray is None else "simulation on Ray")

        def pairs(size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
            for x, labels in batches(source.test, size, indices=indices):
                yield x, labels if source.class_names else None

        def run(backends: Sequence[Backend]) -> Sequence[Agreement]:
            if ray is None:
                return agreements(
                    mapped,
                    pairs(batch_size),
                    backends,
                    total=len(indices),
                    recording=recording,
                    on_progress=done,
                )
            return agreements_on_ray(
                mapped,
                lambda size: (tuple(filter(torch.is_tensor, pair)) for pair in pairs(size)),
                backends,
                total=len(indices),
                address=None if ray == LOCAL else ray,
                batch_size=batch_size,
                on_progress=done,
                timeout_s=ray_timeout_s,
            )

        if faults is None:
            points: tuple[FaultPoint, ...] = (FaultPoint(1.0, Faults(), run([inner])[0]),)
        else:
            points = fault_points(faults, severities, inner, run)
        if recording is not None and out is not None:
            stage("writing")
            recording.save(out)
    experiment = Experiment(
        artefact.stem,
        mapped.target.name,
        source.name,
        backend,
        faults,
        points,
        severity is not None,
    )
    if as_json:
        result = {**experiment_to_dict(experiment), "recording": out and str(out)}
        click.echo(json.dumps(result, indent=2))
        return
    show(lambda console: render_experiment(console, experiment))
    if out is not None:
        click.echo(f"\n{printable(str(out))}")


def _faults(
    inject: str | None, severity: str | None, seed: int
) -> tuple[Faults | None, tuple[float, ...]]:
    """What to break and how badly; severity 1 alone if none is asked for."""
    if inject is None:
        if severity is not None:
            raise BadInput("--severity multiplies the rates of faults: name them with --inject")
        return None, (1.0,)
    faults = Faults.parse(inject, seed)
    try:
        severities = tuple(map(float, (severity or "1").split(",")))
    except ValueError:
        raise BadInput(
            f"--severity takes numbers separated by commas, such as 0,1,10, not {severity!r}"
        ) from None
    for number in severities:
        faults.scaled(number)  # refuses what makes a rate no probability
    return faults, severities


def _records(record: str | None, out: Path | None, severities: tuple[float, ...]) -> list[str]:
    """What to record: both options belong together, and to one severity."""
    if record is None and out is None:
        return []
    if record is None:
        raise BadInput(f"--out needs --record: say what to write to {out}, {' or '.join(RECORDS)}")
    if out is None:
        raise BadInput("--record needs --out: name the .npz file to write to")
    if len(severities) > 1:
        raise BadInput(
            f"--record keeps one run, and --severity asks for {len(severities)}: name one severity"
        )
    return [name.strip() for name in record.split(",")]


def artefact_data(mapped: Mapped, data: str | None, root: Path | None) -> Data:
    """The images to run, checked to be what the model takes."""
    facts = mapped.provenance
    classes = facts.get("class_names")
    how, shape = _preparation(facts), list(mapped.graph.input.type.shape)
    if how is not None and 0 < how.steps_axis <= len(shape):
        del shape[how.steps_axis - 1]
    source = find_data(
        data,
        root,
        training={**facts.get("training", {}), "data": facts.get("data")},
        input_shape=shape,
        class_names=classes,
        preparation=how,
    )
    outputs = mapped.graph.output.type.size
    if classes is None and len(source.class_names) != outputs:
        raise BadInput(
            f"{source.name} has {len(source.class_names)} classes and the model {outputs} outputs: "
            f"choose its data with --data"
        )
    return source


def _preparation(facts: Mapping[str, Any]) -> Preparation | None:
    """What was done to the data that it was mapped with."""
    if PREPARATION not in facts:
        return None
    try:
        return msgspec.convert(facts[PREPARATION], Preparation)
    except msgspec.ValidationError as error:
        raise CheckpointError(
            f"the mapping does not say how its data are prepared ({error}): map it anew"
        ) from error
