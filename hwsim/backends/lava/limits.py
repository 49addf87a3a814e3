"""What Lava runs bit for bit as a target does, and what is refused because it would not.

Lava cannot clear a loop between samples: it would carry spikes from one into the next. And its LIF
wraps only once, so a current must not reach three times its range. Needs NumPy alone: segments and
registers may be anything with the attributes of the types named here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hwsim.backends.lava.isolate import IsolatedError

if TYPE_CHECKING:
    from mapping.chip.segment import ChipSegment, Population
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


def check_faithful(segment: ChipSegment, registers: Registers) -> None:
    """Hold a segment to what Lava runs bit for bit.

    Raises:
        IsolatedError: if Lava would run it otherwise; says why.
    """
    if reason := _unfaithful(segment, registers):
        raise IsolatedError(reason)


def _unfaithful(segment: ChipSegment, registers: Registers) -> str | None:
    """Why Lava would not run a segment bit for bit, in one sentence; None if it does."""
    for key, value in FIXED_REGISTERS.items():
        found = getattr(registers, key)
        if found != value:
            return f"Lava's LIF has {key} = {value} and the target {found}; use another backend"
    known = {port.name for port in segment.inputs}
    for population in segment.populations:
        if population.neuron != "lif":
            return f"Lava runs only 'lif' here and {population.name!r} is {population.neuron!r}"
        for synapse in population.synapses:
            if synapse.source not in known:
                return (
                    f"population {population.name!r} is fed by {synapse.source!r}, which does not "
                    "run before it; Lava cannot clear a loop between samples, use the reference"
                )
        known.add(population.name)
        current, limit = _largest_current(population, registers)
        if current >= limit:
            return (
                f"population {population.name!r} could reach a current of {current:,}, but Lava "
                f"wraps as the target does only below {limit:,}; use another backend"
            )
    return None


def _largest_current(population: Population, registers: Registers) -> tuple[int, int]:
    """What |u| cannot exceed before it wraps, and below what Lava wraps it as the target does."""
    half = 1 << (registers.state_bits - 1)
    kept = (1 << registers.decay_bits) - population.du - registers.current_decay_offset
    largest = half if kept else 0
    for synapse in population.synapses:
        weight = synapse.weight.reshape(len(synapse.weight), -1).astype(np.int64)
        positive, negative = weight.clip(min=0).sum(axis=1), weight.clip(max=0).sum(axis=1)
        total = int(np.max(np.maximum(positive, -negative)))
        largest += total << max(synapse.weight_exp, 0) << registers.synapse_shift
    return largest, 3 * half if registers.keep_top else half
