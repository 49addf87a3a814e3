"""The job of ``has8 train``: train a model, new or from a file, and write it to a folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
from torch import nn

from has8.cli.inputs import find_data
from has8.cli.jobs.local import LOCAL, learn_locally, refuse
from has8.cli.progress import epochs
from has8.cli.quantization import Quantize
from has8.data import Data, load_data
from has8.data.files import is_array_file
from has8.errors import BadInput, TrainingError
from has8.models.pretrained import pretrained
from has8.text import file_name, printable
from has8.training import liven
from has8.training.checkpoint import load as load_checkpoint
from has8.training.fit import fit
from has8.training.hardware import Hardware
from has8.training.history import Epoch, History
from has8.training.new_model import new_model, recipe_options
from has8.training.processes import first_process_first, is_first_process
from has8.training.recipes import RECIPES, TrainConfig
from has8.training.run_folder import MODEL, RESULTS
from has8.training.separate import keep_artificial
from mapping.finetune import PROVENANCE
from mapping.integers.methods import Method


class Subject(NamedTuple):
    """What is trained.

    Args:
        name: the model's, or that of the file that it comes from.
        network: the model itself.
        data: what it learns.
        facts: what tells it from others of that name, for its provenance.
    """

    name: str
    network: nn.Module
    data: Data
    facts: dict[str, Any]


def run_train(
    *,
    model: str | None,
    start: Path | None,
    separate: Path | None,
    quantize: str | None,
    weight_bits: int | None,
    scales: Method | None,
    per_channel: bool,
    data: str,
    data_root: Path | None,
    image_size: int | None,
    preprocess: str | None,
    encoder: str | None,
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
    """Do what the options of :func:`has8.cli.train.train` ask for."""
    if is_array_file(data):
        raise BadInput(
            f"training holds images out, and {data} has no such part: name a folder of images, or "
            "known data"
        )
    if model == LOCAL:
        others = {
            **{"from": start, "separate": separate, "quantize": quantize, "recipe": recipe},
            **{"weight_bits": weight_bits, "scales": scales, "base": base, "depth": depth},
            **{"devices": devices, "num_nodes": num_nodes, "compile": compiled or None},
        }
        seed, subset = (settings.pop(name) for name in ("seed", "subset"))
        refuse({**others, **settings})
        front = None if encoder is None else pretrained(encoder)
        size, way = (image_size, "crop") if front is None else (front.size, front.preprocess)
        source = load_data(data, data_root, image_size or size, preprocess=preprocess or way)
        folder = out or Path("runs") / file_name(f"{model}-{source.name}")
        learned = learn_locally(
            source, _options(options), folder, seed or 0, subset, front,
            resume=not restart, quiet=quiet,
        )  # fmt: skip
        subject = Subject(model, learned.model, source, {})
        epoch = Epoch(1, 0.0, 0.0, learned.test_accuracy, learned.seconds)
        result = _result(subject, "local rules", folder, History((epoch,)))
        click.echo(json.dumps(result) if as_json else _summary(result))
        return
    if encoder is not None:
        raise BadInput(f"--encoder is for {LOCAL}, which learns embeddings: leave it out")
    tuning = Quantize(quantize, weight_bits, scales, per_channel)
    tuning.check(start)
    recipe = recipe or ("modern" if start is None else "finetune")
    changes = {key: value for key, value in settings.items() if value is not None}
    config = replace(RECIPES[recipe], **changes)
    hardware = Hardware(accelerator, devices, num_nodes, precision, compiled)
    asked = _options(options, base=base, depth=depth)
    with first_process_first(hardware):
        if start is not None:
            if model or asked or separate or image_size is not None or preprocess is not None:
                raise BadInput(
                    "--from takes the model and its images as they are: leave out MODEL and its "
                    "options, --separate, --image-size and --preprocess"
                )
            subject = _from_file(start, data, data_root)
        elif model is not None:
            prepared = preprocess or ("paper" if recipe.startswith("paper") else "crop")
            source = load_data(data, data_root, image_size, preprocess=prepared)
            subject = _from_name(model, source, recipe, asked, config.seed)
            if separate is not None:
                keep_artificial(subject.network, load_checkpoint(separate).model)
                subject = subject._replace(facts={"separate": _identity(separate)})
            if recipe == liven.RECIPE:
                liven.liven(subject.network, source, config)
        else:
            raise BadInput("name a MODEL to train, or a model file to go on from with --from")
    if quantize is not None:
        subject = _quantized(subject, tuning)
    folder = out or Path("runs") / file_name(f"{subject.name}-{subject.data.name}")
    for given in filter(None, (start, separate)):
        _check_apart(given, folder)
    history = _fit(subject, config, hardware, folder, resume=not restart, quiet=quiet)
    if is_first_process():
        result = _result(subject, recipe, folder, history)
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


def _from_name(name: str, source: Data, recipe: str, asked: dict[str, Any], seed: int) -> Subject:
    """A new model; what the user asks of it wins over what the recipe asks."""
    options = {**recipe_options(recipe, name, source), **asked}
    return Subject(name, new_model(name, source, options, seed), source, {})


def _from_file(start: Path, data: str, root: Path | None) -> Subject:
    """A trained model; the digest of its file tells it from others."""
    checkpoint = load_checkpoint(start)
    source = find_data(
        data,
        root,
        training=checkpoint.provenance,
        input_shape=checkpoint.input_shape,
        class_names=checkpoint.class_names,
    )
    return Subject(start.stem, checkpoint.model, source, {"from": _identity(start)})


def _identity(file: Path) -> dict[str, str]:
    """What tells a model file from others of its name."""
    return {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def _check_apart(start: Path, folder: Path) -> None:
    """Refuse to write over the file that the run starts from."""
    for path in (folder / name for name in RESULTS):
        if path.exists() and path.samefile(start):
            raise BadInput(
                f"{start} is where training starts from, and its results would take its place: "
                "choose another folder with --out"
            )


def _quantized(subject: Subject, tuning: Quantize) -> Subject:
    """The same model, made to run as the chip would."""
    quantization = tuning.prepare(subject.network, subject.data)
    return subject._replace(
        name=f"{subject.name}-{quantization.target}-{quantization.weight_bits}bit",
        facts={**subject.facts, PROVENANCE: quantization.to_dict()},
    )


def _fit(
    subject: Subject,
    config: TrainConfig,
    hardware: Hardware,
    folder: Path,
    *,
    resume: bool,
    quiet: bool,
) -> History:
    """Train; a run that is told to stop says where it stopped."""
    try:
        with epochs(quiet) as report:
            return fit(
                subject.network,
                subject.data,
                config,
                hardware=hardware,
                out=folder,
                resume=resume,
                on_progress=report,
                provenance=subject.facts,
            )
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop.__cause__, TrainingError) and is_first_process():
            click.echo(stop.__cause__, err=True)
        raise


def _result(subject: Subject, recipe: str, folder: Path, history: History) -> dict[str, Any]:
    """What ``--json`` prints."""
    network, data = subject.network, subject.data
    return {
        "model": str(folder / MODEL),
        "config": network.config,
        "recipe": recipe,
        "data": data.name,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "epochs": len(history.epochs),
        "test_images": len(data.test),
        "test_accuracy": history.accuracy,
        "seconds": round(history.seconds, 3),
    }


def _summary(result: dict[str, Any]) -> str:
    return (
        f"{result['test_accuracy']:.2%} of {result['test_images']} held-out images of "
        f"{printable(result['data'])} are right after {result['epochs']} epochs in "
        f"{result['seconds']:.1f} s; {result['parameters']:,} parameters\n"
        f"{printable(result['model'])}"
    )
