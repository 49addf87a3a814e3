"""What the codings of an image have in common: values in [0, 1], T steps, no gradient."""

from __future__ import annotations

from torch import Tensor, nn

from has8.errors import BadInput

MOST_STEPS = 65_536
"""Most steps of a code: one more and a single image would fill a machine."""


def check_steps(steps: int, coding: str) -> None:
    """Refuse a number of steps that no code has.

    Raises:
        BadInput: if it is not from 1 to :data:`MOST_STEPS`.
    """
    if steps < 1:
        raise BadInput(f"{coding} coding needs at least 1 step, not {steps}")
    if steps > MOST_STEPS:
        raise BadInput(f"{coding} coding has at most {MOST_STEPS:,} steps, not {steps}")


class UnitEncoder(nn.Module):
    """Values in [0, 1] to T steps of binary spikes.

    Made for images, the first thing a network sees: no gradient passes back to the values.

    Args:
        steps: T, from 1 to :data:`MOST_STEPS`.

    Raises:
        BadInput: for another number of steps.
    """

    coding: str

    def __init__(self, steps: int) -> None:
        super().__init__()
        check_steps(steps, self.coding)
        self.steps = steps

    def encode(self, x: Tensor) -> Tensor:
        """``[B, ...]`` in [0, 1] to ``[T, B, ...]`` of 0.0 and 1.0."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``[B, ...]`` in [0, 1] to ``[T, B, ...]`` of 0.0 and 1.0, in the dtype of ``x``.

        Raises:
            BadInput: if a value lies outside [0, 1] or is not a number.
        """
        return self.encode(x.detach())

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"steps={self.steps}"
