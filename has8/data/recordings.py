"""Known data sets of events: where their recordings lie, and how these are read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from has8.data.events import Binning, Events, EventSpikes, Recordings
from has8.data.names import EVENTS
from has8.errors import BadInput

NMNIST_FILE = "nmnist_small.npz"
"""A part of N-MNIST in one file: recording i of a part has the events from ``offsets[i]`` to
``offsets[i + 1]``, and ``dt`` is the time since the event before it."""
OVERFLOW_Y, OVERFLOW_US = 240, 1 << 13
"""In N-MNIST's files an event in this row is none, and adds so much to all times behind it."""


def load_events(
    name: str, root: Path, steps: int, by: Binning, window_us: int | None, size: int | None
) -> tuple[EventSpikes, EventSpikes, tuple[str, ...]]:
    """Training and held-out recordings of a known data set, and its class names.

    N-MNIST is read from the class folders of its own files, ``ROOT/NMNIST/Train/0/*.bin``, which
    is where tonic keeps them, or else from ``ROOT/nmnist_small.npz``. What is in neither place is
    downloaded and read by tonic, where it is installed.

    Args:
        name: a name in :data:`has8.data.names.EVENTS`.
        root: where named data lie.
        steps, by, window_us: see :func:`has8.data.events.bin_events`.
        size: see :class:`has8.data.events.EventSpikes`.

    Raises:
        BadInput: if the files are missing or damaged, or tonic is needed and missing.
    """
    parts: list[tuple[Recordings, Any]]
    if name == "nmnist" and all((root / "NMNIST" / part).is_dir() for part in ("Train", "Test")):
        parts = [_class_folders(root / "NMNIST" / part) for part in ("Train", "Test")]
    elif name == "nmnist" and (root / NMNIST_FILE).is_file():
        parts = [_packed(root / NMNIST_FILE, part) for part in ("train", "test")]
    else:
        parts = [_from_tonic(name, root, train=train) for train in (True, False)]
    train, test = (
        EventSpikes(
            recordings,
            labels,
            shape=EVENTS[name].shape,
            steps=steps,
            by=by,
            window_us=window_us,
            size=size,
        )
        for recordings, labels in parts
    )
    return train, test, EVENTS[name].class_names


@dataclass(frozen=True)
class _Packed:
    """Recordings in arrays: of all events, and where each recording begins."""

    x: NDArray[Any]
    y: NDArray[Any]
    p: NDArray[Any]
    dt: NDArray[Any]
    offsets: NDArray[Any]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Events:
        part = slice(self.offsets[index], self.offsets[index + 1])
        t = np.cumsum(self.dt[part], dtype=np.int64)
        return Events(self.x[part], self.y[part], self.p[part], t)


def _packed(path: Path, part: str) -> tuple[_Packed, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            x, y, p, dt, offsets, labels = (
                arrays[f"{part}_{name}"] for name in ("x", "y", "p", "dt", "offsets", "labels")
            )
        whole = all(len(column) == offsets[-1] for column in (x, y, p, dt))
        if not whole or len(offsets) != len(labels) + 1 or offsets[0] or np.diff(offsets).min() < 0:
            raise ValueError("its arrays do not belong together")
    except Exception as error:  # a broken archive can raise anything
        reason = str(error).partition("\n")[0]
        raise BadInput(f"{path} cannot be read ({reason}): fetch it again") from None
    return _Packed(x, y, p, dt, offsets), labels


@dataclass(frozen=True)
class _Files:
    """Files of N-MNIST's format: five bytes an event."""

    files: Sequence[Path]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Events:
        path = self.files[index]
        try:
            content = np.fromfile(path, np.uint8)
        except OSError as error:
            raise BadInput(f"{path} cannot be read ({error.strerror}): fetch it again") from None
        if len(content) % 5:
            raise BadInput(f"{path} is damaged: it does not hold five bytes an event")
        x, y, high, middle, low = content.reshape(-1, 5).astype(np.int64).T
        t = (high & 127) << 16 | middle << 8 | low
        overflow = y == OVERFLOW_Y
        t += np.cumsum(overflow) * OVERFLOW_US
        real = ~overflow
        return Events(x[real], y[real], (high >> 7)[real], t[real])


def _class_folders(folder: Path) -> tuple[_Files, list[int]]:
    files = [
        (path, int(path.parent.name))
        for path in sorted(folder.glob("*/*.bin"))
        if path.parent.name in EVENTS["nmnist"].class_names
    ]
    if not files:
        raise BadInput(f"{folder} holds no recordings 0/*.bin to 9/*.bin: fetch them again")
    return _Files([path for path, _ in files]), [label for _, label in files]


@dataclass(frozen=True)
class _Tonic:
    """A data set of tonic."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Events:
        events, _ = self.dataset[index]
        return Events(*(np.asarray(events[name]) for name in "xypt"))


def _from_tonic(name: str, root: Path, *, train: bool) -> tuple[_Tonic, list[int]]:
    try:
        datasets = import_module("tonic").datasets
    except ImportError:
        where = f" ({root / 'NMNIST'} or {root / NMNIST_FILE})" if name == "nmnist" else ""
        raise BadInput(
            f"{name} is not in {root}{where}, and tonic, which downloads and reads it, is not "
            "installed: pip install tonic, or name the folder with --data-root or HAS8_DATA"
        ) from None
    try:
        with redirect_stdout(sys.stderr):
            dataset = getattr(datasets, EVENTS[name].tonic)(save_to=str(root), train=train)
    except Exception as error:  # of the network, or of files that are there
        reason = (str(error) or repr(error)).partition("\n")[0]
        raise BadInput(
            f"tonic cannot give {name} from {root} ({reason}): put its files there, or name the "
            "folder that holds them with --data-root or HAS8_DATA"
        ) from error
    return _Tonic(dataset), [int(label) for label in dataset.targets]
