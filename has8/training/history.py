"""How far a training run is, and what its epochs came to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the training images came to.

    Args:
        epoch: counted from 1.
        train_loss: mean loss over the training images, each as it was met on the way.
        train_accuracy: accuracy on the augmented training images, as met on the way, in [0, 1].
        test_accuracy: accuracy on the held-out images after the epoch, in [0, 1].
        seconds: wall time, testing included.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_accuracy: float
    seconds: float


@dataclass(frozen=True, slots=True)
class History:
    """All epochs of a run, those before a break included.

    Args:
        epochs: in their order.
    """

    epochs: tuple[Epoch, ...]

    @property
    def accuracy(self) -> float:
        """Accuracy of the finished model on the held-out images, in [0, 1]."""
        return self.epochs[-1].test_accuracy

    @property
    def seconds(self) -> float:
        """Wall time of all epochs, in seconds."""
        return sum(epoch.seconds for epoch in self.epochs)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands; reported after every step (on a GPU every few), and every epoch.

    Args:
        epoch: counted from 1.
        epochs: epochs of the whole run.
        images: images read in this epoch so far.
        total: images of an epoch.
        loss: mean loss over the epoch so far.
        accuracy: accuracy on the training images of the epoch so far, in [0, 1].
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
"""Called with where training stands."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place inside a run, between two steps.

    Args:
        epoch: the epoch that the next step belongs to, counted from 1.
        step: steps done in that epoch.
        loss: loss summed over the epoch's images so far.
        correct: images of the epoch that were classified rightly so far.
        images: images of the epoch that were read so far.
        seconds: wall time of the epoch so far.
    """

    epoch: int = 1
    step: int = 0
    loss: float = 0.0
    correct: int = 0
    images: int = 0
    seconds: float = 0.0
