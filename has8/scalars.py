"""Single numbers in a saved state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from has8.errors import CheckpointError


def scalar(state: Mapping[str, Any], key: str, default: float) -> float:
    """The number under a key, or the default where there is none.

    torch itself would take the first of several numbers for a single one.

    Raises:
        CheckpointError: if the tensor holds anything but one number.
    """
    if key not in state:
        return default
    value = state[key]
    if not isinstance(value, Tensor) or (value.dim() > 0 and value.numel() != 1):
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise CheckpointError(
            f"{key!r} must be a single number, not {found}: has8 has one for a whole layer"
        )
    return default if value.is_meta else float(value)
