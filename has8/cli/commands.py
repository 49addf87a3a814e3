"""``has8`` and its verbs."""

from __future__ import annotations

import click

from has8.cli.check import check
from has8.cli.compare import compare
from has8.cli.explore import explore
from has8.cli.export import export
from has8.cli.map import map_command
from has8.cli.show import show
from has8.cli.simulate import simulate
from has8.cli.trace import trace
from has8.cli.train import train


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="has8")
def has8() -> None:
    """Train hybrid ANN-SNN models, map them to neuromorphic chips, price the result."""


has8.add_command(train)
has8.add_command(check)
has8.add_command(map_command)
has8.add_command(show)
has8.add_command(simulate)
has8.add_command(compare)
has8.add_command(explore)
has8.add_command(trace)
has8.add_command(export)
