"""The chip's integer arithmetic as pure functions on ``int64`` arrays.

Sources: Lava 0.10 ``lava/proc/lif/models.py`` (bit-accurate LIF) and nengo-loihi
``emulator/interface.py``; where the two disagree the rule is an argument, and the target says
which one holds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

FLOAT32_BITS, FLOAT64_BITS = 24, 53
"""Integers of up to so many bits are exact in floating point."""


def wrap(x: Ints, bits: int, *, keep_top: bool = True) -> Ints:
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
        wrapped: Ints = half - ((half - x) % full)
    else:
        wrapped = (x + half) % full - half
    return wrapped


def saturate(x: Ints, bits: int) -> Ints:
    """Clip to ``±(2**(bits-1) - 1)``."""
    limit = (1 << (bits - 1)) - 1
    clipped: Ints = np.clip(x, -limit, limit)
    return clipped


def decay(x: Ints, d: int | Any, bits: int = 12) -> Ints:
    """``sign(x) * (|x| * (2**bits - d) >> bits)``: decay by ``d / 2**bits``, rounded to zero.

    Args:
        x: a register's content.
        d: the effective decay, register plus offset, in 0..2**bits.
        bits: of the decay register.
    """
    decayed: Ints = np.sign(x) * ((np.abs(x) * ((1 << bits) - d)) >> bits)
    return decayed


def shift_left(x: Ints, places: int) -> Ints:
    """``x * 2**places``; a negative ``places`` shifts right, rounding down."""
    shifted: Ints = x << places if places >= 0 else x >> -places
    return shifted
