"""Options that several commands share, and the defaults that their help states.

Importing this takes no torch, and neither do the commands' own modules: what a command does is in
:mod:`has8.cli.jobs`, which is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from has8.data.names import data_names, event_names
from hwsim.names import DEFAULT_RUN_MODE, DEFAULT_TIMING, OBJECTIVES, RUN_MODES, TIMINGS
from mapping.hosts.schema import DEFAULT_HOST, host_names
from mapping.integers.methods import METHODS
from mapping.targets.schema import target_names

FOLDER = click.Path(path_type=Path, file_okay=False)
BATCH = 100
"""Samples that run at a time."""
CALIBRATION = 256
"""Training images that stand for the data: for encoders' ranges, and to search for scales on."""
LOCAL = "local"
"""The value of ``--ray`` without an address: a Ray of our own, started for the run."""

READOUTS = ("count", "spikes", "membrane_sum", "membrane_last", "membrane_max")
"""What :func:`has8.over_time` can read out."""

Command = TypeVar("Command", bound=Callable[..., Any])

data_root_option = click.option(
    "--data-root",
    type=FOLDER,
    help="Where downloaded data lie.  [default: $HAS8_DATA, else ~/.cache/has8/data]",
)


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Numbers separated by commas."""

    name = "X,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        """The numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(map(float, str(value).split(",")))
        except ValueError:
            self.fail(f"{value!r} is not numbers separated by commas, such as 0.5,0.5", param, ctx)


class Pin(click.ParamType):  # type: ignore[type-arg]
    """A layer and its side, NAME=host or NAME=chip."""

    name = "NAME=SIDE"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        """Name or wildcard, and side."""
        if isinstance(value, tuple):
            return value
        name, _, side = str(value).rpartition("=")
        if not name or side not in ("host", "chip"):
            self.fail(f"{value!r} is not NAME=host or NAME=chip, such as 'fc1=host'", param, ctx)
        return name, side


def _added(options: tuple[Callable[[Command], Command], ...]) -> Callable[[Command], Command]:
    """A decorator that adds options, listed in this order."""

    def added(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return added


network_options = _added(
    (
        click.option(
            "--weights",
            type=click.Path(path_type=Path),
            help="For FILE.py:NAME: its state dictionary, by torch.save, alone or within a "
            "checkpoint; read as numbers only.",
        ),
        click.option(
            "--args",
            metavar="JSON",
            help="For FILE.py:NAME: its arguments, such as '{\"beta\": 0.9}'; for a network of "
            "Lava-DL those of mapping.read_netx, for one in NIR those of mapping.read_nir.",
        ),
        click.option(
            "--readout",
            type=click.Choice(READOUTS),
            help="For a forward that takes one step: loop over --steps, and read this out.  "
            "[default: the forward has the loop]",
        ),
        click.option(
            "--steps",
            type=click.IntRange(min=1),
            help="Steps of --readout, of events, or of images with --inputs steps.",
        ),
        click.option(
            "--coding",
            type=click.Choice(["static", "rate", "latency", "graded"]),
            default="static",
            show_default=True,
            help="With --readout, of values: the same each step, random spikes of that rate, or a "
            "spike each, the larger the earlier.  Without it, graded: a value that an encoder "
            "sends to the chip, or a decoder takes from it, crosses as one graded spike, and "
            "values of each step as one in each.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Seed of --coding rate.",
        ),
        click.option(
            "--inputs",
            type=click.Choice(["values", "steps", "spikes"]),
            help="What the network takes: values [N, ...], or values or spikes in each step, "
            "[T, N, ...].  [default: spikes of events, values of images]",
        ),
        click.option(
            "--output",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Which of several tensors that it returns.",
        ),
    )
)
"""How a network of the user's own is made and run."""

preparation_options = _added(
    (
        click.option("--image-size", type=click.IntRange(min=1), help="Pixels a side."),
        click.option(
            "--channels", type=click.Choice(["1", "3"]), help="Make grey of colours, or repeat it."
        ),
        click.option("--mean", type=Numbers(), help="Subtract this, of images in 0 to 1."),
        click.option("--std", type=Numbers(), help="Divide by this then."),
        click.option("--flatten", is_flag=True, help="Give vectors, for a linear first layer."),
        click.option(
            "--bin",
            "binning",
            type=click.Choice(["time", "count"]),
            default="time",
            show_default=True,
            help="Steps of events: equal stretches of time, or equally many events.",
        ),
        click.option(
            "--window-us",
            type=click.IntRange(min=1),
            help="Microseconds of a step of events.  [default: a T-th of each recording]",
        ),
    )
)
"""What is done to data before a network takes them; mappings keep it."""


pin_option = click.option(
    "--pin",
    "pins",
    type=Pin(),
    multiple=True,
    help="Have layers on one side, NAME=host or NAME=chip: a node, a module around it, or a "
    "wildcard, 'blocks.*=host'; of several that fit one layer the last rules.",
)
partition_option = click.option(
    "--partition",
    default="all",
    show_default=True,
    help="all, none, or names of chip segments or layers, separated by commas; or auto, what is "
    "best by --objective within the limits.",
)


def _limit(name: str, kind: Any, what: str) -> Callable[[Command], Command]:
    return click.option(f"--{name}", type=kind, help=f"Choose a partition of {what}.")


objective_options = _added(
    (
        click.option(
            "--objective",
            type=click.Choice(list(OBJECTIVES)),
            default="energy",
            show_default=True,
            help="What a partition is chosen by: "
            + "; ".join(f"{name}, {meaning}" for name, meaning in OBJECTIVES.items())
            + ".",
        ),
        _limit("max-cores", click.IntRange(min=0), "at most so many cores"),
        _limit("max-chips", click.IntRange(min=0), "at most so many chips"),
        _limit("max-latency-us", click.FloatRange(min=0), "at most so many microseconds a sample"),
        _limit("max-energy-uj", click.FloatRange(min=0), "at most so many microjoules a sample"),
        _limit(
            "min-accuracy", click.FloatRange(0, 1), "at least this share of right answers, 0..1"
        ),
    )
)
"""What a partition is chosen by, and within which limits."""

partition_options = _added((partition_option, pin_option, objective_options))
"""What goes where."""

target_option = click.option(
    "--target",
    default="loihi",
    show_default=True,
    help=f"{', '.join(target_names())}, or a YAML file.",
)
report_option = click.option(
    "--report",
    metavar="FILE.html|FILE.csv",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write what is found as one HTML file, too: pictures, charts, tables, all numbers; or "
    "the numbers as CSV.",
)
host_option = click.option(
    "--host",
    default=DEFAULT_HOST,
    show_default=True,
    help=f"What runs the rest: {', '.join(host_names())}, or a YAML file.",
)


_host = (
    host_option,
    click.option(
        "--measure-host",
        "measure",
        is_flag=True,
        help="Run the host's layers on this machine, on its GPU where it has one, and price "
        "the host by the time that they take, and by the power that NVML (NVIDIA) or RAPL "
        "(CPUs) shows; what is not shown stays that of --host.",
    ),
    click.option(
        "--run-mode",
        type=click.Choice(list(RUN_MODES)),
        default=DEFAULT_RUN_MODE,
        show_default=True,
        help="How several chip segments take turns: "
        + "; ".join(f"{name}, {meaning}" for name, meaning in RUN_MODES.items())
        + ".",
    ),
)

host_options = _added(_host)
"""What runs the rest of a network, and how it and the chip take turns."""

price_options = _added(
    (
        *_host,
        click.option(
            "--timing",
            type=click.Choice(list(TIMINGS)),
            default=DEFAULT_TIMING,
            show_default=True,
            help="How long a chip step is: "
            + "; ".join(f"{name}, {meaning}" for name, meaning in TIMINGS.items())
            + ".",
        ),
    )
)
"""What a sample is priced by."""


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
            help=f"{', '.join(data_names())}, a folder of images, .npy or .npz of "
            f"arrays (x, and y for labels), or with --steps events: "
            f"{', '.join(event_names())}.  [default: what it was trained on]",
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
                help="Bits of a weight.  [default: 8, or the widest that the target stores]",
            ),
        ):
            command = option(command)
        return command

    return added
