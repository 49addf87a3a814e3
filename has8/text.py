"""Text from elsewhere, made fit to be shown: names of files, layers and chips can hold anything."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line, as it is but for control, direction and other unprintable characters.

    Those stand as Python writes them, such as ``\\x1b``, so that no name moves a cursor, colours a
    terminal, begins a line or hides what stands beside it.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def file_name(text: str) -> str:
    """The printable text as one part of a path, with ``_`` where a path would part."""
    return printable(text).replace("/", "_").replace("\\", "_")
