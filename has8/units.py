"""Numbers as people read them: three significant digits and a unit that suits their size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import SupportsFloat

ENERGY = ("pJ", "nJ", "µJ", "mJ", "J", "kJ")
TIME = ("ns", "µs", "ms", "s")
COUNT = ("", "k", "M", "G", "T")


def energy(microjoules: SupportsFloat) -> str:
    """An energy, such as ``12.3 µJ``."""
    return _with_unit(float(microjoules), ENERGY, "µJ")


def time(microseconds: SupportsFloat) -> str:
    """A time, such as ``1.05 ms``."""
    return _with_unit(float(microseconds), TIME, "µs")


def between(lowest: float, highest: float, text: Callable[[float], str]) -> str:
    """Two numbers as a range; the lower one's unit is left out where it is the other's."""
    low, high = text(lowest), text(highest)
    if lowest == 0:
        low = "0"
    return f"{low.removesuffix(' ' + high.rpartition(' ')[2])} to {high}"


def count(number: float) -> str:
    """A count: whole below 100,000, such as ``36,928``, else such as ``1.81 G``."""
    return f"{number:,.0f}" if number < 99_999.5 else _with_unit(number, COUNT, "")


def many(number: int, noun: str, nouns: str | None = None) -> str:
    """A whole number of things, such as ``1 core`` or ``2,000 samples``."""
    return f"{number:,} {noun if number == 1 else nouns or f'{noun}s'}"


def percent(share: float, decimals: int = 0) -> str:
    """A share of one, such as ``93 %``; without decimals what is tiny is ``<1 %``."""
    if decimals == 0 and 0 < share < 0.005:
        return "<1 %"
    return f"{share * 100:.{decimals}f} %"


def column(values: Sequence[float], units: tuple[str, ...], base: str) -> tuple[str, list[str]]:
    """Numbers to stand below each other: one unit, one number of decimals.

    The unit is one in which the largest has three to five digits before the point, so that parts
    a thousand times smaller can still be read.

    Args:
        values: in ``base``.
        units: in steps of a thousand.
        base: one of these.

    Returns:
        The unit, and the numbers; what is not zero but would read so is ``<0.1`` or ``<0.01``.
    """
    largest = max(values, default=0.0)
    place = _place(largest / 100, units, base)
    factor = 1000.0 ** (units.index(base) - place)
    decimals = 2 if largest * factor < 999.95 else 1
    least = 10.0**-decimals

    def text(value: float) -> str:
        if 0 < value < least / 2:
            return f"<{least:.{decimals}f}"
        return f"{value:,.{decimals}f}"

    return units[place], [text(value * factor) for value in values]


def _with_unit(value: float, units: tuple[str, ...], base: str) -> str:
    if value < 0:
        return f"-{_with_unit(-value, units, base)}"
    place = _place(value, units, base)
    scaled = value * 1000.0 ** (units.index(base) - place)
    decimals = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{scaled:,.{decimals}f} {units[place]}".rstrip()


def _place(value: float, units: tuple[str, ...], base: str) -> int:
    """The unit in which a value is at least 1 and below 1000, as far as the units go."""
    place = units.index(base)
    while value >= 999.5 and place + 1 < len(units):
        value, place = value / 1000, place + 1
    while 0 < value < 0.9995 and place > 0:
        value, place = value * 1000, place - 1
    return place
