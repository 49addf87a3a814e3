"""Rate coding: a value is the probability of a spike in each step (Poisson coding)."""

from __future__ import annotations

import torch
from torch import Tensor

from has8.encoders.ranges import check_unit
from has8.encoders.unit import UnitEncoder


def rate_weights(steps: int) -> tuple[float, ...]:
    """``1 / T`` for each of T steps: decodes spikes to their mean (HAS-8 equation 19)."""
    return (1.0 / steps,) * steps


def encode_rate(x: Tensor, steps: int) -> Tensor:
    """``s[t] = 1 if u[t] <= x else 0``, u uniform on [0, 1), drawn for every value and step.

    The draws are multiples of 2**-24 and ``<=`` counts the end, so a value fires with at most
    2**-24 more than its probability: 0 fires once in 2**24 steps, 1 always.

    Args:
        x: probabilities ``[B, ...]`` in [0, 1].
        steps: T.

    Returns:
        ``[T, B, ...]`` of 0.0 and 1.0 in the dtype of ``x``.

    Raises:
        BadInput: if a value lies outside [0, 1] or is not a number.
    """
    check_unit(x, RateEncoder.coding)
    draws = torch.rand(steps, *x.shape, dtype=torch.float32, device=x.device)
    return (draws <= x).to(x.dtype)


class RateEncoder(UnitEncoder):
    """Rate coding; see :func:`encode_rate`.

    Its draws come from torch's global generator, in evaluation too: call ``torch.manual_seed``
    for the same spikes again. Decode with :func:`rate_weights`; the expected result is the value.

    Args:
        steps: T, at least 1.

    Raises:
        BadInput: if there are no steps.
    """

    coding = "rate"

    def encode(self, x: Tensor) -> Tensor:
        """``[B, ...]`` in [0, 1] to ``[T, B, ...]`` of 0.0 and 1.0."""
        return encode_rate(x, self.steps)
