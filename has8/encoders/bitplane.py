"""Bit-plane coding: eight steps, one bit of an 8-bit code in each (HAS-8 equation 8)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from has8.encoders.ranges import check_numbers
from has8.errors import BadInput, CheckpointError
from has8.kernels import coding as compiled
from has8.kernels.storage import narrow_type, real
from has8.scalars import scalar
from has8.surrogate import SLOPES, Slope, plane_factors

STEPS = 8
"""Bits of a code, each sent in a step of its own."""
LEVELS = 255
"""The largest code."""


def plane_of_step(order: str) -> tuple[int, ...]:
    """The plane k that is sent at step t = 0..7.

    Raises:
        BadInput: if the order is neither "lsb" nor "msb".
    """
    if order not in ("lsb", "msb"):
        raise BadInput(f"order must be 'lsb' or 'msb' (which plane comes first), not {order!r}")
    planes = tuple(range(STEPS))
    return planes if order == "lsb" else planes[::-1]


def bitplane_weights(order: str) -> tuple[float, ...]:
    """``2**k / 255`` for the plane k of each step: decodes 8 planes to [0, 1] (equation 20)."""
    return tuple(2**k / LEVELS for k in plane_of_step(order))


def encode_bitplanes(x: Tensor, lo: Tensor | float, hi: Tensor | float, order: str) -> Tensor:
    """Planes of ``q = clamp(round((x - lo) / (hi - lo) * 255), 0, 255)``, without a gradient.

    Args:
        x: values ``[B, ...]``.
        lo: the value of code 0.
        hi: the value of code 255; must be above ``lo``.
        order: "lsb" or "msb" first.

    Returns:
        ``[8, B, ...]`` of 0.0 and 1.0 in the dtype of ``x``.

    Raises:
        BadInput: if a value is not a number.
    """
    check_numbers(x, BitPlaneEncoder.coding)
    code = torch.round(_code(x, lo, hi)).clamp(0, LEVELS).to(torch.int32)
    return _planes(code, order, x.dtype)


def _code(x: Tensor, lo: Tensor | float, hi: Tensor | float) -> Tensor:
    return (x - lo) / (hi - lo) * LEVELS


def _planes(code: Tensor, order: str, dtype: torch.dtype) -> Tensor:
    return torch.stack([((code >> k) & 1).to(dtype) for k in plane_of_step(order)])


class _BitPlanes(torch.autograd.Function):
    """Exact planes forward; backward, the sum over planes of gradient times slope."""

    @staticmethod
    def forward(
        ctx: Any, code: Tensor, slope: Slope, factors: tuple[float, ...], order: str
    ) -> Any:
        ctx.save_for_backward(code)
        ctx.rule = (slope, factors, order)
        return _planes(torch.round(code).clamp(0, LEVELS).to(torch.int32), order, code.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (code,) = ctx.saved_tensors
        slope, factors, order = ctx.rule
        # Rounding makes plane k toggle at m 2^k - 1/2, the waves at m 2^k.
        shifted = code + 0.5
        total = torch.zeros_like(code)
        for grad, plane in zip(grads[0], plane_of_step(order), strict=True):
            if factors[plane]:
                total += grad * slope(shifted, plane) * factors[plane]
        inside = (code >= 0) & (code <= LEVELS)
        return total * inside, None, None, None


class BitPlaneEncoder(nn.Module):
    """Values to eight bit planes over a range that is tracked in training and then frozen.

    A chip needs a static range: the code of a sample must not depend on its batch. In training
    the range follows the batches' minima and maxima (exponential moving average); in evaluation,
    and once frozen, it stays. A new encoder covers [0, 1].

    Args:
        slope: a name in :data:`has8.surrogate.SLOPES`.
        rescaled: whether the slopes carry the order-aware factor R(k).
        order: which plane comes first.
        momentum: weight of a new batch in the moving average, in (0, 1].

    Raises:
        UnknownName: for an unknown slope.
        BadInput: for an unknown order.
    """

    coding = "bitplane"
    steps = STEPS
    lo: Tensor
    hi: Tensor
    tracked: Tensor
    frozen: Tensor

    def __init__(
        self,
        slope: str = "straight_through",
        rescaled: bool = True,
        order: str = "lsb",
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        plane_of_step(order)
        self.slope, self.rescaled, self.order, self.momentum = slope, rescaled, order, momentum
        self._rule = (SLOPES.get(slope), plane_factors(slope, rescaled), order)
        self.register_buffer("lo", torch.tensor(0.0))
        self.register_buffer("hi", torch.tensor(1.0))
        self.register_buffer("tracked", torch.tensor(False))
        self.register_buffer("frozen", torch.tensor(False))

    def track(self, x: Tensor, momentum: float) -> None:
        """Move the range towards that of ``x``; the first call sets it."""
        low, high = torch.aminmax(x.detach())
        high = torch.maximum(high, low + low.abs().clamp(min=1) * 1e-5)  # never an empty range
        weight = torch.where(self.tracked, momentum, 1.0)
        self.lo.lerp_(low.to(self.lo.dtype), weight)
        self.hi.lerp_(high.to(self.hi.dtype), weight)
        self.tracked.fill_(True)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Refuse an empty range.

        Raises:
            CheckpointError: if it is empty or not finite, or there are several.
        """
        lo, hi = scalar(state_dict, f"{prefix}lo", 0.0), scalar(state_dict, f"{prefix}hi", 1.0)
        for name in ("tracked", "frozen"):
            scalar(state_dict, f"{prefix}{name}", 0.0)
        if not (lo < hi and math.isfinite(hi - lo)):
            raise CheckpointError(
                f"{prefix.rstrip('.')!r} needs a finite range with lo below hi, not lo={lo}, "
                f"hi={hi}: calibrate the model anew"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [8, B, ...]`` of 0.0 and 1.0.

        Raises:
            BadInput: if a value is not a number; in training the loop watches the loss instead.
        """
        if not self.training:
            check_numbers(x, self.coding)
        if self.training and not self.frozen:
            self.track(x, self.momentum)
        if compiled.encodes(x, self.slope):
            lo, span = self.lo.item(), (self.hi - self.lo).item()
            _, factors, order = self._rule
            return compiled.planes(x, lo, span, plane_of_step(order), factors, self.slope)
        dtype, x = narrow_type(x), x.to(real(x.dtype))
        planes: Tensor = _BitPlanes.apply(_code(x, self.lo, self.hi), *self._rule)
        return planes.to(dtype)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return (
            f"slope={self.slope}, rescaled={self.rescaled}, order={self.order}, "
            f"range=[{self.lo.item():.4g}, {self.hi.item():.4g}]"
        )


class _PaperBitPlanes(torch.autograd.Function):
    """Planes of an unrounded code, plane 0 fractional, as the released code makes them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Slope, factors: tuple[float, ...]) -> Any:
        ctx.save_for_backward(x)
        ctx.rule = (slope, factors)
        planes = [torch.remainder(x, 2)]
        planes += [torch.remainder(torch.floor(x / 2**k), 2) for k in range(1, STEPS)]
        return torch.stack(planes)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        slope, factors = ctx.rule
        slopes = [slope(x, k) * factors[k] for k in range(STEPS)]
        if x.dim() == 2:  # released shapes broadcast: every plane's gradient meets every slope
            return grads[0].sum(0) * torch.stack(slopes).sum(0), None, None
        total = torch.zeros_like(x)
        for grad, plane_slope in zip(grads[0], slopes, strict=True):
            total += grad * plane_slope
        return total, None, None


class PaperBitPlaneEncoder(nn.Module):
    """The encoder of the authors' released code, for comparison with the paper's numbers.

    Where values leave [0, 1], they are scaled by the range of the whole batch. Codes are not
    rounded, so plane 0 is not binary. Planes come least significant first. No chip can run it.

    Args:
        slope: a name in :data:`has8.surrogate.SLOPES`.
        rescaled: whether the slopes carry the order-aware factor R(k).
    """

    coding = "bitplane-paper"
    steps = STEPS

    def __init__(self, slope: str = "fourier_released", rescaled: bool = True) -> None:
        super().__init__()
        self.slope, self.rescaled = slope, rescaled
        self._rule = (SLOPES.get(slope), plane_factors(slope, rescaled))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [8, B, ...]``; plane 0 lies in [0, 2), the others are 0.0 or 1.0.

        Raises:
            BadInput: if a value is not a number; in training the loop watches the loss instead.
        """
        if not self.training:
            check_numbers(x, self.coding)
        low, high = x.min(), x.max()
        if low < 0 or high > 1:
            x = torch.ones_like(x) if low == high else (x - low) / (high - low)
        code = x * LEVELS
        if x.dim() != 2 and compiled.encodes(x, self.slope):
            return compiled.planes(code, 0.0, -1.0, range(STEPS), self._rule[1], self.slope)
        planes: Tensor = _PaperBitPlanes.apply(code, *self._rule)
        return planes
