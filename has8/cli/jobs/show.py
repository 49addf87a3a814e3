"""The job of ``has8 show``: the chips of a mapping, drawn in the terminal."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from has8.cli.stdout import show
from hwsim.report.floorplan import render_chips
from mapping import load


def run_show(*, artefact: Path) -> None:
    """Do what the options of :func:`has8.cli.show.show` ask for."""
    show(partial(render_chips, mapped=load(artefact), name=artefact.stem))
