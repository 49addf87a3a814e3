"""``has8 export``: its options; :mod:`has8.cli.jobs.export` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from has8.cli.boundary import do


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("artefact", metavar="NAME.h8", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "form",
    type=click.Choice(["nir", "netx"]),
    required=True,
    help="NIR, or Lava-DL's network.net.",
)
@click.option("--segment", help="Which of several chip segments.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file.  [default: NAME.nir or NAME.net beside NAME.h8]",
)
def export(**options: Any) -> None:
    """Write a chip segment of NAME.h8 (of has8 map) as a file of another tool.

    Its integers are kept. NIR has no registers, so spikes of tools that read it may differ where a
    register's rounding decides; a network.net is the same integers, and holds fewer networks.

    \b
    has8 export digits.h8 --to nir --segment head.snn
    has8 export cnn.h8 --to netx --out network.net
    """
    do("export:run_export", options)
