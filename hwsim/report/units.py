"""Figures as people read them: a number, a unit that suits its size, and its range."""

from __future__ import annotations

from collections.abc import Callable

from has8.units import COUNT, ENERGY, TIME, between, column, count, energy, many, percent, time
from hwsim.price.draws import Draws, likely
from mapping.targets.figures import Figure

__all__ = [
    "COUNT",
    "ENERGY",
    "TIME",
    "behind",
    "between",
    "column",
    "count",
    "energy",
    "many",
    "percent",
    "span",
    "time",
]


def span(figure: Figure, text: Callable[[float], str]) -> str:
    """The range of a figure, such as ``1.41 to 3.57 mJ`` or ``898 µJ to 2.10 mJ``.

    Args:
        figure: its range; without one there is no text.
        text: :func:`energy` or :func:`time`.
    """
    return "" if figure.low == figure.high else between(figure.low, figure.high, text)


def behind(figure: Figure, text: Callable[[float], str], draws: Draws | None = None) -> str:
    """The range of a figure in brackets, to stand behind its value; empty without one.

    Args:
        figure: its range.
        text: :func:`energy` or :func:`time`.
        draws: of the figure; then the brackets also have where it lies in four draws of five.
    """
    found = span(figure, text)
    if found and draws is not None:
        found = f"{found}, likely {between(*likely(draws), text)}"
    return f" ({found})" if found else ""
