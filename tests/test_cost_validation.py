"""Prices against measurements: the docs say what the benchmark finds; held out means out."""

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the installed packages

from benchmarks import cost_validation as validation  # noqa: E402
from benchmarks.cost_cases import (  # noqa: E402
    ASSUMED,
    CASES,
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
from mapping.targets.sheets import with_figures  # noqa: E402

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
    "source",
    "cores",
    "cores_published",
    "note",
}


def run(*arguments):
    found = CliRunner().invoke(validation.main, arguments, catch_exceptions=False)
    assert found.exit_code == 0
    return found.stdout


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
    assert set(found["observed"]) == set(found["fitted"]) == set(validation.ENTRIES)
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


def test_what_a_held_out_case_says_does_not_enter_its_own_price(monkeypatch):
    """Its numbers may be anything; those of others are not."""
    own, other = "Braille", "sequential MNIST"
    before = validation.observed()
    prices = {name: [row.held_out for row in validation.rows([name])] for name in (own, other)}
    wrong = {entry: {**of, own: 1e6} for entry, of in before.items()}
    monkeypatch.setattr(validation, "observed", lambda: wrong)
    assert [row.held_out for row in validation.rows([own])] == prices[own]
    assert [row.held_out for row in validation.rows([other])] != prices[other]


def test_a_network_that_stands_for_another_is_held_out_with_it(monkeypatch):
    name = "MNIST of NxTF's paper"
    before = [row.held_out for row in validation.rows([name])]
    wrong = {e: {**of, CASES[name].stand_in: 1e6} for e, of in validation.observed().items()}
    monkeypatch.setattr(validation, "observed", lambda: wrong)
    assert [row.held_out for row in validation.rows([name])] == before


def test_the_rule_of_the_fit(monkeypatch):
    said = {"a": 2.0, "b": 8.0, "c": -1.0}
    monkeypatch.setattr(validation, "observed", lambda: {"step_us": said})
    assert validation.refitted("step_us") == (0.0, pytest.approx(4.0), 12.0)
    assert validation.refitted("step_us", ("c",)) == pytest.approx((2 / 1.5, 4.0, 12.0))
    assert validation.refitted("step_us", ("a", "b")) is None


def test_an_observed_value_makes_the_best_price_the_measurement():
    """Put into the sheet alone."""
    name = "N-TIDIGITS"
    for entry, what in (("step_us", "time"), ("energy_error", "energy")):
        (path,) = (path for path, of in validation.paths().items() if of == entry)
        value = validation.observed()[entry][name]

        def change(figure, path=path, value=value):
            if figure.path != path:
                return figure
            return type(figure).exact(value, figure.unit)

        target = with_figures(load_target("loihi"), change)
        (measured,) = (m for m in CASES[name].measured if m.quantity == what)
        _, best, _ = validation.price(CASES[name], measured, target)
        assert best == pytest.approx(measured.value)


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
