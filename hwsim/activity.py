"""What every simulator of a chip segment takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from has8.errors import BackendError, BadInput
from mapping.chip.segment import ChipSegment
from mapping.targets.schema import Registers

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Overflow:
    """How often a register's range was left, over all neurons, steps and samples.

    Args:
        u_wraps: currents that wrapped around.
        v_clips: membranes that were clipped.
    """

    u_wraps: int = 0
    v_clips: int = 0

    def __add__(self, other: Overflow) -> Overflow:
        return Overflow(self.u_wraps + other.u_wraps, self.v_clips + other.v_clips)


@dataclass(frozen=True, slots=True)
class SegmentRun:
    """What one segment did with one batch.

    Args:
        spikes: of each population, ``bool[T, B, *shape]``.
        updated: how many samples updated each neuron in each step (state, bias or input not
            zero), ``int64[T, *shape]`` for each population; empty where a backend cannot tell.
        overflows: for each population; empty where a backend cannot tell.
        membranes: if asked for, of each population at the end of each step, after its resets,
            ``int32[T, B, *shape]``, or int64 where registers have more than 32 bits.
        fired: how many samples fired, ``int64[T, *shape]`` for each population, where the
            backend has counted that already.
        arithmetic: what each population was computed in, in words; empty where a backend has but
            one way.
    """

    spikes: Mapping[str, Tensor]
    updated: Mapping[str, Counts] = field(default_factory=dict)
    overflows: Mapping[str, Overflow] = field(default_factory=dict)
    membranes: Mapping[str, Tensor] = field(default_factory=dict)
    fired: Mapping[str, Counts] = field(default_factory=dict)
    arithmetic: Mapping[str, str] = field(default_factory=dict)


class Executable(Protocol):
    """A segment made ready to run."""

    def __call__(
        self, inputs: Mapping[str, Tensor], *, first: int = 0, membranes: bool = False
    ) -> SegmentRun:
        """Run one batch.

        Args:
            inputs: the spikes of each port, ``bool[T, B, *shape]``; every sample starts from
                cleared state.
            first: the number of the batch's first sample in the whole run, for what happens by
                chance; backends in which nothing does ignore it.
            membranes: whether to keep them.

        Raises:
            BackendError: if membranes are asked for and the backend cannot tell them.
        """


class Backend(Protocol):
    """A way to run chip segments: three members."""

    name: str

    def unavailable(self) -> str | None:
        """Why it cannot run here, in one sentence; None if it can."""

    def compile(self, segment: ChipSegment, registers: Registers) -> Executable:
        """Make a segment ready to run."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What happened in a run, summed over its samples; all counts are int64 and exact.

    Args:
        samples: how many.
        events: non-zero elements of each tensor that feeds a synapse or leaves a chip segment,
            by the node that makes it: ``[T, *shape]``, or ``[*shape]`` where it has no steps.
            For spikes these are the spikes.
        updated: samples in which each neuron on a chip was updated, ``[T, *shape]`` by
            population: state, bias or input not zero.
        overflows: registers that left their range, by population.
        boundary_bytes: of the spike messages between host and chip, by (segment, "in" or "out").
    """

    samples: int
    events: Mapping[str, Counts]
    updated: Mapping[str, Counts]
    overflows: Mapping[str, Overflow]
    boundary_bytes: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def __add__(self, other: Activity) -> Activity:
        """The activity of both runs."""
        return Activity(
            self.samples + other.samples,
            _added(self.events, other.events),
            _added(self.updated, other.updated),
            _added(self.overflows, other.overflows),
            _added(self.boundary_bytes, other.boundary_bytes),
        )


def _added(one: Mapping[Any, Any], two: Mapping[Any, Any]) -> dict[Any, Any]:
    both = {k: one[k] + two[k] for k in one if k in two}
    return {**one, **two, **both}


@dataclass(frozen=True, slots=True)
class Run:
    """What a mapped model did with some samples.

    Args:
        backend: the name of the backend that ran the chip segments.
        logits: ``float32[N, classes]``, the model's output; time first if it has steps.
        activity: counts over all samples.
        spikes: if recorded, those of every population by segment and population,
            ``bool[T, N, *shape]``; else empty.
        inputs: if recorded with the spikes, those into every port, likewise.
        membranes: if recorded, those of every population at the end of each step.
        arithmetic: what each population was computed in, in words; empty where the backend has
            but one.
    """

    backend: str
    logits: Tensor
    activity: Activity
    spikes: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    inputs: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    membranes: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    arithmetic: Mapping[str, str] = field(default_factory=dict)


def check_kinds(segment: ChipSegment) -> None:
    """Refuse neurons and synapses that no backend knows.

    Raises:
        BackendError: if there are any.
    """
    for population in segment.populations:
        if population.neuron != "lif":
            raise BackendError(
                f"population {population.name!r} has {population.neuron!r} neurons, and only "
                "'lif' can be simulated; keep this layer on the host"
            )
        for synapse in population.synapses:
            if synapse.kind not in ("conv2d", "linear"):
                raise BackendError(
                    f"synapse {synapse.name!r} is a {synapse.kind!r}, and only 'conv2d' and "
                    "'linear' can be simulated; keep this layer on the host"
                )


def checked_inputs(segment: ChipSegment, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The spikes of a segment's ports, bool.

    Raises:
        BadInput: if a port's spikes are missing or have another shape, or there is no sample.
    """
    checked: dict[str, Tensor] = {}
    for port in segment.inputs:
        if port.name not in inputs:
            raise BadInput(
                f"segment {segment.name!r} needs the spikes of {port.name!r}, but was given only "
                f"{sorted(inputs)}"
            )
        spikes = inputs[port.name].detach()
        samples = next(iter(checked.values()), spikes).shape[1:2]
        want = (segment.steps, *samples, *port.shape)
        if tuple(spikes.shape) != want or 0 in want:
            raise BadInput(
                f"the spikes of {port.name!r} have shape {list(spikes.shape)}, but segment "
                f"{segment.name!r} takes [steps, batch, *shape] = {list(want)} of at least one "
                "sample"
            )
        checked[port.name] = spikes.bool()
    return checked
