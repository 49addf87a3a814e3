"""Batched simulation, equal to the reference bit for bit, by arithmetic that cannot round.

A population's weighted sums over all steps are one convolution (:mod:`hwsim.backends.fast.sums`), its neurons
one pass over them (:mod:`hwsim.backends.fast.neurons`), for as many samples at a time as the cache holds. Which
arithmetic each layer gets follows from bounds on its integers, before anything runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from has8.errors import BackendError
from hwsim.activity import Counts, SegmentRun, check_kinds, checked_inputs
from hwsim.backends.fast.layout import logical, stored
from hwsim.backends.fast.neurons import Lif, Tally, compile_lif
from hwsim.backends.fast.sums import Sums, compile_sums
from mapping.chip.segment import ChipSegment, Population
from mapping.targets.schema import Registers

CHUNK = 1 << 21
"""Weighted sums that are worked on at once, 8 MiB: they stay near the cores that made them."""


class Fast:
    """The fast backend.

    Args:
        device: where to run, "cpu" or a CUDA device; on CUDA float64 is used throughout, since
            its float32 convolutions may take algorithms that round.
    """

    name = "fast"

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)

    def unavailable(self) -> str | None:
        """Always available on the CPU."""
        if self.device.type == "cuda" and not torch.cuda.is_available():
            return "no CUDA device is available; use device='cpu'"
        return None

    def compile(self, segment: ChipSegment, registers: Registers) -> FastProgram:
        """Choose each layer's arithmetic and move the integers to the device.

        Raises:
            BackendError: if a population feeds itself or an earlier one, is of an unknown kind,
                or needs arithmetic that floating point would round.
        """
        check_kinds(segment)
        if loop := segment.loop():
            raise BackendError(
                f"population {loop[0]!r} is driven by {loop[1]!r}, which comes after it; the fast "
                f"backend runs no recurrent connections, the reference does"
            )
        for synapse in (s for population in segment.populations for s in population.synapses):
            if synapse.weight_exp < 0:
                raise BackendError(
                    f"synapse {synapse.name!r} has the weight exponent {synapse.weight_exp}, "
                    f"which shifts sums to the right; only the reference and Lava do that"
                )
        layers = tuple(_layer(segment, p, registers, self.device) for p in segment.populations)
        return FastProgram(segment, layers, self.device)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One population; its neurons have channels last."""

    name: str
    shape: tuple[int, ...]
    sums: tuple[Sums, ...]
    lif: Lif

    @property
    def arithmetic(self) -> str:
        """What it is computed in, in words."""
        sums = {sums.arithmetic for sums in self.sums}
        kinds = " and ".join(sorted(sums)) or "no"
        return f"{kinds} sums, {'int32' if self.lif.compiled else 'float'} neurons"

    def run(
        self, sources: Mapping[str, Tensor], tally: Tally, membranes: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Spikes ``[B, T, ..., C]`` and membranes, from the spikes of all sources, likewise."""
        some = next(iter(sources.values()))
        samples, steps = some.shape[:2]
        spikes = some.new_empty(samples, steps, *self.shape)
        kept = torch.empty_like(spikes, dtype=self.lif.membrane_dtype) if membranes else None
        for chunk in self.chunks(samples, steps):
            part = None if kept is None else kept[chunk]
            self.lif(self.drive(sources, chunk, steps), tally, spikes[chunk], part)
        return spikes, kept

    def chunks(self, samples: int, steps: int) -> Iterator[slice]:
        """The samples in slices of nearly the same size, as many at a time as CHUNK allows."""
        most = max(1, CHUNK // (steps * prod(self.shape)))
        count = -(-samples // most)
        for place in range(count):
            yield slice(samples * place // count, samples * (place + 1) // count)

    def drive(self, sources: Mapping[str, Tensor], chunk: slice, steps: int) -> Tensor:
        """The weighted sums of some samples, ``[B, T, ..., C]``, from the sources' spikes."""
        samples = chunk.stop - chunk.start
        drive: Tensor | None = None
        for sums in self.sums:
            part = sums(sources[sums.source][chunk].flatten(0, 1)).reshape(-1, *self.shape)
            drive = part if drive is None else drive + part
        if drive is None:
            drive = self.lif.bias.new_zeros(samples * steps, *self.shape, dtype=torch.float32)
        split: Tensor = drive.unflatten(0, (samples, steps))
        return split


@dataclass(frozen=True, slots=True)
class FastProgram:
    """A segment that the fast backend can run."""

    segment: ChipSegment
    layers: tuple[_Layer, ...]
    device: torch.device

    def __call__(
        self, inputs: Mapping[str, Tensor], *, first: int = 0, membranes: bool = False
    ) -> SegmentRun:
        """Run one batch.

        Args:
            inputs: the spikes of each port, ``bool[T, B, *shape]``.
            first: of no account, nothing happens by chance.
            membranes: whether to keep them.

        Raises:
            BadInput: if a port's spikes are missing or have another shape.
        """
        given = checked_inputs(self.segment, inputs)
        sources = {name: stored(spikes.to(self.device)) for name, spikes in given.items()}
        spikes, tallies, kept = {}, {}, {}
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            for layer in self.layers:
                tally = tallies[layer.name] = Tally((self.segment.steps, *layer.shape))
                fired, states = layer.run(sources, tally, membranes)
                sources[layer.name] = fired
                spikes[layer.name] = logical(fired)
                if states is not None:
                    kept[layer.name] = logical(states)
        return SegmentRun(
            spikes,
            {name: _counts(tally.updated) for name, tally in tallies.items()},
            {name: tally.overflow for name, tally in tallies.items()},
            kept,
            {name: _counts(tally.fired) for name, tally in tallies.items()},
            {layer.name: layer.arithmetic for layer in self.layers},
        )


def _counts(counted: Tensor) -> Counts:
    """``[T, ..., C]`` as ``int64[T, C, ...]``."""
    return counted.movedim(-1, 1).numpy().astype(np.int64)


def _layer(
    segment: ChipSegment, population: Population, registers: Registers, device: torch.device
) -> _Layer:
    sums, unit = compile_sums(segment, population, device)
    narrow = all(part.planned != "float64" for part in sums)
    lif = compile_lif(population, registers, segment.steps, unit, narrow, device)
    channels, *sides = population.shape
    return _Layer(population.name, (*sides, channels), sums, lif)
