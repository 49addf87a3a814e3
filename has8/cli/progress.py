"""How far a command is, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Count = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""


@contextmanager
def stages(quiet: bool) -> Iterator[Callable[[str], Count]]:
    """Gives a function that begins a stage and returns what reports on it.

    Args:
        quiet: show nothing.
    """
    console = Console(stderr=True)
    if quiet or not console.is_terminal:

        def plain(name: str) -> Count:
            if not quiet:
                click.echo(f"{name} ...", err=True)
            return lambda done, total: None

        yield plain
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:

        def begin(name: str) -> Count:
            for task in bar.task_ids:
                bar.remove_task(task)
            task = bar.add_task(name, total=None)
            return lambda done, total: bar.update(task, completed=done, total=total)

        yield begin
