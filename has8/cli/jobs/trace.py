"""The job of ``has8 trace``: a sample's timeline for Perfetto."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from has8.cli.inputs import check_new_file
from has8.cli.jobs.simulate import artefact_data
from has8.cli.progress import stages
from has8.files import write_whole
from has8.text import printable
from hwsim import estimate
from hwsim.experiments.host import measure_host
from hwsim.names import RunMode
from hwsim.program import Program, sample_axis
from hwsim.report.trace import Trace
from mapping import load
from mapping.hosts.schema import load_host


def run_trace(
    *,
    artefact: Path,
    out: Path,
    data: str | None,
    data_root: Path | None,
    samples: int,
    host: str,
    measure: bool,
    run_mode: RunMode,
    quiet: bool,
) -> None:
    """Do what the options of :func:`has8.cli.trace.trace` ask for."""
    processor = load_host(host)
    check_new_file(out, artefact)
    mapped = load(artefact)
    images, _ = artefact_data(mapped, data, data_root).test.tensors(samples)
    axis, found = sample_axis(mapped), Trace()
    with stages(quiet) as stage:
        if measure:
            stage("measuring the host")
            processor = measure_host(mapped, images, processor)
        done, program = stage("following samples"), Program(mapped)
        total = images.shape[axis]
        for number in range(total):
            run = program.run(images.narrow(axis, number, 1), first=number)
            alone = replace(run, apart=(run.activity,))
            found.add(estimate(mapped, alone, processor, run_mode, "events"))
            done(number + 1, total)
    text = json.dumps(found.to_dict(), separators=(",", ":"), allow_nan=False)
    write_whole(out, lambda file: file.write(text.encode()))
    click.echo(
        f"{printable(str(out))}: {len(found.slices):,} slices on {len(found.tracks):,} tracks, "
        f"{found.now / 1e3:,.3g} ms; open it at https://ui.perfetto.dev"
    )
