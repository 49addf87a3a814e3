"""What happened in a run, counted: exact integers, summed over its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Overflow:
    """How often a register's range was left, over all neurons, steps and samples.

    Args:
        u_wraps: currents that wrapped around.
        v_clips: membranes that were clipped.
        biases: biases that the host wrote and that were clipped, over all neurons and samples.
    """

    u_wraps: int = 0
    v_clips: int = 0
    biases: int = 0

    def __add__(self, other: Overflow) -> Overflow:
        return Overflow(
            self.u_wraps + other.u_wraps,
            self.v_clips + other.v_clips,
            self.biases + other.biases,
        )


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Activity:
    """What happened in a run, summed over its samples; all counts are int64 and exact.

    Args:
        samples: how many.
        events: non-zero elements of each tensor that feeds a synapse or leaves a chip segment,
            by the node that makes it: ``[T, *shape]``, or ``[*shape]`` where it has no steps.
            For spikes these are the spikes, for biases that the host writes the writes,
            ``[*shape]``.
        updated: samples in which each neuron on a chip was updated, ``[T, *shape]`` by
            population: state, bias or input not zero.
        overflows: registers that left their range, by population.
    """

    samples: int
    events: Mapping[str, Counts]
    updated: Mapping[str, Counts]
    overflows: Mapping[str, Overflow]

    def __add__(self, other: Activity) -> Activity:
        """The activity of both runs."""
        return Activity(
            self.samples + other.samples,
            _added(self.events, other.events),
            _added(self.updated, other.updated),
            _added(self.overflows, other.overflows),
        )

    def __repr__(self) -> str:
        spikes = sum(int(counts.sum()) for counts in self.events.values())
        return f"Activity({self.samples:,} samples, {len(self.events)} tensors, {spikes:,} events)"


def _added(one: Mapping[Any, Any], two: Mapping[Any, Any]) -> dict[Any, Any]:
    both = {k: one[k] + two[k] for k in one if k in two}
    return {**one, **two, **both}


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class LearningActivity:
    """What happened while synapses learned on a chip, summed over samples.

    Args:
        samples: how many.
        more_steps: of each sample, beyond those of inference: for its label and its reward.
        updates: ``int64[E, 3]``, what the learning engine had to do: in which step, counted over
            all samples, for which neuron, and for how many of its synapses.
        thresholds: that the host wrote, each from all weights of a neuron, which it read.
        exchanges: in which it did.
        inputs: synapses of a neuron that learn.
    """

    samples: int
    more_steps: int
    updates: Counts
    thresholds: int
    exchanges: int
    inputs: int
