"""Training: :func:`fit` a model to data, :func:`evaluate` it.

A run can be killed at any moment and started again. What it needs is on disk after every epoch,
every few minutes within long ones, and whenever it is told to stop. A step depends only on that
file, the seed and its own number: generators are seeded anew for every step, so that the result
on one machine's CPU is that of a run without a break, bit for bit.

With several processes, each reads its part of every batch, gradients are averaged over all images,
and the first process writes and reports. Batch norm normalises with each process's own part, and
its running statistics (and the encoders' ranges) are the first process's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import nn
from torch.optim import Optimizer

from has8 import given
from has8.data import Data, ImageDataset
from has8.data.digest import digest
from has8.errors import BadInput, Has8Error
from has8.files import held
from has8.plain import plain
from has8.training.calibrate import calibrate
from has8.training.checkpoint import config_of, content_of
from has8.training.hardware import Hardware
from has8.training.history import Epoch, History, Position, Report
from has8.training.loop import TrainingRun, count_right, summed
from has8.training.optim import make_optimizer
from has8.training.processes import launch
from has8.training.recipes import TrainConfig
from has8.training.run_folder import MODEL, RunFolder
from has8.training.separate import check_gradients, spiking_part
from has8.training.signals import stop_signals
from has8.training.subset import chosen
from has8.values import path, value, whole

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Result = TypeVar("Result")


def fit(
    model: nn.Module,
    data: Data,
    config: TrainConfig,
    *,
    hardware: Hardware | None = None,
    out: str | Path | None = None,
    resume: bool = True,
    on_progress: Report | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> History:
    """Train a model in place; at the end it is calibrated, and on the device it was trained on.

    SIGTERM and Ctrl-C let the step at hand end, put the state to disk and then end training as
    they commonly do: with ``SystemExit(143)`` and ``KeyboardInterrupt``. Their ``__cause__`` is a
    :class:`TrainingError` that says where the run stopped. The same call goes on from there.

    Args:
        model: images ``[B, C, H, W]`` to logits ``[B, classes]``. Where the artificial layers of an
            :class:`~has8.models.hnn.HNN` are not to be trained, their outputs are computed once.
        data: the images to learn from, and those to test on.
        config: the settings; :data:`has8.training.recipes.RECIPES` has some by name.
        hardware: what to compute on; by default one GPU if there is any, else the CPU.
        out: folder for ``last.pt`` (the state), ``metrics.csv`` and TensorBoard's events, one
            line or point for each epoch; ``best.pt``, the model of the epoch with the highest
            accuracy on the held-out images; and ``model.pt``, the finished model. As ``best.pt``
            is selected on the held-out images, its accuracy on them is too good an estimate;
            that of ``model.pt`` is not selected. None writes nothing.
        resume: whether to go on from ``last.pt`` if it is there; otherwise it is removed.
        on_progress: called in the first process after every step (on a GPU after every few) and
            after every epoch.
        provenance: further facts that belong to the run, kept with it and with its models.

    Raises:
        BadInput: if the model cannot take the images or has layers that no gradient reaches, the
            hardware is not there, ``last.pt`` belongs to another run, the subset is larger than
            the data, or ``out`` cannot be written, is written to by another process or holds files
            of these names that no training wrote.
        CheckpointError: if ``last.pt`` is damaged.
        TrainingError: if loss or weights stop being finite; ``last.pt`` keeps a state before.
    """
    hardware = _hardware(hardware)
    given.instance(model, nn.Module, "a model")
    given.instance(data, Data, "data from has8.load_data")
    given.instance(config, TrainConfig, "a has8.TrainConfig")
    resume = value(resume, bool, "resume")
    given.callback(on_progress)
    added = given.provenance(provenance)
    if data.steps is not None:
        raise BadInput(
            f"fit trains on images, and {data.name} is spikes in {data.steps} steps: train on it "
            "with a loop of your own, over has8.data.batches"
        )
    if not data.class_names:
        raise BadInput(f"fit trains on labels, and {data.name} has none: give them as y")
    check_gradients(model)
    classes = _outputs(model, data.input_shape)
    if classes < len(data.class_names):
        raise BadInput(
            f"the model has {classes} outputs and {data.name} has {len(data.class_names)} classes: "
            f"make it with num_classes={len(data.class_names)}"
        )
    learned = chosen(len(data.train), config)
    fabric = launch(hardware)
    _check_batch(config, len(learned), fabric.world_size)
    folder = None
    if out is not None:
        out = path(out, "the folder of the run")
        content = _first(fabric, lambda: digest(data))
        facts = {**added, **_identity(model, data, content, config, hardware)}
        identity = plain(facts, "provenance")
        content_of(  # what could not be saved is refused before it is trained
            model,
            input_shape=data.input_shape,
            class_names=data.class_names,
            provenance=identity,
        )
        folder = RunFolder(out, identity)
    fabric.to_device(model.to(memory_format=torch.channels_last))
    part, given_to_it, learned = spiking_part(model, data, config.augment, learned)
    net = fabric.setup_module(torch.compile(part) if hardware.compile else part)  # type: ignore[arg-type]
    optimizer = make_optimizer(model, config)
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with ExitStack() as alone:
        try:
            epochs, position = _restored(fabric, folder, model, optimizer, resume, alone)
            with torch.random.fork_rng(devices), stop_signals() as signalled:
                run = TrainingRun(
                    fabric, net, part, model, optimizer, given_to_it, learned, config, classes,
                    folder if fabric.is_global_zero else None, signalled, on_progress,
                )  # fmt: skip
                run.finish(epochs, position)
        finally:
            model.to(memory_format=torch.contiguous_format)
        calibrate(model)
        if run.folder:
            run.folder.write_model(MODEL, model, data, epochs[-1])
    return History(tuple(epochs))


def evaluate(
    model: nn.Module,
    dataset: ImageDataset,
    batch_size: int = 256,
    *,
    hardware: Hardware | None = None,
) -> float:
    """The part of the images that the model classifies rightly, in [0, 1].

    The model runs in evaluation mode and is left in the mode it was in.

    Args:
        model: images ``[B, C, H, W]`` to logits ``[B, classes]``.
        dataset: the images to classify.
        batch_size: images in one forward pass.
        hardware: what to compute on, to which the model is moved; None computes where the model
            is, in float32.

    Raises:
        BadInput: if the hardware is not there, the model cannot take the images, or a label is
            none of its outputs.
    """
    given.instance(model, nn.Module, "a model")
    given.instance(dataset, ImageDataset, "images such as the parts of has8.load_data")  # type: ignore[type-abstract]
    batch_size = whole(batch_size, "batch_size", 1)
    if len(dataset) == 0:
        raise BadInput("there must be at least one image to classify, and there is none")
    _outputs(model, dataset[0][0].shape)
    if hardware is None:
        return count_right(model, dataset, batch_size, _device(model), nullcontext()) / len(dataset)
    fabric = launch(_hardware(hardware))
    fabric.to_device(model)
    correct = count_right(
        model,
        dataset,
        batch_size,
        fabric.device,
        fabric.autocast(),
        (fabric.global_rank, fabric.world_size),
    )
    return int(summed(fabric, [correct])[0]) / len(dataset)


def _hardware(hardware: Any) -> Hardware:
    if hardware is None:
        return Hardware()
    return given.instance(hardware, Hardware, "a has8.training.hardware.Hardware")


def _outputs(model: nn.Module, shape: Sequence[int]) -> int:
    """How many logits one image gets; a model that cannot take one says so before it is used."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), given.taking(shape):
            answer = model(torch.zeros(1, *shape, device=_device(model)))
    finally:
        model.train(training)
    return given.logits(answer, 1).shape[1]


def _check_batch(config: TrainConfig, images: int, world: int) -> None:
    """Refuse batches that leave a process with fewer than two images."""
    if min(config.batch_size, images) < 2 * world:
        raise BadInput(
            f"{world} processes need batches of at least {2 * world} images, two each, and there "
            f"are {images} images in batches of {config.batch_size}: use fewer devices"
        )


def _restored(
    fabric: Fabric,
    folder: RunFolder | None,
    model: nn.Module,
    optimizer: Optimizer,
    resume: bool,
    alone: ExitStack,
) -> tuple[list[Epoch], Position]:
    """Where the folder's run stopped; only the first process needs to see the folder.

    That process keeps others out of the folder until ``alone`` is closed.
    """
    if folder is None:
        return [], Position()

    def read() -> dict[str, Any] | None:
        alone.enter_context(held(folder.path))
        return folder.read(resume)

    saved = _first(fabric, read)
    return folder.restore(saved, model, optimizer) if saved else ([], Position())


def _first(fabric: Fabric, work: Callable[[], Result]) -> Result:
    """What the first process makes, in all processes; the error that it raises, too."""
    made: Result | Has8Error | None = None
    if fabric.is_global_zero:
        try:
            made = work()
        except Has8Error as error:
            made = error
    made = fabric.broadcast(made)
    if isinstance(made, Has8Error):
        raise made
    return cast(Result, made)


def _identity(
    model: nn.Module, data: Data, content: str, config: TrainConfig, hardware: Hardware
) -> dict[str, Any]:
    """What tells this run from others, as plain values."""
    return {
        "model": config_of(model),
        "data": data.name,
        "preprocess": data.preprocess,
        "input_shape": list(data.input_shape),
        "class_names": list(data.class_names),
        "train_images": len(data.train),
        "test_images": len(data.test),
        "data_sha256": content,
        "precision": hardware.precision,
        **asdict(config),
    }


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
