"""Batched simulation in torch, equal to the reference bit for bit.

Floating point is exact on integers up to 2**24 (float32) or 2**53 (float64). Before anything
runs, a bound on every intermediate value is computed from the weights, and the narrowest type
that cannot round is chosen. Convolutions must add up products of weights and spikes and nothing
else: NNPACK and cuDNN may take Winograd's algorithm, which multiplies by fractions, so the one is
switched off and on the other float64 is rounded back to integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from has8.errors import BackendError
from hwsim.backend import Counts, Executable, Overflow, SegmentRun
from mapping.segment import ChipSegment, Population, Synapse
from mapping.target import Registers

EXACT_BITS = {torch.float32: 24, torch.float64: 53}
"""Integers of up to this many bits are exact."""


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

    def compile(self, segment: ChipSegment, registers: Registers) -> Executable:
        """Choose types and move the integers to the device.

        Raises:
            BackendError: if a population feeds itself or an earlier one, or needs arithmetic that
                floating point would round.
        """
        known = {port.name for port in segment.inputs}
        for population in segment.populations:
            for synapse in population.synapses:
                if synapse.source not in known:
                    raise BackendError(
                        f"population {population.name!r} is driven by {synapse.source!r}, which "
                        f"comes after it; the fast backend runs no recurrent connections, the "
                        f"reference does"
                    )
                if synapse.weight_exp < 0:
                    raise BackendError(
                        f"synapse {synapse.name!r} has the weight exponent {synapse.weight_exp}, "
                        f"which shifts sums to the right; only the reference and Lava do that"
                    )
            known.add(population.name)
        layers = tuple(
            _compile(p, registers, segment.steps, self.device) for p in segment.populations
        )
        return _Executable(layers, self.device)


@dataclass(frozen=True, slots=True)
class _Synapse:
    source: str
    kind: str
    weight: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def current(self, spikes: Tensor) -> Tensor:
        """Sums of weights over the spikes ``[N, *shape]``."""
        if self.kind == "linear":
            return F.linear(spikes.flatten(1), self.weight)
        with torch.backends.nnpack.flags(enabled=False):
            sums = F.conv2d(
                spikes,
                self.weight,
                stride=self.stride,
                padding=self.padding,
                dilation=self.dilation,
                groups=self.groups,
            )
        return sums.round_() if sums.is_cuda else sums


@dataclass(frozen=True, slots=True)
class _Layer:
    """One population with everything that does not depend on the input worked out.

    ``kept_u`` and ``kept_v`` are what a decay leaves, as a fraction; both products are exact in
    ``dtype``. ``may_wrap`` and ``may_clip`` say whether a register can leave its range at all.
    """

    name: str
    shape: tuple[int, ...]
    synapses: tuple[_Synapse, ...]
    dtype: torch.dtype
    threshold: Tensor
    bias: Tensor
    idle: Tensor | None
    kept_u: float
    kept_v: float
    half: float
    keep_top: bool
    may_wrap: bool
    may_clip: bool

    def run(self, sources: Mapping[str, Tensor]) -> tuple[Tensor, Counts, Overflow]:
        """Spikes ``bool[T, B, *shape]``, updates ``[T, *shape]`` and overflows."""
        steps, batch = next(iter(sources.values())).shape[:2]
        drive = torch.zeros(1, dtype=self.dtype, device=self.bias.device)
        for synapse in self.synapses:
            part = synapse.current(sources[synapse.source].flatten(0, 1).to(self.dtype))
            part = part.view(-1, *self.shape)  # a linear layer may drive an image
            drive = drive + part if drive.dim() > 1 else part
        drive = drive.expand(steps * batch, *self.shape).unflatten(0, (steps, batch))
        spikes = torch.empty_like(drive, dtype=torch.bool)
        updated = np.full((steps, *self.shape), batch, np.int64)
        overflow = Overflow()
        u = v = torch.zeros_like(drive[0])
        for t in range(steps):
            live = v != 0 if self.idle is not None else None
            u, v, step_overflow = self._step(u, v, drive[t])
            if live is not None:  # neurons without bias rest until something reaches them
                live |= (u != 0) | (drive[t] != 0)
                live |= self.idle.logical_not()  # type: ignore[union-attr]
                updated[t] = live.sum(0).cpu().numpy()
            overflow += step_overflow
            torch.gt(v, self.threshold, out=spikes[t])
            v = v.masked_fill_(spikes[t], 0)
        return spikes, updated, overflow

    def _step(self, u: Tensor, v: Tensor, drive: Tensor) -> tuple[Tensor, Tensor, Overflow]:
        u = drive if self.kept_u == 0 else torch.trunc(u * self.kept_u) + drive
        wraps = clips = 0
        if self.may_wrap:
            full = 2 * self.half
            wrapped = (
                self.half - torch.remainder(self.half - u, full)
                if self.keep_top
                else torch.remainder(u + self.half, full) - self.half
            )
            wraps = int((wrapped != u).sum())
            u = wrapped
        if self.kept_v != 1:
            v = torch.trunc(v * self.kept_v)
        v = v + u + self.bias
        if self.may_clip:
            limit = self.half - 1
            clips = int((v.abs() > limit).sum())
            v = v.clamp_(-limit, limit)
        return u, v, Overflow(wraps, clips)


@dataclass(frozen=True, slots=True)
class _Executable:
    layers: tuple[_Layer, ...]
    device: torch.device

    def __call__(
        self, inputs: Mapping[str, Tensor], *, first: int = 0, membranes: bool = False
    ) -> SegmentRun:
        sources = {name: spikes.to(self.device) for name, spikes in inputs.items()}
        spikes, updated, overflows = {}, {}, {}
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            for layer in self.layers:
                fired, updated[layer.name], overflows[layer.name] = layer.run(sources)
                sources[layer.name] = spikes[layer.name] = fired
        return SegmentRun(spikes, updated, overflows)


def _compile(
    population: Population, registers: Registers, steps: int, device: torch.device
) -> _Layer:
    unit = 1 << registers.synapse_shift
    half = 1 << (registers.state_bits - 1)
    full = 1 << registers.decay_bits
    bias = population.bias << population.bias_exp
    kept_u = full - (population.du + registers.current_decay_offset)
    kept_v = full - (population.dv + registers.membrane_decay_offset)

    most_drive = population.most_drive * unit
    most_u = most_drive if kept_u == 0 else half + most_drive  # before it is wrapped
    most_bias = int(np.abs(bias).max(initial=0))
    most_v = half + min(most_u, half) + most_bias  # before it is clipped
    reach = _reach(min(most_u, half), most_bias, kept_v / full, steps)
    dtype = torch.float64
    product_bits = max(most_u, most_v).bit_length() + registers.decay_bits
    if product_bits > EXACT_BITS[dtype]:
        raise BackendError(
            f"population {population.name!r} needs integers of {product_bits} bits and float64 is "
            f"exact up to {EXACT_BITS[dtype]}; use the reference"
        )
    exact_decay = all(k & (k - 1) == 0 for k in (kept_u, kept_v))  # a power of two scales exactly
    may_wrap = most_u >= half
    if (
        device.type == "cpu"
        and exact_decay
        and not may_wrap
        and max(most_u, most_v) <= 1 << EXACT_BITS[torch.float32]
    ):
        dtype = torch.float32

    def on_device(array: Counts) -> Tensor:
        return torch.from_numpy(array).to(device, dtype)

    per_channel = (-1, *(1,) * (len(population.shape) - 1))
    idle = torch.from_numpy(population.bias == 0).to(device).view(per_channel)
    return _Layer(
        name=population.name,
        shape=population.shape,
        synapses=tuple(
            _synapse(s, on_device((s.weight << s.weight_exp) * unit)) for s in population.synapses
        ),
        dtype=dtype,
        threshold=on_device(population.threshold << registers.threshold_shift).view(per_channel),
        bias=on_device(bias).view(per_channel),
        idle=idle if bool(idle.any()) else None,
        kept_u=kept_u / full,
        kept_v=kept_v / full,
        half=float(half),
        keep_top=registers.keep_top,
        may_wrap=may_wrap,
        may_clip=reach >= half,
    )


def _reach(most_u: int, most_bias: int, kept: float, steps: int) -> float:
    """How far a membrane can get in so many steps if it is never clipped."""
    return (most_u + most_bias) * sum(kept**t for t in range(steps))


def _synapse(synapse: Synapse, weight: Tensor) -> _Synapse:
    attrs = synapse.attrs

    def two(name: str, default: int) -> tuple[int, int]:
        high, wide = attrs.get(name, (default, default))
        return int(high), int(wide)

    return _Synapse(
        synapse.source,
        synapse.kind,
        weight,
        two("stride", 1),
        two("padding", 0),
        two("dilation", 1),
        int(attrs.get("groups", 1)),
    )
