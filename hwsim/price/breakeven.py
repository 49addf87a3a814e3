"""Where the answer would turn: what makes the board cost as much as the host alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

MOST_ACTIVITY = 1024.0
"""No network fires so many times as often as it does."""
SECANTS = 50


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


def price_crossing(
    excess: Callable[[float], float], now: float, most: float = math.inf
) -> tuple[float | None, bool]:
    """Where a function is 0 from 0 on, and whether it is negative below.

    It is a straight line, or made of several that rise ever more, as the price of a run does that
    lasts longer than what the host does meanwhile: secants find their crossing.

    Args:
        excess: the board's energy less that of the host alone.
        now: any argument above 0.
        most: the largest argument there is.
    """
    before, at = (0.0, excess(0.0)), (now, excess(now))
    below, near = at[1] > before[1], 1e-12 * max(abs(before[1]), abs(at[1]))
    for _ in range(SECANTS):
        if at[1] == before[1]:
            return None, below
        value = before[0] - before[1] * (at[0] - before[0]) / (at[1] - before[1])
        if not 0 < value <= most:
            return None, below
        before, at = at, (value, excess(value))
        if abs(at[1]) <= near:
            break
    return at[0], below


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
