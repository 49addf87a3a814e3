"""Names that users type, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from has8.errors import BadInput, UnknownName
from has8.values import described

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of named things that answers an unknown name with the nearest known one.

    Args:
        kind: what the table holds, in one word for messages ("model", "slope").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that enters its subject under ``name``.

        Raises:
            ValueError: if the name is taken.
        """

        def enter(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            return entry

        return enter

    def get(self, name: str) -> T:
        """The entry called ``name``.

        Raises:
            UnknownName: if there is none; the message names the nearest.
            BadInput: if it is no name.
        """
        if not isinstance(name, str):
            raise BadInput(f"expected the name of a {self.kind}, not {described(name)}")
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownName(self.kind, name, self._entries) from None

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)
