"""What every simulator of a chip segment takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from has8.errors import BadInput
from hwsim.activity import Counts, Overflow
from mapping.chip.segment import ChipSegment, Port
from mapping.targets.schema import Registers


@dataclass(frozen=True, slots=True, eq=False)
class SegmentState:
    """All that a segment remembers from one step to the next.

    Args:
        registers: registers of each population's neurons by name, ``int64[B, *shape]``.
        past: spikes of each source that a delayed synapse has yet to deliver, the newest last,
            ``[D, B, *shape]`` with the longest of its delays as D.
    """

    registers: Mapping[str, Mapping[str, Tensor]]
    past: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class SegmentRun:
    """What one segment did with one batch.

    Args:
        spikes: spikes of each population, ``bool[T, B, *shape]``; of graded ones the payloads, in
            the type that their :class:`mapping.chip.payload.Payload` names.
        updated: how many samples updated each neuron in each step (state, bias or input not
            zero), ``int64[T, *shape]`` for each population; empty where a backend cannot tell.
        overflows: registers that left their range, for each population; empty where a backend
            cannot tell.
        membranes: if asked for, membranes of each population at the end of each step: where a
            spike clears them at once after that, else as they were compared with the threshold,
            ``int32[T, B, *shape]``, or int64 where registers have more than 32 bits.
        fired: how many samples fired, ``int64[T, *shape]`` for each population, where the
            backend has counted that already.
        arithmetic: what each population was computed in, in words; empty where a backend has but
            one way.
        state: if asked for, what is remembered after the last step.
        last: membranes after the last step of the populations whose membranes the host reads,
            in what ``membranes`` are kept in, ``[B, *shape]``.
    """

    spikes: Mapping[str, Tensor]
    updated: Mapping[str, Counts] = field(default_factory=dict)
    overflows: Mapping[str, Overflow] = field(default_factory=dict)
    membranes: Mapping[str, Tensor] = field(default_factory=dict)
    fired: Mapping[str, Counts] = field(default_factory=dict)
    arithmetic: Mapping[str, str] = field(default_factory=dict)
    state: SegmentState | None = None
    last: Mapping[str, Tensor] = field(default_factory=dict)


class Executable(Protocol):
    """A segment made ready to run."""

    def __call__(
        self,
        inputs: Mapping[str, Tensor],
        *,
        first: int = 0,
        membranes: bool = False,
        state: SegmentState | None = None,
        keep_state: bool = False,
    ) -> SegmentRun:
        """Run one batch.

        Args:
            inputs: what enters each port: spikes ``bool[T, B, *shape]``, payloads of graded spikes
                in whole numbers, or biases ``int64[B, *shape]``.
            first: the number of the batch's first sample in the whole run. Only what happens by
                chance depends on it.
            membranes: whether to keep them.
            state: what every sample starts from; None is cleared state.
            keep_state: whether the result has the state after the last step.

        Raises:
            BadInput: if a port's spikes are missing or have another shape.
            BackendError: if the backend cannot tell membranes or state that are asked for.
        """


class Backend(Protocol):
    """A way to run chip segments: three members."""

    name: str

    def unavailable(self) -> str | None:
        """Why it cannot run here, in one sentence; None if it can."""

    def compile(self, segment: ChipSegment, registers: Registers) -> Executable:
        """Make a segment ready to run."""


NOUNS = {"spikes": "spikes", "bias": "biases"}
"""What enters a port of each kind."""


def membrane_dtype(registers: Registers) -> torch.dtype:
    """What recorded membranes are kept in."""
    return torch.int32 if registers.state_bits <= 32 else torch.int64


def longest_delays(segment: ChipSegment) -> dict[str, int]:
    """The longest delay of the synapses of each source that has delayed ones, in steps."""
    delays: dict[str, int] = {}
    for _, synapse in segment.synapses():
        if synapse.delay:
            delays[synapse.source] = max(synapse.delay, delays.get(synapse.source, 0))
    return delays


def binary(x: Tensor, name: str) -> Tensor:
    """What a port takes, spikes or none.

    Args:
        x: 0 or 1 in any type.
        name: of what sends them, for the error.

    Returns:
        The same as bool.

    Raises:
        BadInput: if an element is neither 0 nor 1, such as the number of several events.
    """
    if x.dtype == torch.bool:
        return x
    spikes = x.bool()
    if not bool((x == spikes).all()):
        raise BadInput(
            f"{name!r} sends spikes, 0 or 1 in a step, not {float(x[x != spikes][0]):g}: spread "
            f"events over more steps, or keep one of each step"
        )
    return spikes


def graded(x: Tensor, port: Port) -> Tensor:
    """What a port of graded spikes takes.

    Args:
        x: whole numbers.
        port: with the range of its payloads.

    Returns:
        The same in the type that holds the payloads.

    Raises:
        BadInput: if they are no whole numbers, or out of range.
    """
    low, high = port.payload.range
    least, most = (0, 0) if x.dtype == torch.bool else (int(x.min()), int(x.max()))
    if x.is_floating_point() or x.is_complex() or not low <= least <= most <= high:
        raise BadInput(
            f"{port.name!r} sends graded spikes, whole numbers from {low} to {high}, not "
            f"{x.dtype} from {least} to {most}"
        )
    return x.to(getattr(torch, port.payload.kind))


def checked_inputs(segment: ChipSegment, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What enters a segment's ports: spikes as bool, graded ones and biases as whole numbers.

    Raises:
        BadInput: if a port's spikes or biases are missing, have another shape or are not of their
            kind, or there is no sample.
    """
    checked: dict[str, Tensor] = {}
    samples: tuple[int, ...] = ()
    for port in segment.inputs:
        if port.name not in inputs:
            raise BadInput(
                f"segment {segment.name!r} needs the {NOUNS[port.kind]} of {port.name!r}, but was "
                f"given only {sorted(inputs)}"
            )
        entering, written = inputs[port.name].detach(), port.kind == "bias"
        samples = samples or tuple(entering.shape[not written :][:1])
        shape = (*(() if written else (segment.steps,)), *samples, *port.shape)
        if tuple(entering.shape) != shape or 0 in shape:
            axes = "[batch, *shape]" if written else "[steps, batch, *shape]"
            raise BadInput(
                f"the {NOUNS[port.kind]} of {port.name!r} have shape {list(entering.shape)}, but "
                f"segment {segment.name!r} takes {axes} = {list(shape)} of at least one sample"
            )
        if written and entering.dtype != torch.int64:
            raise BadInput(f"the biases of {port.name!r} must be int64, not {entering.dtype}")
        if port.payload.graded:
            checked[port.name] = graded(entering, port)
        else:
            checked[port.name] = entering if written else binary(entering, port.name)
    return checked
