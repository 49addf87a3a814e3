"""A run's folder: the state to resume from, the models, the metrics. One process writes it."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from has8.data import Data
from has8.errors import BadInput, CheckpointError
from has8.files import write_whole
from has8.training.calibrate import calibrate
from has8.training.checkpoint import read_plain, save
from has8.training.history import Epoch, Position

STATE, BEST, MODEL, METRICS = "last.pt", "best.pt", "model.pt", "metrics.csv"
"""State to resume from, model of the best epoch, finished model, one line for each epoch."""
EVENTS_SUFFIX = ".has8"
EVENTS = f"events.out.tfevents.*{EVENTS_SUFFIX}"
"""TensorBoard's files: the columns of METRICS as scalars."""
FORMAT, VERSION = "has8-training", 2
_LOG = logging.getLogger("has8")
LONGEST = 300
"""Most characters of a value in a message."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder, and what tells its run from others.

    Args:
        path: the folder.
        identity: plain values that must be equal for a run to be resumed.
    """

    path: Path
    identity: dict[str, Any]

    def read(self, resume: bool) -> dict[str, Any] | None:
        """What :meth:`write` wrote, or None where nothing is there or ``resume`` is false.

        Without ``resume``, what is there is removed, but for the last finished model.

        Raises:
            BadInput: if it belongs to another run, or the folder cannot be written to.
            CheckpointError: if it is damaged.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not resume:
                for name in (STATE, BEST, METRICS):
                    (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise BadInput(
                f"cannot write to {self.path} ({error.strerror}): choose another place"
            ) from error
        if not (self.path / STATE).exists():
            return None
        saved = read_plain(self.path / STATE, FORMAT, VERSION)
        identity = saved.get("identity")
        self._check(identity if isinstance(identity, dict) else {})
        return saved

    def _check(self, saved: Mapping[str, Any]) -> None:
        names = sorted(self.identity.keys() | saved.keys())
        differ = [
            f"{name} is {_short(saved.get(name))} there and {_short(self.identity.get(name))} here"
            for name in names
            if saved.get(name) != self.identity.get(name)
        ]
        if differ:
            raise BadInput(
                f"{self.path / STATE} belongs to another run ({'; '.join(differ)}): choose "
                "another folder with --out, or start over with --restart"
            )

    def restore(
        self, saved: Mapping[str, Any], model: nn.Module, optimizer: Optimizer
    ) -> tuple[list[Epoch], Position]:
        """Bring model and optimiser to where the run stopped; return its epochs and its position.

        Raises:
            CheckpointError: if the state is incomplete.
        """
        try:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            epochs = [Epoch(**epoch) for epoch in saved["epochs"]]
            return epochs, Position(**saved["position"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.path / STATE} cannot be resumed from ({str(error).splitlines()[0]}): "
                "start over with --restart"
            ) from error

    def write(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        epochs: Sequence[Epoch],
        position: Position,
    ) -> None:
        """Put everything that the next step depends on to disk."""
        payload = {
            "format": FORMAT,
            "version": VERSION,
            "identity": self.identity,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epochs": [asdict(epoch) for epoch in epochs],
            "position": asdict(position),
        }
        write_whole(self.path / STATE, lambda file: torch.save(payload, file))

    def write_metrics(self, epochs: Sequence[Epoch]) -> None:
        """Write one line for each epoch to METRICS."""
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(field.name for field in fields(Epoch))
        rows.writerows(astuple(epoch) for epoch in epochs)
        write_whole(self.path / METRICS, lambda file: file.write(table.getvalue().encode()))

    def write_model(self, name: str, model: nn.Module, data: Data, epoch: Epoch) -> None:
        """Write a calibrated copy of the model, as :func:`has8.training.checkpoint.save` does.

        Args:
            name: the file's, MODEL or BEST.
            model: the model after the epoch; it is left as it is.
            data: the images that it learned from.
            epoch: the last epoch that it was trained in.
        """
        finished = calibrate(deepcopy(model).to(memory_format=torch.contiguous_format))
        save(
            self.path / name,
            finished,
            input_shape=data.input_shape,
            class_names=data.class_names,
            provenance={
                **self.identity,
                "epoch": epoch.epoch,
                "test_accuracy": epoch.test_accuracy,
            },
        )


def _short(value: object) -> str:
    """A value as Python writes it, cut off where that is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


@contextmanager
def tensorboard(folder: Path, epochs: Sequence[Epoch]) -> Iterator[Callable[[Epoch], None]]:
    """Write all epochs so far into a new event file, then those that the yielded function is given.

    Event files that the run wrote before are removed, so that a resumed run has no point twice and
    misses none. If anything fails here, a warning says so once, and training goes on without.
    """
    points: _Points | None = None

    def attempt(work: Callable[[], _Points | None]) -> None:
        nonlocal points
        try:
            points = work()
        except Exception as error:  # a full disk, or another package's fault
            points = None
            _LOG.warning("no more points for TensorBoard (%s): training goes on", _short(error))

    def add(epoch: Epoch) -> None:
        if points is not None:
            attempt(partial(points.add, epoch))

    attempt(lambda: _Points.of(folder, epochs))
    try:
        yield add
    finally:
        if points is not None:
            attempt(points.close)


class _Points:
    """An event file. It is written by this thread: another one may wait for a clock, or be dead."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        self.writer = EventsWriter(str(folder / "events"), EVENTS_SUFFIX)

    @staticmethod
    def of(folder: Path, epochs: Sequence[Epoch]) -> _Points:
        """A new file in place of those of before, with all epochs so far."""
        for old in folder.glob(EVENTS):
            old.unlink()
        points = _Points(folder)
        for number, epoch in enumerate(epochs, 1):
            points.add(epoch, ago=sum(later.seconds for later in epochs[number:]))
        return points

    def add(self, epoch: Epoch, ago: float = 0.0) -> _Points:
        """Write an epoch that ended so many seconds ago."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in asdict(epoch).items():
            if name != "epoch":
                event = Event(
                    wall_time=time.time() - ago, step=epoch.epoch, summary=scalar(name, value)
                )
                self.writer.write_event(event)
        self.writer.flush()
        return self

    def close(self) -> None:
        """Close the file."""
        self.writer.close()
