"""``has8 compare``: mappings side by side from their files, and how it refuses."""

import json
import sys
from pathlib import Path

import pytest

from has8 import load_checkpoint, load_data
from has8.cli import main
from hwsim import alternative
from mapping import load, map_model, save

DIGITS = Path(__file__).parent.parent / "examples" / "models" / "digits.pt"


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    """What has8-map writes for the bundled model."""
    checkpoint = load_checkpoint(DIGITS)
    images, _ = load_data("digits").train.tensors(256)
    facts = {"data": "digits", "class_names": list(checkpoint.class_names)}
    mapped = map_model(checkpoint.model, calibration=images, provenance=facts)
    return save(mapped, tmp_path_factory.mktemp("mapped") / "digits.h8")


@pytest.fixture
def here(monkeypatch, capsys, tmp_path):
    """``has8 compare`` in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["has8", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
        said = capsys.readouterr()
        return done.value.code, said.out, said.err

    return call


def test_three_partitions_of_one_mapping(artefact, here):
    parts = ("all", "blocks.0.snn, head.snn", "none")
    options = [word for part in parts for word in ("--partition", part)]
    mode = ("--run-mode", "reset", "--timing", "events")
    code, out, err = here(artefact, *options, *mode, "--samples", 40, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert (report["model"], report["samples"]) == ("digits", 40)
    modes = {(one["run_mode"], one["timing"]) for one in report["alternatives"]}
    assert modes == {("reset", "events")}
    assert {one["target"] for one in report["alternatives"]} == {"loihi"}
    assert [one["name"] for one in report["alternatives"]] == list(parts)
    everything, some, nothing = report["alternatives"]
    assert everything["cores_used"] > some["cores_used"] > nothing["cores_used"] == 0
    assert everything["macs"] < some["macs"] < nothing["macs"]
    # mapped anew from its file, the whole partition is what the file holds
    images, labels = load_data("digits").test.tensors(40)
    modes = {"run_mode": "reset", "timing": "events"}
    found = alternative("all", load(artefact), images, labels, **modes)
    assert everything["accuracy"] == found.accuracy
    assert everything["energy_uj"]["total"][1] == found.board_uj.value
    assert report["least"]["name"] in parts


def test_two_files_on_a_page(artefact, here, tmp_path):
    other = tmp_path / "other.h8"
    other.write_bytes(artefact.read_bytes())
    options = ("--partition", "head", "--pin", "head.snn.1=host", "--samples", 4, "--json")
    code, out, _ = here(artefact, *options)
    (one,) = json.loads(out)["alternatives"]
    assert code == 0 and (one["name"], one["cores_used"]) == ("head", 1) and one["messages"] > 0
    code, out, err = here(artefact, other, "--samples", 10, "--host", "a100")
    assert code == 0 and "digits" in err and "other" in err
    assert "digits, other on loihi with a100, 10 samples" in out
    assert "verdict" not in out and "takes the least" in out


def test_files_of_one_name_are_told_apart_by_their_folders(artefact, here, tmp_path):
    for folder in ("before", "after"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.h8").write_bytes(artefact.read_bytes())
    _, out, _ = here("after/net.h8", "after/net.h8", "--samples", 4, "--json")
    assert [one["name"] for one in json.loads(out)["alternatives"]] == ["net"]
    code, out, err = here("before/net.h8", "after/net.h8", "--samples", 4, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert [one["name"] for one in report["alternatives"]] == ["before/net", "after/net"]
    assert report["model"] == "before/net, after/net"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing.h8"], "missing.h8"),
        (["{artefact}", "--partition", "block9"], "block9"),
        (["{artefact}", "--host", "abacus"], "abacus"),
        (["{artefact}", "--pin", "head=host"], "add --partition all"),
        (["{artefact}", "--data", "mnist0"], "mnist0"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(artefact, here, arguments, sentence):
    code, out, err = here(*(word.format(artefact=artefact) for word in arguments))
    assert (code, out) == (1, "") and sentence in err and "Traceback" not in err


def test_fine_tuned_scales_fit_their_partition_alone(here, tmp_path):
    checkpoint = load_checkpoint(DIGITS)
    images, _ = load_data("digits").train.tensors(64)
    mapped = map_model(checkpoint.model, calibration=images, provenance={"data": "digits"})
    mapped.provenance["scales"] = "given"
    path = save(mapped, tmp_path / "tuned.h8")
    code, _, err = here(path, "--partition", "none")
    assert code == 1 and "scales of its own, which fit its partition alone" in err
