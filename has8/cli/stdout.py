"""Results on stdout: as they are drawn on a terminal, without trailing blanks anywhere else."""

from __future__ import annotations

from collections.abc import Callable

import click
from rich.console import Console


def show(draw: Callable[[Console], object]) -> None:
    """Print what is drawn on a console."""
    console = Console(highlight=False)
    if console.is_terminal:
        draw(console)
        return
    with console.capture() as captured:
        draw(console)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())
