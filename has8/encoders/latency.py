"""Latency coding: one spike a value, and the larger the value the earlier (time to first spike)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from has8.encoders.ranges import check_unit
from has8.encoders.unit import UnitEncoder
from has8.errors import BadInput

FUNCTIONS = ("linear", "log")
MOST_LOG_STEPS = 89
"""e**88 is the last power that float32 holds."""


def latency_weights(steps: int, function: str = "linear") -> tuple[float, ...]:
    """The value that a spike at each of T steps stands for, from 1 down to 0.

    As there is one spike a value, the weighted sum over the steps is the value of its time:
    ``1 - t/(T-1)`` if linear, ``(e**(T-1-t) - 1) / (e**(T-1) - 1)`` if logarithmic.

    Raises:
        BadInput: for an unknown function or a number of steps that it cannot use.
    """
    _check(steps, function)
    last = steps - 1
    if function == "linear":
        return tuple(1 - t / last for t in range(steps))
    return tuple(math.expm1(last - t) / math.expm1(last) for t in range(steps))


def encode_latency(x: Tensor, steps: int, function: str = "linear") -> Tensor:
    """One spike a value: at ``round((T-1)(1-x))``, or ``round(T-1 - ln((e**(T-1) - 1) x + 1))``.

    So 1 fires in the first step and 0 in the last; halves are rounded to even.

    Args:
        x: values ``[B, ...]`` in [0, 1].
        steps: T, at least 2.
        function: "linear" or "log", which gives small values more of the steps.

    Returns:
        ``[T, B, ...]`` of 0.0 and 1.0 in the dtype of ``x``.

    Raises:
        BadInput: for an unknown function or a number of steps that it cannot use, and if a value
            lies outside [0, 1] or is not a number.
    """
    _check(steps, function)
    check_unit(x, LatencyEncoder.coding)
    last = steps - 1
    times = last * (1 - x)
    if function == "log":
        times = last - torch.log(math.expm1(last) * x + 1)
    clock = torch.arange(steps, device=x.device).view(-1, *(1,) * x.dim())
    return (torch.round(times) == clock).to(x.dtype)


def _check(steps: int, function: str) -> None:
    if function not in FUNCTIONS:
        raise BadInput(f"function must be one of {', '.join(FUNCTIONS)}, not {function!r}")
    if steps < 2 or (function == "log" and steps > MOST_LOG_STEPS):
        raise BadInput(
            f"latency coding needs at least 2 steps, and at most {MOST_LOG_STEPS} if "
            f"logarithmic, not {steps}"
        )


class LatencyEncoder(UnitEncoder):
    """Latency coding; see :func:`encode_latency`. Decode with :func:`latency_weights`.

    Args:
        steps: T, at least 2.
        function: "linear" or "log".

    Raises:
        BadInput: for an unknown function or a number of steps that it cannot use.
    """

    coding = "latency"

    def __init__(self, steps: int, function: str = "linear") -> None:
        _check(steps, function)
        super().__init__(steps)
        self.function = function

    def encode(self, x: Tensor) -> Tensor:
        """``[B, ...]`` in [0, 1] to ``[T, B, ...]`` of 0.0 and 1.0."""
        return encode_latency(x, self.steps, self.function)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"steps={self.steps}, function={self.function}"
