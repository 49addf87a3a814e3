"""What a price likely is: all entries of sheets drawn at once, many times.

Interval arithmetic takes every entry to be at its worst together with all others. A draw takes one
value of each, and two mappings that are priced by the same draws are compared fairly: a message
that takes long does so for both. An entry's draws follow from its name alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mapping.targets.figures import Figure

DRAWS = 256
LIKELY = (10, 90)
"""The percentiles between which a price likely is."""

Draws = NDArray[np.float64]
"""``float64[DRAWS]``: a number in each draw."""

POWERS, FACTORS = ("mW", "W"), ("µs", "")
"""Units of entries that prices have products of: what is drawn, and how long."""


def drawn(figure: Figure) -> Draws:
    """The values of an entry: of its logarithm, a triangle over the range with the best on top.

    A low of zero counts as far below the best as the high is above it; where that leaves nothing,
    the triangle is over the values themselves.
    """
    low, best, high = figure.low, figure.value, figure.high
    low = best * best / high if low <= 0 < best < high else low
    in_logs = low > 0
    ends = np.log([low, best, high]) if in_logs else np.array([low, best, high])
    rng = np.random.default_rng(crc32(f"{figure.sheet}/{figure.path}".encode()))
    at = rng.random(DRAWS)
    left, top, right = ends
    width = right - left
    rising = left + np.sqrt(at * width * (top - left))
    falling = right - np.sqrt((1 - at) * width * (right - top))
    found = np.where(at * width < top - left, rising, falling)
    values: Draws = np.exp(found) if in_logs else found
    return values


def draws_of(
    prices: Callable[[Sequence[Figure]], Sequence[float]], entries: Iterable[Figure]
) -> tuple[Draws, ...]:
    """What several prices are in each draw.

    A price is linear in each entry, and has products of a power and a time only, so that a few
    prices tell all others; exact but where a link between chips and a core are equally slow.

    Args:
        prices: with these figures in the places of the sheets', all without ranges.
        entries: those that have a range.
    """
    ordered = sorted(entries, key=lambda e: (e.sheet, e.path))  # the same sums in each process
    ranged = {e: (e.high if e.high > e.value else e.low) for e in ordered if e.low < e.high}
    share = {e: (drawn(e) - e.value) / (end - e.value) for e, end in ranged.items()}

    def at(*moved: Figure) -> NDArray[np.float64]:
        return np.array(prices([entry.at(ranged[entry]) for entry in moved]))[:, None]

    base = at()
    alone: Mapping[Figure, NDArray[np.float64]] = {entry: at(entry) - base for entry in ranged}
    total = base + sum(alone[entry] * share[entry] for entry in ranged)
    for power in (entry for entry in ranged if entry.unit in POWERS):
        for time in (entry for entry in ranged if entry.unit in FACTORS):
            both = at(power, time) - base - alone[power] - alone[time]
            total = total + both * share[power] * share[time]
    return tuple(np.broadcast_to(total, (len(base), DRAWS)))


def likely(draws: Draws) -> tuple[float, float]:
    """Between what a number is in four draws of five."""
    low, high = np.percentile(draws, LIKELY)
    return float(low), float(high)


def share_below(draws: Draws, others: Draws) -> float:
    """In which part of the draws a number is below another, 0..1; equal ones count half."""
    return float(((draws < others) + 0.5 * (draws == others)).mean())
