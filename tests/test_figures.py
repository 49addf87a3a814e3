"""Figures: arithmetic keeps value, range and citations; sheets give figures their place."""

from __future__ import annotations

import operator
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapping.targets.arithmetic import FigureArray, interpolate, largest
from mapping.targets.figures import Figure

OPERATIONS = (operator.add, operator.sub, operator.mul, operator.truediv)


def leaf(value, low=None, high=None, unit="pJ", path="a.b", trust="P"):
    """An entry of a sheet."""
    low, high = value if low is None else low, value if high is None else high
    return Figure(value, low, high, unit, "somewhere", trust, "chip", path)


@st.composite
def leaves(draw, path, positive=False):
    """Entries with and without a range."""
    bound = st.floats(1e-3 if positive else -1e6, 1e6)
    low, value, high = sorted(draw(st.one_of(st.tuples(bound, bound, bound), bound.map(thrice))))
    return leaf(value, low, high, "", path)


def thrice(number):
    return number, number, number


def members(figure):
    """Numbers that a figure may be."""
    return figure.low, figure.value, figure.high, (figure.low + figure.high) / 2


# arithmetic


@given(leaves("a"), leaves("b", positive=True), st.sampled_from(OPERATIONS))
def test_the_value_is_what_floats_give_and_the_range_holds_every_case(a, b, operate):
    both = operate(a, b)
    assert both.value == operate(a.value, b.value)
    assert all(both.low <= operate(x, y) <= both.high for x, y in product(members(a), members(b)))
    assert both.cited == {a, b}


@given(leaves("a", positive=True), st.floats(-1e6, 1e6), st.sampled_from(OPERATIONS))
def test_a_plain_number_on_either_side_changes_no_citation(a, number, operate):
    left = operate(number, a)
    assert left.value == operate(number, a.value)
    assert all(left.low <= operate(number, x) <= left.high for x in members(a))
    if number:
        right = operate(a, number)
        assert right.value == operate(a.value, number)
        assert all(right.low <= operate(x, number) <= right.high for x in members(a))
        assert left.cited == right.cited == {a}


@given(
    st.lists(st.integers(0, 2**40), min_size=1, max_size=40),
    leaves("a", positive=True),
    leaves("b", positive=True),
)
def test_arrays_follow_numpy_bit_for_bit(counts, a, b):
    counts = np.array(counts)
    work = counts * a + b * counts[::-1]
    np.testing.assert_array_equal(work.value, counts * a.value + b.value * counts[::-1])
    assert work.sum().value == float((counts * a.value + b.value * counts[::-1]).sum())
    for x, y in product(members(a), members(b)):
        case = counts * x + y * counts[::-1]
        assert ((work.low <= case) & (case <= work.high)).all()
        assert work.sum().low <= case.sum() <= work.sum().high
    table = work - np.ones((2, len(counts)))
    assert isinstance(table, FigureArray) and table.max(0).value.shape == counts.shape
    np.testing.assert_array_equal(table.max(1).value, table.value.max(1))


@given(st.lists(leaves("a"), min_size=1, max_size=5))
def test_the_largest_may_be_any_of_them(figures):
    most = largest(*figures)
    assert most.value == max(figure.value for figure in figures)
    assert most.low == max(figure.low for figure in figures)
    assert most.high == max(figure.high for figure in figures)
    assert most.cited == set(figures)


@given(st.dictionaries(st.integers(1, 50), leaves("a"), min_size=1, max_size=6), st.integers(0, 60))
def test_a_table_is_read_as_numpy_reads_it_and_cites_what_decides(table, at):
    table = {k: leaf(f.value, f.low, f.high, "ns", f"table.{k}") for k, f in table.items()}
    points = sorted(table.items())
    read = interpolate(table, at)
    assert read.value == np.interp(at, [k for k, _ in points], [f.value for _, f in points])
    assert read.low <= read.value <= read.high
    for place, figure in points:
        other = leaf(figure.value + 1, figure.low + 1, figure.high + 1, "ns", figure.path)
        changed = interpolate({**table, place: other}, at)
        assert figure in read.cited or changed.value == read.value
    assert len(read.cited) <= 2


def test_what_is_counted_zero_times_is_not_cited():
    price = leaf(24.0, 20.0, 30.0)
    for nothing in (0, 0.0, Figure.exact(0.0)):
        assert (nothing * price).cited == (price * nothing).cited == frozenset()
        assert (nothing * price).value == (nothing * price).high == 0
        assert (nothing / price).cited == frozenset()
    assert (np.zeros(3, int) * price).cited == frozenset()
    assert (np.array([0, 1]) * price).cited == {price}
    free = leaf(0.0, path="free")
    assert (free * price).cited == {free, price}  # another sheet may ask for it


def test_a_computed_figure_is_as_sure_as_what_it_rests_on():
    measured, assumed = leaf(2.0, path="m"), leaf(3.0, path="a", trust="M")
    assert (measured * 2).trust == "D" and (measured + assumed).trust == "M"
    assert (measured * 2).source == "" == (measured * 2).path
    assert (measured + assumed * 2).cited == {measured, assumed}


def test_sums_start_from_zero():
    prices = [leaf(2.0, 1.0, 4.0), leaf(3.0, path="c")]
    total = sum(prices)
    assert (total.value, total.low, total.high, total.unit) == (5.0, 4.0, 7.0, "pJ")
    assert -total == sum([-price for price in prices]) and (-total).low == -7.0


def test_units_go_along():
    power, time = leaf(2.0, unit="mW"), leaf(3.0, unit="µs", path="t")
    assert (power * time).unit == "mW·µs" and (3 * power).unit == "mW"
    assert (power / power).unit == "" and (1 / time).unit == "1/µs"
    energy = (power * time * 1e-3).with_unit("µJ")
    assert (energy.value, energy.unit, energy.cited) == (6e-3, "µJ", {power, time})
    with pytest.raises(ValueError, match="cannot take mW and µs together"):
        power + time


# reading


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (leaf(46.7, 40.1, 60.3, "µJ"), "46.7 µJ (40.1 to 60.3)"),
        (leaf(104.4, unit="mW"), "104 mW"),
        (leaf(0.000283, unit=""), "0.000283"),
        (leaf(14_384.5, 9_999.6, 20_000.0, "µs"), "14,384 µs (10,000 to 20,000)"),
    ],
)
def test_a_figure_reads_well(figure, text):
    assert str(figure) == repr(figure) == f"{figure}" == text


def test_a_figure_is_compared_and_formatted_by_its_value():
    price = leaf(24.0, 20.0, 30.0)
    assert float(price) == 24.0 and f"{price:.1f}" == "24.0"
    assert price < 25 and price <= leaf(24.0) and price > leaf(23.0) and price >= 24.0
    assert price != leaf(24.0) and price == leaf(24.0, 20.0, 30.0)
    assert len({price, leaf(24.0, 20.0, 30.0)}) == 1


def test_a_figure_does_not_change():
    with pytest.raises(AttributeError):
        leaf(1.0).value = 2.0


# failures


@pytest.mark.parametrize("numbers", [(5, 6, 7), (5, 3, 4), (float("nan"), 0, 1)])
def test_a_value_outside_of_its_range_is_refused(numbers):
    with pytest.raises(ValueError, match="lies outside of its range"):
        Figure(*numbers)


def test_a_divisor_that_may_be_zero_is_refused():
    with pytest.raises(ZeroDivisionError, match="it may be zero"):
        1 / leaf(1.0, 0.0, 2.0)
    with pytest.raises(ZeroDivisionError):
        leaf(1.0) / 0


def test_only_numbers_are_reckoned_with():
    with pytest.raises(TypeError):
        leaf(1.0) * "3"
