"""Rate decoding: the mean over the steps (HAS-8 equation 19)."""

from __future__ import annotations


def rate_weights(steps: int) -> tuple[float, ...]:
    """``1 / T`` for each of T steps."""
    return (1.0 / steps,) * steps
