"""The chip's neurons over all steps in torch, exact, with the surrogate gradient of training.

For what has to run many quantised layers before there is a mapping: the search for scales, and
fine-tuning. Whole numbers in floating point cannot round here: see :class:`ChipNeurons`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from has8 import kernels
from has8.errors import BadInput
from has8.kernels import paths, storage
from mapping.chip.arithmetic import FLOAT32_BITS, FLOAT64_BITS, largest_state
from mapping.chip.neurons import subtracts
from mapping.integers.rounding import (
    FloatLayer,
    Floats,
    Integers,
    kept_of_current,
    kept_of_membrane,
)
from mapping.targets.schema import Registers

State = tuple[Tensor, Tensor]
"""Currents and membranes that a step leaves to the next one, each ``[B, C, ...]``."""
Constants = tuple[Tensor, Tensor, Tensor, Tensor]
"""Bias, threshold and what decays leave of current and membrane, broadcasting over a step."""


@dataclass(frozen=True, slots=True)
class ChipNeurons:
    """Leaky integrate and fire, as the chip computes it.

    Constants are one value, or several in the axes of the drive, ``[C, 1, 1]`` or ``[C, H, W]``.

    Args:
        kept: what the membrane's decay leaves, a multiple of ``2**-decay_bits``.
        kept_current: what the current's decay leaves, likewise. Scales see to it that no current
            wraps around.
        relative: each threshold, in the largest of its channel.
        reset: what the membrane does after a spike; see :class:`mapping.chip.neurons.Lif`.
        refractory: steps after a spike that add nothing to the membrane.
        limit: where the membrane saturates, either way.
        dtype: in which nothing rounds: float32 where the decay is a shift, else float64.
        synapse_shift: a weight acts times ``2**synapse_shift``.
        threshold_shift: a threshold acts times ``2**threshold_shift``.
    """

    kept: Tensor
    kept_current: Tensor
    relative: Tensor
    reset: str
    refractory: int
    limit: int
    dtype: torch.dtype
    synapse_shift: int
    threshold_shift: int

    @staticmethod
    def of(layer: FloatLayer, registers: Registers, device: torch.device) -> ChipNeurons:
        """The neurons of a layer.

        Raises:
            BadInput: if float64 could not hold the registers exactly, or a current that is to
                last one step would last longer.
        """
        full = 1 << registers.decay_bits
        if (layer.alpha == 0).any() and registers.current_decay_offset < 1:
            raise BadInput(
                "on this target a current cannot last for one step only: its neurons are neither "
                "fine-tuned nor searched for scales"
            )
        kept = kept_of_membrane(layer.beta, registers)
        current = kept_of_current(layer.alpha, registers)
        if registers.state_bits + registers.decay_bits > FLOAT64_BITS:
            raise BadInput(
                f"registers of {registers.state_bits} bits are too wide for float64: such targets "
                f"are neither fine-tuned for nor searched for scales"
            )
        neurons = ChipNeurons(
            _spatial(kept, device),
            _spatial(current, device),
            _spatial(layer.threshold, device),
            layer.reset,
            layer.refractory,
            largest_state(registers.state_bits),
            torch.float64,
            registers.synapse_shift,
            registers.threshold_shift,
        )
        whole = int(kept.flat[0] * full)
        shift = neurons.plain and whole & (whole - 1) == 0
        narrow = shift and device.type == "cpu" and registers.state_bits <= FLOAT32_BITS
        return replace(neurons, dtype=torch.float32) if narrow else neurons

    @property
    def plain(self) -> bool:
        """Whether they are one kind of neuron that resets to zero, with currents of one step."""
        several = any(x.numel() > 1 for x in (self.kept, self.kept_current, self.relative))
        rule = self.reset != "zero" or self.refractory or bool(self.kept_current.any())
        return not several and not rule

    def repeated(self, groups: int, count: int) -> ChipNeurons:
        """So many times the same neurons, those of a group of channels side by side."""

        def repeat(x: Tensor) -> Tensor:
            if x.numel() == 1:
                return x
            grouped: Tensor = x.unflatten(0, (groups, 1, -1))
            return grouped.expand(-1, count, *grouped.shape[2:]).flatten(0, 2)

        kept, current, relative = map(repeat, (self.kept, self.kept_current, self.relative))
        return replace(self, kept=kept, kept_current=current, relative=relative)

    def weights(self, integers: Integers) -> list[Tensor]:
        """The weights of each synapse in units of the registers."""
        return [
            (weight * 2.0 ** (exponent + self.synapse_shift)).to(self.dtype)
            for weight, exponent in zip(integers.weights, integers.scale.exponents, strict=True)
        ]

    def __call__(self, drive: Tensor, steps: int, integers: Integers, alpha: float = 2.0) -> Tensor:
        """Spikes of a population.

        Args:
            drive: sums of :meth:`weights` in all steps, ``[T * B, C, ...]``.
            steps: T.
            integers: the population's.
            alpha: width of the arctan surrogate, in thresholds.

        Returns:
            0.0 and 1.0, ``[T, B, C, ...]``, in the type of ``drive``.
        """
        if not self.plain:
            constants, state = self.constants(integers, drive), (torch.zeros_like(drive[0]),) * 2
            spikes = []
            for arriving in drive.unflatten(0, (steps, -1)):
                fired, state = self.step(state, arriving, constants, alpha)
                spikes.append(fired)
            return torch.stack(spikes)
        bias, threshold = self._by_channel(integers, drive)
        rule = (steps, float(self.kept), self.limit, alpha)
        over_time: Tensor = _Run.apply(drive, bias, threshold, *rule).unflatten(0, (steps, -1))
        return over_time

    def constants(self, integers: Integers, drive: Tensor) -> Constants:
        """What :meth:`step` needs to know of a population.

        Args:
            integers: the population's.
            drive: of one step or of several, ``[..., C, ...]`` behind one axis.
        """
        bias, threshold = (_broad(x, drive) for x in self._by_channel(integers, drive))
        relative, kept_u, kept_v = (
            x.reshape(()) if x.numel() == 1 else x.reshape(x.shape[: drive.dim() - 1])
            for x in (self.relative, self.kept_current, self.kept)
        )
        threshold = (threshold * relative / 2**self.threshold_shift).round()
        return bias, threshold * 2**self.threshold_shift, kept_u, kept_v

    def step(
        self, state: State, arriving: Tensor, constants: Constants, alpha: float = 2.0
    ) -> tuple[Tensor, State]:
        """One step, as :class:`Lif` defines it; gradients pass through rounding, not resets.

        Args:
            state: that the step before left; zeros are cleared.
            arriving: sums of :meth:`weights` in this step, ``[B, C, ...]``.
            constants: from :meth:`constants`.
            alpha: width of the arctan surrogate, in thresholds.

        Returns:
            Spikes, 0.0 and 1.0, and the state that the step leaves.
        """
        (u, v), (bias, threshold, kept_u, kept_v) = state, constants
        fired = v.detach() > threshold
        u = _straight(u * kept_u, torch.trunc) + arriving
        v = v.masked_fill(fired, 0) if self.reset == "zero" else v
        v = _straight(v * kept_v, torch.trunc) + u + bias
        if subtracts(self.reset):
            v = v - fired * threshold
        elif self.refractory:
            v = v.masked_fill(fired, 0)
        v = _straight(v, self._clipped)
        spikes: Tensor = _Fire.apply(v, threshold, alpha)
        if self.reset == "subtract_at_once":
            change = (v.detach() > threshold).to(v) - fired.to(v)
            v = _straight(v - change * threshold, self._clipped)
        return spikes, (u, v)

    def _by_channel(self, integers: Integers, drive: Tensor) -> tuple[Tensor, Tensor]:
        """Bias and threshold of each channel, in units of the registers."""
        bias = (integers.bias * 2**integers.bias_exp).to(drive.dtype)
        return bias, bias.new_tensor(integers.scale.thresholds) * 2**self.threshold_shift

    def _clipped(self, v: Tensor) -> Tensor:
        return v.clamp(-self.limit, self.limit)


def _spatial(values: Floats, device: torch.device) -> Tensor:
    """Constants in the axes of a drive: none, or ``[C, H, W]`` of which some are 1."""
    tensor = torch.from_numpy(np.array(values, np.float64)).to(device)
    return tensor if tensor.dim() in (0, 3) else tensor.reshape(-1, 1, 1)


def _straight(x: Tensor, rounded: Callable[[Tensor], Tensor]) -> Tensor:
    """What rounding makes of whole numbers and parts, with the gradient of ``x``."""
    exact = rounded(x.detach())
    return exact + (x - x.detach()) if x.requires_grad else exact


class _Fire(torch.autograd.Function):
    """1.0 where a membrane is above the threshold; backwards, the arctan surrogate."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, threshold: Tensor, alpha: float) -> Tensor:
        ctx.save_for_backward(v, threshold)
        ctx.alpha = alpha
        return (v > threshold).to(v.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        v, threshold = ctx.saved_tensors
        away = (v / threshold - 1) * (torch.pi / 2 * ctx.alpha)
        return grads[0] * ctx.alpha / 2 / threshold / (1 + away.square()), None, None


class _Run(torch.autograd.Function):
    """All steps; backwards, :class:`has8.neurons.Leaky`'s rule at the membrane in thresholds.

    Of what lies between two layers only the drive is kept; membranes are computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        drive: Tensor,
        bias: Tensor,
        threshold: Tensor,
        steps: int,
        kept: float,
        limit: int,
        alpha: float,
    ) -> Tensor:
        ctx.compiled = paths.usable(drive)
        if ctx.compiled:
            drive = storage.dense(drive)
        ctx.save_for_backward(drive, bias, threshold)
        ctx.rule = (steps, kept, limit, alpha)
        if not ctx.compiled:
            membranes = _membranes(drive, bias, threshold, steps, kept, limit)
            return (membranes > _broad(threshold, drive)).to(drive.dtype).flatten(0, 1)
        spikes = torch.empty_like(drive)
        kernels.call(
            "chip_forward", drive.dtype, steps, drive.numel() // steps, drive.shape[1], drive,
            bias, threshold, kept, float(limit), spikes,
        )  # fmt: skip
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        drive, bias, threshold = ctx.saved_tensors
        if not ctx.compiled:
            grad = _gradient(grads[0], drive, bias, threshold, *ctx.rule)
            return grad, grad.transpose(0, 1).flatten(1).sum(1), *(None,) * 5
        steps, kept, limit, alpha = ctx.rule
        incoming = storage.like(grads[0], drive)
        grad, sums = torch.empty_like(drive), torch.zeros(len(bias), dtype=torch.float64)
        kernels.call(
            "chip_backward", drive.dtype, steps, drive.numel() // steps, drive.shape[1], drive,
            bias, threshold, kept, float(limit), alpha, incoming, grad, sums,
        )  # fmt: skip
        return grad, sums.to(bias.dtype), *(None,) * 5


def _broad(constants: Tensor, drive: Tensor) -> Tensor:
    """One number for each channel, so that it broadcasts over the drive of a step."""
    return constants.view(-1, *(1,) * (drive.dim() - 2))


def _membranes(
    drive: Tensor, bias: Tensor, threshold: Tensor, steps: int, kept: float, limit: int
) -> Tensor:
    """``[T, B, C, ...]``, before a spike resets them."""
    bias, threshold = _broad(bias, drive), _broad(threshold, drive)
    drive = drive.unflatten(0, (steps, -1))
    membranes = torch.empty_like(drive)
    v = torch.zeros_like(drive[0])
    for t in range(steps):
        membranes[t] = v.mul_(kept).trunc_().add_(drive[t]).add_(bias).clamp_(-limit, limit)
        v.masked_fill_(v > threshold, 0)
    return membranes


def _gradient(
    incoming: Tensor,
    drive: Tensor,
    bias: Tensor,
    threshold: Tensor,
    steps: int,
    kept: float,
    limit: int,
    alpha: float,
) -> Tensor:
    """The gradient of the drive from that of the spikes, both ``[T * B, C, ...]``."""
    membranes = _membranes(drive, bias, threshold, steps, kept, limit)
    threshold, incoming = _broad(threshold, drive), incoming.unflatten(0, (steps, -1))
    away = (membranes / threshold).sub_(1).mul_(torch.pi / 2 * alpha)
    grad = away.square_().add_(1).reciprocal_().mul_(alpha / 2).div_(threshold).mul_(incoming)
    for t in reversed(range(steps - 1)):
        grad[t] += (grad[t + 1] * kept).masked_fill_(membranes[t] > threshold, 0)
    return grad.flatten(0, 1)
