"""Where a mapping's files go, and what they never take the place of; optional things that fail."""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from has8 import create_model, save_checkpoint
from has8.cli.jobs import map as job
from has8.cli.map import map_command
from has8.errors import BadInput
from has8.training.history import Epoch
from has8.training.run_folder import tensorboard

DIGITS = Path(__file__).parent.parent / "examples" / "models" / "digits.pt"


def mapped(*arguments: object) -> str:
    given = [*map(str, arguments), "--samples", "4", "--partition", "none", "--quiet"]
    done = CliRunner().invoke(map_command, given, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_mapping_lies_beside_its_model_and_loses_nothing(tmp_path, monkeypatch):
    here, run, out = tmp_path / "here", tmp_path / "run", tmp_path / "out"
    here.mkdir()
    run.mkdir()
    monkeypatch.chdir(here)
    model = run / "model.pt"
    shutil.copy(DIGITS, model)
    printed = mapped(model, "--verify", "none")
    assert not any(line != line.rstrip() for line in printed.splitlines())
    assert set(content(run)) == {"model.pt", "model.h8", "model.report.json"}
    assert not content(here)
    mapped(model, "--verify", "none")  # the same again

    # A report that was verified stays until one is asked for that need not be.
    report = run / "model.report.json"
    facts = json.loads(report.read_text())
    report.write_text(json.dumps({**facts, "verified": {"equal": True}}))
    kept = content(run)
    with pytest.raises(BadInput, match="was verified against Lava: leave out --verify none"):
        mapped(model, "--verify", "none")
    assert content(run) == kept
    mapped(model, "--verify", "none", "--out", out)
    mapped(model)
    assert json.loads(report.read_text())["verified"]["equal"] is None

    # Another model of that name.
    torch.manual_seed(0)
    other = create_model("has8_vgg", num_classes=10, in_channels=1, base=2, depth=1, head=(4,))
    save_checkpoint(model, other, input_shape=(1, 8, 8), class_names=list("0123456789"))
    kept = content(out)
    for path in ("model.h8", "model.report.json"):
        (out / path).unlink()
        before = content(out)
        with pytest.raises(BadInput, match="is not of .* as it is now: choose another folder"):
            mapped(model, "--data", "digits", "--out", out)
        assert content(out) == before
        (out / path).write_bytes(kept[path])
    (out / "model.h8").write_bytes(b"something else")
    with pytest.raises(BadInput, match=r"model\.h8 is not of"):
        mapped(model, "--data", "digits", "--out", out)
    mapped(model, "--data", "digits", "--out", out, "--overwrite")
    assert (out / "model.h8").read_bytes() != kept["model.h8"]


def test_a_mapping_is_kept_before_it_is_verified(tmp_path, monkeypatch):
    def interrupted(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(job, "_verify", interrupted)
    with pytest.raises(MemoryError):
        mapped(DIGITS, "--out", tmp_path)
    assert set(content(tmp_path)) == {"digits.h8"}
    monkeypatch.undo()
    mapped(DIGITS, "--out", tmp_path)  # goes on where it was


EPOCHS = [Epoch(number, 1.0, 0.5, 0.5, 0.1) for number in (1, 2, 3)]


def test_training_does_not_wait_for_a_clock(tmp_path, monkeypatch):
    """One that jumps back by a year with every look at it."""
    moments = iter(range(2_000_000_000, 0, -31_536_000))
    monkeypatch.setattr(time, "time", lambda: float(next(moments)))
    with tensorboard(tmp_path, EPOCHS[:1]) as add:
        for epoch in EPOCHS[1:]:
            add(epoch)
    (events,) = tmp_path.iterdir()
    assert events.read_bytes().count(b"train_loss") == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as it cannot close
def test_training_goes_on_without_tensorboard(tmp_path, monkeypatch, caplog):
    from tensorboardX.record_writer import RecordWriter

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("write", "flush", "close", "__init__"):
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            caplog.clear()
            patch.setattr(RecordWriter, name, full)
            with tensorboard(tmp_path, EPOCHS[:1]) as add:
                add(EPOCHS[1])
        (record,) = caplog.records
        assert "No space left on device" in record.getMessage()
        assert "training goes on" in record.getMessage()
    with pytest.raises(ZeroDivisionError), tensorboard(tmp_path, []):  # errors of the run remain
        raise ZeroDivisionError
