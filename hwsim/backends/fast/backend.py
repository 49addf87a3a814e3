"""Batched simulation, equal to the reference bit for bit, by arithmetic that cannot round.

A population's weighted sums over all steps are one convolution
(:mod:`hwsim.backends.fast.sums`), its neurons one pass over them
(:mod:`hwsim.backends.fast.neurons`), for as many samples at a time as the cache holds. Which
arithmetic each layer gets follows from bounds on its integers, before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor

from has8.errors import BackendError
from hwsim.activity import Counts
from hwsim.backends.fast.layout import logical, stored
from hwsim.backends.fast.neurons import Defined, Neurons, Tally, compile_neurons, define
from hwsim.backends.fast.sums import Sums, compile_sums
from hwsim.backends.protocol import (
    SegmentRun,
    SegmentState,
    checked_inputs,
    longest_delays,
    membrane_dtype,
)
from mapping.chip.segment import ChipSegment, Population
from mapping.targets.schema import Registers

CHUNK = 1 << 21
"""Weighted sums that are worked on at once, 8 MiB: they stay near the cores that made them."""


class Fast:
    """The fast backend.

    Args:
        device: where to run, "cpu" or a CUDA device; on CUDA float64 is used for all sums, since
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
            BackendError: if populations feed each other in a loop, or one needs arithmetic that
                floating point would round.
        """
        if loop := segment.loop():
            raise BackendError(
                f"synapse {loop.name!r} closes a loop; the fast backend runs no recurrent "
                f"connections, the reference does"
            )
        for _, synapse in segment.synapses():
            if synapse.weight_exp < 0:
                raise BackendError(
                    f"synapse {synapse.name!r} has the weight exponent {synapse.weight_exp}, "
                    f"which shifts sums to the right; only the reference and Lava do that"
                )
        layers = tuple(_layer(segment, p, registers, self.device) for p in segment.in_order())
        delays = longest_delays(segment)
        return FastProgram(segment, layers, membrane_dtype(registers), self.device, delays)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One population; its neurons have channels last.

    ``neurons`` run from cleared state, what ``define`` makes from any.
    """

    name: str
    shape: tuple[int, ...]
    sums: tuple[Sums, ...]
    neurons: Neurons
    define: Callable[[], Defined]

    @property
    def arithmetic(self) -> str:
        """What it is computed in, in words."""
        sums = {sums.arithmetic for sums in self.sums}
        kinds = " and ".join(sorted(sums)) or "no"
        return f"{kinds} sums, {self.neurons.arithmetic} neurons"

    def run(
        self, sources: Mapping[str, Tensor], tally: Tally, membranes: torch.dtype | None
    ) -> tuple[Tensor, Tensor | None]:
        """Spikes ``[B, T, ..., C]`` and membranes, from the spikes of all sources, laid out alike.

        Args:
            sources: by name, those with delays among them by :func:`_delayed`.
            tally: to count in.
            membranes: the type to keep membranes in; None keeps none.
        """
        spikes, kept = self._empty(sources, membranes)
        samples, steps = spikes.shape[:2]
        for chunk in self.chunks(samples, steps):
            part = None if kept is None else kept[chunk]
            self.neurons(self.drive(sources, chunk, steps), tally, spikes[chunk], part)
        return spikes, kept

    def run_from(
        self,
        state: Mapping[str, Tensor] | None,
        sources: Mapping[str, Tensor],
        tally: Tally,
        membranes: torch.dtype | None,
    ) -> tuple[Tensor, Tensor | None, Mapping[str, Tensor]]:
        """Run from a given state, by the neurons' definition; also gives the state afterwards."""
        spikes, kept = self._empty(sources, membranes)
        samples, steps = spikes.shape[:2]
        drive = self.drive(sources, slice(0, samples), steps)
        defined = self.define()
        if state is None:
            begin = defined.neuron.cleared(torch.zeros_like(drive[:, 0], dtype=torch.int64))
        else:
            begin = {k: x.to(drive.device).long().movedim(1, -1) for k, x in state.items()}
        end = defined.advance(begin, drive, tally, spikes, kept)
        return spikes, kept, {name: x.movedim(-1, 1) for name, x in end.items()}

    def _empty(
        self, sources: Mapping[str, Tensor], membranes: torch.dtype | None
    ) -> tuple[Tensor, Tensor | None]:
        some = next(iter(sources.values()))
        spikes = some.new_empty(*some.shape[:2], *self.shape)
        return spikes, None if membranes is None else torch.empty_like(spikes, dtype=membranes)

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
            spikes = sources[_delayed(sums.source, sums.delay)][chunk].flatten(0, 1)
            part = sums(spikes).reshape(-1, *self.shape)
            drive = part if drive is None else drive + part
        if drive is None:
            some = next(iter(sources.values()))
            drive = some.new_zeros(samples * steps, *self.shape, dtype=torch.float32)
        split: Tensor = drive.unflatten(0, (samples, steps))
        return split


@dataclass(frozen=True, slots=True)
class FastProgram:
    """A segment that the fast backend can run.

    Args:
        segment: the segment.
        layers: its populations in the order in which they run.
        membrane_dtype: what membranes are kept in.
        device: where it runs.
        delays: the longest of each source that has any, in steps.
    """

    segment: ChipSegment
    layers: tuple[_Layer, ...]
    membrane_dtype: torch.dtype
    device: torch.device
    delays: Mapping[str, int]

    def __call__(
        self,
        inputs: Mapping[str, Tensor],
        *,
        first: int = 0,
        membranes: bool = False,
        state: SegmentState | None = None,
        keep_state: bool = False,
    ) -> SegmentRun:
        """Run one batch.

        Args:
            inputs: the spikes of each port, ``bool[T, B, *shape]``.
            first: has no effect, since nothing happens by chance.
            membranes: whether to keep them.
            state: what every sample starts from; None is cleared state.
            keep_state: whether the result has the state after the last step.

        Raises:
            BadInput: if a port's spikes are missing or have another shape.
        """
        given = checked_inputs(self.segment, inputs)
        sources: dict[str, Tensor] = {}
        past: dict[str, Tensor] = {}
        for name, port in given.items():
            self._add(sources, past, name, stored(port.to(self.device)), state)
        spikes, tallies, kept, registers = {}, {}, {}, {}
        kind = self.membrane_dtype if membranes else None
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            for layer in self.layers:
                tally = tallies[layer.name] = Tally((self.segment.steps, *layer.shape))
                if state is None and not keep_state:
                    fired, states = layer.run(sources, tally, kind)
                else:
                    before = None if state is None else state.registers[layer.name]
                    fired, states, after = layer.run_from(before, sources, tally, kind)
                    registers[layer.name] = after
                self._add(sources, past, layer.name, fired, state)
                spikes[layer.name] = logical(fired)
                if states is not None:
                    kept[layer.name] = logical(states)
        names = [population.name for population in self.segment.populations]
        return SegmentRun(
            {name: spikes[name] for name in names},
            {name: _counts(tallies[name].updated) for name in names},
            {name: tallies[name].overflow for name in names},
            {name: kept[name] for name in names if membranes},
            {name: _counts(tallies[name].fired) for name in names},
            {layer.name: layer.arithmetic for layer in self.layers},
            SegmentState(registers, past) if keep_state else None,
        )

    def _add(
        self,
        sources: dict[str, Tensor],
        past: dict[str, Tensor],
        name: str,
        spikes: Tensor,
        state: SegmentState | None,
    ) -> None:
        """Enter a source's spikes ``[B, T, ..., C]``, and once more for each delay behind it."""
        sources[name] = spikes
        longest = self.delays.get(name, 0)
        if not longest:
            return
        if state is None:
            before = spikes.new_zeros(len(spikes), longest, *spikes.shape[2:])
        else:
            before = stored(state.past[name].to(self.device))
        whole, steps = torch.cat([before, spikes], dim=1), spikes.shape[1]
        for _, synapse in self.segment.synapses():
            if synapse.source == name and synapse.delay:
                start = longest - synapse.delay
                sources[_delayed(name, synapse.delay)] = whole[:, start : start + steps]
        past[name] = logical(whole[:, -longest:])


def _delayed(name: str, delay: int) -> str:
    """The key of a source's spikes that arrive so many steps late."""
    return f"{name}\0{delay}" if delay else name


def _counts(counted: Tensor) -> Counts:
    """``[T, ..., C]`` as ``int64[T, C, ...]``."""
    return counted.movedim(-1, 1).numpy().astype(np.int64)


def _layer(
    segment: ChipSegment, population: Population, registers: Registers, device: torch.device
) -> _Layer:
    sums, unit = compile_sums(segment, population, device)
    narrow = all(part.planned != "float64" for part in sums)
    neurons = compile_neurons(population, registers, segment.steps, unit, narrow, device)
    channels, *sides = population.shape
    defined = partial(define, population, registers, unit, device)
    return _Layer(population.name, (*sides, channels), sums, neurons, defined)
