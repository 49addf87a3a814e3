"""Duplicate coding: the same values in every step (Muramatsu & Yu 2021), and counting them."""

from __future__ import annotations

from torch import Tensor, nn

from has8.encoders.ranges import check_numbers
from has8.encoders.unit import check_steps


def count_weights(steps: int) -> tuple[float, ...]:
    """1 for each of T steps: decodes spikes to their number."""
    return (1.0,) * steps


def encode_duplicate(x: Tensor, steps: int) -> Tensor:
    """The values ``[B, ...]`` in each of T steps, ``[T, B, ...]``, a view.

    Raises:
        BadInput: if a value is not a number.
    """
    check_numbers(x, DuplicateEncoder.coding)
    return x.expand(steps, *x.shape)


class DuplicateEncoder(nn.Module):
    """Values repeated over T steps; they stay values, so what they drive stays off the chip.

    Args:
        steps: T, at least 1.

    Raises:
        BadInput: if there are no steps.
    """

    coding = "duplicate"

    def __init__(self, steps: int) -> None:
        super().__init__()
        check_steps(steps, self.coding)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [T, B, ...]``; see :func:`encode_duplicate`."""
        return encode_duplicate(x, self.steps)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"steps={self.steps}"
