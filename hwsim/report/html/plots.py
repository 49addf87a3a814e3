"""What all charts share: figures with their ranges, and axes that carry units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat

from hwsim.report import units
from mapping.targets.figures import Figure

Chart = dict[str, Any]
Text = Callable[[SupportsFloat], str]

SCALE: dict[Text, float] = {units.energy: 1e-6, units.time: 1e-6}
"""Microjoules in joules and microseconds in seconds: axes choose their own prefix."""


def dots(
    rows: Mapping[str, Figure],
    name: str,
    colour: str,
    text: Text,
    symbol: str = "circle",
    *,
    ranges: bool = True,
) -> Chart:
    """Figures with their ranges, one below the other; prices in joules or seconds."""
    scale = SCALE.get(text, 1.0)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [figure.value * scale for figure in rows.values()],
        "y": list(rows),
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [(figure.high - figure.value) * scale for figure in rows.values()],
            "arrayminus": [(figure.value - figure.low) * scale for figure in rows.values()],
            "visible": ranges,
            "thickness": 1.5,
            "width": 4,
            "color": colour,
        },
        "marker": {"size": 10, "color": colour, "symbol": symbol},
        "text": [said(figure, text) for figure in rows.values()],
        "hovertemplate": "%{y}: %{text}<extra>%{fullData.name}</extra>",
    }


def units_of(text: Text) -> dict[str, Any]:
    """An axis in joules or seconds that chooses its own prefix."""
    return {"tickformat": "~s", "ticksuffix": {units.energy: "J", units.time: "s"}[text]}


def ticks(text: Text) -> dict[str, Any]:
    """Ticks at 1, 2 and 5 of each decade from a thousandth of a microjoule or microsecond up."""
    values = [digit * 10.0**power for power in range(-3, 9) for digit in (1, 2, 5)]
    words = [text(value).replace(".00", "").replace(".0", "") for value in values]
    return {"tickvals": [value * SCALE[text] for value in values], "ticktext": words}


def said(figure: Figure, text: Text) -> str:
    """A figure with its range, as people read it."""
    return f"{text(figure.value)}{units.behind(figure, text)}"


def rows_layout(
    count: int, title: str, text: Text | None = None, *, log: bool = False, row: int = 26
) -> dict[str, Any]:
    """The layout of rows one below the other; prices have units such as ``10 mJ`` on their axis."""
    axis: dict[str, Any] = {"title": {"text": title}, "rangemode": "tozero"}
    if text is not None:
        axis |= units_of(text)
    if log:
        axis |= {"type": "log", "dtick": 1, "exponentformat": "power"}
    return {
        "height": 110 + row * max(count, 2),
        "xaxis": axis,
        "yaxis": {"autorange": "reversed", "type": "category", "automargin": True},
    }


def seconds(microseconds: float) -> float:
    """With nanoseconds' tenths, which are enough to draw and keep a file small."""
    return round(microseconds * 1e-6, 10)
