"""How spikes lie in memory where speed counts: sample by sample, channels last.

Everybody sees them time first, ``[T, B, C, H, W]`` or ``[T, B, N]``. What comes from
:func:`logical` is a view of such storage, and :func:`stored` of that costs nothing.
"""

from __future__ import annotations

from torch import Tensor


def stored(x: Tensor) -> Tensor:
    """``[T, B, C, ...]`` as dense ``[B, T, ..., C]``, copied only if it lies otherwise."""
    return x.movedim(2, -1).transpose(0, 1).contiguous()


def logical(x: Tensor) -> Tensor:
    """``[B, T, ..., C]`` as ``[T, B, C, ...]``, a view."""
    return x.transpose(0, 1).movedim(-1, 2)
