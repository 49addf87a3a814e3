"""The mantissas that a weight may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from has8.errors import BadInput

if TYPE_CHECKING:
    from mapping.targets.schema import Registers


def weight_grid(registers: Registers, bits: int, sign_mode: str) -> tuple[int, int, int]:
    """The mantissas of weights of so many bits: ``range(low, high + 1, step)``.

    Mixed signs cost the lowest bit: at 8 bits they give -256..254 in steps of 2, excitatory
    weights 0..255, inhibitory -255..0. One bit of mixed signs is 0 or -256, two are -256, -128, 0
    and 128. Source: nengo-loihi ``builder/discretize.py``.

    Args:
        registers: of the target.
        bits: width of the grid; what the target does not store is stored in :func:`stored_bits`.
        sign_mode: "mixed", "excitatory" or "inhibitory".

    Raises:
        BadInput: if the target stores no weights of that width or sign mode.
    """
    stored_bits(registers, bits)
    if sign_mode not in registers.sign_modes:
        allowed = ", ".join(registers.sign_modes)
        raise BadInput(f"sign mode {sign_mode!r} is not supported; allowed are {allowed}")
    full = 1 << registers.weight_magnitude_bits
    step = 1 << (registers.weight_magnitude_bits - bits + (sign_mode == "mixed"))
    low = {"mixed": -full, "excitatory": 0, "inhibitory": step - full}[sign_mode]
    return low, 0 if sign_mode == "inhibitory" else full - step, step


def default_bits(registers: Registers) -> int:
    """The bits of a weight where none are asked for: 8, or the widest that the target stores."""
    return min(8, registers.weight_bits[-1])


def stored_bits(registers: Registers, bits: int) -> int:
    """The narrowest width that the target stores and that holds a grid of ``bits`` bits.

    Raises:
        BadInput: if there is none.
    """
    widest = registers.weight_bits[-1]
    if not 1 <= bits <= widest:
        raise BadInput(f"weights of {bits} bits cannot be stored; choose from 1 to {widest}")
    return next(width for width in registers.weight_bits if width >= bits)
