"""``has8 compare``: its options; :mod:`has8.cli.jobs.compare` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from has8.cli.boundary import do
from has8.cli.options import data_options, pin_option, price_options, report_option


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument(
    "artefacts", metavar="NAME.h8...", type=click.Path(path_type=Path), nargs=-1, required=True
)
@click.option(
    "--partition",
    "partitions",
    metavar="NAMES",
    multiple=True,
    help="Map each NAME.h8 anew with these parts on the chip: all, none, or names of segments or "
    "layers separated by commas; once for each partition to compare.",
)
@pin_option
@data_options
@price_options
@report_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def compare(**options: Any) -> None:
    """Run and price several mappings side by side, and say which takes the least.

    All run the same samples. Prices are drawn from the ranges of all published figures at once, the
    same for every mapping: what is less than the first column's in nine draws of ten is green.

    \b
    has8 compare digits.h8 --partition all --partition blocks.0.snn,head.snn --partition none
    has8 compare 8bit.h8 4bit.h8 --host a100
    """
    do("compare:run_compare", options)
