"""Gaussian coding: values with noise whose mean and deviation are learned (Muramatsu & Yu 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from has8.encoders.ranges import check_numbers
from has8.encoders.rate import check_seed, rate_draws
from has8.encoders.unit import check_steps
from has8.errors import BadInput

Mode = Literal["hw", "paper"]
NORMAL_BITS = 20
"""Standard normal draws are rounded to multiples of ``2**-20``, which float32 holds exactly."""


def normal_draws(steps: int, shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal numbers by each sample's number and a seed (Box & Muller 1958).

    Two are made of two of :func:`~has8.encoders.rate.rate_draws`, and rounded, so that the last
    bits of a machine's logarithm and cosine do not matter.

    Args:
        steps: T.
        shape: of the values, ``(B, ...)``.
        seed: from 0 to ``2**63 - 1``.

    Returns:
        ``float32[T, B, ...]``, within ±5.8, multiples of ``2**-20``, on the CPU.
    """
    half, unit = (steps + 1) // 2, 2.0**-NORMAL_BITS
    one, other = rate_draws(2 * half, shape, seed).split(half)
    made = torch.empty(steps, *shape)
    for sample in range(shape[0]):  # one at a time stays in the cache
        radius = one[:, sample].double().neg_().log1p_().mul_(-2).sqrt_()
        angle = other[:, sample].double().mul_(2 * pi)
        normal = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)])[:steps]
        made[:, sample] = normal.div_(unit).round_().mul_(unit)
    return made


def encode_gaussian(x: Tensor, steps: int, seed: int | None = None, mode: Mode = "hw") -> Tensor:
    """``mu + sigma eps[t]``, eps standard normal, drawn for every value and step (equation 7).

    Gradients pass to mean and deviation.

    Args:
        x: ``[B, 2 C, ...]``: C channels of mu, then C of ln sigma. In ``mode="paper"``, as the
            authors' released code has it, these are ReLU(mu), then ln sigma^2 through ReLU, so
            that sigma is at least 1.
        steps: T.
        seed: draws are :func:`normal_draws`; None takes them from torch's global generator.
        mode: "hw", what the paper says, or "paper".

    Returns:
        ``[T, B, C, ...]`` in the dtype of ``x``.

    Raises:
        BadInput: if a value is not a number, or the channels are odd.
    """
    check_numbers(x, GaussianEncoder.coding)
    if x.dim() < 2 or x.shape[1] % 2:
        raise BadInput(
            f"Gaussian coding takes two values for each that it makes, mu and ln sigma, not "
            f"{tuple(x.shape[1:])}: give the layer in front of it twice the outputs"
        )
    mean, log = x.chunk(2, dim=1)
    if mode == "paper":
        mean, log = F.relu(mean), F.relu(log) / 2
    if seed is None:
        noise = torch.randn(steps, *mean.shape, dtype=x.dtype, device=x.device)
    else:
        noise = normal_draws(steps, mean.shape, seed).to(x)
    return mean + log.exp() * noise


class GaussianEncoder(nn.Module):
    """Gaussian coding; see :func:`encode_gaussian`.

    In training its draws come from torch's global generator; in evaluation a sample's draws
    follow from its number and the seed, as :class:`~has8.encoders.rate.RateEncoder`'s do. What it
    makes are values of each step, so what they drive stays off the chip.

    Args:
        steps: T, at least 1.
        seed: of the draws in evaluation; two encoders of one model should have different ones.
        mode: "hw", what the paper says, or "paper", what its authors' released code does.

    Raises:
        BadInput: if there are no steps, or the seed or mode is none of these.
    """

    coding = "gaussian"

    def __init__(self, steps: int, seed: int = 0, mode: Mode = "hw") -> None:
        super().__init__()
        check_steps(steps, self.coding)
        check_seed(seed, self.coding)
        if mode not in ("hw", "paper"):
            raise BadInput(f"mode must be 'hw' or 'paper', not {mode!r}")
        self.steps, self.seed, self.mode = steps, seed, mode

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 2 C, ...] -> [T, B, C, ...]``; see :func:`encode_gaussian`."""
        return encode_gaussian(x, self.steps, None if self.training else self.seed, self.mode)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"steps={self.steps}, seed={self.seed}, mode={self.mode!r}"
