"""The result of mapping a model: everything that later stages and the artefact need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mapping.chip.segment import ChipSegment
from mapping.cores.placement import Placement
from mapping.graph.ir import Graph
from mapping.integers.quantize import LayerError
from mapping.partition.cut import Partition
from mapping.targets.schema import Target


@dataclass(frozen=True, slots=True)
class Mapped:
    """A model cut between host and chip.

    Args:
        graph: the whole model in float, rewritten for the cut.
        partition: segments in the order of execution, and what could not go to the chip.
        chips: the integers of each chip segment, in the order of execution.
        errors: of each population on the chip, by name.
        placement: which core holds what.
        target: the chip.
        provenance: what it was made from: model configuration, options, version of has8, and
            what the caller added.
    """

    graph: Graph
    partition: Partition
    chips: tuple[ChipSegment, ...]
    errors: Mapping[str, LayerError]
    placement: Placement
    target: Target
    provenance: Mapping[str, Any]

    def chip(self, name: str) -> ChipSegment:
        """The chip segment called ``name``."""
        return next(segment for segment in self.chips if segment.name == name)
