"""``has8 train``: train a model and write it to a folder."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import nn

from has8.cli.inputs import find_data
from has8.cli.quantization import Quantize, quantization_options
from has8.data import AUGMENTATIONS, PREPROCESSES, Data, data_names, load_data
from has8.errors import BadInput, TrainingError
from has8.training.checkpoint import load as load_checkpoint
from has8.training.fit import fit, new_model
from has8.training.hardware import (
    ACCELERATORS,
    PRECISIONS,
    Hardware,
    first_process_first,
    is_first_process,
)
from has8.training.history import Epoch, Progress, Report
from has8.training.recipes import RECIPES, TrainConfig, recipe_options
from has8.training.run_folder import MODEL
from mapping import target_names
from mapping.finetune import PROVENANCE
from mapping.integers.scales import Method

_FOLDER = click.Path(path_type=Path, file_okay=False)


def _settings(config: TrainConfig) -> str:
    """A recipe in one line."""
    clip = "" if config.clip_norm is None else f", gradients clipped to {config.clip_norm:g}"
    return (
        f"{config.optimizer}, lr {config.lr:g}, weight decay {config.weight_decay:g}, schedule "
        f"{config.schedule}, batch {config.batch_size}, {config.epochs} epochs, label smoothing "
        f"{config.label_smoothing:g}, augment {config.augment}, seed {config.seed}{clip}"
    )


_EPILOG = "\n\n".join(f"Recipe {name}: {_settings(config)}." for name, config in RECIPES.items())


@click.command(epilog=_EPILOG)
@click.argument("model", required=False)
@click.option(
    "--from",
    "start",
    type=click.Path(path_type=Path),
    help="Go on from the weights of this model file; it takes the place of MODEL.",
)
@click.option(
    "--quantize",
    metavar="TARGET",
    help=f"Train --from's model as this chip would run it: {', '.join(target_names())}, or a "
    "YAML file.",
)
@quantization_options("search")
@click.option("--data", required=True, help=f"{', '.join(data_names())}, or a folder of images.")
@click.option(
    "--data-root",
    type=_FOLDER,
    help="Where downloaded data lie.  [default: $HAS8_DATA, else ~/.cache/has8/data]",
)
@click.option("--image-size", type=int, help="Resize images to so many pixels a side.")
@click.option(
    "--preprocess",
    type=click.Choice(PREPROCESSES),
    help="Of images in folders: the centre square, or, as the paper, all of the image squeezed.  "
    "[default: paper for the paper's recipes, else crop]",
)
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    help="All settings at once (see below); the options that follow change single ones.  "
    "[default: modern, with --from finetune]",
)
@click.option("--epochs", type=int, help="Passes over the data.")
@click.option("--batch-size", type=int, help="Images a step, over all devices.")
@click.option("--lr", type=float, help="Highest learning rate.")
@click.option("--weight-decay", type=float, help="Of the optimiser.")
@click.option("--label-smoothing", type=float, help="Probability spread over all classes.")
@click.option(
    "--augment",
    type=click.Choice(AUGMENTATIONS),
    help="Mirror images (flip), and shift them too (crop); resized is for ImageNet.",
)
@click.option("--seed", type=int, help="Of weights, order and shifts.")
@click.option("--subset", type=int, help="Train on so many images only.")
@click.option("--base", type=int, help="The model's option base: its width.")
@click.option(
    "--depth", type=int, help="The model's option depth: of has8 models stages, of others layers."
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other option of the model, as often as needed.",
)
@click.option(
    "--accelerator",
    type=click.Choice(ACCELERATORS),
    default="auto",
    show_default=True,
    help="What to compute on.",
)
@click.option("--devices", type=int, help="Devices a node.  [default: as launched, else 1]")
@click.option("--num-nodes", type=int, help="Nodes.  [default: as launched, else 1]")
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    default="32",
    show_default=True,
    help="float32, or bfloat16 where that is safe.",
)
@click.option("--compile", "compiled", is_flag=True, help="Train through torch.compile.")
@click.option(
    "--out",
    type=_FOLDER,
    help="Folder for the results.  [default: runs/MODEL-DATA, or runs/MODEL-TARGET-BITS-DATA]",
)
@click.option("--restart", is_flag=True, help="Start over instead of going on.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def train(
    model: str | None,
    start: Path | None,
    quantize: str | None,
    weight_bits: int | None,
    scales: Method | None,
    per_channel: bool,
    data: str,
    data_root: Path | None,
    image_size: int | None,
    preprocess: str | None,
    recipe: str | None,
    options: tuple[str, ...],
    base: int | None,
    depth: int | None,
    accelerator: str,
    devices: int | None,
    num_nodes: int | None,
    precision: str,
    compiled: bool,
    out: Path | None,
    restart: bool,
    quiet: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train MODEL on a data set or on a folder of images.

    The result is OUT/model.pt, with one line for each epoch in OUT/metrics.csv and in
    TensorBoard's events. OUT/best.pt is the best epoch's model, selected on the held-out images.
    A command that was interrupted goes on where it stopped when it is given again. It also runs
    under torchrun and Slurm's srun.

    With --quantize, a trained model is fine-tuned as a chip would run it, spike by spike; has8-map
    then maps the result with the very integers that it was trained with.

    \b
    has8 train has8_vgg --data digits --base 16 --depth 2 --option head=[64]
    has8 train has8_resnet_b32 --data photos/ --image-size 64 --recipe paper
    has8 train --quantize loihi --weight-bits 2 --from model.pt --data cifar10
    """
    wanted = Quantize(quantize, weight_bits, scales, per_channel)
    wanted.check(start)
    recipe = recipe or ("modern" if start is None else "finetune")
    changes = {key: value for key, value in settings.items() if value is not None}
    config = replace(RECIPES[recipe], **changes)
    hardware = Hardware(accelerator, devices, num_nodes, precision, compiled)
    given = _options(options, base=base, depth=depth)
    with first_process_first(hardware):
        if start is not None:
            if model or given or image_size is not None or preprocess is not None:
                raise BadInput(
                    "--from takes the model and its images as they are: leave out MODEL and its "
                    "options, --image-size and --preprocess"
                )
            network, source, facts = _loaded(start, data, data_root)
            name = start.stem
        elif model is not None:
            prepared = preprocess or ("paper" if recipe.startswith("paper") else "crop")
            source = load_data(data, data_root, image_size, preprocess=prepared)
            chosen = {**recipe_options(recipe, model, source), **given}
            network, facts = new_model(model, source, chosen, config.seed), {}
            name = model
        else:
            raise BadInput("name a MODEL to train, or a model file to go on from with --from")
    if quantize is not None:
        quantization = wanted.prepare(network, source)
        facts[PROVENANCE] = quantization.to_dict()
        name = f"{name}-{quantization.target}-{quantization.weight_bits}bit"
    folder = out or Path("runs") / f"{name}-{source.name}"
    arguments: dict[str, Any] = {"hardware": hardware, "out": folder, "resume": not restart}
    arguments["provenance"] = facts
    try:
        with _progress(quiet) as report:
            history = fit(network, source, config, **arguments, on_progress=report)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop.__cause__, TrainingError) and is_first_process():
            click.echo(stop.__cause__, err=True)
        raise
    if not is_first_process():
        return
    result = {
        "model": str(folder / MODEL),
        "config": network.config,
        "recipe": recipe,
        "data": source.name,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "epochs": len(history.epochs),
        "test_images": len(source.test),
        "test_accuracy": history.accuracy,
        "seconds": round(history.seconds, 3),
    }
    click.echo(json.dumps(result) if as_json else _summary(result))


def _loaded(start: Path, data: str, root: Path | None) -> tuple[nn.Module, Data, dict[str, Any]]:
    """A model file's model, the data, and what tells it from other files."""
    checkpoint = load_checkpoint(start)
    source = find_data(
        data,
        root,
        training=checkpoint.provenance,
        input_shape=checkpoint.input_shape,
        class_names=checkpoint.class_names,
    )
    digest = hashlib.sha256(start.read_bytes()).hexdigest()
    return checkpoint.model, source, {"from": {"file": start.name, "sha256": digest}}


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


def _summary(result: dict[str, Any]) -> str:
    return (
        f"{result['test_accuracy']:.2%} of {result['test_images']} held-out images of "
        f"{result['data']} are right after {result['epochs']} epochs in {result['seconds']:.1f} s; "
        f"{result['parameters']:,} parameters\n{result['model']}"
    )
