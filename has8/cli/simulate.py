"""``has8 simulate``: run a mapped model beside its float model, whole or broken."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from has8.cli.inputs import BATCH, check_new_file, data_options, find_data
from has8.cli.progress import stages
from has8.data import Data, batches
from has8.data.images import spread
from has8.errors import BadInput
from hwsim import Faults, Faulty, Recording
from hwsim.backends.lava.backend import Lava
from hwsim.experiments.cluster import agreements_on_ray
from hwsim.experiments.faults import FaultPoint
from hwsim.experiments.fidelity import agreements
from hwsim.program import BACKENDS, RECORDS, find_backend
from hwsim.report import Experiment, experiment_to_dict, render_experiment
from mapping import Mapped, load

LOCAL = "local"
"""A Ray of our own, started for the run."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("artefact", metavar="NAME.h8", type=click.Path(path_type=Path))
@data_options
@click.option(
    "--backend",
    type=click.Choice(BACKENDS.names()),
    default="fast",
    show_default=True,
    help="What runs the chip's part.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=BATCH,
    show_default=True,
    help="Samples at a time; memory grows with it.",
)
@click.option(
    "--record", help=f"What to write to --out: {', '.join(RECORDS)}, separated by commas."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The .npz file for what is recorded.",
)
@click.option(
    "--inject",
    metavar="FAULT=RATE,...",
    help=f"Faults and their probabilities: {', '.join(Faults().rates)}.",
)
@click.option(
    "--severity",
    metavar="X,...",
    help="Run once for each number, with all rates multiplied by it.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the faults."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds that Lava may take for one segment of one batch.",
)
@click.option(
    "--ray",
    is_flag=False,
    flag_value=LOCAL,
    metavar="[ADDRESS]",
    help="Spread the samples over the Ray cluster at ADDRESS (auto: the one that runs here), or "
    "over one that is started for it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def simulate(
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
    as_json: bool,
    quiet: bool,
) -> None:
    """Run NAME.h8 (of has8 map) as the chip would, beside its float model.

    Compares answers, and every spike of every layer. With --inject the chip is broken: bits of
    weights are flipped, neurons are dead, spikes are lost. The same seed breaks the same things,
    and what is broken at one severity stays so at higher ones.

    \b
    has8 simulate digits.h8 --record spikes,membranes --samples 100 --out digits.npz
    has8 simulate digits.h8 --inject weight-bitflips=1e-4 --severity 0,1,10,100
    """
    faults, severities = _faults(inject, severity, seed)
    kept = _kept(record, out, severities)
    if kept and ray is not None:
        raise BadInput("--record keeps a run of one process: leave out --ray")
    if out is not None:
        check_new_file(out, artefact)
    mapped = load(artefact)
    inner = find_backend(Lava(timeout_s) if backend == Lava.name else backend)
    source = _data(mapped, data, data_root)
    indices = spread(len(source.test), samples)
    recording = Recording(mapped, len(indices), kept) if kept else None
    if recording is not None and out is not None:
        recording.check_disk(out)
    scaled = [(faults or Faults()).scaled(number) for number in severities]
    chips = [inner] if faults is None else [Faulty(inner, item) for item in scaled]
    with stages(quiet) as stage:
        done = stage("simulation" if ray is None else "simulation on Ray")
        if ray is None:
            found = agreements(
                mapped,
                batches(source.test, batch_size, indices=indices),
                chips,
                total=len(indices),
                recording=recording,
                on_progress=done,
            )
        else:
            found = agreements_on_ray(
                mapped,
                lambda size: batches(source.test, size, indices=indices),
                chips,
                total=len(indices),
                address=None if ray == LOCAL else ray,
                batch_size=batch_size,
                on_progress=done,
            )
        if recording is not None and out is not None:
            stage("writing")
            recording.save(out)
    points = tuple(map(FaultPoint, severities, scaled, found))
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
    render_experiment(Console(highlight=False), experiment)
    if out is not None:
        click.echo(f"\n{out}")


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


def _kept(record: str | None, out: Path | None, severities: tuple[float, ...]) -> list[str]:
    """What to record; both options or none must be given."""
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


def _data(mapped: Mapped, data: str | None, root: Path | None) -> Data:
    """The images to run, checked to be what the model takes."""
    facts = mapped.provenance
    classes = facts.get("class_names")
    source = find_data(
        data,
        root,
        training={**facts.get("training", {}), "data": facts.get("data")},
        input_shape=mapped.graph.input.type.shape,
        class_names=classes,
    )
    outputs = mapped.graph.output.type.size
    if classes is None and len(source.class_names) != outputs:
        raise BadInput(
            f"{source.name} has {len(source.class_names)} classes and the model {outputs} outputs: "
            f"choose its data with --data"
        )
    return source
