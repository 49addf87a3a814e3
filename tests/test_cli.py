"""The commands: what they print, what they write, how they refuse; the main job as a process."""

import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from has8 import create_model, save_checkpoint
from has8.cli import main, map_main
from has8.cli.progress import epochs
from has8.cli.train import train
from hwsim.backends.lava.backend import Lava
from mapping.targets.schema import load_target

DIGITS = Path(__file__).parent.parent / "examples" / "models" / "digits.pt"
BUNDLED = Path(load_target.__code__.co_filename).with_name("loihi.yaml")


def run(*arguments, cwd):
    """``has8-map`` in a process of its own, which says which compilers of torch it has loaded."""
    code = (
        "import atexit, sys\n"
        "from has8.cli import map_main\n"
        "slow = {'torch._dynamo', 'sympy'}\n"
        "atexit.register(lambda: print('loaded:', *slow & sys.modules.keys(), file=sys.stderr))\n"
        "map_main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        timeout=200,
        check=False,
    )


@pytest.fixture
def here(monkeypatch, capfd):
    """A command in this process, by the same door: exit code, output, errors."""
    monkeypatch.setenv("COLUMNS", "100")

    def call(command, *arguments, cwd):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr("sys.argv", ["has8", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            command()
        return left.value.code, *capfd.readouterr()

    return call


@pytest.mark.parametrize(
    "command",
    [
        "has8 --version",
        "has8 --help",
        "has8 check --help",
        "has8 map --help",
        "has8 simulate --help",
        "has8 compare --help",
        "has8 trace --help",
        "has8 export --help",
        "has8 train --help",
        "has8-map --help",
        "has8-map --version",
    ],
)
def test_help_comes_without_what_takes_seconds_to_import(command):
    name, *arguments = command.split()
    main = {"has8": "main", "has8-map": "map_main"}[name]
    code = (
        "import atexit, sys\n"
        f"from has8.cli import {main}\n"
        "heavy = {'torch', 'torchvision', 'snntorch', 'networkx', 'sklearn', 'rich', 'numpy'}\n"
        "atexit.register(lambda: print(*heavy & sys.modules.keys(), file=sys.stderr))\n"
        f"{main}()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert done.stdout.startswith(f"{name}, version" if "--version" in command else "Usage: has8")


@pytest.fixture(scope="module")
def mapped_digits(tmp_path_factory):
    """The bundled model through the whole command."""
    folder = tmp_path_factory.mktemp("digits")
    return run(DIGITS, "--target", "loihi", "--json", "--out", ".", cwd=folder), folder


def test_the_main_job_on_the_bundled_model(mapped_digits):
    done, folder = mapped_digits
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)  # one object and nothing else
    assert report == json.loads((folder / "digits.report.json").read_text())
    assert report["model"] == "digits"
    assert report["target"] == "loihi"
    assert report["samples"] == 360
    assert report["accuracy"]["float"] >= 0.97
    assert abs(report["accuracy"]["float"] - report["accuracy"]["mapped"]) <= 0.01
    sides = {segment["side"] for segment in report["partition"]}
    assert sides == {"host", "chip"}
    for segment in report["partition"]:
        assert {"name", "side", "nodes", "reason"} <= segment.keys()
    assert report["cores_used"] >= 1
    assert report["chips_used"] == 1
    assert report["synops"] > 0
    assert report["macs"] > 0
    sums = ("events", "cores", "total")
    parts = {k: v for k, v in report["energy_uj"].items() if k not in sums}
    assert sum(parts.values()) == pytest.approx(report["energy_uj"]["total"])
    assert report["latency_us"] > 0
    assert report["assumptions"]
    with zipfile.ZipFile(folder / "digits.h8") as archive:
        names = {name for name in archive.namelist() if not name.endswith(".npy")}
    assert names == {"manifest.json", "sha256"}
    assert sorted(p.name for p in folder.iterdir()) == ["digits.h8", "digits.report.json"]


@pytest.mark.skipif(Lava().unavailable() is not None, reason=str(Lava().unavailable()))
def test_the_main_job_is_verified_against_lava(mapped_digits):
    report = json.loads(mapped_digits[0].stdout)
    assert report["verified"]["backend"] == "lava"
    assert report["verified"]["samples"] >= 1
    assert report["verified"]["equal"] is True


def test_the_main_job_loads_no_compiler_of_torch(mapped_digits):
    """Which takes seconds, and is found by whatever computes on "meta"."""
    assert mapped_digits[0].stderr.splitlines()[-1].split() == ["loaded:"]


def test_the_summary_for_people(tmp_path, here):
    options = ("--partition", "none", "--samples", 20, "--out", "new/folder")
    code, out, err = here(map_main, DIGITS, *options, cwd=tmp_path)
    assert code == 0, err
    assert "digits on loihi" in out
    assert "accuracy" in out
    assert (tmp_path / "new/folder/digits.h8").exists()
    assert "float model" in err  # progress stays off stdout
    assert "float model" not in out


class Code:
    def __reduce__(self):
        return os.system, ("touch /tmp/has8-was-here",)


def broken(kind, folder):
    """(arguments, what the sentence must say) of one mistake."""
    model = folder / "model.pt"
    if kind == "missing file":
        return [folder / "absent.pt"], "there is no file"
    if kind == "no checkpoint":
        model.write_bytes(b"not a model" * 50)
        return [model], str(model)
    if kind == "code":
        model.write_bytes(pickle.dumps(Code()))
        return [model], "code"
    if kind == "untraceable":
        net = create_model("has8_vgg", num_classes=10, in_channels=1, base=2, depth=1, mode="paper")
        save_checkpoint(
            model, net, input_shape=(1, 8, 8), class_names=list("0123456789"),
            provenance={"data": "digits"},
        )  # fmt: skip
        return [model], "train with mode='hw'"
    if kind == "unknown target":
        return [DIGITS, "--target", "lohi", "--out", "new"], "did you mean 'loihi'"
    if kind == "wrong key":
        target = folder / "mine.yaml"
        text = BUNDLED.read_text()
        assert text.count("threshold_max:") == 1
        target.write_text(text.replace("threshold_max:", "treshold_max:"))
        return [DIGITS, "--target", target], "registers.treshold_max"
    if kind == "too big":
        target = folder / "tiny.yaml"
        words = f"synapse_words: {{value: {load_target('loihi').core.synapse_words}"
        text = BUNDLED.read_text()
        assert words in text
        target.write_text(text.replace(words, "synapse_words: {value: 2"))
        return [DIGITS, "--target", target, "--pin", "head.snn.1=chip"], "fits on no core"
    if kind == "unwritable":
        (folder / "file").write_text("")
        return [DIGITS, "--out", folder / "file" / "inside"], "cannot write"
    if kind == "unknown segment":
        return [DIGITS, "--partition", "haed.snn"], "no chip segment 'haed.snn'"
    if kind == "mapped already":
        with zipfile.ZipFile(model, "w") as archive:
            archive.writestr("manifest.json", "{}")
        return [model], "is a mapped model already"
    if kind == "other classes":
        other = folder / "images"
        for shade, split in enumerate(("train", "test")):
            for name in ("cat", "dog"):
                (other / split / name).mkdir(parents=True)
                Image.new("L", (8, 8), shade).save(other / split / name / "1.png")
        return [DIGITS, "--data", other], "choose its data with --data"
    if kind == "unknown host":
        return [DIGITS, "--host", "jetson-orin"], "did you mean 'jetson-orin-nano'"
    if kind == "too many bits":
        return [DIGITS, "--weight-bits", 9, "--partition", "none"], "9 bits cannot be stored"
    if kind == "unknown board":
        return [DIGITS, "--board", "kapoho"], "did you mean 'kapoho-bay'"
    if kind == "unknown data":
        return [DIGITS, "--data", "digit"], "did you mean 'digits'"
    return [DIGITS, "--samples", "many"], "'many' is not a valid integer"


@pytest.mark.parametrize(
    "kind",
    [
        "missing file",
        "no checkpoint",
        "code",
        "untraceable",
        "unknown target",
        "wrong key",
        "too big",
        "unwritable",
        "unknown segment",
        "unknown board",
        "unknown data",
        "unknown host",
        "mapped already",
        "other classes",
        "too many bits",
        "wrong option",
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_1(kind, tmp_path, here):
    inputs, outputs = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    outputs.mkdir()
    arguments, message = broken(kind, inputs)
    arguments = [*map(str, arguments), "--quiet"]
    if "--out" not in arguments:
        arguments += ["--out", "."]
    code, out, err = here(map_main, *arguments, cwd=outputs)
    assert code == 1
    assert message in err
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    assert out == ""
    assert not list(outputs.iterdir())  # nothing half-written
    assert not Path("/tmp/has8-was-here").exists()


def test_a_mistake_is_the_exit_code_of_the_process(tmp_path):
    done = run("--wrong", cwd=tmp_path)
    sentence, loaded = done.stderr.splitlines()
    assert (done.returncode, done.stdout, loaded.split()) == (1, "", ["loaded:"])
    assert sentence.startswith("error: ")


def test_a_model_of_random_weights_maps_too(tmp_path, here):
    """Ranges that training never tracked are measured on training images."""
    torch.manual_seed(0)
    net = create_model("has8_resnet", num_classes=10, in_channels=1, base=2, depth=1)
    save_checkpoint(tmp_path / "new.pt", net, input_shape=(1, 8, 8), class_names=list("0123456789"))
    options = ("--data", "digits", "--verify", "none", "--json", "--samples", 10)
    code, out, err = here(map_main, "new.pt", *options, "--run-mode", "reset", cwd=tmp_path)
    assert code == 0, err
    report = json.loads(out)
    assert (report["run_mode"]["name"], [*report["run_mode"]["others"]]) == ("reset", ["gated"])
    assert (report["verified"]["samples"], report["verified"]["equal"]) == (0, None)
    code, _, err = here(map_main, "new.pt", cwd=tmp_path)
    assert code == 1
    assert "--data" in err


TRAIN = [
    *("has8_vgg", "--data", "digits", "--base", "2", "--depth", "1", "--option", "head=[4]"),
    *("--epochs", "2", "--batch-size", "64", "--out"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a training that nothing stopped."""
    folder = tmp_path_factory.mktemp("training") / "whole"
    done = CliRunner().invoke(train, [*TRAIN, str(folder)])
    assert done.exit_code == 0, done.output
    return folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_training_that_is_told_to_stop_goes_on_where_it_was(
    tmp_path, monkeypatch, here, whole, number, code
):
    @contextmanager
    def signalled(quiet):
        with epochs(quiet) as report:

            def tell(now):
                report(now)
                if (now.epoch, now.images) == (2, 640):
                    signal.raise_signal(number)

            yield tell

    with monkeypatch.context() as patch:
        patch.setattr("has8.cli.jobs.train.epochs", signalled)
        left, out, said = here(main, "train", *TRAIN, "run", cwd=tmp_path)
    assert (left, out) == (code, ""), said
    assert f"stopped by {number.name} in epoch 2 " in said and "Traceback" not in said
    assert "goes on from run/last.pt" in said
    assert not (tmp_path / "run" / "model.pt").exists()
    left, _, said = here(main, "train", *TRAIN, "run", cwd=tmp_path)
    assert left == 0, said
    for name in ("model.pt", "best.pt"):
        assert Path("run", name).read_bytes() == (whole / name).read_bytes()
