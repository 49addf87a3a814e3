"""How far a command is, on stderr: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from has8.training.history import Epoch, Progress, Report

Count = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""


@contextmanager
def stages(quiet: bool) -> Iterator[Callable[[str], Count]]:
    """Yield a function that begins a stage of a command and returns what reports on it.

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
    with Bar(*columns, console=console, transient=True) as bar:

        def begin(name: str) -> Count:
            for task in bar.task_ids:
                bar.remove_task(task)
            task = bar.add_task(name, total=None)
            return lambda done, total: bar.update(task, completed=done, total=total)

        yield begin


@contextmanager
def epochs(quiet: bool) -> Iterator[Report | None]:
    """Yield what reports on training, one line for each epoch that is finished.

    Args:
        quiet: show nothing.
    """
    console = Console(stderr=True)
    if quiet:
        yield None
    elif not console.is_terminal:
        yield lambda now: click.echo(_line(now, now.finished), err=True) if now.finished else None
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Bar(*columns, console=console, transient=True) as bar:
            yield _bar_report(bar)


def _bar_report(bar: Bar) -> Report:
    """What moves the bar over all epochs of a run, and prints the lines above it."""
    start, begun = time.perf_counter(), 0

    def report(now: Progress) -> None:
        nonlocal start, begun
        done = (now.epoch - 1) * now.total + now.images
        if not bar.tasks:  # a resumed run begins in the middle
            start, begun = time.perf_counter(), done
            bar.add_task("", total=now.epochs * now.total, completed=begun)
        rate = (done - begun) / max(1e-9, time.perf_counter() - start)
        text = (
            f"epoch {now.epoch}/{now.epochs}  loss {now.loss:.3f}  "
            f"accuracy {now.accuracy:.1%}  {rate:.0f} images/s"
        )
        bar.update(bar.tasks[0].id, completed=done, description=text)
        if now.finished:
            bar.console.print(_line(now, now.finished), highlight=False)

    return report


def _line(now: Progress, epoch: Epoch) -> str:
    return (
        f"epoch {epoch.epoch}/{now.epochs}: loss {epoch.train_loss:.4f}, "
        f"train {epoch.train_accuracy:.2%}, test {epoch.test_accuracy:.2%}, "
        f"{epoch.seconds:.1f} s"
    )
