"""Numbers that know their range and what they rest on.

A :class:`Figure` is a number with the lowest and highest that it may be, its unit, and where it
comes from. Arithmetic on figures keeps the range by interval arithmetic, and the result knows every
entry of a sheet that went into it (:attr:`Figure.cited`). The value itself goes through the same
operations on floats as plain numbers would, bit for bit.

Interval arithmetic takes every figure to vary by itself, so a range is never too narrow, and too
wide where one figure enters twice.

The tags of trust:

- P: read in a primary repository, notebook or log, or measured here
- Q: from a primary paper, seen as quoted elsewhere
- S: from a secondary source
- D: derived or recomputed from other figures
- M: an assumption, or not verified
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, overload

import msgspec

if TYPE_CHECKING:
    from mapping.targets.arithmetic import Array, FigureArray

Trust = Literal["P", "Q", "S", "D", "M"]


class Figure(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A number, its range, and where it comes from.

    Figures are equal where all their fields are; ``<`` and its kin compare values. A format
    specification such as ``f"{figure:.1f}"`` formats the value alone.

    Args:
        value: the number to reckon with.
        low: the lowest that it may be, at most ``value``.
        high: the highest that it may be, at least ``value``.
        unit: such as "pJ"; empty for a pure number.
        source: where it was published; empty for a computed figure and where none is stated.
        trust: a tag of :mod:`mapping.targets.figures`; "M" for a computed figure where any of
            ``leaves`` has it, else "D".
        sheet: the name of the target or host that states it; empty for a computed figure.
        path: its place in that sheet, such as ``power.static_mw``.
        leaves: for a computed figure, the entries of sheets that went into it.

    Raises:
        ValueError: if not ``low <= value <= high``.
    """

    value: float
    low: float
    high: float
    unit: str = ""
    source: str = ""
    trust: Trust = "M"
    sheet: str = ""
    path: str = ""
    leaves: frozenset[Figure] = frozenset()

    __array_ufunc__ = None  # an array times a figure is the figure's to compute

    def __post_init__(self) -> None:
        """Check the range."""
        if not self.low <= self.value <= self.high:
            low, value, high = (_text(x) for x in (self.low, self.value, self.high))
            raise ValueError(f"the value {value} lies outside of its range, {low} to {high}")

    @classmethod
    def exact(cls, value: float, unit: str = "", *, source: str = "", trust: Trust = "M") -> Figure:
        """A number without a range; one without a source either is nothing to cite."""
        return cls(value, value, value, unit, source, trust)

    @property
    def cited(self) -> frozenset[Figure]:
        """The entries that it rests on: itself if a sheet states it, else its leaves."""
        return frozenset({self}) if self.path or self.source else self.leaves

    def with_unit(self, unit: str) -> Figure:
        """The same figure in another unit: what a conversion by hand ends with."""
        return computed(self.value, self.low, self.high, unit, self.cited)

    def at(self, value: float) -> Figure:
        """The same entry with another value and no range."""
        return msgspec.structs.replace(self, value=value, low=value, high=value)

    @overload
    def __add__(self, other: Figure | float) -> Figure: ...
    @overload
    def __add__(self, other: FigureArray | Array) -> FigureArray: ...
    def __add__(self, other: Any) -> Any:
        return _arithmetic().add(self, other)

    @overload
    def __radd__(self, other: float) -> Figure: ...
    @overload
    def __radd__(self, other: Array) -> FigureArray: ...
    def __radd__(self, other: Any) -> Any:
        return _arithmetic().add(other, self)

    @overload
    def __sub__(self, other: Figure | float) -> Figure: ...
    @overload
    def __sub__(self, other: FigureArray | Array) -> FigureArray: ...
    def __sub__(self, other: Any) -> Any:
        return _arithmetic().subtract(self, other)

    @overload
    def __rsub__(self, other: float) -> Figure: ...
    @overload
    def __rsub__(self, other: Array) -> FigureArray: ...
    def __rsub__(self, other: Any) -> Any:
        return _arithmetic().subtract(other, self)

    @overload
    def __mul__(self, other: Figure | float) -> Figure: ...
    @overload
    def __mul__(self, other: FigureArray | Array) -> FigureArray: ...
    def __mul__(self, other: Any) -> Any:
        return _arithmetic().multiply(self, other)

    @overload
    def __rmul__(self, other: float) -> Figure: ...
    @overload
    def __rmul__(self, other: Array) -> FigureArray: ...
    def __rmul__(self, other: Any) -> Any:
        return _arithmetic().multiply(other, self)

    @overload
    def __truediv__(self, other: Figure | float) -> Figure: ...
    @overload
    def __truediv__(self, other: FigureArray | Array) -> FigureArray: ...
    def __truediv__(self, other: Any) -> Any:
        return _arithmetic().divide(self, other)

    @overload
    def __rtruediv__(self, other: float) -> Figure: ...
    @overload
    def __rtruediv__(self, other: Array) -> FigureArray: ...
    def __rtruediv__(self, other: Any) -> Any:
        return _arithmetic().divide(other, self)

    def __neg__(self) -> Figure:
        return computed(-self.value, -self.high, -self.low, self.unit, self.cited)

    def __lt__(self, other: Figure | float) -> bool:
        return self.value < float(other)

    def __le__(self, other: Figure | float) -> bool:
        return self.value <= float(other)

    def __gt__(self, other: Figure | float) -> bool:
        return self.value > float(other)

    def __ge__(self, other: Figure | float) -> bool:
        return self.value >= float(other)

    def __float__(self) -> float:
        return float(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def __str__(self) -> str:
        number = f"{_text(self.value)} {self.unit}".rstrip()
        if self.low == self.high:
            return number
        return f"{number} ({_text(self.low)} to {_text(self.high)})"

    __repr__ = __str__


def computed(value: float, low: float, high: float, unit: str, cited: frozenset[Figure]) -> Figure:
    """A figure that was reckoned from the entries ``cited``."""
    trust: Trust = "M" if "M" in [leaf.trust for leaf in cited] else "D"
    return Figure(value, low, high, unit, trust=trust, leaves=cited)


@cache
def _arithmetic() -> ModuleType:
    """What reckons with figures: imported when used, since it takes NumPy, and help does not."""
    from mapping.targets import arithmetic

    return arithmetic


def _text(number: float) -> str:
    """A number as people read it, with three significant digits or more."""
    return f"{number:,.0f}" if abs(number) >= 999.5 else f"{number:.3g}"
