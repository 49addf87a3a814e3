"""Options that several commands share, and the defaults that their help states.

Importing this takes no torch, and neither do the commands' own modules: what a command does is in
:mod:`has8.cli.jobs`, which is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from has8.data.names import data_names
from mapping.integers.methods import METHODS

FOLDER = click.Path(path_type=Path, file_okay=False)
BATCH = 100
"""Samples that run at a time."""
CALIBRATION = 256
"""Training images that stand for the data: for encoders' ranges, and to search for scales on."""
DEFAULT_BITS = 8
"""Bits of a weight unless the user names another number."""
LOCAL = "local"
"""The value of ``--ray`` without an address: a Ray of our own, started for the run."""

Command = TypeVar("Command", bound=Callable[..., Any])

data_root_option = click.option(
    "--data-root",
    type=FOLDER,
    help="Where downloaded data lie.  [default: $HAS8_DATA, else ~/.cache/has8/data]",
)


def data_options(command: Command) -> Command:
    """``--data``, ``--data-root`` and ``--samples``, for commands that run a trained model."""
    for option in (
        click.option(
            "--samples",
            type=click.IntRange(min=1),
            default=10_000,
            show_default=True,
            help="Test images to run, spread evenly over the test set; fewer if it has fewer.",
        ),
        data_root_option,
        click.option(
            "--data",
            help=f"{', '.join(data_names())}, or a folder of images.  "
            "[default: what it was trained on]",
        ),
    ):
        command = option(command)
    return command


def quantization_options(default: str) -> Callable[[Command], Command]:
    """``--weight-bits``, ``--scales`` and ``--per-channel``; each is None or false if not given.

    Args:
        default: how scales are chosen without ``--scales``, in words for its help.
    """

    def added(command: Command) -> Command:
        for option in (
            click.option(
                "--per-channel",
                is_flag=True,
                help="Search for a threshold for each channel, as far as a core has them.",
            ),
            click.option(
                "--scales",
                type=click.Choice(METHODS),
                help="How floats become integers: round clips nothing; search takes what changes "
                f"the fewest spikes on {CALIBRATION} training images.  [default: {default}]",
            ),
            click.option(
                "--weight-bits",
                type=int,
                help=f"Bits of a weight, 1 to {DEFAULT_BITS}.  [default: {DEFAULT_BITS}]",
            ),
        ):
            command = option(command)
        return command

    return added
