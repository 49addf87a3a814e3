"""A network cut between host and chip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["host", "chip"]
KEEP = "keep it on the host (--pin '{}=host')"
"""What a user can do with a layer, by its name, that a chip cannot take."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Nodes that run together on one side.

    Args:
        name: unique; for a chip segment the common prefix of its nodes' names.
        side: "host" or "chip".
        nodes: in an order in which they can run.
        inputs: nodes outside it whose results it needs.
        outputs: its nodes whose results others need, or the model's output.
        reason: why it is on this side, in one sentence.
    """

    name: str
    side: Side
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """A node that stays on the host although it works on steps, or an ANN layer.

    Args:
        node: its name.
        reason: what a chip would need that it does not give.
    """

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Partition:
    """Segments in an order in which they can run, and what could not go to the chip."""

    segments: tuple[Segment, ...]
    rejections: tuple[Rejection, ...]

    @property
    def on_chip(self) -> tuple[Segment, ...]:
        """The segments on the chip."""
        return tuple(s for s in self.segments if s.side == "chip")

    @property
    def on_host(self) -> tuple[Segment, ...]:
        """The segments on the host."""
        return tuple(s for s in self.segments if s.side == "host")
