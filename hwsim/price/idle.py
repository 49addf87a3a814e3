"""What neurons do in chip steps that are not their own segment's."""

from __future__ import annotations

from dataclasses import replace

import torch

from has8.errors import BackendError
from hwsim.activity import Activity
from hwsim.backends.fast.backend import Fast
from hwsim.backends.protocol import SegmentRun
from hwsim.backends.reference import Reference
from hwsim.boundary import count
from mapping.chip.segment import ChipSegment
from mapping.targets.schema import Registers


def idle_activity(segment: ChipSegment, registers: Registers, steps: int) -> Activity:
    """What a segment does from cleared state without input, for as many chip steps.

    All of its layers take part in each of these steps, and a spike acts a step after it was sent,
    or later by its delay: biases integrate, and neurons fire. A bias that the host writes is 0.

    Args:
        segment: the segment.
        registers: the target's.
        steps: at least 1.

    Returns:
        Spikes and updates of one sample, ``int64[steps, *shape]`` by population.
    """
    run = _run(pipelined(segment, steps), registers)
    events = {name: count(spikes, 1) for name, spikes in run.spikes.items()}
    return Activity(1, events, run.updated, run.overflows)


def pipelined(segment: ChipSegment, steps: int) -> ChipSegment:
    """A segment as a chip has it: each connection takes a step, and layers work at once.

    A population is as late as :meth:`~mapping.chip.segment.ChipSegment.depths` says, and spikes of
    shorter ways wait in the delays of :meth:`~mapping.chip.segment.ChipSegment.waits`.

    Args:
        segment: the segment.
        steps: chip steps.
    """
    waits = segment.waits()
    populations = tuple(
        replace(p, synapses=tuple(replace(s, delay=1 + waits[p.name, s.name]) for s in p.synapses))
        for p in segment.populations
    )
    return replace(segment, steps=steps, populations=populations)


def _run(segment: ChipSegment, registers: Registers) -> SegmentRun:
    nothing = {
        port.name: torch.zeros(1, *port.shape, dtype=torch.int64)
        if port.kind == "bias"
        else torch.zeros(segment.steps, 1, *port.shape, dtype=torch.bool)
        for port in segment.inputs
    }
    try:
        return Fast().compile(segment, registers)(nothing)
    except BackendError:  # of the two only the reference shifts sums to the right
        return Reference().compile(segment, registers)(nothing)
