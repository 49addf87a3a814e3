"""From a model to a chip: graph, segments, integers, cores."""

from __future__ import annotations

from mapping.artifact import load, save
from mapping.mapped import Mapped
from mapping.pipeline import map_model
from mapping.targets.schema import Target, load_target, target_names

__all__ = ["Mapped", "Target", "load", "load_target", "map_model", "save", "target_names"]
