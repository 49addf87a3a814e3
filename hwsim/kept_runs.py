"""Runs that are kept in a folder, so that work on many of them goes on where it was stopped.

A file is named by all that its run depends on: the mapping, the samples, and how many run at a
time. What is there can therefore be taken as it is, whichever command or model wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from has8.errors import CheckpointError
from has8.files import write_whole
from hwsim.activity import Activity, Overflow
from hwsim.program import OnProgress, Run, simulate
from mapping.artifact import identity
from mapping.chip.archive import read, reading, write
from mapping.mapped import Mapped

FORMAT, VERSION = "has8-run", 1


def simulate_or_read(
    folder: Path,
    mapped: Mapped,
    x: Tensor,
    *,
    batch_size: int,
    apart: int,
    on_progress: OnProgress | None = None,
) -> Run:
    """The run of a mapping from a folder, or made now and kept there.

    A file that is damaged is made again.

    Args:
        folder: of the runs; made as needed.
        mapped, x, batch_size, apart, on_progress: as :func:`hwsim.simulate` takes them.

    Raises:
        BadInput: if the folder cannot be written to.
    """
    samples = sha256(repr((tuple(x.shape), x.dtype, batch_size, apart)).encode())
    samples.update(x.detach().cpu().contiguous().numpy().data)
    name = sha256(f"{identity(mapped)} {samples.hexdigest()}".encode()).hexdigest()
    path = folder / f"{name}.run"
    if path.exists():
        try:
            return _read(path)
        except CheckpointError:
            pass
    run = simulate(mapped, x, batch_size=batch_size, apart=apart, on_progress=on_progress)
    write_whole(path, lambda file: write(file, _facts(run), dict(_arrays(run))))
    return run


def _facts(run: Run) -> bytes:
    each = [
        {
            "samples": one.samples,
            "overflows": {name: asdict(overflow) for name, overflow in one.overflows.items()},
        }
        for one in (run.activity, *run.apart)
    ]
    facts = {"backend": run.backend, "arithmetic": dict(run.arithmetic), "activities": each}
    return json.dumps({"format": FORMAT, "version": VERSION, **facts}).encode()


def _arrays(run: Run) -> Iterator[tuple[str, NDArray[Any]]]:
    """The logits, and counts in the fewest bytes that hold them."""
    yield "logits", run.logits.numpy()
    for number, one in enumerate((run.activity, *run.apart)):
        for kind, counts in (("events", one.events), ("updated", one.updated)):
            for name, array in counts.items():
                most = int(array.max(initial=0))
                yield f"{number}/{kind}/{name}", array.astype(np.min_scalar_type(most))


def _read(path: Path) -> Run:
    with reading(path, "run", "remove it"):
        facts, arrays = read(path, FORMAT, VERSION)
        told = json.loads(facts)
        first, *apart = (
            Activity(
                about["samples"],
                _counts(arrays, f"{number}/events/"),
                _counts(arrays, f"{number}/updated/"),
                {name: Overflow(**counts) for name, counts in about["overflows"].items()},
            )
            for number, about in enumerate(told["activities"])
        )
        logits = torch.from_numpy(arrays["logits"])
        return Run(
            told["backend"], logits, first, arithmetic=told["arithmetic"], apart=tuple(apart)
        )


def _counts(arrays: Mapping[str, NDArray[Any]], start: str) -> dict[str, NDArray[np.int64]]:
    return {
        name.removeprefix(start): array.astype(np.int64)
        for name, array in arrays.items()
        if name.startswith(start)
    }
