"""A run's folder: the state to resume from, the models, the metrics. One process writes it."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from has8.data import Data
from has8.errors import BadInput, CheckpointError, Has8Error
from has8.files import write_whole
from has8.training import checkpoint
from has8.training.calibrate import calibrate
from has8.training.checkpoint import read_plain, save, unfit
from has8.training.history import Epoch, Position

STATE, BEST, MODEL, METRICS = "last.pt", "best.pt", "model.pt", "metrics.csv"
"""State to resume from, model of the best epoch, finished model, one line for each epoch."""
LOCAL = "colanet.pt"
"""State of learning by local rules."""
STATES = {STATE: ("has8-training", 2), LOCAL: ("has8-colanet", 1)}
"""The states to resume from, with the format and the version of each."""
RESULTS = (*STATES, BEST, MODEL, METRICS)
EVENTS_SUFFIX = ".has8"
EVENTS = f"events.out.tfevents.*{EVENTS_SUFFIX}"
"""TensorBoard's files: the columns of METRICS as scalars."""
_LOG = logging.getLogger("has8")
LONGEST = 300
"""Most characters of a value in a message."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder, and what tells its run from others.

    Args:
        path: the folder.
        identity: plain values that must be equal for a run to be resumed.
        state: the file of STATES that the run goes on from.
    """

    path: Path
    identity: dict[str, Any]
    state: str = STATE

    def read(self, resume: bool) -> dict[str, Any] | None:
        """What :meth:`write_state` wrote, or None: nothing is there, or ``resume`` is false.

        Without ``resume``, what is there is removed, but for the last finished model.

        Raises:
            BadInput: if it belongs to another run, the folder has a file of such a name that no
                training wrote, or it cannot be written to.
            CheckpointError: if it is damaged.
        """
        saved = None
        for name in STATES if resume else ():
            if (self.path / name).exists():
                found = read_plain(self.path / name, *STATES[name])
                identity = found.get("identity")
                self._check(name, identity if isinstance(identity, dict) else {})
                saved = found if name == self.state else saved
        self._check_files(known=saved is not None or not resume)
        if not resume:
            try:
                for name in (*STATES, BEST, METRICS):
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
                self._check(name, {key: facts[key] for key in here if key in facts}, here)

    def _check(
        self, name: str, saved: Mapping[str, Any], identity: Mapping[str, Any] | None = None
    ) -> None:
        here = self.identity if identity is None else identity
        differ = [
            f"{key} is {_short(saved[key])} there and {_short(here[key])} here"
            for key in sorted(here.keys() & saved.keys())
            if saved[key] != here[key]
        ]
        for where, keys in (("there", saved.keys() - here), ("here", here.keys() - saved)):
            differ += [f"only {where}: {', '.join(sorted(keys))}"] if keys else []
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
            CheckpointError: if the state is incomplete or not one of this run; the model and the
                optimiser are as they were then.
        """
        try:
            epochs, position = self._progress(saved)
            reason = unfit(model.state_dict(), saved["model"])
            if reason:
                raise ValueError(f"the weights: {reason}")
            state = _checked(saved["optimizer"], optimizer)
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(state)
            return epochs, position
        except (KeyError, TypeError, ValueError, RuntimeError, Has8Error) as error:
            raise CheckpointError(
                f"{self.path / STATE} cannot be resumed from ({str(error).splitlines()[0]}): "
                "start over with --restart"
            ) from error

    def _progress(self, saved: Mapping[str, Any]) -> tuple[list[Epoch], Position]:
        """Epochs and position, held to each other and to the run.

        Raises:
            ValueError: if they cannot be.
        """
        epochs = msgspec.convert(saved["epochs"], list[Epoch])
        position = msgspec.convert(saved["position"], Position)
        numbers = [*astuple(position), *(n for epoch in epochs for n in astuple(epoch))]
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise ValueError("a number in it is negative or not finite")
        shares = [s for e in epochs for s in (e.train_accuracy, e.test_accuracy)]
        if any(share > 1 for share in shares) or position.correct > position.images:
            raise ValueError("an accuracy in it is above 1")
        if [e.epoch for e in epochs] + [position.epoch] != list(range(1, len(epochs) + 2)):
            raise ValueError("its epochs do not follow each other")
        if len(epochs) > self.identity.get("epochs", len(epochs)):
            raise ValueError("it has more epochs than the run")
        total = self.identity.get("subset") or self.identity.get("train_images")
        done = position.step * self.identity.get("batch_size", 0)
        if total is not None and position.images != min(done, total):
            raise ValueError("its position is no place of the run")
        return epochs, position

    def write(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        epochs: Sequence[Epoch],
        position: Position,
    ) -> None:
        """Put everything that the next step depends on to disk."""
        self.write_state(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "epochs": [asdict(epoch) for epoch in epochs],
                "position": asdict(position),
            }
        )

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Put tensors and plain values to disk, as what the run goes on from."""
        kind, version = STATES[self.state]
        saved = {"format": kind, "version": version, "identity": self.identity, **state}
        write_whole(self.path / self.state, lambda file: torch.save(saved, file))

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


def _checked(saved: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """A saved state of the optimiser, with its hyperparameters from the optimiser itself.

    Raises:
        ValueError: if it has other tensors than the optimiser would have for its parameters.
    """
    own = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = ("exp_avg", "exp_avg_sq") if "betas" in optimizer.defaults else ("momentum_buffer",)
    for number, tensors in saved["state"].items():
        if type(number) is not int or not 0 <= number < len(parameters):
            raise ValueError(f"the optimiser has no parameter {number!r}")
        like: dict[str, Tensor] = dict.fromkeys(moments, parameters[number].detach())
        if "betas" in optimizer.defaults:
            like["step"] = torch.zeros(())
        reason = unfit(like, tensors)
        if reason:
            raise ValueError(f"the optimiser's state of parameter {number}: {reason}")
        if any((tensors[name] < 0).any() for name in ("exp_avg_sq", "step") if name in like):
            raise ValueError(f"the optimiser's state of parameter {number} is negative")
    return {"state": dict(saved["state"]), "param_groups": own["param_groups"]}


def _facts(path: Path) -> dict[str, Any] | None:
    """What a file of a run says about it; None if no training wrote the file."""
    if path.name == METRICS:
        with path.open("rb") as file:
            return {} if file.readline(LONGEST) == _header() else None
    try:
        if path.name in STATES:
            return read_plain(path, *STATES[path.name])
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
