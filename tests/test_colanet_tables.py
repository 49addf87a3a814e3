"""The benchmarks of CoLaNET: what stands beside it, their rows, and their commands."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from benchmarks import colanet, colanet_chip, colanet_tables
from benchmarks.probes import class_means, linear_probe, surrogate_gradients
from has8 import load_data
from has8.colanet import RULES, compiled
from has8.data import ArrayImages


def test_probes_know_what_can_be_separated_and_by_what():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 2, generator=generator)
    halves, rings = (x.sum(1) > 0).long(), (x.norm(dim=1) > 1.1).long()
    for probe in (linear_probe, class_means):
        for labels, least, most in ((halves, 0.93, 1.0), (rings, 0.0, 0.8)):
            right = probe(x[:200], labels[:200], x[200:], 2) == labels[200:]
            assert least <= right.float().mean() <= most
    values, labels = torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([0, 0, 1])
    means = class_means(values, labels, torch.tensor([[4.0], [6.0]]), 2)
    assert means.tolist() == [0, 1]


def test_gradients_teach_the_same_network_what_lies_apart():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 2
    x = torch.rand(60, 16, generator=generator) * 0.3
    x[labels == 1, 8:] += 0.6
    x[labels == 0, :8] += 0.6
    rule = replace(RULES.get("mnist"), columns=2)
    found = surrogate_gradients(x[:40], labels[:40], x[40:], 2, rule, batch=4, rate=0.03, epochs=3)
    assert (found == labels[40:]).float().mean() > 0.9


def test_a_run_is_a_row_and_is_done_once(tmp_path):
    results = tmp_path / "results"
    options = ["--copies", "2", "--columns", "1", "--subset", "60", "--seeds", "0,1"]
    places = ["--results", str(results), "--work", str(tmp_path / "work"), "--json"]
    rows = []
    for _ in range(2):
        done = CliRunner().invoke(colanet_tables.main, ["--run", "digits", *options, *places])
        assert done.exit_code == 0, done.output
        rows.append(json.loads(done.stdout.splitlines()[-1])["rows"])
    assert rows[0] == rows[1] and len(list(results.iterdir())) == 2
    (row,) = rows[0]
    assert (row["data"], row["images"], row["copies"], row["seeds"]) == ("digits", 60, 2, [0, 1])
    runs = [json.loads(path.read_text()) for path in sorted(results.iterdir())]
    assert row["accuracy_2"] == pytest.approx(sum(r["accuracy"]["2"] for r in runs) / 2)
    assert row["spread"] is not None and 60 < row["probe"] < 95 and 60 < row["class_mean"] < 95
    assert 0 <= row["gradients"] <= 100


def test_a_subset_has_as_many_images_of_each_class_and_their_labels():
    images = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1)
    few = colanet_tables.balanced(ArrayImages(images, torch.arange(40) % 4), 3)
    x, labels = few.tensors(12)
    assert (x * 255).round().flatten().tolist() == list(range(12)) and len(few) == 12
    assert labels.tolist() == [0, 1, 2, 3] * 3


@pytest.mark.skipif(compiled.library() is None, reason="no compiler")
def test_the_compiled_rule_is_measured_beside_the_plain_one(monkeypatch):
    train = SimpleNamespace(tensors=lambda count: (torch.rand(count, 1, 4, 4), torch.arange(count)))
    monkeypatch.setattr(colanet, "load_data", lambda *_: SimpleNamespace(train=train))
    done = CliRunner().invoke(colanet.main, ["--images", "9", "--plain-images", "2", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["times"] == pytest.approx(found["plain_ms"] / found["compiled_ms"])


class Forty:
    """The first forty images of a part."""

    def __init__(self, part):
        self.part = part

    def __len__(self):
        return 40

    def tensors(self, count):
        return self.part.tensors(count)


def test_the_form_for_chips_is_measured_beside_the_full_rule(monkeypatch):
    digits = load_data("digits")
    few = SimpleNamespace(train=Forty(digits.train), test=Forty(digits.test))
    monkeypatch.setattr(colanet_chip, "load_data", lambda *_: few)
    monkeypatch.setattr(colanet_chip, "HELD_BACK", 10)
    done = CliRunner().invoke(colanet_chip.main, ["--copies", "1", "--json"])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout.splitlines()[-1])["runs"]
    assert (found["data"], found["images"], found["tests"], found["copies"]) == (
        "digits",
        30,
        40,
        1,
    )
    assert all(0 <= found[name] <= 100 for name in ("full", "chip"))
