"""``has8 map``, which is ``has8-map``: its options; :mod:`has8.cli.jobs.map` does the work."""

from __future__ import annotations

from typing import Any

import click

from has8.cli.boundary import do
from has8.cli.options import (
    FOLDER,
    data_options,
    network_options,
    partition_options,
    preparation_options,
    price_options,
    quantization_options,
    report_option,
    target_option,
)


@click.command("map", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@target_option
@click.option(
    "--board",
    help="Chips as they lie on one of the target's boards, and no more of them.  [default: as many "
    "as it takes, in a row]",
)
@price_options
@partition_options
@data_options
@network_options
@preparation_options
@click.option(
    "--verify",
    type=click.Choice(["lava", "none"]),
    default="lava",
    show_default=True,
    help="What to hold the simulation against.",
)
@click.option(
    "--verify-samples",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Samples to run in Lava as well, over every spike.",
)
@click.option(
    "--reset",
    type=click.Choice(["trained", "zero"]),
    default="trained",
    show_default=True,
    help="Let neurons that were trained to reset by subtraction reset to zero: fewer "
    "compartments, other results, both in the report.",
)
@click.option(
    "--allocate",
    "allocation",
    type=click.Choice(["cores", "latency", "energy", "intel"]),
    default="cores",
    show_default=True,
    help="As few cores as can be; all cores of as few chips where that ends steps sooner, or those "
    "of them that lower energy; or tiles as Intel's compiler for Loihi 2 cuts them.",
)
@click.option(
    "--placement",
    type=click.Choice(["descent", "snake"]),
    default="descent",
    show_default=True,
    help="Cores where their messages have short ways, or in the order of the layers.",
)
@click.option(
    "--placement-seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the descent's random swaps.",
)
@click.option(
    "--learn",
    type=click.Choice(["on-chip"]),
    help="Price learning one more sample on the chip as well, of a colanet of has8 train.",
)
@quantization_options("round, or those that a fine-tuned model has")
@click.option(
    "--out",
    type=FOLDER,
    help="Folder for MODEL.h8 and the report.  [default: beside MODEL]",
)
@report_option
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace files there that are of another model, or verified where these will not be.",
)
@click.option("--full", is_flag=True, help="Print every reason and every assumption.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.version_option(package_name="has8")
def map_command(**options: Any) -> None:
    """Map MODEL onto a neuromorphic chip.

    MODEL is a .pt of has8 train, a network saved by mapping.save_model, exported by Lava-DL or in
    NIR, or FILE.py:NAME: a class or function (or module) NAME in a Python file of yours, which is
    run for it. All others are numbers, and nobody's code is run.

    Cuts the model between host and chip, quantises and places the chip's part, runs test data
    through the float model and through the chip's integers, holds a few of them against Lava
    spike by spike, and prices the result. Writes MODEL.h8 and MODEL.report.json beside MODEL, or
    into the folder --out.

    \b
    has8-map examples/models/digits.pt --target loihi --out .
    has8-map model.pt --report model.html
    has8-map model.pt --partition head.snn,blocks.0.snn --samples 500
    has8-map model.pt --pin 'blocks.*=host' --pin head.snn.0=chip
    has8-map net.pt --data mnist --mean 0.1307 --std 0.3081
    has8-map model.pt --target loihi2 --coding graded
    has8-map mynet.py:Net --weights state.pt --data nmnist --steps 25
    has8-map mynet.py:Net --data mnist --flatten --steps 25 --readout count
    """
    do("map:run_map", options)
