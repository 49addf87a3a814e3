"""The table of bits: results are of what they say, none is made twice, holes are shown."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the installed packages

from benchmarks import bits, scales  # noqa: E402
from has8 import load_checkpoint, load_data  # noqa: E402
from has8.errors import BadInput  # noqa: E402
from has8.training.checkpoint import save  # noqa: E402
from hwsim import simulate  # noqa: E402
from mapping import map_model  # noqa: E402

DATA = load_data("digits")


@pytest.fixture
def model(tmp_path, vgg):
    path = tmp_path / "small.pt"
    facts = {"data": "digits", "preprocess": "crop"}
    save(path, vgg, input_shape=(1, 8, 8), class_names=DATA.class_names, provenance=facts)
    return path


def run(model, *arguments):
    folders = ["--results", str(model.parent / "results"), "--work", str(model.parent / "work")]
    given = ["--model", str(model), "--samples", "60", "--threads", "1", "--precision", "32"]
    done = CliRunner().invoke(bits.main, [*given, *folders, *arguments])
    assert done.exit_code == 0, done.output
    return done


def test_runs_fill_the_table_and_are_not_repeated(model):
    methods = ["--run", "--bits", "3,1", "--methods", "round,fine-tuned", "--subset", "64"]
    done = run(model, *methods)
    assert done.stderr.count("...") == 5
    assert "not possible: layer" in done.stderr  # one bit without clipping
    again = run(model, *methods, "--json")
    assert again.stderr.count("...") == 1  # what is not possible is tried again
    (entry,) = json.loads(again.stdout.splitlines()[-1])["tables"]
    assert (entry["data"], entry["samples"]) == ("digits", 60)
    assert list(entry["accuracies"]) == ["3", "1"]
    assert entry["accuracies"]["3"]["search"] is None
    assert entry["accuracies"]["1"]["round"] is None
    assert entry["budgets"]["3"]["images"] == 64
    images, labels = DATA.test.tensors(60)
    network = load_checkpoint(model).model
    mapped = map_model(network, input_shape=(1, 8, 8), weight_bits=3)
    right = (simulate(mapped, images).logits.argmax(1) == labels).double().mean()
    assert entry["accuracies"]["3"]["round"] == pytest.approx(100 * float(right))
    shown = run(model)
    assert f"{100 * float(right):.2f}" in shown.stdout
    assert bits.NONE in shown.stdout


def test_the_largest_budget_of_a_model_is_shown(tmp_path):
    budget = {"epochs": 1, "images": 100, "batch_size": 64, "lr": 1e-3, "seed": 0}
    short = bits.Result(
        "m.pt", "ab", "digits", 4, bits.TUNED, 60, budget, 0.5, 0, 1, 1.0, "cpu", 1, "2", None
    )
    longer = replace(short, budget={**budget, "images": 200}, accuracy=0.25)
    other = replace(short, sha256="cd", accuracy=0.75)
    entries = bits.table([longer, short, other])
    assert [entry["accuracies"]["4"][bits.TUNED] for entry in entries] == [25, 75]
    assert longer.key != short.key != other.key
    (tmp_path / "x.json").write_text('{"model": 3}')
    with pytest.raises(BadInput, match=r"x\.json is no result of a run"):
        bits.read_results(tmp_path)


def test_unknown_rows_and_columns_are_refused(model):
    arguments = ["--run", "--model", str(model)]
    for more, message in ((["--bits", "9"], "must be of 8, 7"), (["--methods", "best"], "round,")):
        done = CliRunner().invoke(bits.main, [*arguments, *more])
        assert done.exit_code == 1
        assert message in done.stderr


def test_what_a_search_costs_and_what_it_leaves_are_shown(model):
    given = ["--model", str(model), "--images", "16", "--bits", "4", "--rounds", "1", "--json"]
    done = CliRunner().invoke(scales.main, given)
    assert done.exit_code == 0, done.output
    measured = json.loads(done.stdout.splitlines()[-1])
    assert (measured["images"], measured["threads"]) == (16, 1)
    plain, spread = measured["rows"]
    assert (plain["bits"], plain["method"], spread["method"]) == (4, "search", "per-channel")
    first = next(iter(plain["mismatch"]))
    assert 0 <= spread["mismatch"][first] <= plain["mismatch"][first] < 0.1
    assert plain["cpu_s"] > 0
    assert first in done.stdout
