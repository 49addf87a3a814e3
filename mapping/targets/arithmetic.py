"""How to reckon with figures: sums, products, the largest, tables; alone and in arrays.

Every operation computes the value exactly as plain numbers would, the range by interval arithmetic,
the unit, and the entries that the result rests on.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mapping.targets.figures import Figure, computed

Array = NDArray[Any]


@dataclass(frozen=True, eq=False, slots=True)
class FigureArray:
    """Figures of one unit in an array, which rest on the same entries.

    Args:
        value: ``float64[...]``.
        low: of the same shape.
        high: of the same shape.
        unit: of each.
        cited: the entries of sheets that went into them.
    """

    value: Array
    low: Array
    high: Array
    unit: str = ""
    cited: frozenset[Figure] = frozenset()

    __array_ufunc__ = None

    def sum(self) -> Figure:
        """The sum over all axes."""
        value, low, high = (float(part.sum()) for part in (self.value, self.low, self.high))
        return computed(value, low, high, self.unit, self.cited)

    def max(self, axis: int) -> FigureArray:
        """The largest along an axis."""
        value, low, high = (part.max(axis) for part in (self.value, self.low, self.high))
        return FigureArray(value, low, high, self.unit, self.cited)

    def __add__(self, other: Operand) -> FigureArray:
        return cast(FigureArray, add(self, other))

    def __radd__(self, other: Operand) -> FigureArray:
        return cast(FigureArray, add(other, self))

    def __sub__(self, other: Operand) -> FigureArray:
        return cast(FigureArray, subtract(self, other))

    def __rsub__(self, other: Operand) -> FigureArray:
        return cast(FigureArray, subtract(other, self))

    def __mul__(self, other: Operand) -> FigureArray:
        return cast(FigureArray, multiply(self, other))

    def __rmul__(self, other: Operand) -> FigureArray:
        return cast(FigureArray, multiply(other, self))

    def __truediv__(self, other: Operand) -> FigureArray:
        return cast(FigureArray, divide(self, other))

    def __rtruediv__(self, other: Operand) -> FigureArray:
        return cast(FigureArray, divide(other, self))

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.value.shape))
        return f"FigureArray([{shape}] {self.unit})"


Operand = Figure | FigureArray | Array | float
FiguresT = TypeVar("FiguresT", Figure, FigureArray)


def largest(first: FiguresT, *others: FiguresT) -> FiguresT:
    """The largest of several figures, or of several arrays element by element.

    The range reaches from the largest of the lows to the largest of the highs, and the result
    rests on all of them.
    """
    for other in others:
        value, low, high = (
            _larger(getattr(first, part), getattr(other, part)) for part in ("value", "low", "high")
        )
        unit = _common_unit(first, other)
        first = _result(value, low, high, unit, first.cited | other.cited)
    return first


def interpolate(table: Mapping[int, Figure], at: float) -> Figure:
    """Read a table between its entries by straight lines; outside it the nearest entry holds.

    Args:
        table: at least one figure, all of one unit, by where it holds.
        at: where to read.

    Returns:
        A figure that rests on the one or two entries that decide it.
    """
    points = sorted(table.items())
    places = [place for place, _ in points]

    def read(numbers: list[float]) -> float:
        return float(np.interp(at, places, numbers))

    value = read([figure.value for _, figure in points])
    low = min(value, read([figure.low for _, figure in points]))  # rounding may lie beyond
    high = max(value, read([figure.high for _, figure in points]))
    inside = min(max(at, places[0]), places[-1])
    below = max(place for place in places if place <= inside)
    above = min(place for place in places if place >= inside)
    cited = table[below].cited | table[above].cited
    return computed(value, low, high, _common_unit(table[below], table[above]), cited)


class _Plain(NamedTuple):
    """A number or an array of numbers that is no figure."""

    value: Any
    low: Any
    high: Any
    unit: str = ""
    cited: frozenset[Figure] = frozenset()


_Term = Figure | FigureArray | _Plain


def _term(operand: Any) -> _Term | None:
    """An operand with the attributes of a figure; None if it is no number."""
    if isinstance(operand, (Figure, FigureArray)):
        return operand
    if isinstance(operand, (int, float, np.number, np.ndarray)):
        return _Plain(operand, operand, operand)
    return None


def add(left: Any, right: Any) -> Any:
    """The sum of two operands, of which one is a figure or an array of figures."""
    a, b = _term(left), _term(right)
    if a is None or b is None:
        return NotImplemented
    ends = a.low + b.low, a.high + b.high
    return _result(a.value + b.value, *ends, _common_unit(a, b), a.cited | b.cited)


def subtract(left: Any, right: Any) -> Any:
    """The difference of two operands, of which one is a figure or an array of figures."""
    a, b = _term(left), _term(right)
    if a is None or b is None:
        return NotImplemented
    ends = a.low - b.high, a.high - b.low
    return _result(a.value - b.value, *ends, _common_unit(a, b), a.cited | b.cited)


def multiply(left: Any, right: Any) -> Any:
    """The product of two operands, of which one is a figure or an array of figures."""
    a, b = _term(left), _term(right)
    if a is None or b is None:
        return NotImplemented
    unit = "·".join(unit for unit in (a.unit, b.unit) if unit)
    return _result(a.value * b.value, *_ends(operator.mul, a, b), unit, _factors(a, b))


def divide(left: Any, right: Any) -> Any:
    """The quotient of two operands, of which one is a figure or an array of figures.

    Raises:
        ZeroDivisionError: if the range of the divisor holds zero.
    """
    a, b = _term(left), _term(right)
    if a is None or b is None:
        return NotImplemented
    if np.any((b.low <= 0) & (b.high >= 0)):
        raise ZeroDivisionError(f"cannot divide by {right}: it may be zero")
    unit = "" if a.unit == b.unit else f"{a.unit or 1}/{b.unit}" if b.unit else a.unit
    return _result(a.value / b.value, *_ends(operator.truediv, a, b), unit, _factors(a, b))


def _ends(operate: Callable[[Any, Any], Any], a: _Term, b: _Term) -> tuple[Any, Any]:
    """The range of a product or quotient: its extremes lie where both operands are extreme."""
    first, *others = [operate(x, y) for x in _extremes(a) for y in _extremes(b)]
    low = high = first
    for corner in others:
        low, high = _smaller(low, corner), _larger(high, corner)
    return low, high


def _extremes(term: _Term) -> tuple[Any, ...]:
    return (term.low,) if term.low is term.high else (term.low, term.high)


def _factors(a: _Term, b: _Term) -> frozenset[Figure]:
    """What a product or quotient rests on: nothing if a factor is zero whatever any sheet says."""
    first, second = a.cited, b.cited
    if (not first and _is_zero(a)) or (not second and _is_zero(b)):
        return frozenset()
    return first | second


def _is_zero(term: _Term) -> bool:
    """Whether its range, in all of its elements, is zero and nothing else."""
    if isinstance(term.value, np.ndarray):
        return not any(end.any() for end in _extremes(term))
    return bool(term.low == term.high == 0)


def _common_unit(a: _Term, b: _Term) -> str:
    """The unit of a sum; a number without a unit takes the other's."""
    if a.unit and b.unit and a.unit != b.unit:
        raise ValueError(f"cannot take {a.unit} and {b.unit} together")
    return a.unit or b.unit


def _smaller(a: Any, b: Any) -> Any:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.minimum(a, b)
    return min(a, b)


def _larger(a: Any, b: Any) -> Any:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.maximum(a, b)
    return max(a, b)


def _result(value: Any, low: Any, high: Any, unit: str, cited: frozenset[Figure]) -> Any:
    if isinstance(value, np.ndarray):
        return FigureArray(value, low, high, unit, cited)
    return computed(value, low, high, unit, cited)
