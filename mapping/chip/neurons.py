"""Neuron models of chips: their constants, and the integer definition of one step.

A model is one class; :data:`NEURONS` lists them. Constants are integer arrays that broadcast over
a population's shape: ``()`` is one value for all neurons, ``(C, 1, 1)`` one for each channel,
``(C, H, W)`` one for each neuron.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np

from mapping.chip.arithmetic import Ints, decay, saturate, shift_left, wrap
from mapping.chip.payload import BINARY, Payload

if TYPE_CHECKING:
    from mapping.targets.schema import Registers, Reset

State = Mapping[str, Any]
"""The registers of some neurons by name: ``int64`` arrays, or tensors, of equal shape."""


class Step(NamedTuple):
    """What neurons did in one step.

    Args:
        state: their registers afterwards.
        spikes: which of them fired, bool; of graded spikes the payloads, 0 where none is sent.
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

    @property
    def payload(self) -> Payload:
        """What its spikes carry."""

    def cleared(self, zeros: Any) -> State:
        """The state at the start of a sample, made of ``zeros``, an array of the neurons' shape."""

    def step(self, state: State, drive: Any, registers: Registers) -> Step:
        """One step.

        Args:
            state: the registers.
            drive: sums of the weights of the spikes that arrive, times their payloads, whole
                numbers.
            registers: the target's arithmetic.
        """

    def faults(self, registers: Registers) -> list[str]:
        """What about its constants the target's registers do not hold, in words."""

    def compartments(self, registers: Registers) -> int:
        """How many of the target's compartments one neuron takes."""

    def starts(self, step: int) -> bool:
        """Whether its state is cleared once more in front of a step of a sample, 0 or later."""


@dataclass(frozen=True, slots=True, eq=False)
class Lif:
    """Leaky integrate and fire with a decaying current (CUBA).

    Per step: ``u = wrap(decay(u, du + offset) + (drive << shift))``;
    ``v = clip(decay(v, dv + offset) + u + (bias << bias_exp))``; spike where
    ``v > threshold << shift``. Offsets and shifts are the target's.

    Reset to "zero" clears the membrane at the end of a step with a spike. By all other rules the
    register keeps it, and that it is above the threshold says in the next step that the neuron
    fired: reset by "subtract" then takes ``threshold << shift`` off before clipping, a refractory
    step ends with ``v = 0`` whatever arrives, and "none" does nothing. "subtract_at_once" is
    "subtract", and ends each step with what that would do in the next, but for what it did already:
    ``v = clip(v - (spike - fired) * (threshold << shift))``.

    Args:
        du: decay of the current, in ``1 / 2**decay_bits`` a step.
        dv: decay of the membrane, in ``1 / 2**decay_bits`` a step.
        threshold: mantissa of the threshold; the comparison is strict.
        bias: mantissa of what is added to the membrane in every step.
        bias_exp: exponent of the bias.
        reset: what the membrane does after a spike, "zero", "subtract", "subtract_at_once" or
            "none".
        refractory: steps after a spike that add nothing to the membrane, 0 or 1; only where
            it resets to zero.
        clear_every: its state is cleared once in so many steps of a sample; 0 is never.
        clear_at: in front of which of these steps, from 0; a run that goes on from a given state
            counts its own steps.
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
    reset: Reset = "zero"
    refractory: int = 0
    clear_every: int = 0
    clear_at: int = 0

    @property
    def payload(self) -> Payload:
        """A spike or none."""
        return BINARY

    def cleared(self, zeros: Any) -> State:
        """Current ``u`` and membrane ``v``, both 0."""
        return {"u": zeros, "v": zeros}

    def step(self, state: State, drive: Any, registers: Registers) -> Step:
        """One step; see :class:`Neuron`."""
        r, before = registers, state["v"]
        threshold = shift_left(self.threshold, r.threshold_shift)
        current = decay(state["u"], self.du + r.current_decay_offset, r.decay_bits)
        current = current + shift_left(drive, r.synapse_shift)
        u = wrap(current, r.state_bits, keep_top=r.keep_top)
        bias = shift_left(self.bias, self.bias_exp)
        membrane = decay(before, self.dv + r.membrane_decay_offset, r.decay_bits) + u + bias
        fired = before > threshold
        if subtracts(self.reset):
            membrane = membrane - fired * threshold
        elif self.refractory:
            membrane = membrane * (before <= threshold)
        v = saturate(membrane, r.state_bits)
        spikes = v > threshold
        clips = int((v != membrane).sum())
        if self.reset == "subtract_at_once":
            left = v - spikes * threshold + fired * threshold
            v = saturate(left, r.state_bits)
            clips += int((v != left).sum())
        updated = (before != 0) | (u != 0) | (bias != 0) | (drive != 0)
        wraps = int((u != current).sum())
        clears = self.reset == "zero" and not self.refractory
        return Step({"u": u, "v": v * ~spikes if clears else v}, spikes, updated, wraps, clips)

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
        if self.reset not in tuple(r.resets):
            offered = " or ".join(map(repr, r.resets))
            found.append(f"its membrane resets by {self.reset!r}, and the target by {offered}")
        most = min(r.refractory_max, 1) if self.reset == "zero" else 0
        if type(self.refractory) is not int or not 0 <= self.refractory <= most:
            found.append(f"its refractory steps must be from 0 to {most}, not {self.refractory!r}")
        every, at = self.clear_every, self.clear_at
        if not (type(every) is type(at) is int and 0 <= at < max(every, 1) and every >= 0):
            found.append(f"its state cannot be cleared at step {at!r} of {every!r}")
        return found

    def compartments(self, registers: Registers) -> int:
        """How many of the target's compartments one neuron takes: what its reset asks for."""
        return registers.resets[self.reset]

    def starts(self, step: int) -> bool:
        """Whether it is cleared in front of a step; see :class:`Neuron`."""
        return self.clear_every > 0 and step % self.clear_every == self.clear_at


@dataclass(frozen=True, slots=True)
class _Program:
    """A neuron of a few instructions, without constants, on a train of some steps.

    Args:
        steps: of the train, as many as its payload has bits.
    """

    tables: ClassVar[Mapping[str, tuple[str, ...]]] = dict.fromkeys(Lif.tables, ())

    steps: int = 1

    def faults(self, registers: Registers) -> list[str]:
        """A payload that messages or the register do not hold, in words."""
        most = min(registers.message_bits, registers.state_bits - 1)
        if type(self.steps) is int and 1 <= self.steps <= most:
            return []
        return [f"its payload must have from 1 to {most} bits, not {self.steps!r}"]

    def compartments(self, registers: Registers) -> int:
        """One."""
        return 1

    def starts(self, step: int) -> bool:
        """Never within a sample."""
        return False


@dataclass(frozen=True, slots=True)
class Unpack(_Program):
    """Sends bit t of a payload t steps after the payload came, the lowest bit first.

    Per step: ``v = v + drive``; spike where ``v & 1``; ``v = v >> 1``. That is an addition, a test
    and a shift of one register.
    """

    model: ClassVar[str] = "unpack"

    @property
    def payload(self) -> Payload:
        """A spike or none."""
        return BINARY

    def cleared(self, zeros: Any) -> State:
        """What is left of the payload, ``v``."""
        return {"v": zeros}

    def step(self, state: State, drive: Any, registers: Registers) -> Step:
        """One step; see :class:`Neuron`."""
        arrived = state["v"] + drive
        v = saturate(arrived, registers.state_bits)
        clips = int((v != arrived).sum())
        return Step({"v": v >> 1}, (v & 1) != 0, v != 0, 0, clips)


@dataclass(frozen=True, slots=True)
class Pack(_Program):
    """Gathers the spikes of a train into a payload, that of step t as bit t, and sends it once.

    Per step: ``v = v >> 1``, with the highest bit of the payload set if a spike came;
    ``c = c + 1``; where c is the number of steps, v is sent unless it is 0, and both are cleared.
    That is a shift, a test, an addition of a constant, a counter and a test of it. As the counter
    never rests, neither does the neuron: it is updated in every step.
    """

    model: ClassVar[str] = "pack"

    @property
    def payload(self) -> Payload:
        """A bit for each step."""
        return Payload(self.steps)

    def cleared(self, zeros: Any) -> State:
        """The bits so far, ``v``, and how many they are, ``c``."""
        return {"v": zeros, "c": zeros}

    def step(self, state: State, drive: Any, registers: Registers) -> Step:
        """One step; see :class:`Neuron`."""
        v = (state["v"] >> 1) + ((drive != 0) * (1 << (self.steps - 1)))
        c = state["c"] + 1
        goes_on = c < self.steps
        return Step({"v": v * goes_on, "c": c * goes_on}, v * (c == self.steps), c > 0, 0, 0)


NEURONS: dict[str, type[Any]] = {model.model: model for model in (Lif, Unpack, Pack)}
"""Every neuron model by name."""


def subtracts(reset: str | None) -> bool:
    """Whether a reset takes the threshold off the membrane, in whichever step."""
    return reset in ("subtract", "subtract_at_once")


def constants(neuron: Neuron) -> dict[str, Ints]:
    """The integer constants of a neuron model, by name."""
    return {name: getattr(neuron, name) for name in _names(neuron, settings=False)}


def settings(neuron: Neuron) -> dict[str, Any]:
    """What else a neuron model is told, words and plain numbers, by name."""
    return {name: getattr(neuron, name) for name in _names(neuron, settings=True)}


def constant_names(model: type[Any]) -> tuple[str, ...]:
    """The names of a neuron model's integer constants."""
    return _names(model, settings=False)


def _names(model: Any, *, settings: bool) -> tuple[str, ...]:
    """Names of the fields that have a default, the settings, or of those that have none."""
    return tuple(f.name for f in fields(model) if (f.default is not MISSING) == settings)


def with_constants(neuron: Any, values: Mapping[str, Any]) -> Any:
    """A neuron of the same model with other constants, arrays or tensors."""
    return replace(neuron, **values)


def _outside(values: Ints, low: int, high: int) -> int | None:
    """The value that is furthest outside of a range; None if all are inside."""
    smallest, largest = int(np.min(values)), int(np.max(values))
    if low - smallest > 0 and low - smallest >= largest - high:
        return smallest
    return largest if largest > high else None
