"""Which layers belong on the chip: what is chosen, that it was run, and how it is told."""

import io
import json
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import BRANCHES_IN, Branches
from rich.console import Console

from has8.cli import main
from has8.errors import BadInput, UnknownName
from hwsim import estimate, simulate
from hwsim.exploration import Limits, choose, explore
from hwsim.report.exploration import exploration_to_dict, render_exploration
from mapping import load, map_model
from mapping.partition.pins import called
from mapping.repartition import repartition

DIGITS = Path(__file__).parent.parent / "examples" / "models" / "digits.pt"
LABELS = torch.arange(8) % 5


@pytest.fixture(scope="module")
def mapped():
    """Two layers beside each other, of a network whose integers are its floats."""
    whole = map_model(Branches(), calibration=BRANCHES_IN, inputs="spikes")
    return repartition(whole, ["neurons.side", "neurons.two"])


@pytest.fixture(scope="module")
def found(mapped):
    return explore(mapped, BRANCHES_IN, LABELS, most=4)


def test_a_front_is_of_partitions_that_were_run(mapped, found):
    assert [choice.measured.name for choice in found.choices] == ["all", "none"]
    for choice in found.choices:
        assert choice.off < 1e-9  # they fire alike
        run = simulate(choice.mapped, BRANCHES_IN, apart=8)
        assert choice.measured.board_uj == estimate(choice.mapped, run).energy_uj.total
    for choice in found.front:
        for other in found.choices:
            pairs = [*zip(other.amounts, choice.amounts, strict=True)]
            assert not (all(a <= b for a, b in pairs) and any(a < b for a, b in pairs))
    assert found.best.amounts[0] == min(choice.amounts[0] for choice in found.choices)
    assert found.best.measured.name == "all" and found.with_chip is found.best
    assert set(found.flips) == {"neurons.side", "neurons.two"}
    for name, more in found.flips.items():
        moved = repartition(mapped, set(found.layers) - {name})
        cost = estimate(moved, simulate(moved, BRANCHES_IN, apart=8))
        alone = cost.energy_uj.total.value - found.best.amounts[0]
        assert more["energy_uj"] == pytest.approx(alone, rel=1e-6)


def test_limits_and_objectives_choose_others(mapped, found):
    best = found.best.measured
    cost = best.cost
    for limits, held in (
        (Limits(cores=1, chips=1, accuracy=best.accuracy), True),
        (Limits(cores=0), False),
        (Limits(chips=0), False),
        (Limits(latency_us=cost.latency_us.value, energy_uj=best.board_uj.value), True),
        (Limits(latency_us=cost.latency_us.value * 0.99), False),
        (Limits(energy_uj=best.board_uj.value * 0.99), False),
        (Limits(accuracy=best.accuracy + 0.01), False),
    ):
        assert limits.hold(best) is held
    assert Limits(cores=200, chips=1).costs(128) == {"cores": 128.0}
    pins = {"neurons.side": "host"}
    choice, _ = choose(mapped, BRANCHES_IN, LABELS, pins=pins, limits=Limits(cores=1))
    assert choice.measured.name == "neurons.two"
    choice, run = choose(mapped, BRANCHES_IN, LABELS, objective="accuracy")
    assert choice.measured.accuracy == best.accuracy and len(run.apart) == 8
    with pytest.raises(BadInput, match="none of the partitions that were run keeps"):
        choose(mapped, BRANCHES_IN, LABELS, limits=Limits(accuracy=1.0))
    with pytest.raises(BadInput, match="accuracy needs labels"):
        choose(mapped, BRANCHES_IN, limits=Limits(accuracy=0.5))
    with pytest.raises(UnknownName, match="objective"):
        explore(mapped, BRANCHES_IN, objective="speed")


def test_it_is_told_in_a_table_and_the_same_bytes(mapped, found):
    out = io.StringIO()
    alone = replace(found, front=(found.best,))
    render_exploration(Console(file=out, width=120), "branches", alone)
    text = out.getvalue()
    for words in (
        "Front",
        "Beside it",
        "all, the least energy of the whole board, proven",
        "turns",
    ):
        assert words in text
    assert f"{found.best.measured.cost.latency_us.value / 1e3:.2f} ms" in text
    again = explore(mapped, BRANCHES_IN, LABELS, most=4)
    one, two = (json.dumps(exploration_to_dict("b", item)) for item in (found, again))
    assert one == two


def test_it_goes_on_where_it_was_stopped(mapped, found, tmp_path, monkeypatch):
    """Stopped in front of its second run: that alone is made then, and a damaged one again."""
    ran = []

    def counted(*arguments, **options):
        if stop and ran:
            raise KeyboardInterrupt
        ran.append(arguments[0])
        return simulate(*arguments, **options)

    def again():
        return explore(mapped, BRANCHES_IN, LABELS, most=4, keep=tmp_path)

    monkeypatch.setattr("hwsim.kept_runs.simulate", counted)
    stop = True
    with pytest.raises(KeyboardInterrupt):
        again()
    stop, ran = False, []
    wanted = json.dumps(exploration_to_dict("b", found))
    assert json.dumps(exploration_to_dict("b", again())) == wanted and len(ran) == 1
    ran.clear()
    kept = sorted(tmp_path.iterdir())
    kept[0].write_bytes(kept[0].read_bytes()[:-9])
    assert json.dumps(exploration_to_dict("b", again())) == wanted and len(ran) == 1
    assert len(kept) == 2 == len([*tmp_path.iterdir()])
    explore(mapped, BRANCHES_IN.flip(1), LABELS, most=1, keep=tmp_path)
    assert len(ran) > 1 and len([*tmp_path.iterdir()]) > 2  # other samples are other runs


def test_partitions_have_names_that_the_command_takes(mapped):
    whole = map_model(mapped.graph, calibration=BRANCHES_IN)
    layers = [f"neurons.{name}" for name in ("one", "two", "side", "last")]
    for on_chip, name in (
        ([], "none"),
        (layers, "all"),
        (layers[1:3], "neurons.two,neurons.side"),
    ):
        assert called(whole.graph, on_chip, layers) == name
    assert called(whole.graph, layers[:2], layers[:3]) == "neurons.one,neurons.two"


def test_the_commands(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(  # what it is takes long, and is tested above
        "has8.cli.jobs.explore.exploration_to_dict",
        lambda model, found: {
            "model": model,
            "best": found.best.measured.name,
            "layers": found.layers,
            "cores": [choice.measured.cost.cores_used for choice in found.front],
            "energy": [choice.amounts[0] for choice in found.choices],
            "expected": [choice.expected["energy_uj"] for choice in found.choices],
        },
    )

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["has8", *map(str, arguments), "--samples", "4"])
        with pytest.raises(SystemExit) as done:
            main()
        said = capsys.readouterr()
        return done.value.code, said.out, said.err

    code, out, err = call("explore", DIGITS, "--most", 1, "--max-cores", 1, "--json", "--out", ".")
    assert code == 0, err
    report = json.loads(out)
    assert report["best"] == "head" and "blocks.0.snn.neuron" in report["layers"]
    assert report["model"] == "digits" and max(report["cores"]) == 1
    assert len(report["energy"]) > 2 and report["expected"] != report["energy"]
    assert report["expected"] == pytest.approx(report["energy"], rel=0.01)
    assert np.array_equal(np.argsort(report["expected"]), np.argsort(report["energy"]))
    assert "pricing partitions ..." in err
    record = tmp_path / "digits.explore.json"
    assert record.read_text() == out
    assert report["model_sha256"] == sha256(DIGITS.read_bytes()).hexdigest()
    record.write_text(json.dumps({**report, "model_sha256": "another"}))
    code, _, err = call("explore", DIGITS, "--out", ".")
    assert code == 1 and "digits.explore.json is not of" in err and "--out, or move it away" in err
    auto = ("--partition", "auto", "--max-cores", 1, "--verify", "none", "--out", tmp_path)
    code, out, err = call("map", DIGITS, *auto, "--json")
    assert code == 0, err
    mapped = load(tmp_path / "digits.h8")
    assert mapped.provenance["partition"] == ["head.snn.0.neuron", "head.snn.1.neuron"]
    code, _, err = call("map", DIGITS, "--max-cores", 1)
    assert code == 1 and "add --partition auto" in err
    code, _, err = call("map", DIGITS, *auto, "--measure-host")
    assert code == 1 and "--partition auto chooses by the host's profile" in err
