"""The result of mapping a model: everything that later stages and the artefact need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from has8.markup import block, note
from has8.units import many
from mapping.chip.segment import ChipSegment
from mapping.cores.drawing import draw_plan
from mapping.cores.floorplan import floor_plan
from mapping.cores.placement import Placement
from mapping.graph.ir import Graph
from mapping.integers.errors import LayerError
from mapping.partition.segments import Partition
from mapping.targets.schema import Target

SHOWN = 5
"""Segments that a mapping's ``repr`` names."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Mapped:
    """A model cut between host and chip.

    Args:
        graph: the whole model in float, rewritten for the cut.
        partition: segments in the order of execution, and what could not go to the chip.
        chip_segments: the integers of each, in the order of execution.
        errors: of each population on the chip, by name.
        placement: which core holds what.
        target: the chip.
        provenance: what it was made from: model configuration, options, version of has8, and
            what the caller added.
    """

    graph: Graph
    partition: Partition
    chip_segments: tuple[ChipSegment, ...]
    errors: Mapping[str, LayerError]
    placement: Placement
    target: Target
    provenance: Mapping[str, Any]

    def chip_segment(self, name: str) -> ChipSegment:
        """The chip segment called ``name``."""
        return next(segment for segment in self.chip_segments if segment.name == name)

    def __repr__(self) -> str:
        """What it is, in a few lines."""
        model = self.provenance.get("model", {})
        name = model.get("name", "model") if isinstance(model, Mapping) else "model"
        placement, host = self.placement, len(self.partition.on_host)
        lines = [
            f"Mapped({name} on {self.target.name}: {many(placement.cores_used, 'core')} on "
            f"{many(placement.chips_used, 'chip')}, {many(host, 'segment')} on the host)"
        ]
        for chip in self.chip_segments[:SHOWN]:
            neurons = sum(population.size for population in chip.populations)
            layers = many(len(chip.populations), "layer")
            lines.append(f"  {chip.name}: {layers}, {neurons:,} neurons, {chip.steps} steps")
        if len(self.chip_segments) > SHOWN:
            lines.append(f"  and {len(self.chip_segments) - SHOWN} more segments on the chip")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The chips and their layers, for notebooks."""
        first, *_ = repr(self).splitlines()
        if not self.placement.cores:
            return block(first, note("all layers are on the host"))
        return block(first, draw_plan(floor_plan(self.placement, self.target.chip)))
