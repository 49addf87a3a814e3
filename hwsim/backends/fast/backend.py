"""Batched simulation, equal to the reference bit for bit, by arithmetic that cannot round.

A population's weighted sums over all steps are one convolution
(:mod:`hwsim.backends.fast.sums`), its neurons one pass over them
(:mod:`hwsim.backends.fast.neurons`), for as many samples at a time as the cache holds. Only
populations that are in a loop together run step by step, by the neurons' definition. Which
arithmetic each layer gets follows from bounds on its integers, before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
            BadInput: if populations wait for each other within one step.
            BackendError: if one needs arithmetic that floating point would round.
        """
        for _, synapse in segment.synapses():
            if synapse.weight_exp < 0:
                raise BackendError(
                    f"synapse {synapse.name!r} has the weight exponent {synapse.weight_exp}, "
                    f"which shifts sums to the right; only the reference and Lava do that"
                )
        parts = tuple(
            tuple(_layer(segment, part, p, registers, self.device) for p in part)
            for part in segment.parts()
        )
        delays = longest_delays(segment)
        return FastProgram(segment, parts, membrane_dtype(registers), self.device, delays)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One population; its neurons have channels last.

    ``neurons`` run from cleared state, what ``define`` makes from any. ``looped`` are the sums
    over spikes of its own loop, ``sums`` those over all others. ``kind`` holds its spikes.
    """

    name: str
    shape: tuple[int, ...]
    sums: tuple[Sums, ...]
    looped: tuple[Sums, ...]
    neurons: Neurons
    define: Callable[[], Defined]
    kind: torch.dtype = torch.bool

    @property
    def arithmetic(self) -> str:
        """What it is computed in, in words."""
        sums = {sums.arithmetic for sums in (*self.sums, *self.looped)}
        kinds = " and ".join(sorted(sums)) or "no"
        return f"{kinds} sums, {self.neurons.arithmetic} neurons"

    def run(
        self,
        sources: Mapping[str, Tensor],
        tally: Tally,
        membranes: torch.dtype | None,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Spikes ``[B, T, ..., C]`` and membranes, from the spikes of all sources, laid out alike.

        Args:
            sources: by name, those with delays among them by :func:`_delayed`.
            tally: to count in.
            membranes: the type to keep membranes in; None keeps none.
            bias: what the host wrote, ``int64[B, ..., C]``, if it did.
        """
        spikes, kept = self.empty(sources, membranes)
        samples, steps = spikes.shape[:2]
        for chunk in self.chunks(samples, steps):
            part = None if kept is None else kept[chunk]
            drive, written = (
                self.drive(sources, chunk, steps),
                None if bias is None else bias[chunk],
            )
            self.neurons(drive, tally, spikes[chunk], part, written)
        return spikes, kept

    def run_from(
        self,
        state: Mapping[str, Tensor] | None,
        sources: Mapping[str, Tensor],
        tally: Tally,
        membranes: torch.dtype | None,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Mapping[str, Tensor]]:
        """Run from a given state, by the neurons' definition; also gives the state afterwards."""
        spikes, kept = self.empty(sources, membranes)
        samples, steps = spikes.shape[:2]
        drive = self.drive(sources, slice(0, samples), steps)
        defined = self.define().written(bias)
        end = defined.advance(_begin(defined, state, drive[:, 0]), drive, tally, spikes, kept)
        return spikes, kept, {name: x.movedim(-1, 1) for name, x in end.items()}

    def empty(
        self, sources: Mapping[str, Tensor], membranes: torch.dtype | None
    ) -> tuple[Tensor, Tensor | None]:
        """Room for spikes ``[B, T, ..., C]`` and, where they are wanted, membranes."""
        some = next(iter(sources.values()))
        spikes = some.new_empty(*some.shape[:2], *self.shape, dtype=self.kind)
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


def _begin(
    defined: Defined, state: Mapping[str, Tensor] | None, drive: Tensor
) -> Mapping[str, Tensor]:
    """The registers ``[B, ..., C]`` to start from, beside a drive of one step."""
    if state is None:
        return defined.neuron.cleared(torch.zeros_like(drive, dtype=torch.int64))
    return {name: x.to(drive.device).long().movedim(1, -1) for name, x in state.items()}


def _run_loop(
    layers: Sequence[_Layer],
    sources: Mapping[str, Tensor],
    past: Mapping[str, Tensor],
    state: SegmentState | None,
    tallies: Mapping[str, Tally],
    membranes: torch.dtype | None,
    biases: Mapping[str, Tensor],
) -> Iterator[tuple[Tensor, Tensor | None, Mapping[str, Tensor]]]:
    """Run the populations of a loop together, step by step; the sums from outside go ahead.

    Args:
        layers: in the order in which they run within a step.
        sources: the spikes of all sources outside of the loop.
        past: those of the populations in the steps before, ``[B, delay, ..., C]``.
        state: to start from; None is cleared state.
        tallies: to count in.
        membranes: the type to keep membranes in; None keeps none.
        biases: what the host wrote, ``int64[B, ..., C]``, by population.

    Yields:
        Of each layer the spikes ``[B, T, ..., C]``, the membranes and the state afterwards.
    """
    samples, steps = next(iter(sources.values())).shape[:2]
    spikes: dict[str, Tensor] = {}
    kept: dict[str, Tensor | None] = {}
    ends: dict[str, list[Mapping[str, Tensor]]] = {layer.name: [] for layer in layers}
    for layer in layers:
        now, kept[layer.name] = layer.empty(sources, membranes)
        spikes[layer.name] = torch.cat([past[layer.name], now], 1)
    start = {layer.name: past[layer.name].shape[1] for layer in layers}
    defined = {layer.name: layer.define() for layer in layers}
    largest = max(layers, key=lambda layer: prod(layer.shape))
    for chunk in largest.chunks(samples, steps):
        drives = {layer.name: layer.drive(sources, chunk, steps) for layer in layers}
        neurons = {
            name: some.written(biases[name][chunk]) if name in biases else some
            for name, some in defined.items()
        }
        registers = {}
        for layer in layers:
            before = (
                None
                if state is None
                else {name: x[chunk] for name, x in state.registers[layer.name].items()}
            )
            registers[layer.name] = _begin(neurons[layer.name], before, drives[layer.name][:, 0])
        for step in range(steps):
            for layer in layers:
                name = layer.name
                drive = drives[name][:, step]
                for sums in layer.looped:
                    at = start[sums.source] + step - sums.delay
                    arriving = spikes[sums.source][chunk, at].contiguous()
                    drive = drive + sums(arriving).reshape(drive.shape)
                done = neurons[name].step(registers[name], drive, tallies[name], step)
                registers[name] = done.state
                spikes[name][chunk, start[name] + step] = done.spikes
                if (membrane := kept[name]) is not None:
                    membrane[chunk, step] = done.state["v"]
        for layer in layers:
            ends[layer.name].append(registers[layer.name])
    for layer in layers:
        end = {
            name: torch.cat([part[name] for part in ends[layer.name]]).movedim(-1, 1)
            for name in ends[layer.name][0]
        }
        yield spikes[layer.name][:, start[layer.name] :], kept[layer.name], end


@dataclass(frozen=True, slots=True)
class FastProgram:
    """A segment that the fast backend can run.

    Args:
        segment: the segment.
        parts: its populations in the order in which they run, those of a loop together.
        membrane_dtype: what membranes are kept in.
        device: where it runs.
        delays: the longest of each source that has any, in steps.
    """

    segment: ChipSegment
    parts: tuple[tuple[_Layer, ...], ...]
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
            inputs: the spikes of each port, ``bool[T, B, *shape]``, or payloads of graded ones in
                whole numbers, or its biases, ``int64[B, *shape]``.
            first: has no effect, since nothing happens by chance.
            membranes: whether to keep them.
            state: what every sample starts from; None is cleared state.
            keep_state: whether the result has the state after the last step.

        Raises:
            BadInput: if a port's spikes are missing or have another shape.
        """
        given = checked_inputs(self.segment, inputs)
        # No spikes, of as many samples and steps: not every segment has a port that takes spikes.
        samples = self.segment.samples(inputs)
        none = torch.empty(samples, self.segment.steps, 0, dtype=torch.bool, device=self.device)
        sources: dict[str, Tensor] = {"\0none": none}
        past: dict[str, Tensor] = {}
        biases = {p.name: given.pop(p.bias) for p in self.segment.populations if p.bias is not None}
        biases = {name: x.to(self.device).movedim(1, -1) for name, x in biases.items()}
        for name, port in given.items():
            self._add(sources, past, name, stored(port.to(self.device)), state)
        spikes, tallies, kept, registers = {}, {}, {}, {}
        recorded = {p.name for p in self.segment.populations if membranes}
        recorded.update(self.segment.membranes)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            for part in self.parts:
                for layer in part:
                    tallies[layer.name] = Tally((self.segment.steps, *layer.shape))
                wanted = any(layer.name in recorded for layer in part)
                kind = self.membrane_dtype if wanted else None
                done = self._run(part, sources, state, tallies, kind, keep_state, biases)
                for layer, (fired, states, after) in zip(part, done, strict=True):
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
            {layer.name: layer.arithmetic for part in self.parts for layer in part},
            SegmentState(registers, past) if keep_state else None,
            {name: kept[name][-1] for name in self.segment.membranes},
        )

    def _run(
        self,
        part: tuple[_Layer, ...],
        sources: Mapping[str, Tensor],
        state: SegmentState | None,
        tallies: Mapping[str, Tally],
        membranes: torch.dtype | None,
        keep_state: bool,
        biases: Mapping[str, Tensor],
    ) -> Sequence[tuple[Tensor, Tensor | None, Mapping[str, Tensor]]]:
        """Spikes, membranes and, where it is wanted, the state afterwards, of each layer."""
        (layer, *others) = part
        tally = tallies[layer.name]
        if others or layer.looped:
            some = next(iter(sources.values()))
            past = {x.name: self._before(x.name, some, x.shape, state) for x in part}
            return tuple(_run_loop(part, sources, past, state, tallies, membranes, biases))
        bias = biases.get(layer.name)
        if state is None and not keep_state:
            return [(*layer.run(sources, tally, membranes, bias), {})]
        before = None if state is None else state.registers[layer.name]
        return [layer.run_from(before, sources, tally, membranes, bias)]

    def _before(
        self, name: str, some: Tensor, shape: tuple[int, ...], state: SegmentState | None
    ) -> Tensor:
        """A source's spikes ``[B, delay, ..., C]`` before the first step, of its longest delay."""
        longest = self.delays.get(name, 0)
        if state is None or not longest:
            kind = getattr(torch, self.segment.payload_of(name).kind)
            return some.new_zeros(len(some), longest, *shape, dtype=kind)
        return stored(state.past[name].to(self.device))

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
        before = self._before(name, spikes, spikes.shape[2:], state)
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
    segment: ChipSegment,
    part: Sequence[Population],
    population: Population,
    registers: Registers,
    device: torch.device,
) -> _Layer:
    sums, unit = compile_sums(segment, population, device)
    together = {other.name for other in part}
    looped = tuple(some for some in sums if some.source in together)
    whole = len(part) == 1 and not looped  # the kernel runs all steps at once
    narrow = whole and all(some.planned != "float64" for some in sums)
    most = segment.largest_drive(population)
    neurons = compile_neurons(population, registers, segment.steps, unit, most, narrow, device)
    channels, *sides = population.shape
    defined = partial(define, population, registers, unit, device)
    outer = tuple(some for some in sums if some.source not in together)
    kind = getattr(torch, population.payload.kind)
    return _Layer(population.name, (*sides, channels), outer, looped, neurons, defined, kind)
