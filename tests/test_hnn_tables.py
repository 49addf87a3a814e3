"""The tables of hybrid networks: the paper's numbers, and what is missing trained in order."""

import json
import sys
from pathlib import Path
from shutil import rmtree

import pytest
import torch
from click.testing import CliRunner

from has8 import create_model

sys.path.insert(0, str(Path(__file__).parent.parent))  # no part of the installed packages

from benchmarks import hnn, hnn_chip, hnn_tables


def test_the_tables_have_the_paper_s_numbers_and_run_what_is_missing(tmp_path):
    settings = {s.name: s for table in hnn.TABLES.values() for s in table}
    assert {s.after for s in settings.values()} <= settings.keys() | {None}
    for setting in hnn.TABLES["mlp"]:
        create_model(setting.model, num_classes=10, in_channels=1, **setting.options)
    common = ["--run", "mlp", "--data", "digits", "--epochs", "1", "--subset", "32", "--json"]
    common += ["--results", str(tmp_path / "results"), "--work", str(tmp_path / "work")]
    apart = ["--only", "hnn_mlp-duplicate-separate-2"]
    alone = CliRunner().invoke(hnn_tables.main, [*common, *apart])
    assert "run both together, within the same budget" in alone.output
    both = [*common, *apart, "--only", "hnn_mlp-duplicate-3", "--seeds", "0,1"]
    done = CliRunner().invoke(hnn_tables.main, both)
    assert done.exit_code == 0, done.output
    entries = json.loads(done.stdout.splitlines()[-1])["mlp"]
    filled = {entry["setting"]: entry["runs"][0]["seeds"] for entry in entries if entry["runs"]}
    assert filled == {"hnn_mlp-duplicate-3": [0, 1], "hnn_mlp-duplicate-separate-2": [0, 1]}
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()}
    CliRunner().invoke(hnn_tables.main, both)  # nothing is missing now
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "results").iterdir()} == files
    rmtree(tmp_path / "work")  # as in a clone; a model that another network begins with is missing
    first, second = sorted(path for path in files if "-s0-" in path.name)
    second.unlink()
    CliRunner().invoke(hnn_tables.main, [*both[:-1], "0"])
    assert second.exists() and first.stat().st_mtime_ns > files[first]
    paper = {(s.model, s.family, s.options["split"]): s.paper for s in settings.values()}
    assert paper["hnn_mlp", "duplicate-separate", 2] == 99.17
    assert paper["hnn_cnn", "poisson-released", 6] == paper["hnn_cnn", "poisson", 6] == 31.32


def test_the_released_convention_of_energy_by_hand():
    """N neurons of C synapses in T steps: 0.02711 nJ N C f T dt + 0.081 nJ N T."""
    image = torch.zeros(1, 1, 28, 28)

    def energy(split):
        model = create_model("hnn_mlp", num_classes=10, in_channels=1, split=split)
        return hnn.released_energy_nj(model, image)

    artificial = 0.02711 * (784 * 500 + 500 * 500 + 500 * 10) + 0.081 * (500 + 500 + 10)
    assert energy(3) == pytest.approx(artificial)
    values_in = 25 * (0.02711 * 500 * 500 + 0.081 * 500)
    spikes_in = 25 * (0.02711 * 500 * 10 * 0.5 * 0.0381 + 0.081 * 10)
    front = 0.02711 * 784 * 500 + 0.081 * 500
    assert energy(1) == pytest.approx(front + values_in + spikes_in)


def test_trained_networks_are_mapped_and_priced_by_command(tmp_path):
    common = ["--run", "mlp", "--data", "digits", "--epochs", "1", "--subset", "32", "--json"]
    common += ["--results", str(tmp_path / "results"), "--work", str(tmp_path / "work")]
    only = ["--only", "hnn_mlp-duplicate-shared-2", "--samples", "20", "--lava", "0"]
    done = CliRunner().invoke(hnn_chip.main, [*common, *only])
    assert done.exit_code == 0, done.output
    (entry,) = json.loads(done.stdout.splitlines()[-1])["mlp"]
    assert (entry["row"], entry["on_chip"], entry["spiking"]) == ("A784-A500-S10", 1, 1)
    low, high = entry["board_uj"][1:]
    assert low < entry["board_uj"][0] < high and entry["messages"] > 0
    again = CliRunner().invoke(hnn_chip.main, [*common, *only]).stdout.splitlines()[-1]
    assert json.loads(again)["mlp"] == [entry]
    # A clone has records, and no models: what is mapped anew is trained again, and nothing else.
    rmtree(tmp_path / "work")
    (mapped,) = (tmp_path / "results").glob("*.json")
    mapped.unlink()

    done = CliRunner().invoke(hnn_chip.main, [*common, *only])
    assert done.exit_code == 0, done.output
    (again,) = json.loads(done.stdout.splitlines()[-1])["mlp"]
    assert again["mapped_accuracy"] == entry["mapped_accuracy"]
