"""Draws: one triangle each, the same for all reports; a few prices tell those of every draw."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from builders import law
from hypothesis import given
from hypothesis import strategies as st

from has8 import load_checkpoint
from hwsim import estimate, simulate
from hwsim.price.draws import DRAWS, drawn, likely, share_below
from mapping import map_model
from mapping.targets.figures import Figure

MODEL = Path(__file__).parent.parent / "examples" / "models" / "digits.pt"


@pytest.fixture(scope="module")
def cost():
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    mapped = map_model(load_checkpoint(MODEL).model, calibration=images)
    return estimate(mapped, simulate(mapped, images))


def exact(figure, value):
    return msgspec.structs.replace(figure, value=value, low=value, high=value)


@law(20)
@given(ends=st.lists(st.floats(0, 1e6), min_size=3, max_size=3).map(sorted))
def test_draws_lie_in_the_range_and_follow_from_the_name(ends):
    low, best, high = ends
    figure = Figure(best, low, high, "mW", sheet="chip", path="power.static_mw")
    values = drawn(figure)
    assert values.shape == (DRAWS,)
    assert (values >= low * (1 - 1e-9)).all() and (values <= high * (1 + 1e-9)).all()
    assert (values == drawn(figure)).all()


def test_the_best_is_the_likeliest_in_logarithms():
    figure = Figure(3.0, 1.0, 9.0, "µs", sheet="chip", path="link.step_us")
    logs = np.log(drawn(figure) / 3) / np.log(3)  # a triangle from -1 to 1
    assert abs(logs.mean()) < 0.1 and logs.var() == pytest.approx(1 / 6, rel=0.2)
    other = msgspec.structs.replace(figure, path="link.message_us")
    assert abs(np.corrcoef(drawn(figure), drawn(other))[0, 1]) < 0.2
    low_of_zero = drawn(msgspec.structs.replace(figure, low=0.0))
    assert (low_of_zero == drawn(figure)).all()  # as far below 3 as 9 is above it


def test_a_few_prices_tell_those_of_every_draw(cost):
    """Every entry is changed at once, and the whole is priced again."""
    values = {entry: drawn(entry) for entry in cost.cited if entry.low < entry.high}
    assert len(values) > 8
    for draw in (0, 100):

        def change(figure, draw=draw):
            value = values[figure][draw] if figure in values else figure.value
            return exact(figure, float(value))

        changed = cost.work.with_figures(change)
        price = changed.price(changed.mapped.target.accounting())
        assert cost.draws["total"][draw] == pytest.approx(price.energy_uj.total.value)
        assert cost.draws["events"][draw] == pytest.approx(price.energy_uj.events.value)
        assert cost.draws["latency"][draw] == pytest.approx(price.latency.total_us.value)


def test_what_is_likely_lies_within_the_range(cost):
    energy = cost.energy_uj
    for name, figure in (("total", energy.total), ("latency", cost.latency_us)):
        low, high = likely(cost.draws[name])
        assert figure.low < low < high < figure.high
    assert cost.pays == share_below(cost.draws["total"], cost.draws["host_only"])
    assert share_below(np.array([1.0, 2.0, 3.0, 4.0]), np.full(4, 2.0)) == (1 + 0.5) / 4
