"""Neuron models of chips: their constants, and the integer definition of one step.

A model is one class; :data:`NEURONS` lists them. Constants are integer arrays that broadcast over
a population's shape: ``()`` is one value for all neurons, ``(C, 1, 1)`` one for each channel,
``(C, H, W)`` one for each neuron.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np

from mapping.chip.arithmetic import Ints, decay, saturate, shift_left, wrap

if TYPE_CHECKING:
    from mapping.targets.schema import Registers

State = Mapping[str, Any]
"""The registers of some neurons by name: ``int64`` arrays, or tensors, of equal shape."""


class Step(NamedTuple):
    """What neurons did in one step.

    Args:
        state: their registers afterwards.
        spikes: which of them fired, bool.
        updated: which of them had a state, bias or input that was not zero, bool.
        wraps: how many currents wrapped around.
        clips: how many membranes were clipped.
    """

    state: State
    spikes: Any
    updated: Any
    wraps: int
    clips: int


class Neuron(Protocol):
    """A neuron model with its constants."""

    model: ClassVar[str]
    """Its name, as targets list it."""
    tables: ClassVar[Mapping[str, tuple[str, ...]]]
    """The constants that a core keeps in a table of few entries, by the table's limit."""

    def cleared(self, zeros: Any) -> State:
        """The state at the start of a sample, made of ``zeros``, an array of the neurons' shape."""

    def step(self, state: State, drive: Any, registers: Registers) -> Step:
        """One step.

        Args:
            state: the registers.
            drive: sums of the weights of the spikes that arrive, whole numbers.
            registers: the target's arithmetic.
        """

    def faults(self, registers: Registers) -> list[str]:
        """What about its constants the target's registers do not hold, in words."""


@dataclass(frozen=True, slots=True, eq=False)
class Lif:
    """Leaky integrate and fire with a decaying current (CUBA), reset to zero.

    Per step: ``u = wrap(decay(u, du + offset) + (drive << shift))``;
    ``v = clip(decay(v, dv + offset) + u + (bias << bias_exp))``; spike where
    ``v > threshold << shift``; there ``v = 0``. Offsets and shifts are the target's.

    Args:
        du: decay of the current, in ``1 / 2**decay_bits`` a step.
        dv: decay of the membrane, in ``1 / 2**decay_bits`` a step.
        threshold: mantissa of the threshold; the comparison is strict.
        bias: mantissa of what is added to the membrane in every step.
        bias_exp: exponent of the bias.
        reset: what the membrane does after a spike; "zero" is the only way.
    """

    model: ClassVar[str] = "lif"
    tables: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "threshold_configs": ("threshold",),
        "compartment_configs": ("du", "dv"),
    }

    du: Ints
    dv: Ints
    threshold: Ints
    bias: Ints
    bias_exp: Ints
    reset: str = "zero"

    def cleared(self, zeros: Any) -> State:
        """Current ``u`` and membrane ``v``, both 0."""
        return {"u": zeros, "v": zeros}

    def step(self, state: State, drive: Any, registers: Registers) -> Step:
        """One step; see :class:`Neuron`."""
        r, before = registers, state["v"]
        current = decay(state["u"], self.du + r.current_decay_offset, r.decay_bits)
        current = current + shift_left(drive, r.synapse_shift)
        u = wrap(current, r.state_bits, keep_top=r.keep_top)
        bias = shift_left(self.bias, self.bias_exp)
        membrane = decay(before, self.dv + r.membrane_decay_offset, r.decay_bits) + u + bias
        v = saturate(membrane, r.state_bits)
        spikes = v > shift_left(self.threshold, r.threshold_shift)
        updated = (before != 0) | (u != 0) | (bias != 0) | (drive != 0)
        wraps, clips = int((u != current).sum()), int((v != membrane).sum())
        return Step({"u": u, "v": v * ~spikes}, spikes, updated, wraps, clips)

    def faults(self, registers: Registers) -> list[str]:
        """What about its constants the target's registers do not hold, in words."""
        r, full = registers, 1 << registers.decay_bits
        rules = {
            "current decay": (self.du, 0, min(full - 1, full - r.current_decay_offset)),
            "membrane decay": (self.dv, 0, min(full - 1, full - r.membrane_decay_offset)),
            "threshold": (self.threshold, 0, r.threshold_max),
            "bias": (self.bias, r.bias_min, r.bias_max),
            "bias exponent": (self.bias_exp, 0, r.bias_exp_max),
        }
        found = [
            f"its {name} must be from {low:,} to {high:,}, not {worst:,}"
            for name, (values, low, high) in rules.items()
            if (worst := _outside(values, low, high)) is not None
        ]
        if self.reset not in r.resets:
            found.append(
                f"its membrane resets by {self.reset!r}, and the target by {r.resets[0]!r}"
            )
        return found


NEURONS: dict[str, type[Any]] = {model.model: model for model in (Lif,)}
"""Every neuron model by name."""


def constants(neuron: Neuron) -> dict[str, Ints]:
    """The integer constants of a neuron model, by name."""
    values = {field.name: getattr(neuron, field.name) for field in fields(neuron)}  # type: ignore[arg-type]
    return {name: value for name, value in values.items() if not isinstance(value, str)}


def with_constants(neuron: Any, values: Mapping[str, Any]) -> Any:
    """A neuron of the same model with other constants, arrays or tensors."""
    return replace(neuron, **values)


def _outside(values: Ints, low: int, high: int) -> int | None:
    """The value that is furthest outside of a range; None if all are inside."""
    smallest, largest = int(np.min(values)), int(np.max(values))
    if low - smallest > 0 and low - smallest >= largest - high:
        return smallest
    return largest if largest > high else None
