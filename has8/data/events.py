"""Recordings of event cameras, as spikes in steps.

An event says that one pixel became brighter or darker (its polarity, a channel here) at some time.
:func:`bin_events` sorts the events of a recording into steps. A pixel spikes in a step or does not:
several events of one pixel in one step become one spike, and their number and order are lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from has8 import given
from has8.data.images import Batch, ImageDataset
from has8.errors import BadInput
from has8.values import described, value, whole

Binning = Literal["time", "count"]
"""Steps are equal stretches of time, or hold equally many events."""


class Events(NamedTuple):
    """The events of one recording: four arrays ``int[E]``.

    Args:
        x: column.
        y: row.
        p: polarity, which is the channel.
        t: time in microseconds, from any start.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    p: NDArray[Any]
    t: NDArray[Any]


class Recordings(Protocol):
    """Recordings by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Events: ...


def bin_events(
    x: Any,
    y: Any,
    p: Any,
    t: Any,
    shape: Sequence[int],
    steps: int,
    by: Binning = "time",
    window_us: int | None = None,
) -> Tensor:
    """The events of one recording as spikes in steps.

    Each event lands in one step, and an earlier one in no later step. With ``window_us``, events
    behind the last step are left out.

    Args:
        x: column of each event, ``int[E]``, 0 to W - 1.
        y: row, ``int[E]``, 0 to H - 1.
        p: polarity, ``int[E]``, 0 to C - 1.
        t: time in microseconds, ``int[E]``; in any order, from any start.
        shape: ``(C, H, W)``.
        steps: T.
        by: "time" cuts the time from the first event to the last into T equal parts; "count" gives
            each step as many events, in the order of time.
        window_us: how long a step is, for "time"; None for a T-th of the recording.

    Returns:
        ``float32[T, C, H, W]`` of 0 and 1: 1 where at least one event landed.

    Raises:
        BadInput: if the arrays are not of one length, hold no whole numbers or lie outside the
            shape, or another argument is out of range.
    """
    sides = tuple(value(shape, tuple[int, int, int], "shape"))
    if min(sides) < 1:
        raise BadInput(f"shape must be (C, H, W) of at least 1 each, not {sides}")
    steps, by = whole(steps, "steps", 1), value(by, Binning, "by")
    events = Events(*(_column(a, name) for a, name in zip((x, y, p, t), "xypt", strict=True)))
    if len(set(map(len, events))) > 1:
        raise BadInput(f"x, y, p and t must be equally long, and have {list(map(len, events))}")
    for name, column, side in zip("pyx", (events.p, events.y, events.x), sides, strict=True):
        if len(column) and not 0 <= column.min() <= column.max() < side:
            raise BadInput(
                f"{name} must be from 0 to {side - 1} in the shape {sides}, and is from "
                f"{column.min()} to {column.max()}"
            )
    if window_us is not None:
        window_us = whole(window_us, "window_us", 1)
        if by == "count":
            raise BadInput("window_us is for steps by time: leave it out with by='count'")
    return torch.from_numpy(_binned(events, sides, steps, by, window_us)).float()


def _binned(
    events: Events, shape: tuple[int, ...], steps: int, by: Binning, window_us: int | None
) -> NDArray[np.bool_]:
    spikes = np.zeros((steps, *shape), np.bool_)
    t = events.t.astype(np.int64)
    if not len(t):
        return spikes
    if by == "count":
        step = np.empty(len(t), np.int64)
        step[np.argsort(t, kind="stable")] = np.arange(len(t)) * steps // len(t)
    elif window_us is not None:
        step = (t - t.min()) // window_us
    else:
        step = (t - t.min()) * steps // (t.max() - t.min() + 1)
    kept = step < steps
    spikes[step[kept], events.p[kept], events.y[kept], events.x[kept]] = True
    return spikes


def _column(a: Any, name: str) -> NDArray[Any]:
    try:
        found = np.asarray(a)
    except (TypeError, ValueError, RuntimeError):
        found = np.empty((), object)
    if found.dtype == np.bool_:  # a polarity
        found = found.astype(np.uint8)
    if found.ndim != 1 or (found.dtype.kind not in "iu" and found.size):
        raise BadInput(f"{name} must be an array of whole numbers int[E], not {described(a)}")
    return found if found.size else found.astype(np.int64)


class EventSpikes(ImageDataset):
    """Recordings of events as a data set of spikes; they are binned as they are read.

    Args:
        recordings: the events of each.
        labels: ``int64[N]``.
        shape: ``(C, H, W)`` of the sensor.
        steps: T.
        by: see :func:`bin_events`.
        window_us: see :func:`bin_events`.
        size: side in pixels that the sensor is divided into; None keeps its own pixels. Pixels
            that become one merge their spikes.
    """

    flip = False
    batch_axis = 1

    def __init__(
        self,
        recordings: Recordings,
        labels: Any,
        *,
        shape: Sequence[int],
        steps: int,
        by: Binning = "time",
        window_us: int | None = None,
        size: int | None = None,
    ) -> None:
        self.recordings = recordings
        self.labels = given.labels(labels, len(recordings), None)
        self.sensor = tuple(value(shape, tuple[int, int, int], "shape"))
        self.shape = self.sensor if size is None else (self.sensor[0], size, size)
        self.steps, self.by, self.window_us = whole(steps, "steps", 1), by, window_us

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, chunks: Iterable[Tensor]) -> Iterator[Batch]:
        """For each ``int64[B]`` of indices: spikes ``float32[T, B, C, H, W]``, labels."""
        for indices in chunks:
            spikes = torch.empty(self.steps, len(indices), *self.shape)
            for place, index in enumerate(indices.tolist()):
                spikes[:, place] = self._binned(self.recordings[index])
            yield spikes, self.labels[indices]

    def _binned(self, events: Events) -> Tensor:
        (_, height, width), (_, rows, columns) = self.sensor, self.shape
        x = np.asarray(events.x).astype(np.int64) * columns // width
        y = np.asarray(events.y).astype(np.int64) * rows // height
        return bin_events(x, y, events.p, events.t, self.shape, self.steps, self.by, self.window_us)
