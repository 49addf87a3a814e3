"""What the screens have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text as RichText

from has8.text import printable


class Text(RichText):
    """Rich's text of printable characters, whatever the names in it hold; markup is none."""

    def __init__(self, text: str = "", style: str = "", **options: Any) -> None:
        super().__init__(printable(text), style, **options)

    def append(self, text: RichText | str, style: Any = None) -> RichText:
        """Add text, as :meth:`rich.text.Text.append` does."""
        return super().append(printable(text) if isinstance(text, str) else text, style)


Row = tuple[str, RichText]


def heading(console: Console, text: str) -> None:
    """Print a heading."""
    console.print()
    console.print(Text(text, "bold"))


def indented(console: Console, *parts: RenderableType) -> None:
    """Print what stands below a heading."""
    for part in parts:
        console.print(Padding(part, (0, 0, 0, 2), expand=False))


def facts(rows: Iterable[Row]) -> Table:
    """Pairs of a word and what there is to say of it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for word, text in rows:
        grid.add_row(Text(word), text)
    return grid


def empty_table(*columns: str, left: int) -> Table:
    """An empty table; all columns but the first ``left`` are aligned to the right."""
    empty = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    for place, name in enumerate(columns):
        empty.add_column(Text(name), justify="left" if place < left else "right")
    return empty
