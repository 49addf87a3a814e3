"""Leaky integrate and fire over all steps of a sample, in whole numbers: compiled, or in torch.

Spikes, drives and membranes lie sample by sample with channels last, ``[B, T, H, W, C]`` or
``[B, T, N]``, so that a sample's steps are neighbours and a convolution's output needs no move.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from has8.errors import BackendError
from hwsim import kernels
from hwsim.activity import Overflow
from mapping.chip.arithmetic import FLOAT32_BITS, FLOAT64_BITS
from mapping.chip.segment import Population
from mapping.targets.schema import Registers

KERNEL_BITS = 30
"""The kernels hold whole numbers of up to so many bits."""


@dataclass(frozen=True, slots=True)
class Lif:
    """A population's neurons, worked out from its integers.

    ``kept_u`` and ``kept_v`` are what a decay leaves, of ``2**decay_bits``. ``may_wrap`` and
    ``may_clip`` say whether a register can leave its range at all.
    """

    threshold: Tensor
    bias: Tensor
    shift: int
    kept_u: int
    kept_v: int
    decay_bits: int
    state_bits: int
    keep_top: bool
    may_wrap: bool
    may_clip: bool
    most: int
    compiled: bool

    def __call__(
        self, drive: Tensor, tally: Tally, spikes: Tensor, membranes: Tensor | None
    ) -> None:
        """Run some samples.

        Args:
            drive: whole numbers ``[B, T, ..., C]``, in units of ``2**shift``.
            tally: to count in.
            spikes: of the same shape, bool, dense; to write to.
            membranes: of the same shape, ``int32`` (``int64`` where registers have more than 32
                bits), dense; to write those at the end of each step to, or None.
        """
        if not self.compiled:
            self._plain(drive, tally, spikes, membranes)
            return
        drive = drive.contiguous()
        samples, steps = drive.shape[:2]
        kernels.call(
            "lif", samples, steps, drive[0, 0].numel(), drive.shape[-1], drive, self.shift,
            self.bias, self.threshold, self.kept_u, self.kept_v, self.decay_bits, self.state_bits,
            self.keep_top, self.may_wrap or self.may_clip, spikes, tally.fired, tally.updated,
            tally.overflows, membranes,
        )  # fmt: skip

    def _plain(self, drive: Tensor, tally: Tally, spikes: Tensor, membranes: Tensor | None) -> None:
        drive = drive.to(self._float(drive)) * 2**self.shift
        bias, threshold = self.bias.to(drive), self.threshold.to(drive)
        u = v = torch.zeros_like(drive[:, 0])
        for t in range(drive.shape[1]):
            before, u = v, self._current(u, drive[:, t], tally)
            v = self._membrane(v, u + bias, tally)
            busy = (before != 0) | (u != 0) | (drive[:, t] != 0) | (bias != 0)
            fires = torch.gt(v, threshold, out=spikes[:, t])
            v = v.masked_fill(fires, 0)
            tally.updated[t] += busy.sum(0).to(tally.updated)
            tally.fired[t] += fires.sum(0).to(tally.fired)
            if membranes is not None:
                membranes[:, t] = v

    @property
    def membrane_dtype(self) -> torch.dtype:
        """What recorded membranes are kept in."""
        return torch.int32 if self.state_bits <= 32 else torch.int64

    def _float(self, drive: Tensor) -> torch.dtype:
        """The narrowest type in which nothing here rounds: powers of two scale exactly."""
        powers = all(kept & (kept - 1) == 0 for kept in (self.kept_u, self.kept_v))
        narrow = powers and not self.may_wrap and self.most <= 1 << FLOAT32_BITS
        return torch.float32 if narrow and drive.dtype == torch.float32 else torch.float64

    def _current(self, u: Tensor, drive: Tensor, tally: Tally) -> Tensor:
        current = drive
        if self.kept_u:
            current = drive + torch.trunc(u * (self.kept_u / 2**self.decay_bits))
        if not self.may_wrap:
            return current
        full = 1 << self.state_bits
        top = full // 2 if self.keep_top else full // 2 - 1
        wrapped = top - torch.remainder(top - current, full)
        tally.overflows[0] += int((wrapped != current).sum())
        return wrapped

    def _membrane(self, v: Tensor, added: Tensor, tally: Tally) -> Tensor:
        v = torch.trunc(v * (self.kept_v / 2**self.decay_bits)) + added
        if self.may_clip:
            limit = (1 << (self.state_bits - 1)) - 1
            tally.overflows[1] += int((v.abs() > limit).sum())
            v = v.clamp(-limit, limit)
        return v


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


def compile_lif(
    population: Population,
    registers: Registers,
    steps: int,
    unit: int,
    narrow: bool,
    device: torch.device,
) -> Lif:
    """A population's neurons.

    Args:
        population: the integers.
        registers: the target's.
        steps: of one sample.
        unit: exponent of the unit that its drive comes in, before the chip's own shift.
        narrow: whether its drive comes in float32.
        device: where it is to run.

    Raises:
        BackendError: if some integer could have more bits than float64 holds.
    """
    half = 1 << (registers.state_bits - 1)
    full = 1 << registers.decay_bits
    bias = population.bias << population.bias_exp
    threshold = population.threshold << registers.threshold_shift
    kept_u = full - (population.du + registers.current_decay_offset)
    kept_v = full - (population.dv + registers.membrane_decay_offset)

    most_drive = population.most_drive << registers.synapse_shift
    most_u = most_drive if kept_u == 0 else half + most_drive  # before it is wrapped
    most_bias = int(abs(bias).max(initial=0))
    most_v = half + min(most_u, half) + most_bias  # before it is clipped
    most = max(most_u, most_v)
    bits = most.bit_length() + registers.decay_bits  # of a product with a decay
    if bits > FLOAT64_BITS:
        raise BackendError(
            f"population {population.name!r} needs integers of {bits} bits and float64 is exact "
            f"up to {FLOAT64_BITS}; use the reference"
        )
    largest = max(most + half, int(threshold.max(initial=0)))
    in_kernel = (
        narrow and device.type == "cpu" and largest < 1 << KERNEL_BITS and kernels.available()
    )
    kind = torch.int32 if in_kernel else torch.float64
    return Lif(
        threshold=torch.from_numpy(threshold).to(device, kind),
        bias=torch.from_numpy(bias).to(device, kind),
        shift=unit + registers.synapse_shift,
        kept_u=kept_u,
        kept_v=kept_v,
        decay_bits=registers.decay_bits,
        state_bits=registers.state_bits,
        keep_top=registers.keep_top,
        may_wrap=most_u >= half,
        may_clip=_reach(min(most_u, half), most_bias, kept_v / full, steps) >= half,
        most=most,
        compiled=in_kernel,
    )


def _reach(most_u: int, most_bias: int, kept: float, steps: int) -> float:
    """How far a membrane can get in so many steps if it is never clipped."""
    return (most_u + most_bias) * sum(kept**t for t in range(steps))
