"""A population's neurons over all steps of a sample, in whole numbers.

Compiled where a kernel knows the model and its integers fit, else the definition itself, step by
step on torch's int64. Spikes, drives and membranes lie sample by sample with channels last,
``[B, T, H, W, C]`` or ``[B, T, N]``, so that a sample's steps are neighbours and a convolution's
output needs no move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from has8.errors import BackendError
from hwsim import kernels
from hwsim.activity import Overflow
from mapping.chip.arithmetic import Ints, shift_left
from mapping.chip.neurons import Lif, Neuron, Step, constants, subtracts, with_constants
from mapping.chip.segment import Population
from mapping.targets.schema import Registers

KERNEL_BITS = 30
"""The kernels hold whole numbers of up to so many bits."""
INT64_BITS = 62
"""The definition's numbers, products with a decay included, must be of no more bits."""


class Neurons(Protocol):
    """A population's neurons, ready to run."""

    @property
    def arithmetic(self) -> str:
        """What they are computed in, in one word."""

    def __call__(
        self,
        drive: Tensor,
        tally: Tally,
        spikes: Tensor,
        membranes: Tensor | None,
        bias: Tensor | None = None,
    ) -> None:
        """Run some samples from cleared state.

        Args:
            drive: whole numbers ``[B, T, ..., C]``, in units of a power of two.
            tally: to count in.
            spikes: of the same shape, bool or what holds their payloads, dense; to write to.
            membranes: of the same shape, in what :func:`membrane_dtype` says, dense; to write
                those at the end of each step to, or None.
            bias: mantissas that the host wrote for each sample, ``int64[B, ..., C]``, or None
                where the neurons have their own.
        """


@dataclass(frozen=True, slots=True)
class Compiled:
    """Leaky integrate and fire in the compiled kernel.

    Args:
        threshold: ``int32[period]``; neuron ``i``, channels last, has that of ``i % period``.
        bias: ``int32[period]``.
        kept_u: ``int32[period]``, what a decay leaves of the current, of ``2**decay_bits``.
        kept_v: ``int32[period]``, what a decay leaves of the membrane, of ``2**decay_bits``.
        period: the number of channels, or of neurons where each has its own constants.
        shift: of the drive's unit to the register's.
        lasts: whether a decay leaves anything of a current.
        registers: the target's.
        may_overflow: whether a register can leave its range at all.
        reset: what the membrane does after a spike.
        refractory: steps after a spike that add nothing to the membrane.
        clears: in how many steps the state is cleared once, or 0, and in front of which of these.
        bias_exp: of what the host writes.
    """

    threshold: Tensor
    bias: Tensor
    kept_u: Tensor
    kept_v: Tensor
    period: int
    shift: int
    lasts: bool
    registers: Registers
    may_overflow: bool
    reset: str
    refractory: int
    clears: tuple[int, int]
    bias_exp: Tensor
    arithmetic: str = "int32"

    def __call__(
        self,
        drive: Tensor,
        tally: Tally,
        spikes: Tensor,
        membranes: Tensor | None,
        bias: Tensor | None = None,
    ) -> None:
        """Run some samples; see :class:`Neurons`."""
        drive = drive.contiguous()
        if bias is None:
            self._run(drive, tally, spikes, membranes, self.bias)
            return
        written = (bias << self.bias_exp).to(torch.int32).flatten(1).contiguous()
        for place, of_sample in enumerate(written):  # the kernel has one bias for all samples
            here = slice(place, place + 1)
            kept = None if membranes is None else membranes[here]
            self._run(drive[here], tally, spikes[here], kept, of_sample)

    def _run(
        self, drive: Tensor, tally: Tally, spikes: Tensor, membranes: Tensor | None, bias: Tensor
    ) -> None:
        samples, steps = drive.shape[:2]
        r = self.registers
        kernels.call(
            "lif", samples, steps, drive[0, 0].numel(), self.period, drive, self.shift,
            bias, self.threshold, self.kept_u, self.kept_v, self.lasts, r.decay_bits,
            r.state_bits, r.keep_top, self.may_overflow,
            self.reset != "zero" or self.refractory > 0, subtracts(self.reset),
            self.reset == "subtract_at_once", self.refractory, *self.clears, spikes,
            tally.fired, tally.updated, tally.overflows, membranes,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Defined:
    """Any model, by its own definition on int64.

    Args:
        neuron: with its constants as tensors, channels last.
        shift: of the drive's unit to that of a weight.
        registers: the target's.
    """

    neuron: Neuron
    shift: int
    registers: Registers
    arithmetic: str = "int64"

    def __call__(
        self,
        drive: Tensor,
        tally: Tally,
        spikes: Tensor,
        membranes: Tensor | None,
        bias: Tensor | None = None,
    ) -> None:
        """Run some samples; see :class:`Neurons`."""
        state = self.neuron.cleared(torch.zeros_like(drive[:, 0], dtype=torch.int64))
        self.written(bias).advance(state, drive, tally, spikes, membranes)

    def written(self, bias: Tensor | None) -> Defined:
        """The same neurons with biases of each sample, ``int64[B, ..., C]``, if there are any."""
        if bias is None:
            return self
        return replace(self, neuron=with_constants(self.neuron, {"bias": bias}))

    def advance(
        self,
        state: Mapping[str, Tensor],
        drive: Tensor,
        tally: Tally,
        spikes: Tensor,
        membranes: Tensor | None,
    ) -> Mapping[str, Tensor]:
        """Run some samples from a given state, and return the state after the last step."""
        for t in range(drive.shape[1]):
            step = self.step(state, drive[:, t], tally, t)
            state = step.state
            spikes[:, t] = step.spikes
            if membranes is not None:
                membranes[:, t] = state["v"]
        return state

    def step(self, state: Mapping[str, Tensor], drive: Tensor, tally: Tally, t: int) -> Step:
        """Run some samples one step, counted as step ``t``, by a drive of ``[B, ..., C]``."""
        if self.neuron.starts(t):
            state = self.neuron.cleared(torch.zeros_like(drive, dtype=torch.int64))
        step = self.neuron.step(state, drive.long() << self.shift, self.registers)
        tally.updated[t] += step.updated.sum(0).to(tally.updated)
        tally.fired[t] += (step.spikes != 0).sum(0).to(tally.fired)
        tally.overflows[0] += step.wraps
        tally.overflows[1] += step.clips
        return step


@dataclass(frozen=True, slots=True)
class Tally:
    """What is counted while a population runs, over the samples; on the CPU.

    Args:
        shape: steps, then the neurons with channels last.
    """

    shape: tuple[int, ...]
    fired: Tensor = field(init=False)
    updated: Tensor = field(init=False)
    overflows: Tensor = field(init=False)

    def __post_init__(self) -> None:
        for name in ("fired", "updated"):
            object.__setattr__(self, name, torch.zeros(self.shape, dtype=torch.int32))
        object.__setattr__(self, "overflows", torch.zeros(2, dtype=torch.int64))

    @property
    def overflow(self) -> Overflow:
        """Wraps and clips."""
        return Overflow(*self.overflows.tolist())


def define(
    population: Population, registers: Registers, unit: int, device: torch.device
) -> Defined:
    """A population's neurons by their definition.

    Args:
        population: the integers.
        registers: the target's.
        unit: exponent of the unit that its drive comes in, before the chip's own shift.
        device: where it is to run.
    """
    neuron = population.neuron
    tensors = {
        name: torch.from_numpy(_channels_last(values, population.shape)).to(device)
        for name, values in constants(neuron).items()
    }
    return Defined(with_constants(neuron, tensors), unit, registers)


def compile_neurons(
    population: Population,
    registers: Registers,
    steps: int,
    unit: int,
    largest_drive: int,
    narrow: bool,
    device: torch.device,
) -> Neurons:
    """A population's neurons in the fastest arithmetic that holds their integers.

    Args:
        population: the integers.
        registers: the target's.
        steps: of one sample.
        unit: exponent of the unit that its drive comes in, before the chip's own shift.
        largest_drive: the largest |drive| in one step, before the chip's own shift.
        narrow: whether its drive comes in float32.
        device: where it is to run.

    Raises:
        BackendError: if some integer could have more bits than int64 holds.
    """
    half = 1 << (registers.state_bits - 1)
    most_drive = largest_drive << registers.synapse_shift
    neuron = population.neuron
    bias = _largest_biases(population, registers)
    most = 2 * half + most_drive + int(abs(bias).max(initial=0))
    if isinstance(neuron, Lif) and subtracts(neuron.reset):
        most += int(shift_left(neuron.threshold, registers.threshold_shift).max())
    if (bits := most.bit_length() + registers.decay_bits) > INT64_BITS:
        raise BackendError(
            f"population {population.name!r} needs integers of {bits} bits and the fast backend "
            f"has {INT64_BITS}; use the reference"
        )
    in_kernel = narrow and device.type == "cpu" and kernels.available()
    compiled = _compiled(population, registers, steps, unit, most_drive) if in_kernel else None
    return compiled or define(population, registers, unit, device)


def _compiled(
    population: Population, registers: Registers, steps: int, unit: int, most_drive: int
) -> Compiled | None:
    """The kernel's neurons; None where it does not know the model or its integers do not fit."""
    neuron, r = population.neuron, registers
    if not isinstance(neuron, Lif):
        return None
    half, full = 1 << (r.state_bits - 1), 1 << r.decay_bits
    bias = _largest_biases(population, r)
    threshold = neuron.threshold << r.threshold_shift
    kept_u = full - (neuron.du + r.current_decay_offset)
    kept_v = full - (neuron.dv + r.membrane_decay_offset)
    lasts = bool((kept_u > 0).any())
    most_u = most_drive if not lasts else half + most_drive  # before it is wrapped
    most_bias = int(abs(bias).max(initial=0))
    most_v = half + min(most_u, half) + most_bias  # before it is clipped
    if subtracts(neuron.reset):
        most_v += int(threshold.max(initial=0))
    most = max(most_u, most_v)
    if max(most + half, int(threshold.max(initial=0))) >= 1 << KERNEL_BITS:
        return None
    kept = float(kept_v.max()) / full
    reach = (min(most_u, half) + most_bias) * sum(kept**t for t in range(steps))
    several = (threshold, bias, kept_u, kept_v)
    each = [_channels_last(values, population.shape) for values in several]
    if population.bias is not None:  # of each neuron, and replaced for each sample
        each.append(np.zeros((*population.shape[1:], population.shape[0]), np.int64))
    above, added, left_u, left_v = (
        torch.from_numpy(values.astype(np.int32).reshape(-1))
        for values in np.broadcast_arrays(*each)[:4]
    )
    return Compiled(
        above,
        added,
        left_u,
        left_v,
        len(above),
        unit + r.synapse_shift,
        lasts,
        r,
        most_u >= half or reach >= half,
        neuron.reset,
        neuron.refractory,
        (neuron.clear_every, neuron.clear_at),
        torch.from_numpy(_channels_last(neuron.bias_exp, population.shape)),
    )


def _largest_biases(population: Population, registers: Registers) -> Ints:
    """Biases in the membrane's unit, the largest that the register holds where the host writes."""
    none = np.zeros((), np.int64)
    bias, exponent = (getattr(population.neuron, name, none) for name in ("bias", "bias_exp"))
    if population.bias is not None:
        bias = np.array(min(registers.bias_min, -registers.bias_max), np.int64)
    return np.asarray(shift_left(bias, exponent))


def _channels_last(values: Ints, shape: tuple[int, ...]) -> Ints:
    """Constants that broadcast over ``(C, ...)``, in axes that broadcast over ``(..., C)``."""
    axes: Any = values.reshape((1,) * (len(shape) - values.ndim) + values.shape)
    moved: Ints = np.ascontiguousarray(np.moveaxis(axes, 0, -1))
    return moved
