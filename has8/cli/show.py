"""``has8 show``: its options; :mod:`has8.cli.jobs.show` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from has8.cli.boundary import do


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("artefact", metavar="NAME.h8", type=click.Path(path_type=Path))
def show(**options: Any) -> None:
    """Draw the chips of NAME.h8 (of has8 map): every core, and which layer it holds.

    Cores of a router stand together, and north is above. A legend has each layer's cores, its
    neurons, and the resource that is scarcest on the fullest of its cores.

    \b
    has8 show digits.h8
    """
    do("show:run_show", options)
