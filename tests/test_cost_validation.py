"""Prices against measurements: the docs say what the benchmark finds; held out means out."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the installed packages

from benchmarks import cost_validation as validation  # noqa: E402
from benchmarks.cost_cases import (  # noqa: E402
    ASSUMED,
    CASES,
    NENGO,
    STEPS,
    Case,
    Layer,
    Stack,
    activity,
    load,
    mapped,
)
from hwsim import estimate  # noqa: E402
from hwsim.program import Run  # noqa: E402
from mapping import load_target  # noqa: E402

KEYS = {
    "name",
    "quantity",
    "what",
    "unit",
    "measured",
    "low",
    "best",
    "high",
    "held_out",
    "contained",
    "contained_held_out",
    "factor",
    "factor_held_out",
    "factor_own",
    "source",
    "cores",
    "cores_published",
    "note",
}


def run(*arguments):
    found = CliRunner().invoke(validation.main, arguments, catch_exceptions=False)
    assert found.exit_code == 0
    return found.stdout


def test_the_page_on_trust_says_what_the_page_on_prices_says():
    docs = ROOT / "docs"
    prices = (docs / "prices.md").read_text().splitlines()
    said = (docs / "trust.md").read_text().split("fitted to the others", 1)[1].splitlines()
    rows = [line for line in said if line.startswith("| ") and " of " in line]
    assert len(rows) == 3 and not set(rows) - set(prices)


def test_the_docs_have_every_line_that_the_benchmark_prints():
    """So what is not within its range is said not to be."""
    docs = (ROOT / "docs/prices.md").read_text().splitlines()
    printed = [line for line in run().splitlines() if line]
    assert [line for line in printed if line not in docs] == []
    assert sum("**no**" in line for line in printed) > 0
    for name in (*CASES, *validation.LEFT_OUT):
        assert any(line.startswith(f"| {name}") for line in docs)


def test_one_line_of_json():
    name = "sequential MNIST"
    found = json.loads(run("--json", "--network", name).splitlines()[-1])
    assert found["benchmark"] == "cost_validation"
    entries = {*validation.ENTRIES, validation.ONE}
    assert set(found["observed"]) == set(found["fitted"]) == entries
    assert found["left_out"] == validation.LEFT_OUT
    assert len(found["rows"]) == len(CASES[name].measured)
    for row in found["rows"]:
        assert set(row) == KEYS and row["name"] == name
        assert row["low"] <= row["best"] <= row["high"]
        assert row["contained"] == (row["low"] <= row["measured"] <= row["high"])
        low, best, high = row["held_out"]
        assert row["contained_held_out"] == (low <= row["measured"] <= high)
        assert row["factor"] == pytest.approx(row["best"] / row["measured"])
        assert row["factor_held_out"] == pytest.approx(best / row["measured"])
        assert row["source"] and row["note"]


@pytest.fixture
def claims(monkeypatch):
    """A network says twice of every entry what it does, and something of those it is silent of."""

    def claim(name):
        ranges = validation.ranges
        monkeypatch.setattr(
            validation,
            "ranges",
            lambda said, without: ranges(
                {entry: {**of, name: 2 * of.get(name, 1.0)} for entry, of in said.items()},
                without,
            ),
        )
        validation.fitted.cache_clear()

    yield claim
    monkeypatch.undo()
    validation.fitted.cache_clear()


def test_what_a_held_out_case_says_does_not_enter_its_own_price(claims):
    """Its numbers may be anything; those of others are not."""
    own, other = "Braille", "sequential MNIST"
    prices = {name: [row.held_out for row in validation.rows([name])] for name in (own, other)}
    claims(own)
    assert [row.held_out for row in validation.rows([own])] == prices[own]
    assert [row.held_out for row in validation.rows([other])] != prices[other]


def test_a_network_that_stands_for_another_is_held_out_with_it(claims):
    name = "MNIST of NxTF's paper"
    before = [row.held_out for row in validation.rows([name])]
    claims(CASES[name].stand_in)
    assert [row.held_out for row in validation.rows([name])] == before


def test_the_rule_of_the_fit():
    said = {"step_us": {"a": 2.0, "b": 8.0, "c": -1.0}, "exchange_us": {"a": 30.0}}
    found = validation.ranges(said, ())
    assert found["step_us"] == pytest.approx((0.0, 4.0, 12.0))
    assert found["exchange_us"] == pytest.approx((30 / 4, 30, 30 * 4))  # 2 and 8 are 4 apart
    found = validation.ranges(said, ("c",))
    assert found["step_us"] == pytest.approx((2 / 1.5, 4.0, 12.0))
    assert validation.ranges(said, ("a", "c"))["exchange_us"] == pytest.approx((50, 50, 50))


def test_the_sheet_has_what_the_fit_prints():
    printed = [line.split("|") for line in validation.entries()[2:]]
    assert len(printed) == len(validation.ENTRIES) + 2
    assert [line[2] for line in printed] == [line[3] for line in printed]


def test_parts_at_other_entries_are_those_of_a_target_that_has_them():
    case = CASES["sequential MNIST"]
    fitted = validation.fitted(frozenset({"Braille"}))
    target = validation.powered(case, validation.target_without("Braille"), fitted[validation.ONE])
    found = validation.best_parts(case, {name: best for name, (_, best, _) in fitted.items()})
    for part, figure in validation.at_level(case, target, 1).items():
        if part != "sample":
            assert found[part] == pytest.approx(figure.value)


def test_what_a_measurement_tells_makes_the_best_price_that_measurement():
    """All other entries are those of the fit."""
    entries = {name: best for name, (_, best, _) in validation.fitted().items()}
    said = validation.observed(entries)
    told = [(case, m) for case in CASES.values() for m in case.measured if m.tells]
    assert {entry for _, m in told for entry in m.tells} == set(validation.PARTS)
    for case, m in told:
        own = {entry: said[entry][case.name] for entry in m.tells}
        at = validation.best_parts(case, {**entries, **own})
        assert sum(at[part] for part in m.parts) == pytest.approx(m.value)
        factors = {value / entries[entry] for entry, value in own.items()}
        assert max(factors) == pytest.approx(min(factors))  # one factor for all that it tells


def test_figures_of_a_board_itself():
    """Keyword spotting's processors drew 70 mW; what a measurement tells is not used on it."""
    (time, dynamic, _) = CASES["keyword spotting"].measured
    case = CASES["keyword spotting"]
    at = validation.best_parts(
        case,
        {entry: figure.value for entry, figure in validation.stated().items()}
        | {"processor_mw": 70.0 / 3, "static_mw": 29.7},
    )
    exact = (at["events"] + 70.0 * time.value * 1e-3) / dynamic.value
    assert validation.own_board(case, dynamic) == pytest.approx(exact, rel=1e-3)
    (only,) = CASES["ten layers of 256"].measured
    assert validation.own_board(CASES["ten layers of 256"], only) is None


@pytest.mark.parametrize("written", [False, True])
def test_parts_are_those_of_a_report(written):
    """A network that has a chip for itself costs what ``hwsim.estimate`` says."""
    net = Stack((20,), (Layer(12), Layer(6, recurrent=True)), ASSUMED, written=written)
    times = (*STEPS, "exchange", "sample")
    case = Case("small", "", "", (), steps=40, net=net, times=times)
    target = load_target("loihi")
    on_cores = mapped(case, target)
    report = estimate(on_cores, Run("fast", torch.zeros(1, 1), activity(case, on_cores, 1)))
    found = validation.parts(case, target, on_cores, load(case, on_cores, 1))
    assert found["messages"] > 0 and found["events"] > 0
    for name, part in (*report.price.latency.parts_us.items(), *energies(report).items()):
        assert (found[name].low, found[name].value, found[name].high) == pytest.approx(
            (part.low, part.value, part.high)
        )


def energies(report):
    energy = report.energy_uj
    return {"events": energy.events} | {
        name: energy.parts[name] for name in ("used_cores", "other_cores", "embedded")
    }


def test_published_numbers_of_cores_and_neurons():
    """Where a core holds what was published, has8 needs as many of them."""
    target = load_target("loihi")
    net = mapped(CASES["CIFAR-10 of NxTF's notebook"], target)
    (chip,) = net.chip_segments
    assert sum(p.size for p in chip.populations if p.name != "input") == 76_810
    assert (net.placement.cores_used, net.placement.chips_used) == (157, 2)
    assert mapped(CASES["Braille"], target).placement.cores_used == 53


def test_rates_of_nengo_defaults_by_its_own_formula():
    """Leaky neurons with gains and biases for drawn largest rates and intercepts, at input zero."""
    rates = []
    for rest in (0.001, 0.002):
        for highest in (0.9, 1.0):
            largest, intercept = np.meshgrid(
                np.linspace(200, 400, 201), np.linspace(-1, highest, 1001)[:-1]
            )
            drive = 1 / (1 - np.exp((rest - 1 / largest) / 0.02))
            bias = 1 - (1 - drive) / (intercept - 1) * intercept
            above = np.maximum(bias - 1, 1e-12)
            every = np.ceil((rest + 0.02 * np.log1p(1 / above)) * 1000)  # steps of 1 ms
            rates.append((np.where(bias > 1, 1 / every, 0)).mean())
    low, best, high = NENGO
    assert (low, high) == pytest.approx((min(rates), max(rates)), rel=0.01)
    assert best == pytest.approx((low * high) ** 0.5, rel=0.01)
