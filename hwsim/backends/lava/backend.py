"""Lava's bit-accurate Loihi simulation of a chip segment, in a process of its own.

Torch inside a Lava process hangs, so a segment travels as plain data to a fresh interpreter. It may
be one of another Python, since lava-nc needs 3.10: HAS8_LAVA_PYTHON names it. As
``python -m hwsim.backends.lava NAME.h8 INPUT.npz OUTPUT.npz`` this also works where torch is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from has8.errors import BackendError
from has8.values import seconds
from hwsim.backends.lava.interpreter import lava_python
from hwsim.backends.lava.isolate import run_isolated
from hwsim.backends.lava.limits import check_faithful
from mapping.chip.arithmetic import Ints
from mapping.chip.segment import ChipSegment
from mapping.chip.serial import pack

if TYPE_CHECKING:
    from torch import Tensor

    from hwsim.backends.protocol import SegmentRun, SegmentState
    from mapping.targets.schema import Registers

Spikes = NDArray[Any]
"""Bool, or the payloads of graded spikes in whole numbers."""

NETWORK = "hwsim.backends.lava.network"
"""What the worker runs."""
CODE = ("has8.lazy", "has8.errors", "has8.text", "mapping.chip", "hwsim.backends.lava")
"""What of ours the worker imports, modules and packages."""


HEADERS = 1 << 12
"""Bytes, more than enough, that an array in a file has beside its values."""


class Lava:
    """The backend that runs Lava.

    Args:
        timeout_s: the longest that one batch may take, in seconds.

    Raises:
        BadInput: if that is no time.
    """

    name = "lava"

    def __init__(self, timeout_s: float = 600.0) -> None:
        self.timeout_s = seconds(timeout_s, "timeout_s")

    def unavailable(self) -> str | None:
        """Why Lava cannot run here, in one sentence; None if it can."""
        try:
            lava_python()
        except BackendError as error:
            return str(error)
        return None

    def compile(self, segment: ChipSegment, registers: Registers) -> LavaProgram:
        """Make a segment ready to run.

        Raises:
            BackendError: if Lava is missing or would not follow the segment bit for bit.
        """
        lava_python()
        check_faithful(segment, registers)
        return LavaProgram(segment, registers, self.timeout_s)


@dataclass(frozen=True, slots=True)
class LavaProgram:
    """A segment that Lava can run.

    Args:
        segment: the segment.
        registers: the target's.
        timeout_s: the longest that one batch may take, in seconds.
    """

    segment: ChipSegment
    registers: Registers
    timeout_s: float

    def __call__(
        self,
        inputs: Mapping[str, Tensor],
        *,
        first: int = 0,
        membranes: bool = False,
        state: SegmentState | None = None,
        keep_state: bool = False,
    ) -> SegmentRun:
        """Run one batch in a fresh worker.

        Args:
            inputs: the spikes of each port, ``bool[T, B, *shape]``.
            first: has no effect, since nothing happens by chance.
            membranes: must be False.
            state: must be None.
            keep_state: must be False.

        Raises:
            BadInput: if a port's spikes are missing or have another shape.
            BackendError: if the worker dies or takes longer than the time limit, or membranes
                or state are asked for.
        """
        import torch

        from hwsim.backends.protocol import SegmentRun, checked_inputs, membrane_dtype

        if membranes:
            raise BackendError("Lava's runs keep no membranes; take the reference or the fast one")
        if state is not None or keep_state:
            raise BackendError("Lava clears all state; take the reference or the fast one")
        segment, given = self.segment, checked_inputs(self.segment, inputs)
        spikes = {name: tensor.cpu().numpy() for name, tensor in given.items()}
        fired, read = run_worker(segment, spikes, self.timeout_s)
        width = membrane_dtype(self.registers)
        return SegmentRun(
            {name: torch.from_numpy(array) for name, array in fired.items()},
            last={name: torch.from_numpy(array).to(width) for name, array in read.items()},
        )


def run_worker(
    segment: ChipSegment, spikes: Mapping[str, Spikes], timeout_s: float
) -> tuple[dict[str, Spikes], dict[str, Ints]]:
    """Run a segment in Lava, in a process of its own.

    Args:
        segment: one that :func:`hwsim.backends.lava.limits.check_faithful` accepts.
        spikes: the spikes of each port, ``[T, B, *shape]``, bool or payloads, or its biases,
            ``int64[B, *shape]``.
        timeout_s: the longest that it may take, in seconds.

    Returns:
        The spikes of each population, ``[T, B, *shape]``, and membranes after the last step
        where they are read, ``int64[B, *shape]``.

    Raises:
        BackendError: if there is no Lava, or its process dies or takes longer.
    """
    plain, arrays = pack(segment)
    job = {"segment": plain, "arrays": arrays, "inputs": dict(spikes)}
    what = f"Lava's run of segment {segment.name!r}"
    steps, samples = segment.steps, segment.samples(spikes)
    want: list[tuple[np.dtype[Any], tuple[int, ...]]]
    want = [(np.dtype(p.payload.kind), (steps, samples, *p.shape)) for p in segment.populations]
    want += [(np.dtype(np.int64), (samples, *segment.shape_of(n))) for n in segment.membranes]
    found = run_isolated(
        NETWORK,
        job,
        timeout_s,
        what,
        lava_python(),
        code=CODE,
        most_bytes=sum(kind.itemsize * prod(s) for kind, s in want) + HEADERS * len(want),
    )
    if [(a.dtype, a.shape) for a in found] != want:
        raise BackendError(f"{what} gave spikes of other shapes: is the right Lava installed?")
    names = [p.name for p in segment.populations]
    fired = dict(zip(names, found, strict=False))
    return fired, dict(zip(segment.membranes, found[len(names) :], strict=True))
