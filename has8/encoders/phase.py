"""Phase coding: a value's binary digits, the highest first (weighted spikes, Kim et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from has8.encoders.ranges import check_unit
from has8.encoders.unit import UnitEncoder


def phase_weights(steps: int) -> tuple[float, ...]:
    """``2**-(1 + t)`` for each of T steps: decodes digits to their value, at most ``1 - 2**-T``."""
    return tuple(2.0 ** -(1 + t) for t in range(steps))


def encode_phase(x: Tensor, steps: int) -> Tensor:
    """The first T binary digits of ``x``; the decoded value is below ``x`` by less than ``2**-T``.

    T digits cannot hold 1: it gets the largest code, ``1 - 2**-T``. In 8 steps the pixel p/255
    becomes the 8 bits of p.

    Args:
        x: values ``[B, ...]`` in [0, 1].
        steps: T.

    Returns:
        ``[T, B, ...]`` of 0.0 and 1.0 in the dtype of ``x``.

    Raises:
        BadInput: if a value lies outside [0, 1] or is not a number.
    """
    check_unit(x, PhaseEncoder.coding)
    digits = []
    for _ in range(steps):
        digits.append((x >= 0.5).to(x.dtype))
        x = 2 * x - digits[-1]  # exact, and 1 stays 1
    return torch.stack(digits)


class PhaseEncoder(UnitEncoder):
    """Phase coding over one period of T steps; see :func:`encode_phase`.

    Decode with :func:`phase_weights`. In 8 steps these are bit planes of ``floor(256 x)``, most
    significant first, without a trained range.

    Args:
        steps: T, the number of digits, at least 1.

    Raises:
        BadInput: if there are no steps.
    """

    coding = "phase"

    def encode(self, x: Tensor) -> Tensor:
        """``[B, ...]`` in [0, 1] to ``[T, B, ...]`` of 0.0 and 1.0."""
        return encode_phase(x, self.steps)
