"""Where the answer would turn: what makes the board cost as much as the host alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MOST_ACTIVITY = 1024.0
"""No network fires so many times as often as it does."""


@dataclass(frozen=True, slots=True)
class BreakEven:
    """A value at which the whole board takes as much energy as the host alone, all else as it is.

    Args:
        what: "activity", as a factor of the run's; an entry of target or host by its path; or
            "batch", samples that the host alone would take at a time.
        now: its value.
        value: where both cost the same; None if they do at no value of it.
        unit: of both; empty for a pure number.
        below: whether the board is the cheaper side below that value, else above it.
    """

    what: str
    now: float
    value: float | None
    unit: str
    below: bool


def crossing(excess: Callable[[float], float], now: float) -> tuple[float | None, bool]:
    """Where a function that is a straight line is 0, from 0 on, and whether it is negative below.

    Args:
        excess: the board's energy less that of the host alone.
        now: any argument above 0.
    """
    start, end = excess(0.0), excess(now)
    below = end > start
    if end == start:
        return None, below
    value = now * start / (start - end)
    return (value if value > 0 else None), below


def activity_crossing(excess: Callable[[float], float]) -> tuple[float | None, bool]:
    """Where an increasing function of the activity is 0; None if it is nowhere up to a limit."""
    low, high = 0.0, MOST_ACTIVITY
    if excess(low) > 0 or excess(high) < 0:
        return None, True
    for _ in range(50):
        middle = (low + high) / 2
        if excess(middle) > 0:
            high = middle
        else:
            low = middle
        if high - low < 1e-4 * high:
            break
    return (low + high) / 2, True


def batch_crossing(board: float, macs: float, launching: float) -> float | None:
    """Samples that the host must take at a time to cost as much as the board; None if none do.

    Args:
        board: microjoules of a sample.
        macs: of the host alone, whatever the batch.
        launching: of the host alone, shared by a batch.
    """
    return launching / (board - macs) if board > macs else None
