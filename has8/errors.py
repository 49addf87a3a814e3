"""Every error that has8 raises on purpose.

    Has8Error
    ├── UnknownName      a name that no registry holds; says which name is nearest
    ├── BadInput         a file, folder, shape or option that cannot be used
    ├── CheckpointError  a model file that is missing, broken, unsafe or of another layout
    ├── TraceError       a model that cannot be turned into a graph
    ├── TargetError      a target description with a wrong or missing entry
    ├── DoesNotFit       a layer that no tiling brings within a core's limits
    ├── BackendError     a simulator that is missing, died or ran out of time
    └── TrainingError    training that cannot go on (a loss that is not finite)

The message is one sentence for a person: what, what was expected, what to do. The command
line prints it and exits with code 1; it never shows a traceback for one of these. An error that
crosses processes arrives with its message and its fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from has8.text import printable


class Has8Error(Exception):
    """The root: catch this to catch every error that has8 raises on purpose."""

    def __str__(self) -> str:
        """The message on one line, whatever the names in it hold."""
        return printable(super().__str__())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle message and fields, whatever arguments a class is made with."""
        return Exception.__new__, (type(self), *self.args), self.__dict__


class UnknownName(Has8Error):
    """A name that is not registered.

    Args:
        kind: what was looked for, in words ("model", "target").
        name: the name that was asked for.
        known: the names that exist.

    Attributes:
        known: the names that exist, sorted.
        nearest: the known name that is most like ``name``; None if none is like it.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        near = get_close_matches(name, self.known, n=1, cutoff=0.4)
        self.nearest = near[0] if near else None
        hint = f"did you mean {self.nearest!r}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}known are {', '.join(self.known)}")


class BadInput(Has8Error):
    """A file, folder, tensor shape or option that cannot be used."""


class CheckpointError(Has8Error):
    """A model file that is missing, broken, unsafe or of another layout."""


class TraceError(Has8Error):
    """A model that cannot be turned into a graph."""


class TargetError(Has8Error):
    """A target description with a wrong or missing entry; the message gives its path."""


class DoesNotFit(Has8Error):
    """A layer that no tiling brings within the limits of one core.

    Args:
        layer: the layer's name.
        resource: which limit is broken, in words ("synapse bits").
        need: the smallest need that any tiling reaches, in the resource's unit.
        have: the target's limit, in the same unit.
        hint: what the user can do.

    Attributes:
        layer, resource, need, have, hint: the arguments.
    """

    def __init__(self, layer: str, resource: str, *, need: int, have: int, hint: str) -> None:
        self.layer, self.resource, self.hint = layer, resource, hint
        self.need, self.have = need, have
        super().__init__(
            f"layer {layer!r} does not fit on a core: it needs at least {need:,} {resource} "
            f"and a core has {have:,}; {hint}"
        )


class BackendError(Has8Error):
    """A simulator that is missing, died or ran out of time."""


class TrainingError(Has8Error):
    """Training that cannot go on; the last good checkpoint is kept."""
