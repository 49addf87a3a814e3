"""A run's folder: the state to resume from, the models, the metrics. One process writes it."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from has8.data import Data
from has8.errors import BadInput, CheckpointError
from has8.files import write_whole
from has8.training import checkpoint
from has8.training.calibrate import calibrate
from has8.training.checkpoint import read_plain, save
from has8.training.history import Epoch, Position

STATE, BEST, MODEL, METRICS = "last.pt", "best.pt", "model.pt", "metrics.csv"
"""State to resume from, model of the best epoch, finished model, one line for each epoch."""
RESULTS = (STATE, BEST, MODEL, METRICS)
EVENTS_SUFFIX = ".has8"
EVENTS = f"events.out.tfevents.*{EVENTS_SUFFIX}"
"""TensorBoard's files: the columns of METRICS as scalars."""
FORMAT, VERSION = "has8-training", 2
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
            BadInput: if it belongs to another run, the folder has a file of such a name that no
                training wrote, or it cannot be written to.
            CheckpointError: if it is damaged.
        """
        saved = None
        if resume and (self.path / STATE).exists():
            saved = read_plain(self.path / STATE, FORMAT, VERSION)
            identity = saved.get("identity")
            self._check(STATE, identity if isinstance(identity, dict) else {})
        self._check_files(known=saved is not None or not resume)
        if not resume:
            try:
                for name in (STATE, BEST, METRICS):
                    (self.path / name).unlink(missing_ok=True)
            except OSError as error:
                raise BadInput(
                    f"cannot write to {self.path} ({error.strerror}): choose another place"
                ) from error
        return saved

    def _check_files(self, known: bool) -> None:
        """Refuse to write over what no training wrote and, in an unknown folder, another run's."""
        for name in RESULTS:
            path = self.path / name
            if not path.exists():
                continue
            facts = _facts(path)
            if facts is None:
                raise BadInput(
                    f"{path} is no file that has8 wrote in training, or is damaged: move it away, "
                    "or choose another folder with --out"
                )
            if name in (BEST, MODEL) and not known:
                here = json.loads(json.dumps(self.identity))
                self._check(name, {key: facts.get(key) for key in here}, here)

    def _check(
        self, name: str, saved: Mapping[str, Any], identity: Mapping[str, Any] | None = None
    ) -> None:
        here = self.identity if identity is None else identity
        differ = [
            f"{key} is {_short(saved.get(key))} there and {_short(here.get(key))} here"
            for key in sorted(here.keys() | saved.keys())
            if saved.get(key) != here.get(key)
        ]
        if differ:
            raise BadInput(
                f"{self.path / name} belongs to another run ({'; '.join(differ)}): choose "
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


def _facts(path: Path) -> dict[str, Any] | None:
    """What a file of a run says about it; None if no training wrote the file."""
    if path.name == METRICS:
        with path.open("rb") as file:
            return {} if file.readline(LONGEST) == _header() else None
    try:
        if path.name == STATE:
            return read_plain(path, FORMAT, VERSION)
        facts = read_plain(path, checkpoint.FORMAT, checkpoint.VERSION).get("provenance")
    except CheckpointError:
        return None
    trained = isinstance(facts, dict) and {"epoch", "test_accuracy"} <= facts.keys()
    return facts if trained else None


def _header() -> bytes:
    """The first line of METRICS."""
    return (",".join(field.name for field in fields(Epoch)) + "\n").encode()


def _short(value: object) -> str:
    """A value as Python writes it, cut off where that is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


@contextmanager
def tensorboard(folder: Path, epochs: Sequence[Epoch]) -> Iterator[Callable[[Epoch], None]]:
    """Write all epochs so far into a new event file, then those that the yielded function is given.

    Event files that the run wrote before are removed, so that a resumed run has no point twice and
    misses none.
    """
    from tensorboardX import SummaryWriter

    for old in folder.glob(EVENTS):
        old.unlink()
    writer = SummaryWriter(logdir=str(folder), filename_suffix=EVENTS_SUFFIX)

    def add(epoch: Epoch, ago: float = 0.0) -> None:
        for name, value in asdict(epoch).items():
            if name != "epoch":
                writer.add_scalar(name, value, epoch.epoch, walltime=time.time() - ago)
        writer.flush()

    try:
        for number, epoch in enumerate(epochs, 1):
            add(epoch, ago=sum(later.seconds for later in epochs[number:]))
        yield add
    finally:
        writer.close()
