"""Counting what happens in a run, batch by batch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from hwsim.activity import Activity, Counts, Overflow
from hwsim.backends.protocol import SegmentRun
from hwsim.boundary import count
from mapping.graph.ir import Graph
from mapping.graph.repeats import repeats
from mapping.partition.segments import Segment


class Counter:
    """The activity of a run so far; memory does not grow with the samples.

    Args:
        graph: of the mapping.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.samples = graph, 0
        self.events: dict[str, Counts] = {}
        self.updated: dict[str, Counts] = {}
        self.overflows: dict[str, Overflow] = {}
        self.seen: dict[str, int] = {}

    def begin(self, samples: int) -> None:
        """A new batch."""
        self.samples += samples
        self.seen = {}

    def count(self, name: str, x: Tensor) -> None:
        """Count what is not zero in the tensor of node ``name``, once in a batch."""
        if name not in self.seen:
            self.add(name, count(x, self.graph[name].type.batch_axis))

    def add(self, name: str, counts: Counts) -> None:
        """Take over what was counted of node ``name``."""
        self.seen[name] = int(counts.sum())
        _add(self.events, name, counts)

    def add_chip(self, segment: Segment, fed: Mapping[str, Tensor], run: SegmentRun) -> None:
        """Count the spikes and biases into a chip segment, and the spikes inside."""
        for name, fired in run.fired.items():
            self.add(name, fired)
        for name, entering in fed.items():
            if repeats(self.graph[name]):  # biases, each of which is written once a sample
                written = np.full(entering.shape[1:], len(entering), np.int64)
                self.add(name, written)
            else:
                self.count(name, entering)
        for name, spikes in run.spikes.items():
            self.count(name, spikes)
        for name, updated in run.updated.items():
            _add(self.updated, name, updated)
        for name, overflow in run.overflows.items():
            self.overflow(name, overflow)

    def overflow(self, name: str, overflow: Overflow) -> None:
        """Count what left its range in a population."""
        self.overflows[name] = self.overflows.get(name, Overflow()) + overflow

    def activity(self) -> Activity:
        """What was counted."""
        return Activity(self.samples, self.events, self.updated, self.overflows)


def _add(totals: dict[str, Counts], name: str, counts: Counts) -> None:
    if name in totals:
        totals[name] += counts
    else:
        totals[name] = counts.copy()
