"""Small figures for notebooks: tables and drawings as HTML that needs no script and no style sheet.

Colours of text and lines are the notebook's own, so that they suit a light and a dark one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from math import log10

from has8.text import printable

PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")
"""Fills that any colour vision tells apart (Okabe and Ito 2008); text has the page's colour."""
CELL = "padding:1px 10px;border:none;vertical-align:top;text-align:"
FAINT = "opacity:.65"
WIDTH, ROW, NAMES = 560, 20, 150
"""Pixels of a drawing of ranges, of each of its rows, and of the names at its left."""

LONGEST = 22
"""Characters of a name that have room."""

Range = tuple[str, float, float, float]
"""A name, and the low, the best and the high."""


def text(words: str) -> str:
    """Text that cannot be markup, on one line."""
    return escape(printable(words))


def block(title: str, *parts: str) -> str:
    """Parts below a title; these are HTML, the title is text."""
    return f"<div><b>{text(title)}</b>{''.join(parts)}</div>"


def note(words: str) -> str:
    """A sentence in a faint colour."""
    return f'<div style="{FAINT}">{text(words)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table of text; all columns but the first ``left`` are aligned to the right."""

    def line(cells: Sequence[str], style: str = "") -> str:
        sides = ("left" if at < left else "right" for at in range(len(cells)))
        drawn = (
            f'<td style="{CELL}{side};{style}">{text(cell)}</td>'
            for side, cell in zip(sides, cells, strict=True)
        )
        return f'<tr style="background:none">{"".join(drawn)}</tr>'

    body = "".join(line(row) for row in rows)
    return f'<table style="margin:4px 0">{line(head, FAINT) if any(head) else ""}{body}</table>'


def drawing(width: int, height: int, marks: Iterable[str], label: str) -> str:
    """An SVG of some marks, with what it shows in words for who cannot see it."""
    return (
        f'<svg role="img" aria-label="{text(label)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" style="display:block;margin:4px 0;max-width:100%">'
        f"{''.join(marks)}</svg>"
    )


def rectangle(x: float, y: float, width: float, height: float, fill: str, hover: str) -> str:
    """A rectangle with words to read when the pointer is on it."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}">'
        f"<title>{text(hover)}</title></rect>"
    )


def words(x: float, y: float, said: str, style: str = "") -> str:
    """Text in a drawing, from its left end."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="11" fill="currentColor" style="{style}">'
        f"{text(said)}</text>"
    )


def ranges(rows: Sequence[Range], shown: Callable[[float], str]) -> str:
    """Ranges below each other on one logarithmic axis, each with its best marked.

    Args:
        rows: those whose best is not above zero have no bar.
        shown: a number as a person reads it.
    """
    above = [max(low, best / 1e3) for _, low, best, _ in rows if best > 0]
    if not above:
        return ""
    start, end = min(above), max(high for *_, high in rows)
    room, wide = WIDTH - NAMES - 80, max(log10(end / start), 1e-9)

    def at(value: float) -> float:
        return NAMES + room * max(0.0, log10(value / start)) / wide if value > 0 else NAMES

    marks = []
    for number, (name, low, best, high) in enumerate(rows):
        y = number * ROW
        marks.append(words(0, y + 14, name if len(name) <= LONGEST else f"{name[:LONGEST]}…"))
        if best > 0:
            left, right = at(low), max(at(high), at(low) + 2)
            hover = f"{name}: {shown(best)}, {shown(low)} to {shown(high)}"
            marks.append(rectangle(left, y + 5, right - left, 10, PALETTE[0], hover))
            marks.append(rectangle(at(best) - 1, y + 2, 3, 16, "currentColor", hover))
        marks.append(words(WIDTH - 72, y + 14, shown(best)))
    said = "; ".join(f"{name} {shown(best)}" for name, _, best, _ in rows)
    return drawing(WIDTH, ROW * len(rows) + 2, marks, said)
