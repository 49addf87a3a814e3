"""The job of ``has8 compare``: several mappings side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
from torch import Tensor

from has8.cli.inputs import partition_names
from has8.cli.jobs.simulate import artefact_data
from has8.cli.options import BATCH, CALIBRATION
from has8.cli.outputs import check_report, write_report
from has8.cli.progress import stages
from has8.cli.stdout import show
from has8.data import Data
from has8.errors import BadInput
from has8.text import printable
from hwsim.alternatives import alternative
from hwsim.experiments.host import measure_host
from hwsim.names import RunMode, Timing
from hwsim.report import html_comparison
from hwsim.report.alternatives import alternatives_to_dict, render_alternatives
from mapping import Mapped, load, map_model
from mapping.hosts.schema import load_host
from mapping.partition.pins import Pins
from mapping.partition.segments import Side
from mapping.pipeline import takes


@dataclass(frozen=True)
class _Candidate:
    """A mapping to be made or as it is."""

    name: str
    mapped: Mapped
    partition: str | None


def run_compare(
    *,
    artefacts: Sequence[Path],
    partitions: Sequence[str],
    pins: Sequence[tuple[str, Side]],
    data: str | None,
    data_root: Path | None,
    samples: int,
    host: str,
    measure: bool,
    run_mode: RunMode,
    timing: Timing,
    report: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Do what the options of :func:`has8.cli.compare.compare` ask for."""
    processor = load_host(host)
    if pins and not partitions:
        raise BadInput("--pin moves layers of partitions that are mapped anew: add --partition all")
    check_report(report, *artefacts, Path(host))
    candidates = list(_candidates(artefacts, partitions))

    @cache
    def data_of(mapped: Mapped) -> Data:
        return artefact_data(mapped, data, data_root)

    @cache
    def tests_of(mapped: Mapped) -> tuple[Tensor, Tensor | None]:
        return data_of(mapped).tests(samples)

    if len({data_of(one.mapped).name for one in candidates}) > 1:
        names = ", ".join(dict.fromkeys(data_of(one.mapped).name for one in candidates))
        raise BadInput(f"the mappings run different data ({names}): name one with --data")
    found = []
    with stages(quiet) as stage:
        for candidate in candidates:
            done = stage(candidate.name)
            mapped = _mapped(candidate, data_of(candidate.mapped), dict(pins))
            images, labels = tests_of(candidate.mapped)
            runs_rest = measure_host(mapped, images, processor) if measure else processor
            found.append(
                alternative(
                    candidate.name,
                    mapped,
                    images,
                    labels,
                    host=runs_rest,
                    run_mode=run_mode,
                    timing=timing,
                    batch_size=BATCH,
                    on_progress=done,
                )
            )
    model = ", ".join(_names(artefacts).values())
    numbers = alternatives_to_dict(model, found)
    if report is not None:
        write_report(report, lambda: html_comparison(model, found), numbers)
    if as_json:
        click.echo(json.dumps(numbers, indent=2))
    else:
        show(lambda console: render_alternatives(console, model, found))
        if report is not None:
            click.echo(f"\n{printable(str(report))}")


def _candidates(artefacts: Sequence[Path], partitions: Sequence[str]) -> Iterator[_Candidate]:
    for path, own in _names(artefacts).items():
        mapped = load(path)
        if not partitions:
            yield _Candidate(own, mapped, None)
        if partitions and mapped.provenance.get("scales") == "given":
            raise BadInput(
                f"{path} was mapped with scales of its own, which fit its partition alone: map the "
                f"others with has8-map, and compare them without --partition"
            )
        for partition in partitions:
            name = partition if len(artefacts) == 1 else f"{own} {partition}"
            yield _Candidate(name, mapped, partition)


def _names(artefacts: Sequence[Path]) -> dict[Path, str]:
    """What a person calls each file, once: its name, or its path if another has the same name."""
    paths = dict.fromkeys(artefacts)
    stems = [path.stem for path in paths]
    return {
        path: path.stem if stems.count(path.stem) == 1 else str(path.with_suffix(""))
        for path in paths
    }


def _mapped(candidate: _Candidate, source: Data, pins: Pins) -> Mapped:
    """The mapping, made anew where another partition is asked for."""
    before, partition = candidate.mapped, candidate.partition
    if partition is None:
        return before
    facts = before.provenance
    calibration, _ = source.train.tensors(CALIBRATION)
    return map_model(
        before.graph,
        before.target,
        partition_names(partition),
        pins=pins,
        calibration=calibration,
        weight_bits=facts.get("weight_bits", 8),
        scales=facts.get("scales", "round"),
        per_channel=facts.get("per_channel", False),
        inputs=takes(before.graph),
        allocation=facts.get("allocation", "cores"),
        placement=facts.get("placement", "snake"),
        placement_seed=facts.get("placement_seed", 0),
        coding=facts.get("coding", "binary"),
    )
