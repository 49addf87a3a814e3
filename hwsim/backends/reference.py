"""The living definition of what a chip segment does: int64 NumPy, slow and obvious.

Every other backend is tested equal to this one. All populations run in the same step: a
population sees the spikes that its source makes in this very step, because the time that a chip
takes for a connection only shifts a layer. Through a synapse with a delay it sees those of as many
steps before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsim.activity import Counts, Overflow
from hwsim.backends.protocol import (
    SegmentRun,
    SegmentState,
    checked_inputs,
    longest_delays,
    membrane_dtype,
)
from mapping.chip.arithmetic import Ints, shift_left
from mapping.chip.neurons import State, with_constants
from mapping.chip.segment import ChipSegment, Population, Synapse
from mapping.targets.schema import Registers

Spikes = NDArray[Any]
"""Bool, or the payloads of graded spikes in whole numbers."""


class Reference:
    """The slow and obvious backend; it runs everywhere."""

    name = "reference"

    def unavailable(self) -> str | None:
        """None: it needs nothing but NumPy."""
        return None

    def compile(self, segment: ChipSegment, registers: Registers) -> ReferenceProgram:
        """Make a segment ready to run.

        Raises:
            BadInput: if populations wait for each other within one step.
        """
        return ReferenceProgram(segment, registers, segment.in_order())


@dataclass(frozen=True, slots=True)
class ReferenceProgram:
    """A segment that the reference can run.

    Args:
        segment: the segment.
        registers: the target's.
        order: its populations in the order in which they run within a step.
    """

    segment: ChipSegment
    registers: Registers
    order: tuple[Population, ...]

    def __call__(
        self,
        inputs: Mapping[str, Tensor],
        *,
        first: int = 0,
        membranes: bool = False,
        state: SegmentState | None = None,
        keep_state: bool = False,
    ) -> SegmentRun:
        """Run one batch, step by step and in each step population by population.

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
        spikes = {n: s.cpu().numpy() for n, s in checked_inputs(self.segment, inputs).items()}
        samples = self.segment.samples(inputs)
        biases = {p.name: spikes.pop(p.bias) for p in self.order if p.bias is not None}
        for item in self.segment.populations:
            spikes[item.name] = np.zeros(
                (self.segment.steps, samples, *item.shape), dtype=item.payload.kind
            )
        history = _History(self.segment, spikes, state)
        layers = [
            _Layer(item, samples, self.registers, state, biases.get(item.name))
            for item in self.order
        ]
        for step in range(self.segment.steps):
            for layer in layers:
                arriving = [(s, history.at(s.source, step - s.delay)) for s in layer.synapses]
                if layer.neuron.starts(step):
                    layer.state = layer.neuron.cleared(layer.zeros)
                spikes[layer.name][step] = layer.advance(arriving, membranes)
        by_name = {layer.name: layer for layer in layers}
        done = [by_name[item.name] for item in self.segment.populations]
        width = membrane_dtype(self.registers)
        return SegmentRun(
            spikes={layer.name: torch.from_numpy(spikes[layer.name]) for layer in done},
            updated={layer.name: np.stack(layer.updated) for layer in done},
            overflows={layer.name: layer.overflow for layer in done},
            membranes={
                layer.name: torch.from_numpy(np.stack(layer.membranes)).to(width)
                for layer in done
                if membranes
            },
            state=history.state({layer.name: layer.state for layer in done})
            if keep_state
            else None,
            last={
                name: torch.from_numpy(by_name[name].state["v"]).to(width)
                for name in self.segment.membranes
            },
        )


class _History:
    """The spikes of all sources, over the steps of this run and those before that still count."""

    def __init__(
        self, segment: ChipSegment, spikes: Mapping[str, Spikes], state: SegmentState | None
    ) -> None:
        self.spikes = spikes
        self.past: dict[str, Spikes] = {}
        for name, delay in longest_delays(segment).items():
            if state is None:
                self.past[name] = np.zeros_like(
                    spikes[name], shape=(delay, *spikes[name].shape[1:])
                )
            else:
                self.past[name] = state.past[name].cpu().numpy()

    def at(self, name: str, step: int) -> Spikes:
        """The spikes of a source in one step; before 0 are those of the run before."""
        source = self.spikes if step >= 0 else self.past
        spikes: Spikes = source[name][step]
        return spikes

    def state(self, registers: Mapping[str, State]) -> SegmentState:
        """What is remembered after the last step."""
        past = {
            name: np.concatenate([before, self.spikes[name]])[-len(before) :]
            for name, before in self.past.items()
        }
        return SegmentState(
            {name: {k: torch.from_numpy(x) for k, x in s.items()} for name, s in registers.items()},
            {name: torch.from_numpy(spikes) for name, spikes in past.items()},
        )


class _Layer:
    """The registers of one population, ``int64[B, *shape]``, and what is counted on the way."""

    def __init__(
        self,
        population: Population,
        samples: int,
        registers: Registers,
        state: SegmentState | None,
        bias: Ints | None,
    ) -> None:
        self.name, self.synapses = population.name, population.synapses
        self.neuron, self.registers = population.neuron, registers
        if bias is not None:  # what the host wrote for these samples
            self.neuron = with_constants(self.neuron, {"bias": bias})
        self.zeros = np.zeros((samples, *population.shape), dtype=np.int64)
        self.state: State = self.neuron.cleared(self.zeros)
        if state is not None:
            given = state.registers[self.name]
            self.state = {name: x.cpu().numpy().astype(np.int64) for name, x in given.items()}
        self.updated: list[Counts] = []
        self.membranes: list[Ints] = []
        self.overflow = Overflow()

    def advance(self, arriving: Iterable[tuple[Synapse, Spikes]], membranes: bool) -> Spikes:
        """One step of all neurons; ``arriving`` holds each synapse with its source's spikes."""
        drive = self.zeros
        for synapse, spikes in arriving:
            total = weighted_sum(synapse, spikes.astype(np.int64))
            drive = drive + shift_left(total, synapse.weight_exp).reshape(drive.shape)
        step = self.neuron.step(self.state, drive, self.registers)
        self.state = step.state
        self.overflow += Overflow(step.wraps, step.clips)
        self.updated.append(np.count_nonzero(step.updated, axis=0).astype(np.int64))
        if membranes:
            self.membranes.append(self.state["v"])
        sent: Spikes = step.spikes
        return sent


def weighted_sum(synapse: Synapse, spikes: Ints) -> Ints:
    """The sum of the weights of all spikes that arrive, times their payloads, before any shift.

    Args:
        synapse: with its wiring.
        spikes: of its source in one step, 1 or their payloads, ``int64[B, *shape]``.

    Returns:
        ``int64[B, C, H, W]``.
    """
    wires, weight = synapse.wiring, synapse.weight.astype(np.int64)
    images = _laid_out(wires, spikes.reshape(len(spikes), *wires.in_shape))
    total = np.zeros((len(spikes), *wires.out_shape), dtype=np.int64)
    _, height, width = wires.out_shape
    rows, cols = wires.rows, wires.cols
    ins, outs = wires.channels_in // wires.groups, wires.channels_out // wires.groups
    for group in range(wires.groups):
        of_in, of_out = (slice(group * n, (group + 1) * n) for n in (ins, outs))
        for y in range(rows.kernel):
            for x in range(cols.kernel):
                down, right = y * rows.dilation, x * cols.dilation
                seen = images[
                    :,
                    of_in,
                    down : down + rows.stride * (height - 1) + 1 : rows.stride,
                    right : right + cols.stride * (width - 1) + 1 : cols.stride,
                ]
                total[:, of_out] += np.einsum("bihw,oi->bohw", seen, weight[of_out, :, y, x])
    return total


def _laid_out(wires: Any, images: Ints) -> Ints:
    """The source as the window sees it: spread out, with zeros around it or its ends cut off."""
    places, sizes = [], []
    for axis in (wires.rows, wires.cols):
        # the window needs so many elements in all, and the source begins behind the padding
        reach = axis.stride * (axis.size_out - 1) + axis.dilation * (axis.kernel - 1) + 1
        at = axis.padding + axis.spread * np.arange(axis.size_in)
        sizes.append(reach)
        places.append((np.flatnonzero((at >= 0) & (at < reach)), at))
    (in_rows, rows), (in_cols, cols) = places
    laid = np.zeros((*images.shape[:2], *sizes), dtype=np.int64)
    laid[:, :, rows[in_rows][:, None], cols[in_cols]] = images[:, :, in_rows[:, None], in_cols]
    return laid
