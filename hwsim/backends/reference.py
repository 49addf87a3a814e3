"""The living definition of what a chip segment does: int64 NumPy, slow and obvious.

Every other backend is tested equal to this one. All populations run in the same step: a
population sees the spikes that its source makes in this very step, because the chip's delays only
shift a layer in time. Where the source comes later in the order, or is the population itself, the
spikes are those of the step before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsim.activity import Counts, Overflow, SegmentRun, check_kinds, checked_inputs
from mapping.chip.arithmetic import Ints, decay, saturate, shift_left, wrap
from mapping.chip.segment import ChipSegment, Population, Synapse
from mapping.targets.schema import Registers

Spikes = NDArray[np.bool_]


class Reference:
    """The slow and obvious backend; it runs everywhere."""

    name = "reference"

    def unavailable(self) -> str | None:
        """None: it needs nothing but NumPy."""
        return None

    def compile(self, segment: ChipSegment, registers: Registers) -> ReferenceProgram:
        """Make a segment ready to run.

        Raises:
            BackendError: if a neuron or synapse is of a kind that is not defined here.
        """
        check_kinds(segment)
        return ReferenceProgram(segment, registers)


@dataclass(frozen=True, slots=True)
class ReferenceProgram:
    """A segment that the reference can run."""

    segment: ChipSegment
    registers: Registers

    def __call__(
        self, inputs: Mapping[str, Tensor], *, first: int = 0, membranes: bool = False
    ) -> SegmentRun:
        """Run one batch, step by step and in each step population by population.

        Args:
            inputs: the spikes of each port, ``bool[T, B, *shape]``.
            first: of no account, nothing happens by chance.
            membranes: whether to keep them.

        Raises:
            BadInput: if a port's spikes are missing or have another shape.
        """
        given = checked_inputs(self.segment, inputs)
        ports = {name: spikes.cpu().numpy() for name, spikes in given.items()}
        samples = next(iter(ports.values())).shape[1]
        states = [_State(item, samples, self.registers) for item in self.segment.populations]
        fired = {
            item.name: np.zeros((self.segment.steps, samples, *item.shape), dtype=bool)
            for item in self.segment.populations
        }
        # The newest spikes of everything: this step's where the source has run already, else
        # those of the step before, none at first.
        newest = {item.name: fired[item.name][0].copy() for item in self.segment.populations}
        kept: dict[str, list[NDArray[np.signedinteger[Any]]]] = {name: [] for name in fired}
        width = np.int32 if self.registers.state_bits <= 32 else np.int64
        for step in range(self.segment.steps):
            newest |= {name: spikes[step] for name, spikes in ports.items()}
            for state in states:
                name = state.population.name
                fired[name][step] = newest[name] = state.advance(newest)
                if membranes:
                    kept[name].append(state.v.astype(width))
        return SegmentRun(
            spikes={name: torch.from_numpy(spikes) for name, spikes in fired.items()},
            updated={item.population.name: np.stack(item.updated) for item in states},
            overflows={item.population.name: item.overflow for item in states},
            membranes={n: torch.from_numpy(np.stack(v)) for n, v in kept.items() if v},
        )


class _State:
    """The registers of one population, ``int64[B, *shape]``, and what is counted on the way."""

    def __init__(self, population: Population, samples: int, registers: Registers) -> None:
        self.population = population
        self.registers = registers
        self.u = np.zeros((samples, *population.shape), dtype=np.int64)
        self.v = np.zeros_like(self.u)
        bias = shift_left(population.bias.astype(np.int64), population.bias_exp)
        self.bias = population.per_channel(bias)
        self.threshold = population.per_channel(population.threshold << registers.threshold_shift)
        self.updated: list[Counts] = []
        self.overflow = Overflow()

    def advance(self, spikes: Mapping[str, Spikes]) -> Spikes:
        """One step: current, membrane, spikes; ``spikes`` holds the sources', bool[B, *shape]."""
        regs, population, before = self.registers, self.population, self.v
        arriving = np.zeros_like(self.u)
        for synapse in population.synapses:
            total = weighted_sum(synapse, spikes[synapse.source].astype(np.int64))
            arriving += shift_left(total, synapse.weight_exp).reshape(arriving.shape)

        current = decay(self.u, population.du + regs.current_decay_offset, regs.decay_bits)
        current += shift_left(arriving, regs.synapse_shift)
        self.u = wrap(current, regs.state_bits, keep_top=regs.keep_top)

        membrane = decay(before, population.dv + regs.membrane_decay_offset, regs.decay_bits)
        membrane += self.u + self.bias
        self.v = saturate(membrane, regs.state_bits)
        self.overflow += Overflow(
            u_wraps=int(np.count_nonzero(self.u != current)),
            v_clips=int(np.count_nonzero(self.v != membrane)),
        )

        fired: Spikes = self.v > self.threshold
        self.v = np.where(fired, 0, self.v)
        busy = (before != 0) | (self.u != 0) | (self.bias != 0) | (arriving != 0)
        self.updated.append(np.count_nonzero(busy, axis=0).astype(np.int64))
        return fired


def weighted_sum(synapse: Synapse, spikes: Ints) -> Ints:
    """The sum of the weights of all spikes that arrive, before any shift.

    Args:
        synapse: a "conv2d" or a "linear".
        spikes: of its source in one step, ``int64[B, *shape]``; linear flattens it in C order.

    Returns:
        ``int64[B, C, H, W]`` or ``int64[B, out]``.
    """
    weight = synapse.weight.astype(np.int64)
    if synapse.kind == "linear":
        total: Ints = spikes.reshape(len(spikes), -1) @ weight.T
        return total
    (stride_y, stride_x), (pad_y, pad_x) = synapse.attrs["stride"], synapse.attrs["padding"]
    (step_y, step_x), groups = synapse.attrs["dilation"], synapse.attrs["groups"]
    outs, ins, taps_y, taps_x = weight.shape
    padded = np.pad(spikes, ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
    height = (padded.shape[2] - step_y * (taps_y - 1) - 1) // stride_y + 1
    width = (padded.shape[3] - step_x * (taps_x - 1) - 1) // stride_x + 1
    total = np.zeros((len(spikes), outs, height, width), dtype=np.int64)
    for group in range(groups):
        of_in = slice(group * ins, (group + 1) * ins)
        of_out = slice(group * (outs // groups), (group + 1) * (outs // groups))
        for y in range(taps_y):
            for x in range(taps_x):
                rows = slice(y * step_y, y * step_y + stride_y * (height - 1) + 1, stride_y)
                columns = slice(x * step_x, x * step_x + stride_x * (width - 1) + 1, stride_x)
                seen = padded[:, of_in, rows, columns]
                total[:, of_out] += np.einsum("bihw,oi->bohw", seen, weight[of_out, :, y, x])
    return total
