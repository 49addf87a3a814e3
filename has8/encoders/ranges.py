"""What a coding can take, checked where every way to it passes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from has8.errors import BadInput


def check_numbers(x: Tensor, coding: str) -> None:
    """Refuse values that are not numbers: no code stands for them.

    Args:
        x: values of any shape.
        coding: its name, for the error.

    Raises:
        BadInput: if one is NaN.
    """
    low, _ = _ends(x)
    if math.isnan(low):
        raise BadInput(
            f"{coding} coding takes numbers, not NaN: look for it in the images, or in the layers "
            f"in front of the encoder"
        )


def check_unit(x: Tensor, coding: str) -> None:
    """Refuse values outside [0, 1].

    Args:
        x: values of any shape.
        coding: its name, for the error.

    Raises:
        BadInput: if one is, or is NaN.
    """
    low, high = _ends(x)
    if not (low >= 0 and high <= 1):
        raise BadInput(
            f"{coding} coding takes values in [0, 1], not in [{low:.4g}, {high:.4g}]: scale the "
            f"images, and leave out normalisation"
        )


def _ends(x: Tensor) -> tuple[float, float]:
    """The least and the largest value, both NaN if one is, 0 where no value is held."""
    if not x.numel() or x.is_meta:
        return 0.0, 0.0
    low, high = torch.stack(torch.aminmax(x.detach())).tolist()
    return low, high
