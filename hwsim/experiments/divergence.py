"""Two backends in step: equal, or the first place where they part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from has8 import given
from has8.markup import block, note
from has8.units import count, many
from hwsim.backends.protocol import Backend
from hwsim.program import Program, sample_axis
from mapping import Mapped
from mapping.chip.segment import ChipSegment


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first spike that differs, or else the first membrane of those that the host reads.

    Args:
        segment: the chip segment.
        population: the population in it.
        step: 0..T-1.
        sample: 0..N-1.
        index: of the neuron, in the population's shape.
        left: the first backend's spike, 0 or 1, or membrane.
        right: the second backend's.
        membrane: whether it is a membrane.
    """

    segment: str
    population: str
    step: int
    sample: int
    index: tuple[int, ...]
    left: int
    right: int
    membrane: bool = False

    def __str__(self) -> str:
        what = f"membrane of {self.population}" if self.membrane else self.population
        return (
            f"{what} at step {self.step}, sample {self.sample}, neuron {self.index}: "
            f"{self.left} against {self.right}"
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """What :func:`compare` found.

    Args:
        left, right: the backends' names.
        samples: how many were compared.
        spikes: how many spike values (0 or 1) were compared, over all layers and steps.
        divergence: the first difference; None if there is none.
        membranes: how many membranes that the host reads were compared too.
    """

    left: str
    right: str
    samples: int
    spikes: int
    divergence: Divergence | None
    membranes: int = 0

    @property
    def equal(self) -> bool:
        """Whether every spike of every layer, and every membrane that is read, was the same."""
        return self.divergence is None

    def _repr_html_(self) -> str:
        """Whether they are equal, or where they part, for notebooks."""
        held = f"{count(self.spikes)} spike values"
        if self.membranes:
            held += f" and {count(self.membranes)} membranes"
        verdict = "equal" if self.equal else f"differ first in {self.divergence}"
        samples = many(self.samples, "sample")
        return block(f"{self.left} and {self.right}: {verdict}", note(f"{held} of {samples}"))


def compare(
    mapped: Mapped, x: Tensor, left: str | Backend = "fast", right: str | Backend = "lava"
) -> Comparison:
    """Compare two backends over every spike of every chip layer, and all membranes that are read.

    The left backend runs the whole model. The right one then runs each segment on the spikes
    that the left one's segment was given; segments are walked in the order of execution, so as
    long as all were equal these are the inputs that the right backend would have made itself,
    and the first difference found is the first there is.

    Args:
        mapped: from :func:`mapping.map_model`.
        x: ``float32[N, *input_shape]``.
        left: the backend that runs the model.
        right: the backend that is held against it.

    Raises:
        BackendError: if one of them cannot run here, or fails.
    """
    x = given.images(x)
    one, two = Program(mapped, left), Program(mapped, right)
    samples = x.shape[sample_axis(mapped)] if x.dim() > 1 else len(x)
    run = one.run(x, batch_size=max(1, samples), record=("spikes",))
    names = one.backend.name, two.backend.name
    compared = read = 0
    for chip in mapped.chip_segments:
        other = two.executables[chip.name](run.inputs[chip.name])
        mine = run.spikes[chip.name]
        compared += sum(spikes.numel() for spikes in mine.values())
        found = _first(chip.name, [p.name for p in chip.populations], mine, other.spikes)
        if found is None and chip.membranes:
            last = one.executables[chip.name](run.inputs[chip.name]).last
            read += sum(membranes.numel() for membranes in last.values())
            found = _first_membrane(chip, last, other.last)
        if found is not None:
            return Comparison(*names, samples, compared, found, read)
    return Comparison(*names, samples, compared, None, read)


def _first_membrane(
    chip: ChipSegment, left: Mapping[str, Tensor], right: Mapping[str, Tensor]
) -> Divergence | None:
    """The first membrane after the last step that differs, in the order in which they are read."""
    for name in chip.membranes:
        one, two = left[name].cpu(), right[name].cpu()
        where = torch.nonzero(one != two)
        if len(where):
            sample, *index = (int(i) for i in where[0])
            mine, other = (int(t[tuple(where[0])]) for t in (one, two))
            step = chip.steps - 1
            return Divergence(chip.name, name, step, sample, tuple(index), mine, other, True)
    return None


def _first(
    segment: str, names: list[str], left: Mapping[str, Tensor], right: Mapping[str, Tensor]
) -> Divergence | None:
    """The first difference by step, then by the order of the populations."""
    candidates = []
    for place, name in enumerate(names):
        one, two = left[name].cpu(), right[name].cpu()
        where = torch.nonzero(one != two)
        if len(where):
            step, sample, *index = (int(i) for i in where[0])
            mine, other = (int(t[tuple(where[0])]) for t in (one, two))
            found = Divergence(segment, name, step, sample, tuple(index), mine, other)
            candidates.append(((step, place), found))
    return min(candidates, key=lambda item: item[0])[1] if candidates else None
