"""The work of ``has8 export``."""

from __future__ import annotations

from pathlib import Path

import click

from has8.cli.inputs import check_new_file
from mapping import load, write_netx, write_nir


def run_export(*, artefact: Path, form: str, segment: str | None, out: Path | None) -> None:
    """Do what the options of :func:`has8.cli.export.export` ask for."""
    out = out or artefact.with_suffix(".nir" if form == "nir" else ".net")
    check_new_file(out, artefact)
    write = write_nir if form == "nir" else write_netx
    click.echo(write(load(artefact), out, segment=segment))
