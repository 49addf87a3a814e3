"""``has8 train``: train a model and write it to a folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import nn

from has8.data import Data, data_names, load_data
from has8.errors import BadInput
from has8.models import create_model
from has8.train import MODEL, Epoch, Progress, Report, TrainConfig, fit

_DEFAULT = TrainConfig()
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("model")
@click.option("--data", required=True, help=f"{', '.join(data_names())}, or a folder of images.")
@click.option(
    "--data-root",
    type=_FOLDER,
    help="Where downloaded data lie.  [default: $HAS8_DATA, else ~/.cache/has8/data]",
)
@click.option("--image-size", type=int, help="Resize images to so many pixels a side.")
@click.option("--epochs", default=_DEFAULT.epochs, show_default=True, help="Passes over the data.")
@click.option("--batch-size", default=_DEFAULT.batch_size, show_default=True, help="Images a step.")
@click.option("--lr", default=_DEFAULT.lr, show_default=True, help="Highest learning rate.")
@click.option("--weight-decay", default=_DEFAULT.weight_decay, show_default=True, help="AdamW's.")
@click.option(
    "--label-smoothing",
    default=_DEFAULT.label_smoothing,
    show_default=True,
    help="Probability spread over all classes.",
)
@click.option(
    "--augment/--no-augment",
    default=_DEFAULT.augment,
    show_default=True,
    help="Mirror and shift images.",
)
@click.option(
    "--seed", default=_DEFAULT.seed, show_default=True, help="Of weights, order and shifts."
)
@click.option("--subset", type=int, help="Train on so many images only.")
@click.option("--base", type=int, help="Channels of the first stage.")
@click.option("--depth", type=int, help="Number of stages.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other option of the model, as often as needed.",
)
@click.option("--out", type=_FOLDER, help="Folder for the results.  [default: runs/MODEL-DATA]")
@click.option("--restart", is_flag=True, help="Start over instead of going on.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def train(
    model: str,
    data: str,
    data_root: Path | None,
    image_size: int | None,
    options: tuple[str, ...],
    base: int | None,
    depth: int | None,
    out: Path | None,
    restart: bool,
    quiet: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train MODEL on a data set or on a folder of images.

    The result is OUT/model.pt, with one line for each epoch in OUT/metrics.csv. If the command
    is interrupted, the same command goes on after the last whole epoch.

    \b
    has8 train has8_vgg --data digits --base 16 --depth 2 --option head=[64]
    has8 train has8_resnet_b32 --data photos/ --image-size 64 --epochs 30
    """
    config = TrainConfig(**settings)
    source = load_data(data, data_root, image_size)
    chosen = _options(options, base=base, depth=depth)
    network = _new_model(model, source, chosen, config.seed)
    folder = out or Path("runs") / f"{model}-{source.name}"
    with _progress(quiet) as report:
        history = fit(network, source, config, out=folder, resume=not restart, on_progress=report)
    result = {
        "model": str(folder / MODEL),
        "config": network.config,
        "data": source.name,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "epochs": len(history.epochs),
        "test_images": len(source.test),
        "test_accuracy": history.accuracy,
        "seconds": round(history.seconds, 3),
    }
    click.echo(json.dumps(result) if as_json else _summary(result))


def _options(pairs: tuple[str, ...], **named: int | None) -> dict[str, Any]:
    """Model options from ``KEY=VALUE``; values are JSON, and text where they are not."""
    options: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not (key and equals):
            raise BadInput(f"--option takes KEY=VALUE, such as kernel=5, not {pair!r}")
        try:
            options[key] = json.loads(text)
        except ValueError:
            options[key] = text
    return options


def _new_model(name: str, data: Data, options: dict[str, Any], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return create_model(
                name, num_classes=len(data.class_names), in_channels=data.input_shape[0], **options
            )
        except (TypeError, RuntimeError) as error:
            raise BadInput(f"{name} cannot be built with {options}: {error}") from error


@contextmanager
def _progress(quiet: bool) -> Iterator[Report | None]:
    """A live bar on a terminal, else a plain line for each epoch; both on stderr."""
    console = Console(stderr=True)
    if quiet:
        yield None
    elif not console.is_terminal:
        yield lambda now: click.echo(_line(now, now.finished), err=True) if now.finished else None
    else:
        columns = [TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()]
        with Bar(*columns, console=console, transient=True) as bar:
            yield _bar_report(bar)


def _bar_report(bar: Bar) -> Report:
    start, begun = time.perf_counter(), 0

    def report(now: Progress) -> None:
        nonlocal begun
        done = (now.epoch - 1) * now.total + now.images
        if not bar.tasks:  # a resumed run begins in the middle
            begun = done - now.images
            bar.add_task("", total=now.epochs * now.total, completed=begun)
        rate = (done - begun) / (time.perf_counter() - start)
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


def _summary(result: dict[str, Any]) -> str:
    return (
        f"{result['test_accuracy']:.2%} of {result['test_images']} held-out images of "
        f"{result['data']} are right after {result['epochs']} epochs in {result['seconds']:.1f} s; "
        f"{result['parameters']:,} parameters\n{result['model']}"
    )
