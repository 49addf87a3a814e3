"""What a spike carries: nothing but itself, or a whole number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Payload:
    """The values that the spikes of one source may have; 0 is no spike and no message.

    Args:
        bits: width, the sign included; 1 and unsigned is a spike or none.
        signed: whether a spike can be negative, in two's complement.
    """

    bits: int = 1
    signed: bool = False

    @property
    def graded(self) -> bool:
        """Whether there is more than a spike or none."""
        return self != BINARY

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest value."""
        if self.signed:
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1

    @property
    def largest(self) -> int:
        """The largest magnitude."""
        return max(map(abs, self.range))

    @property
    def kind(self) -> str:
        """The narrowest type of NumPy and of torch that holds the values, by its name."""
        if not self.graded:
            return "bool"
        held = {"uint8": (0, 255), **{f"int{n}": (-(1 << n - 1), (1 << n - 1) - 1) for n in WIDTHS}}
        low, high = self.range
        return next(name for name, (least, most) in held.items() if least <= low and high <= most)


WIDTHS = (8, 16, 32, 64)
BINARY = Payload()
"""A spike or none."""
