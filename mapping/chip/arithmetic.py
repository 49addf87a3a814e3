"""The chip's integer arithmetic as pure functions on whole numbers.

They use operators and methods alone that NumPy's ``int64`` arrays and torch's ``int64`` tensors
share, so that one definition serves both. Sources: Lava 0.10 ``lava/proc/lif/models.py``
(bit-accurate LIF) and nengo-loihi ``emulator/interface.py``; where the two disagree the rule is an
argument, and the target says which one holds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Whole = Any
"""An ``int64`` array or tensor; what a function makes of one is another of its kind."""

FLOAT32_BITS, FLOAT64_BITS = 24, 53
"""Integers of up to so many bits are exact in floating point."""


def wrap(x: Whole, bits: int, *, keep_top: bool = True) -> Whole:
    """Two's complement wrap-around to ``bits`` bits.

    Args:
        x: any integers.
        bits: width of the register, sign included.
        keep_top: whether exactly ``+2**(bits-1)`` stays as it is (Lava's LIF: the range is
            ``(-2**(bits-1), 2**(bits-1)]``) or wraps to ``-2**(bits-1)`` (nengo-loihi's
            emulator: ``[-2**(bits-1), 2**(bits-1))``).
    """
    half, full = 1 << (bits - 1), 1 << bits
    if keep_top:
        return half - ((half - x) % full)
    return (x + half) % full - half


def saturate(x: Whole, bits: int) -> Whole:
    """Clip to ``±(2**(bits-1) - 1)``."""
    limit = largest_state(bits)
    return x.clip(-limit, limit)


def largest_state(bits: int) -> int:
    """The largest current, and the largest membrane, that a register of ``bits`` holds."""
    return (1 << (bits - 1)) - 1


def decay(x: Whole, d: Any, bits: int = 12) -> Whole:
    """``sign(x) * (|x| * (2**bits - d) >> bits)``: decay by ``d / 2**bits``, rounded to zero.

    Args:
        x: a register's content.
        d: the effective decay, register plus offset, in 0..2**bits; integers that broadcast.
        bits: width of the decay register.
    """
    full = 1 << bits
    left = x * (full - d)
    # A shift rounds down; below zero, what it would round away is added first.
    return (left + (left < 0) * (full - 1)) >> bits


def shift_left(x: Whole, places: Any) -> Whole:
    """``x * 2**places``; negative ``places`` shift right, rounding down.

    Args:
        x: any integers.
        places: an integer, or integers that broadcast.
    """
    if isinstance(places, int):
        return x << places if places >= 0 else x >> -places
    return (x << places.clip(0, None)) >> (-places).clip(0, None)


def largest_drive(weights: Any) -> Any:
    """How large the sum of some spikes' weights can become, for each output channel.

    Args:
        weights: an array or tensor ``[C, ...]`` of any kind of number.

    Returns:
        ``[C]``: the sum of the weights' magnitudes. No set of spikes drives an output of that
        channel by more, nor does any part of the sum exceed it on the way.
    """
    return abs(weights).reshape(len(weights), -1).sum(1)
