"""What Lava runs bit for bit as a target does, and what is refused because it would not.

A connection takes a step in Lava, so a loop needs as many steps of delay as it has connections.
And its LIF wraps only once, so a current must not reach three times its range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from has8.errors import BackendError, BadInput
from mapping.chip.neurons import Lif, Pack, Unpack
from mapping.chip.segment import ChipSegment, Population

if TYPE_CHECKING:
    from mapping.targets.schema import Registers

FIXED_REGISTERS = {
    "state_bits": 24,
    "decay_bits": 12,
    "current_decay_offset": 1,
    "membrane_decay_offset": 0,
    "synapse_shift": 6,
    "threshold_shift": 6,
}
"""What Lava 0.10's ``lava/proc/lif/models.py`` builds in, by the names of ``Registers``."""

SUM_BITS = 24
"""Bits of the sums that Lava's ``Conv`` sends."""


def check_faithful(segment: ChipSegment, registers: Registers) -> None:
    """Hold a segment to what Lava runs bit for bit.

    Args:
        segment: any.
        registers: the target's, or anything with the same attributes.

    Raises:
        BackendError: if Lava would run it otherwise; says why.
    """
    if reason := _unfaithful(segment, registers):
        raise BackendError(reason)


def _unfaithful(segment: ChipSegment, registers: Registers) -> str | None:
    """Why Lava would not run a segment bit for bit, in one sentence; None if it does."""
    for key, value in FIXED_REGISTERS.items():
        found = getattr(registers, key)
        if found != value:
            return f"Lava's LIF has {key} = {value} and the target {found}; use another backend"
    try:
        segment.depths()
    except BadInput as error:
        return f"Lava cannot run it in time: {error}"
    for population in segment.populations:
        if reason := _unfaithful_neurons(segment, population, registers):
            return reason
    return None


def _unfaithful_neurons(
    segment: ChipSegment, population: Population, registers: Registers
) -> str | None:
    """Why Lava would not run a population's neurons bit for bit; None if it does."""
    name, neuron = population.name, population.neuron
    drive = segment.largest_drive(population)
    if drive > (1 << SUM_BITS - 1) - 1 and _graded(segment, population):
        return (
            f"Lava's convolutions have {SUM_BITS} bits, and {name!r} could be driven by {drive:,}"
        )
    if isinstance(neuron, Unpack | Pack):
        alike = isinstance(neuron, Unpack) or neuron.steps == segment.steps
        return None if alike else f"{name!r} packs {neuron.steps} of {segment.steps} steps"
    if not isinstance(neuron, Lif):
        return f"Lava runs only 'lif', 'unpack' and 'pack' here and {name!r} is {neuron.model!r}"
    if neuron.clear_every:
        return f"Lava clears state between samples alone, and {name!r} within one"
    if neuron.bias_exp.size > 1:
        return f"Lava's LIF has one bias_exp for all neurons, and {name!r} has several"
    half = 1 << (registers.state_bits - 1)
    kept = (1 << registers.decay_bits) - neuron.du - registers.current_decay_offset
    current = (half if kept.any() else 0) + (drive << registers.synapse_shift)
    limit = 3 * half if registers.keep_top else half
    if current >= limit:
        return (
            f"population {name!r} could reach a current of {current:,}, but Lava "
            f"wraps as the target does only below {limit:,}; use another backend"
        )
    return None


def _graded(segment: ChipSegment, population: Population) -> bool:
    """Whether spikes with payloads drive a population."""
    return any(segment.payload_of(synapse.source).graded for synapse in population.synapses)
