"""Even coding: a value is the rate of spikes that come as evenly as steps allow, without chance."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import torch
from torch import Tensor

from has8.encoders.ranges import check_unit
from has8.encoders.unit import UnitEncoder

LEVELS = 2**16
"""An integrator counts in so many parts of a spike, so that all machines agree."""
_GOLDEN = 40503
"""``LEVELS`` over the golden ratio: its multiples spread over all phases (Weyl 1916)."""


def even_phases(size: int) -> Tensor:
    """What each of ``size`` integrators holds at first, ``int64[size]`` from 0 to LEVELS - 1.

    Neighbours begin at other phases, so that equal values do not all fire in the same steps.
    """
    return torch.arange(1, size + 1) * _GOLDEN % LEVELS


def even_levels(x: Tensor) -> Tensor:
    """Values in [0, 1] as what an integrator gains in a step, ``int64``."""
    return torch.round(x.double() * LEVELS).long()


def encode_even(x: Tensor, steps: int, phases: Tensor | None = None) -> Tensor:
    """Integrate the value and fire whenever another whole is reached; the rest is kept.

    ``s[t] = floor(a + (t + 1) x) - floor(a + t x)`` with the phase a; the number of spikes differs
    from ``T x`` by less than 1.

    Args:
        x: values ``[B, ...]`` in [0, 1], taken to the nearest 2**-16.
        steps: T.
        phases: what the integrators hold at first, ``int64[B or 1, ...]`` in parts of
            :data:`LEVELS`; :func:`even_phases` by default.

    Returns:
        ``[T, B, ...]`` of 0.0 and 1.0 in the dtype of ``x``.

    Raises:
        BadInput: if a value lies outside [0, 1] or is not a number.
    """
    check_unit(x, EvenEncoder.coding)
    if phases is None:
        phases = even_phases(prod(x.shape[1:])).view(1, *x.shape[1:]).to(x.device)
    level = even_levels(x)
    ends = [(phases + step * level) // LEVELS for step in range(steps + 1)]
    return torch.stack([b - a for a, b in pairwise(ends)]).to(x.dtype)


class EvenEncoder(UnitEncoder):
    """Even coding, the deterministic form of rate coding; see :func:`encode_even`.

    Decode with :func:`has8.encoders.rate_weights`.

    Args:
        steps: T, at least 1.

    Raises:
        BadInput: if there are no steps.
    """

    coding = "even"

    def encode(self, x: Tensor) -> Tensor:
        """``[B, ...]`` in [0, 1] to ``[T, B, ...]`` of 0.0 and 1.0."""
        return encode_even(x, self.steps)
