"""The training loop: what happens between the first step of a run and its last."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from has8 import given
from has8.data import Batch, Data, ImageDataset, batches
from has8.encoders import numbered
from has8.errors import TrainingError
from has8.kernels.storage import memory_order
from has8.training.history import Epoch, Position, Progress, Report
from has8.training.optim import learning_rate
from has8.training.recipes import TrainConfig
from has8.training.run_folder import BEST, STATE, RunFolder, tensorboard

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SAVE_SECONDS = 300.0
"""Longest time in an epoch between two states on disk."""
GPU_STEPS = 16
"""Steps on a GPU between two looks at the loss, each of which makes the CPU wait for it."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What stays the same over a run.

    Args:
        fabric: devices, processes and precision.
        net: what is trained as Fabric, and torch.compile where asked for, wrapped it.
        part: the same, bare: the model, or its layers behind those that are kept.
        model: the whole model, which is saved.
        optimizer: updates the model's parameters.
        data: what ``part`` is to learn from, and to be tested on.
        chosen: ``int64[N]``, the training images that the run uses.
        config: the settings.
        classes: the model's outputs.
        folder: where the state and the models go; None in a process that does not write.
        signalled: tells the number of the signal that asks to stop, or 0.
        on_progress: called after steps and epochs; None for silence.
    """

    fabric: Fabric
    net: nn.Module
    part: nn.Module
    model: nn.Module
    optimizer: Optimizer
    data: Data
    chosen: Tensor
    config: TrainConfig
    classes: int
    folder: RunFolder | None
    signalled: Callable[[], int]
    on_progress: Report | None

    def finish(self, epochs: list[Epoch], position: Position) -> None:
        """Go on from ``position`` to the end; new epochs are added to ``epochs``."""
        folder = self.folder
        with tensorboard(folder.path, epochs) if folder else nullcontext() as add_point:
            if folder:
                folder.write_metrics(epochs)
            while len(epochs) < self.config.epochs:
                began = time.perf_counter() - position.seconds
                position = self.train(epochs, position, began)
                accuracy = self.test(epochs, position)
                now, seconds = self.progress(position), time.perf_counter() - began
                epoch = Epoch(now.epoch, now.loss, now.accuracy, accuracy, seconds)
                if folder and all(accuracy > before.test_accuracy for before in epochs):
                    folder.write_model(BEST, self.model, self.data, epoch)
                epochs.append(epoch)
                position = Position(epoch=len(epochs) + 1)
                self.save(epochs, position)
                if folder and add_point:
                    folder.write_metrics(epochs)
                    add_point(epoch)
                self.report(replace(now, finished=epoch))

    def train(self, epochs: list[Epoch], position: Position, began: float) -> Position:
        """Train to the end of the epoch, and say where that is.

        Raises:
            TrainingError: if loss or weights are not finite.
        """
        config, fabric, number = self.config, self.fabric, position.epoch
        size, saved = config.batch_size, time.monotonic()
        per_epoch, rest = divmod(len(self.chosen), size)
        steps = per_epoch + (rest >= 2 * fabric.world_size)
        per_epoch += rest > 0
        every = 1 if fabric.device.type == "cpu" else GPU_STEPS
        sums = torch.zeros(3, dtype=torch.float64, device=fabric.device)
        if fabric.is_global_zero:
            sums += sums.new_tensor([position.loss, position.correct, position.images])
        self.model.train()
        stream = islice(self.batches(position), steps - position.step)
        for step, (images, labels) in enumerate(stream, position.step):
            self.seed(number, step)
            rate = learning_rate(config, (number - 1) * per_epoch + step, config.epochs * per_epoch)
            sums += self.step(images, labels, rate, min(size, len(self.chosen) - step * size))
            asked = fabric.world_size == 1 and self.signalled()
            if (step + 1) % every == 0 or step + 1 == steps or asked:
                position = self.look(epochs, sums, number, step + 1, began)
                if time.monotonic() - saved > SAVE_SECONDS:
                    self.check_weights(number)
                    self.save(epochs, position)
                    saved = time.monotonic()
                self.report(self.progress(position))
        self.check_weights(number)
        return position

    def batches(self, position: Position) -> Iterator[Batch]:
        """This process's part of the epoch's batches from the position on.

        Raises:
            BadInput: for a label that is none of the model's outputs.
        """
        for images, labels in batches(
            self.data.train,
            self.config.batch_size,
            indices=self.chosen,
            shuffle_seed=_seed(self.config.seed, position.epoch),
            augment=self.config.augment,
            first=position.step,
            part=(self.fabric.global_rank, self.fabric.world_size),
        ):
            yield images, given.labels(labels, len(images), self.classes)

    def seed(self, number: int, step: int) -> None:
        """Seed what the model may draw from, such as dropout."""
        seed = _seed(self.config.seed, number, step + 1, self.fabric.global_rank)
        torch.default_generator.manual_seed(seed)
        if self.fabric.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def step(self, images: Tensor, labels: Tensor, rate: float, count: int) -> Tensor:
        """One update by ``count`` images, of which these are this process's part.

        Returns:
            ``float64[3]`` on the device: sum of the losses, images classified rightly, images.
        """
        device, config = self.fabric.device, self.config
        images = images.to(device, memory_format=memory_order(images), non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        logits = self.net(images)
        loss = F.cross_entropy(
            logits, labels, label_smoothing=config.label_smoothing, reduction="sum"
        )
        # Gradients are averaged over processes, whose parts need not be of one size.
        self.fabric.backward(loss * (self.fabric.world_size / count))
        if config.clip_norm is not None:
            clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        right = (logits.argmax(1) == labels).sum()
        return torch.stack([loss.detach().double(), right.double(), right.new_tensor(len(labels))])

    def look(
        self, epochs: list[Epoch], sums: Tensor, number: int, step: int, began: float
    ) -> Position:
        """Where all processes together are; stop them if one was told to.

        Raises:
            TrainingError: if the loss is not finite.
        """
        loss, correct, images, told = summed(self.fabric, [*sums, bool(self.signalled())])
        if not math.isfinite(loss):
            raise _diverged("the loss", number, self.config)
        seconds = time.perf_counter() - began
        position = Position(number, step, loss, int(correct), int(images), seconds)
        if told:
            self.stop(epochs, position)
        return position

    def test(self, epochs: list[Epoch], position: Position) -> float:
        """The accuracy on the held-out images, of the first process's running statistics."""
        fabric, dataset, size = self.fabric, self.data.test, self.config.batch_size
        if fabric.world_size > 1:
            for buffer in self.model.buffers():
                distributed.broadcast(buffer, 0)
        self.seed(position.epoch, position.step)
        correct = count_right(
            self.part,
            dataset,
            max(1, 2 * size // fabric.world_size),  # no more memory than a step
            fabric.device,
            fabric.autocast(),
            (fabric.global_rank, fabric.world_size),
            self.signalled,
        )
        total, told = summed(fabric, [correct, bool(self.signalled())])
        if told:
            self.stop(epochs, position)
        return total / len(dataset)

    def check_weights(self, number: int) -> None:
        """Refuse to go on with broken weights.

        Raises:
            TrainingError: if a weight is not finite.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise _diverged("a weight", number, self.config)

    def save(self, epochs: list[Epoch], position: Position) -> None:
        """Put the state to disk."""
        if self.folder:
            self.folder.write(self.model, self.optimizer, epochs, position)

    def stop(self, epochs: list[Epoch], position: Position) -> NoReturn:
        """Put the state to disk, and do what the signal commonly does."""
        self.check_weights(position.epoch)
        self.save(epochs, position)
        number = self.signalled() or signal.SIGTERM
        now = self.progress(position)
        message = (
            f"stopped by {signal.Signals(number).name} in epoch {now.epoch} of {now.epochs} after "
            f"{now.images} of {now.total} images"
        )
        if self.folder:
            message += f"; the same command goes on from {self.folder.path / STATE}"
        if number == signal.SIGINT:
            raise KeyboardInterrupt(message) from TrainingError(message)
        raise SystemExit(128 + number) from TrainingError(message)

    def progress(self, position: Position) -> Progress:
        """The position as it is reported."""
        images = max(1, position.images)
        return Progress(
            position.epoch,
            self.config.epochs,
            position.images,
            len(self.chosen),
            position.loss / images,
            position.correct / images,
        )

    def report(self, now: Progress) -> None:
        """Tell the caller, in the first process."""
        if self.on_progress and self.fabric.is_global_zero:
            self.on_progress(now)


def count_right(
    model: nn.Module,
    dataset: ImageDataset,
    batch_size: int,
    device: torch.device,
    autocast: AbstractContextManager[None],
    part: tuple[int, int] = (0, 1),
    stop: Callable[[], int] = lambda: 0,
) -> int:
    """How many images of the part (rank, of how many) are classified rightly, until ``stop``.

    Raises:
        BadInput: for a label that is none of the model's outputs.
    """
    training, correct, first = model.training, 0, part[0]
    indices = torch.arange(len(dataset))[part[0] :: part[1]]
    model.eval()
    try:
        with torch.inference_mode(), autocast:
            for images, labels in batches(dataset, batch_size, indices=indices):
                images = images.to(device, memory_format=memory_order(images))
                with numbered(first, part[1]):
                    answer = given.logits(model(images), len(images))
                first += len(images) * part[1]
                labels = given.labels(labels, len(images), answer.shape[1])
                correct += int((answer.argmax(1).cpu() == labels).sum())
                if stop():
                    break
    finally:
        model.train(training)
    return correct


def summed(fabric: Fabric, values: Sequence[Tensor | float]) -> list[float]:
    """The sum of each value over all processes, in float64."""
    vector = torch.stack(
        [torch.as_tensor(v, dtype=torch.float64, device=fabric.device) for v in values]
    )
    if fabric.world_size > 1:
        distributed.all_reduce(vector)
    return vector.tolist()


def _seed(*numbers: int) -> int:
    """A seed for a place in the run, such as (seed, epoch, step, rank)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _diverged(what: str, number: int, config: TrainConfig) -> TrainingError:
    return TrainingError(
        f"{what} in epoch {number} is not finite: lower the learning rate, now {config.lr:g}; "
        "the last good state is kept"
    )
