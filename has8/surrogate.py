"""Slopes that stand in for the derivative of bit plane k with respect to the 8-bit code.

Plane k of a code x in [0, 255] is ``floor(x / 2**k) mod 2``, a square wave whose derivative is
zero almost everywhere. HAS-8 (Luu 2025, equations 16 to 18) replaces it in the backward pass by
the derivative of a smooth periodic wave. Each slope here is a function of (x, k) in code units;
:func:`rescale` is the paper's order-aware factor (equation 14) on top of it.

The authors' published code adds a constant 1/2 to the Fourier slope that is not the derivative
of anything printed. ``fourier_released`` has it, ``fourier`` lacks it, and ``constant_half`` is
the constant alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from has8.registry import Registry

Slope = Callable[[Tensor, int], Tensor]
"""Maps codes (any shape, any real values) and a plane 0..7 to slopes of the same shape."""

SLOPES: Registry[Slope] = Registry("slope")
"""Slopes by name."""

ALPHA = -10.0
"""Steepness of the sigmoid and tanh waves, as released."""

COSINE_POWERS = (256.0, -512.0, 336.0, -80.0, 5.0)
"""Coefficients of cos**9, cos**7, .. cos in the sum of cos(n x) over the released harmonics
n = 1, 3, .. 9: a polynomial in one cosine, so that only one has to be computed."""


def rescale(plane: int) -> float:
    """``R(k) = k / 2**(7 - k)``: 0 for the lowest plane, 7 for the highest (equation 14)."""
    return plane / 2.0 ** (7 - plane)


@SLOPES.register("sigmoid")
def sigmoid_sine(x: Tensor, plane: int) -> Tensor:
    """Derivative of ``sigmoid(alpha sin(pi x / 2**k))`` (equation 16)."""
    phase = x * (math.pi / 2**plane)
    s = torch.sigmoid(ALPHA * torch.sin(phase))
    slope: Tensor = s * (1 - s) * torch.cos(phase) * (ALPHA * math.pi / 2**plane)
    return slope


@SLOPES.register("tanh")
def tanh_sine(x: Tensor, plane: int) -> Tensor:
    """Derivative of ``(1 + tanh(alpha sin(pi x / 2**k))) / 2`` (equation 17)."""
    phase = x * (math.pi / 2**plane)
    t = torch.tanh(ALPHA * torch.sin(phase))
    slope: Tensor = (1 - t * t) * torch.cos(phase) * (0.5 * ALPHA * math.pi / 2**plane)
    return slope


@SLOPES.register("fourier")
def fourier(x: Tensor, plane: int) -> Tensor:
    """Derivative of ``1/2 - (2/pi) sum_n sin(n pi x / 2**k) / n``, n = 1, 3, .. 9 (equation 18)."""
    c = torch.cos(x * (math.pi / 2**plane))
    square = c * c
    total = torch.zeros_like(c)
    for factor in COSINE_POWERS:
        total.mul_(square).add_(factor)
    return total.mul_(c).mul_(-2.0 / 2**plane)


@SLOPES.register("fourier_released")
def fourier_released(x: Tensor, plane: int) -> Tensor:
    """The Fourier slope with the constant +1/2 that the authors' published code adds."""
    return fourier(x, plane) + 0.5


@SLOPES.register("constant_half")
def constant_half(x: Tensor, plane: int) -> Tensor:
    """1/2 for every plane, to be rescaled: what ``fourier_released`` adds to ``fourier``.

    It answers whether the released Fourier slope owes its accuracy to this constant.
    """
    return torch.full_like(x, 0.5)


@SLOPES.register("straight_through")
def straight_through(x: Tensor, plane: int) -> Tensor:
    """1/255 for every plane, so that decode(encode(x)) has slope one; never rescaled.

    Over [0, 255] each plane goes from 0 to 1, so 1/255 is its mean slope; with the decoding
    weights ``2**k / 255`` (or 1/8 each) the eight add up to the identity.
    """
    return torch.full_like(x, 1.0 / 255.0)


def plane_factors(slope: str, rescaled: bool) -> tuple[float, ...]:
    """The factor on the slope of each plane, k = 0..7."""
    if not rescaled or slope == "straight_through":
        return (1.0,) * 8
    return tuple(rescale(k) for k in range(8))
