"""``has8 check``: its options; :mod:`has8.cli.jobs.check` does the work."""

from __future__ import annotations

from typing import Any

import click

from has8.cli.boundary import do
from has8.cli.options import (
    data_root_option,
    network_options,
    preparation_options,
    target_option,
)
from has8.data.names import data_names, event_names


class Shape(click.ParamType):  # type: ignore[type-arg]
    """Sides separated by commas."""

    name = "C,H,W"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """The sides."""
        try:
            sides = tuple(map(int, str(value).split(",")))
        except ValueError:
            sides = ()
        if not sides or min(sides) < 1:
            self.fail(f"{value!r} is not sides such as 1,28,28 or 784", param, ctx)
        return sides


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@target_option
@click.option("--input-shape", type=Shape(), help="Of one sample, in place of --data.")
@click.option(
    "--data",
    help=f"What it takes: {', '.join(data_names())}, a folder of images, or events: "
    f"{', '.join(event_names())}.",
)
@data_root_option
@network_options
@preparation_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def check(**options: Any) -> None:
    """Say which layers of MODEL can go to a chip, and why the others cannot.

    MODEL is what has8 map takes; FILE.py:NAME runs that file. Nothing is quantised, placed or
    written; whether layers fit on the chip's cores, has8 map finds out. Exit code 1 if nothing
    can go to the chip.

    \b
    has8 check net.pt --target loihi
    has8 check mynet.py:Net --input-shape 784 --steps 25 --readout count
    has8 check mynet.py:Net --data nmnist --steps 25
    """
    do("check:run_check", options)
