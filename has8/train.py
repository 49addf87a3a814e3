"""Training: :func:`fit` a model to data, :func:`evaluate` it.

A run can be killed at any moment and started again: what it needs is on disk after every epoch,
and epoch e depends only on the seed, e and that file. On one machine's CPU the result is then the
same, bit for bit, as that of a run without a break.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from has8.calibrate import calibrate
from has8.checkpoint import config_of, read_plain, save, write_whole
from has8.data import Data, ImageDataset, batches
from has8.errors import BadInput, CheckpointError, TrainingError

STATE, MODEL, METRICS = "last.pt", "model.pt", "metrics.csv"
"""Files in a run's folder: state to resume from, finished model, one line for each epoch."""
FORMAT, VERSION = "has8-training", 1
WARMUP = 0.05
"""Part of all steps in which the cosine schedule's learning rate rises from zero."""
_OPTIMIZERS: dict[str, type[Adam]] = {"adam": Adam, "adamw": AdamW}


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How to train.

    Args:
        epochs: passes over the training images.
        batch_size: images in a step, at least 2 (batch norm learns nothing from one).
        lr: highest learning rate.
        weight_decay: decoupled for "adamw", an L2 penalty for "adam".
        optimizer: "adamw" or "adam".
        schedule: "cosine" (after a short linear warm-up, down to zero) or "constant".
        label_smoothing: probability mass spread over all classes, in [0, 1).
        augment: see :func:`has8.data.batches`.
        seed: of order, augmentation, subset and dropout, at least 0.
        subset: train on so many images, drawn at random by the seed; None for all.

    Raises:
        BadInput: for a value out of range.
    """

    epochs: int = 10
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    optimizer: str = "adamw"
    schedule: str = "cosine"
    label_smoothing: float = 0.0
    augment: bool = True
    seed: int = 0
    subset: int | None = None

    def __post_init__(self) -> None:
        rules = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 2, "at least 2"),
            "lr": (0 < self.lr < math.inf, "above 0"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "at least 0"),
            "optimizer": (self.optimizer in _OPTIMIZERS, f"one of {', '.join(_OPTIMIZERS)}"),
            "schedule": (self.schedule in ("cosine", "constant"), "cosine or constant"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            "seed": (self.seed >= 0, "at least 0"),
            "subset": (self.subset is None or self.subset >= 2, "at least 2 images"),
        }
        for name, (holds, expected) in rules.items():
            if not holds:
                raise BadInput(f"{name} must be {expected}, not {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the training images came to.

    Args:
        epoch: counted from 1.
        train_loss: mean over the images, as met on the way.
        train_accuracy: in [0, 1], as met on the way, augmented.
        test_accuracy: on the held-out images after the epoch, in [0, 1].
        seconds: wall time, testing included.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True)
class History:
    """All epochs of a run, those before a break included."""

    epochs: tuple[Epoch, ...]

    @property
    def accuracy(self) -> float:
        """Of the finished model on the held-out images, in [0, 1]."""
        return self.epochs[-1].test_accuracy

    @property
    def seconds(self) -> float:
        """Wall time of all epochs."""
        return sum(epoch.seconds for epoch in self.epochs)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands; reported after every step, and after every epoch.

    Args:
        epoch: counted from 1.
        epochs: of the run.
        images: read in this epoch.
        total: images of an epoch.
        loss: mean over the epoch so far.
        accuracy: on training images in the epoch so far, in [0, 1].
        finished: the epoch, once it is complete and on disk.
    """

    epoch: int
    epochs: int
    images: int
    total: int
    loss: float
    accuracy: float
    finished: Epoch | None = None


Report = Callable[[Progress], None]


def fit(
    model: nn.Module,
    data: Data,
    config: TrainConfig,
    *,
    out: str | Path | None = None,
    resume: bool = True,
    on_progress: Report | None = None,
) -> History:
    """Train a model in place, on the device it is on; at the end it is calibrated.

    Args:
        model: images ``[B, C, H, W]`` to logits ``[B, classes]``.
        data: what to learn.
        config: how.
        out: folder for ``last.pt`` and ``metrics.csv``, written after every epoch, and
            ``model.pt``, the finished model; None writes nothing.
        resume: whether to go on from ``last.pt`` if it is there; otherwise it is removed.
        on_progress: called after every step and every epoch.

    Raises:
        BadInput: if the model cannot take the images, ``last.pt`` belongs to another run, the
            subset is larger than the data, or ``out`` cannot be written.
        CheckpointError: if ``last.pt`` is damaged.
        TrainingError: if loss or weights stop being finite; ``last.pt`` keeps the epoch before.
    """
    report = on_progress or (lambda _: None)
    _check_shape(model, data)
    images = _subset(len(data.train), config)
    optimizer = _OPTIMIZERS[config.optimizer](
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    state = None if out is None else _State(Path(out), _identity(model, data, config))
    epochs = state.restore(model, optimizer, resume) if state else []
    device = _device(model)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for number in range(len(epochs) + 1, config.epochs + 1):
            start = time.perf_counter()
            last = _train_epoch(model, data.train, images, optimizer, config, number, report)
            accuracy = evaluate(model, data.test)
            seconds = time.perf_counter() - start
            epochs.append(Epoch(number, last.loss, last.accuracy, accuracy, seconds))
            if state:
                state.write(model, optimizer, epochs)
            report(replace(last, finished=epochs[-1]))
    history = History(tuple(epochs))
    calibrate(model)
    if state:
        save(
            state.folder / MODEL,
            model,
            input_shape=data.input_shape,
            class_names=data.class_names,
            provenance={**state.identity, "test_accuracy": history.accuracy},
        )
    return history


def _check_shape(model: nn.Module, data: Data) -> None:
    """Run one image, so that a model that does not fit says so before anything is written."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, *data.input_shape, device=_device(model)))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(
            f"the model cannot take images of {'x'.join(map(str, data.input_shape))} ({reason}): "
            f"choose a smaller depth or a larger image size"
        ) from error
    finally:
        model.train(training)
    if logits.shape[1] < len(data.class_names):
        raise BadInput(
            f"the model has {logits.shape[1]} outputs and {data.name} has "
            f"{len(data.class_names)} classes: make it with num_classes={len(data.class_names)}"
        )


def evaluate(model: nn.Module, dataset: ImageDataset, batch_size: int = 256) -> float:
    """The part of the images that the model classifies rightly, in [0, 1].

    The model runs in evaluation mode and is left in the mode it was in.
    """
    device, training, correct = _device(model), model.training, 0
    model.eval()
    try:
        with torch.inference_mode():
            for images, labels in batches(dataset, batch_size):
                found = model(images.to(device)).argmax(1).cpu()
                correct += int((found == labels).sum())
    finally:
        model.train(training)
    return correct / len(dataset)


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """The rate at ``step`` = 0..steps-1 of the whole run."""
    if config.schedule == "constant":
        return config.lr
    warm = max(1, round(WARMUP * steps))
    if step < warm:
        return config.lr * ((step + 1) / warm)
    return config.lr * ((1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2)


def _train_epoch(
    model: nn.Module,
    dataset: ImageDataset,
    chosen: Tensor,
    optimizer: Optimizer,
    config: TrainConfig,
    number: int,
    report: Report,
) -> Progress:
    """One pass over the chosen images; depends on the past only through model and optimizer."""
    seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
    torch.manual_seed(seed)
    model.train()
    per_epoch = math.ceil(len(chosen) / config.batch_size)
    first, total_loss, correct, seen = (number - 1) * per_epoch, 0.0, 0, 0
    progress = Progress(number, config.epochs, 0, len(chosen), 0.0, 0.0)
    stream = batches(
        dataset,
        config.batch_size,
        indices=chosen,
        shuffle_seed=seed,
        augment=config.augment,
    )
    for place, (images, labels) in enumerate(stream):
        if len(labels) < 2:  # a rest of one: batch norm cannot learn from it
            continue
        rate = learning_rate(config, first + place, config.epochs * per_epoch)
        loss, right = _step(model, images, labels, optimizer, rate, config.label_smoothing)
        if not math.isfinite(loss):
            raise _diverged("loss", number, config)
        seen += len(labels)
        correct += right
        total_loss += loss * len(labels)
        progress = Progress(
            number, config.epochs, seen, len(chosen), total_loss / seen, correct / seen
        )
        report(progress)
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise _diverged("a weight", number, config)
    return progress


def _step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    optimizer: Optimizer,
    rate: float,
    label_smoothing: float,
) -> tuple[float, int]:
    """One update; returns the batch's mean loss and how many images were right."""
    device = _device(model)
    images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    logits = model(images)
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    value = loss.item()
    if math.isfinite(value):
        torch.autograd.backward(loss)
        optimizer.step()
    return value, int((logits.argmax(1) == labels).sum())


@dataclass(frozen=True, slots=True)
class _State:
    """A run's folder, and what tells the run from others."""

    folder: Path
    identity: dict[str, Any]

    def restore(self, model: nn.Module, optimizer: Optimizer, resume: bool) -> list[Epoch]:
        """Bring model and optimizer to where the folder's run stopped; its epochs so far."""
        path = self.folder / STATE
        if not resume:
            path.unlink(missing_ok=True)
        if not path.exists():
            return []
        saved = read_plain(path, FORMAT, VERSION)
        try:
            self._check(path, saved["identity"])
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            return [Epoch(**epoch) for epoch in saved["epochs"]]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} cannot be resumed from ({str(error).splitlines()[0]}): start over with "
                "--restart"
            ) from error

    def _check(self, path: Path, there: Mapping[str, Any]) -> None:
        names = sorted(self.identity.keys() | there.keys())
        differ = [
            f"{name} is {there.get(name)!r} there and {self.identity.get(name)!r} here"
            for name in names
            if there.get(name) != self.identity.get(name)
        ]
        if differ:
            raise BadInput(
                f"{path} belongs to another run ({'; '.join(differ)}): choose another folder "
                "with --out, or start over with --restart"
            )

    def write(self, model: nn.Module, optimizer: Optimizer, epochs: list[Epoch]) -> None:
        """Put everything that the next epoch depends on to disk, and the metrics for people."""
        payload = {
            "format": FORMAT,
            "version": VERSION,
            "identity": self.identity,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epochs": [asdict(epoch) for epoch in epochs],
        }
        write_whole(self.folder / STATE, lambda file: torch.save(payload, file))
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(field.name for field in fields(Epoch))
        rows.writerows(astuple(epoch) for epoch in epochs)
        write_whole(self.folder / METRICS, lambda file: file.write(table.getvalue().encode()))


def _identity(model: nn.Module, data: Data, config: TrainConfig) -> dict[str, Any]:
    return {
        "model": config_of(model),
        "data": data.name,
        "input_shape": list(data.input_shape),
        "train_images": len(data.train),
        **asdict(config),
    }


def _subset(count: int, config: TrainConfig) -> Tensor:
    """``int64[N]``: the training images that the run uses."""
    if config.subset is None:
        return torch.arange(count)
    if config.subset > count:
        raise BadInput(f"subset must be at most the {count} training images, not {config.subset}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(config.seed))
    return order[: config.subset]


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _diverged(what: str, number: int, config: TrainConfig) -> TrainingError:
    return TrainingError(
        f"{what} in epoch {number} is not finite: lower the learning rate, now {config.lr:g}; "
        "what the epochs before reached is kept"
    )
