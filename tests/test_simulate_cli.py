"""``has8 simulate``: what it prints, what it writes, how it refuses."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from has8 import load_checkpoint, load_data
from has8.cli import main
from has8.errors import BackendError
from hwsim import Faults, agreement, fault_sweep, simulate
from mapping import load, map_model, save

DIGITS = Path(__file__).parent.parent / "examples" / "models" / "digits.pt"
INJECT = ("--inject", "weight-bitflips=0.01,dead-neurons=0.05,dropped-spikes=0.02")


@pytest.fixture(scope="module")
def images():
    return load_data("digits").test.tensors()


@pytest.fixture(scope="module")
def artefact(images, tmp_path_factory):
    """What has8-map writes for the bundled model."""
    checkpoint = load_checkpoint(DIGITS)
    facts = {"data": "digits", "class_names": list(checkpoint.class_names)}
    mapped = map_model(checkpoint.model, calibration=images[0][:100], provenance=facts)
    return save(mapped, tmp_path_factory.mktemp("mapped") / "digits.h8")


@pytest.fixture
def here(monkeypatch, capsys, tmp_path):
    """``has8 simulate`` in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments, verb="simulate"):
        monkeypatch.setattr(sys, "argv", ["has8", verb, *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
        said = capsys.readouterr()
        return done.value.code, said.out, said.err

    return call


def test_the_command_says_and_writes_what_the_functions_give(artefact, images, here, tmp_path):
    options = ("--record", "spikes,membranes", "--out", "new/digits.npz", "--json")
    code, out, err = here(artefact, *options)
    assert code == 0, err
    report = json.loads(out)  # one object and nothing else
    assert "simulation" in err
    x, labels = images
    mapped = load(artefact)
    found = agreement(mapped, x, labels=labels)
    assert report["model"] == "digits" and report["backend"] == "fast"
    assert report["samples"] == 360
    assert report["accuracy"] == {"float": found.float_accuracy, "mapped": found.accuracy}
    assert report["accuracy"]["mapped"] > 0.97
    assert report["agreement"] == found.share
    assert report["faults"] is None
    assert report["overflows"] == {"u_wraps": 0, "v_clips": 0, "biases": 0}
    for layer, expected in zip(report["layers"], found.layers, strict=True):
        first = expected.first
        assert layer["population"] == expected.population
        assert (layer["differing"], layer["values"]) == (expected.differing, expected.values)
        assert layer["first"] == {
            "step": first.step,
            "sample": first.sample,
            "index": list(first.index),
            "chip": first.left,
            "float": first.right,
        }
    assert report["recording"] == str(Path("new", "digits.npz"))
    with np.load(tmp_path / "new" / "digits.npz") as file:
        same = file["logits"].argmax(1) == file["float_logits"].argmax(1)
        assert same.mean() == found.share
        assert np.array_equal(file["labels"], labels)
        run_ = simulate(mapped, x[:50], record=("spikes", "membranes"))
        for what in ("inputs", "spikes", "membranes"):
            for segment, tensors in getattr(run_, what).items():
                for name, tensor in tensors.items():
                    assert np.array_equal(file[f"{segment}/{what}/{name}"][:, :50], tensor)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["digits.npz"]


def test_a_sweep_is_what_the_function_gives_whatever_the_batches(artefact, images, here):
    x, labels = (part[torch.linspace(0, 359, 40).round().long()] for part in images)
    faults = Faults(0.01, 0.05, 0.02, seed=5)
    points = fault_sweep(load(artefact), x, labels, faults, (0, 0.5, 10))
    options = ("--samples", 40, *INJECT, "--seed", 5, "--severity", "0,0.5,10", "--quiet")
    code, out, err = here(artefact, *options, "--batch-size", 17, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["samples"] == 40
    assert report["faults"]["seed"] == 5
    for found, point in zip(report["severities"], points, strict=True):
        assert found["severity"] == point.severity
        assert found["faults"]["dead_neurons"] == 0.05 * point.severity
        assert found["accuracy"] == point.agreement.accuracy
        assert found["agreement"] == point.agreement.share
        spikes = [layer.spikes for layer in point.agreement.layers]
        assert [layer["spikes"] for layer in found["layers"]] == spikes
    code, out, err = here(artefact, *options)
    assert (code, err) == (0, "")
    assert "seed 5" in out and "█" in out
    rows = [line.split()[0] for line in out.splitlines() if "█" in line]
    assert rows == ["0", "0.5", "10"]
    assert max(map(len, out.splitlines())) <= 80


def test_the_screen_for_people(artefact, here):
    code, out, err = here(artefact, "--samples", 20)
    assert code == 0
    assert "digits on loihi, simulated by fast" in out
    assert "20 samples of digits" in out and "head.snn.0.neuron" in out
    assert "simulation" in err and "simulation ..." not in out
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = here(artefact, "--samples", 3, *INJECT, "--quiet", "--backend", "reference")
    assert code == 0 and "weight-bitflips 0.01" in out and "by reference" in out


def test_a_model_without_known_data_asks_for_them(images, here, tmp_path):
    plain = map_model(load_checkpoint(DIGITS).model, calibration=images[0][:8])
    save(plain, "plain.h8")
    code, _, err = here("plain.h8")
    assert code == 1 and "--data NAME" in err
    assert here("plain.h8", "--data", "digits", "--samples", 2, "--quiet")[0] == 0
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / "two" / split / name).mkdir(parents=True)
    code, _, err = here("plain.h8", "--data", "two")
    assert code == 1 and err.startswith("error: ")


BAD = {
    "missing file": (["absent.h8"], "cannot read 'absent.h8'"),
    "no artefact": ([DIGITS], "is no mapped model"),
    "unknown data": (["--data", "digit"], "did you mean 'digits'"),
    "unknown backend": (["--backend", "lva"], "is not one of"),
    "record alone": (["--record", "spikes"], "--record needs --out"),
    "out alone": (["--out", "x.npz"], "--out needs --record"),
    "unknown record": (["--record", "spike", "--out", "x.npz"], "can be recorded, not 'spike'"),
    "out is a folder": (["--record", "spikes", "--out", "."], "is a directory"),
    "out unwritable": (["--record", "spikes", "--out", DIGITS / "x.npz"], "cannot write"),
    "severity alone": (["--severity", "1"], "name them with --inject"),
    "odd severity": ([*INJECT, "--severity", "1,high"], "takes numbers separated by commas"),
    "too severe": ([*INJECT, "--severity", "0,30"], "severity 30 makes dead-neurons 1.5"),
    "unknown fault": (["--inject", "weight-bitflip=0.1"], "did you mean 'weight-bitflips'"),
    "rate over 1": (["--inject", "dead-neurons=2"], "with a probability from 0 to 1"),
    "no time for Ray": (["--ray", "--ray-timeout", "0"], "--ray-timeout"),
    "several runs": (
        [*INJECT, "--severity", "0,1", "--record", "spikes", "--out", "x.npz"],
        "name one severity",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_sentence_and_exit_code_1(kind, artefact, here, tmp_path):
    arguments, message = BAD[kind]
    given = arguments if kind in ("missing file", "no artefact") else [artefact, *arguments]
    code, out, err = here(*given)
    assert (code, out) == (1, "")
    assert message in err
    assert err.startswith("error: ") and len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("options", "limit"), [([], 3600), (["--ray-timeout", "7.5"], 7.5)])
def test_ray_has_the_time_that_is_asked_for(options, limit, artefact, here, monkeypatch):
    def on_ray(*_, timeout_s, **__):
        raise BackendError(f"{timeout_s:g} s")

    monkeypatch.setattr("has8.cli.jobs.simulate.agreements_on_ray", on_ray)
    code, _, err = here(artefact, "--samples", 2, "--ray", *options, "--quiet")
    assert (code, err) == (1, f"error: {limit:g} s\n")


def test_a_trace_is_a_file_for_perfetto_and_nothing_else_is_written(artefact, here, tmp_path):
    code, out, err = here(artefact, "-o", "new/trace.json", "--samples", 2, verb="trace")
    assert code == 0 and "following samples" in err, err
    assert [path.name for path in tmp_path.rglob("*.*")] == ["trace.json"]
    found = json.loads((tmp_path / "new" / "trace.json").read_text())
    slices = [event for event in found["traceEvents"] if event["ph"] == "X"]
    assert f"new/trace.json: {len(slices):,} slices on" in out
    names = {event["name"] for event in slices}
    assert names >= {"exchange", "step 0", "neurons"}
    assert any(name.endswith(".decode") for name in names)  # on the host, by the node
    code, _, err = here(artefact, "-o", artefact, verb="trace")
    assert code == 1 and "is what is to be read: choose another place to write to" in err
