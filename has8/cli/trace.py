"""``has8 trace``: its options; :mod:`has8.cli.jobs.trace` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from has8.cli.boundary import do
from has8.cli.options import data_root_option, host_options
from has8.data.names import data_names, event_names


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("artefact", metavar="NAME.h8", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The JSON file to write.",
)
@click.option(
    "--data",
    help=f"{', '.join(data_names())}, a folder of images, or events: {', '.join(event_names())}.  "
    f"[default: what it was trained on]",
)
@data_root_option
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Test samples to follow, one after another, spread evenly over the test set.",
)
@host_options
@click.option("--quiet", is_flag=True, help="Show no progress.")
def trace(**options: Any) -> None:
    """Write what NAME.h8 (of has8 map) does with a sample, and when, for ui.perfetto.dev.

    Host, link to the host, chip steps with what each waits for, and every core's neurons and
    messages are tracks; every message is followed, as with --timing events.

    \b
    has8 trace digits.h8 -o digits.trace.json
    """
    do("trace:run_trace", options)
