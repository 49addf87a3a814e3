"""``has8 explore``: its options; :mod:`has8.cli.jobs.explore` does the work."""

from __future__ import annotations

from typing import Any

import click

from has8.cli.boundary import do
from has8.cli.options import (
    FOLDER,
    data_options,
    host_option,
    network_options,
    objective_options,
    pin_option,
    preparation_options,
    quantization_options,
    report_option,
    target_option,
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@target_option
@host_option
@pin_option
@objective_options
@click.option(
    "--most",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    help="Partitions to run beside those with all and no layers on the chip.",
)
@data_options
@network_options
@preparation_options
@quantization_options("round, or those that a fine-tuned model has")
@report_option
@click.option(
    "--out",
    type=FOLDER,
    help="Folder for the result and for each run once it is done; a new call goes on there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def explore(**options: Any) -> None:
    """Say which layers of MODEL belong on the chip, and what each choice costs.

    MODEL is what has8 map takes. It is mapped with all layers on the chip that can be there and run
    once, which prices every partition; the search is exact. Those that are best in energy, latency,
    cores or their product, and some of the front between them, are mapped, run and priced
    themselves. Mappings are written by has8 map MODEL --partition NAMES.

    \b
    has8 explore examples/models/digits.pt --target loihi
    has8 explore mynet.py:Net --data mnist --max-cores 20 --pin 'fc1=host' --objective latency
    """
    do("explore:run_explore", options)
