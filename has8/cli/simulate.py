"""``has8 simulate``: its options; :mod:`has8.cli.jobs.simulate` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from has8.cli.boundary import do
from has8.cli.options import BATCH, LOCAL, data_options
from hwsim.names import BACKEND_NAMES, FAULT_NAMES, RAY_TIMEOUT_S, RECORDS


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("artefact", metavar="NAME.h8", type=click.Path(path_type=Path))
@data_options
@click.option(
    "--backend",
    type=click.Choice(BACKEND_NAMES),
    default="fast",
    show_default=True,
    help="What runs the chip's part.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=BATCH,
    show_default=True,
    help="Samples at a time; memory grows with it.",
)
@click.option(
    "--record", help=f"What to write to --out: {', '.join(RECORDS)}, separated by commas."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The .npz file for what is recorded.",
)
@click.option(
    "--inject",
    metavar="FAULT=RATE,...",
    help=f"Faults and their probabilities: {', '.join(FAULT_NAMES)}.",
)
@click.option(
    "--severity",
    metavar="X,...",
    help="Run once for each number, with all rates multiplied by it.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the faults.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds that Lava may take for one segment of one batch.",
)
@click.option(
    "--ray",
    is_flag=False,
    flag_value=LOCAL,
    metavar="[ADDRESS]",
    help="Spread the samples over the Ray cluster at ADDRESS (auto: the one that runs here), or "
    "over one that is started for it.",
)
@click.option(
    "--ray-timeout",
    "ray_timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=RAY_TIMEOUT_S,
    show_default=True,
    help="Seconds in which the Ray cluster must finish some of the samples (a shard); the run ends "
    "else.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def simulate(**options: Any) -> None:
    """Run NAME.h8 (of has8 map) as the chip would, beside its float model.

    Compares answers, and every spike of every layer. With --inject the chip is broken: bits of
    weights are flipped, neurons are dead, spikes are lost. The same seed breaks the same things,
    and what is broken at one severity stays so at higher ones.

    \b
    has8 simulate digits.h8 --record spikes,membranes --samples 100 --out digits.npz
    has8 simulate digits.h8 --inject weight-bitflips=1e-4 --severity 0,1,10,100
    """
    do("simulate:run_simulate", options)
