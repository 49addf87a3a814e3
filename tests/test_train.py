"""Training: it learns, it can be killed at any time, and it never hides what went wrong."""

import csv
import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from has8.checkpoint import load
from has8.data import ArrayImages, Data
from has8.errors import BadInput, CheckpointError, TrainingError, UnknownName
from has8.models import create_model
from has8.train import TrainConfig, evaluate, fit, learning_rate

CONFIG = TrainConfig(epochs=3, batch_size=16, lr=0.02, label_smoothing=0.05, seed=7)


def stripes(count=64, seed=0):
    """Two classes that are easy to tell apart: stripes across and stripes down, with noise."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 90, (count, 1, 8, 8), generator=generator)
    labels = torch.randint(0, 2, (count,), generator=generator)
    images[labels == 0, :, ::2] += 160
    images[labels == 1, :, :, ::2] += 160
    return ArrayImages(images.to(torch.uint8), labels, flip=True)


DATA = Data("stripes", stripes(), stripes(40, seed=1), (1, 8, 8), ("across", "down"))


def small(seed=0, **options):
    torch.manual_seed(seed)
    options = {"base": 4, "depth": 0, "head": [6], **options}
    return create_model("has8_vgg", num_classes=2, in_channels=1, **options)


def outcome(folder, history):
    """All that a run leaves behind, without the clock."""
    epochs = [replace(epoch, seconds=0.0) for epoch in history.epochs]
    with (folder / "metrics.csv").open() as file:
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    return (folder / "model.pt").read_bytes(), epochs, rows


def same_weights(one, two):
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """What a run without a break leaves behind."""
    folder = tmp_path_factory.mktemp("unbroken")
    return outcome(folder, fit(small(), DATA, CONFIG, out=folder))


class Break(Exception):
    """Stops a run from inside."""


def break_at(epoch, images):
    def report(now):
        if now.epoch == epoch and now.images >= images and not now.finished:
            raise Break

    return report


# Laws


def test_it_learns(unbroken):
    _, epochs, rows = unbroken
    assert epochs[-1].test_accuracy == 1.0
    assert epochs[-1].train_loss < epochs[0].train_loss
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["train_loss"]) for row in rows] == [epoch.train_loss for epoch in epochs]


@pytest.mark.parametrize(("epoch", "images"), [(1, 16), (2, 16), (2, 64), (3, 64)])
def test_a_broken_and_resumed_run_equals_an_unbroken_one_bit_for_bit(
    tmp_path, unbroken, epoch, images
):
    with pytest.raises(Break):
        fit(small(), DATA, CONFIG, out=tmp_path, on_progress=break_at(epoch, images))
    assert not (tmp_path / "model.pt").exists()
    started = []
    history = fit(
        small(seed=0 if epoch == 1 else 99),  # weights come from the file, once there is one
        DATA,
        CONFIG,
        out=tmp_path,
        on_progress=lambda now: started.append(now.epoch),
    )
    assert started[0] == epoch  # at most the broken epoch is lost
    assert outcome(tmp_path, history) == unbroken


def test_a_killed_process_loses_at_most_one_epoch(tmp_path, unbroken):
    script = f"""
import os, signal, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_train import CONFIG, DATA, fit, small
def kill(now):
    if now.epoch == 2 and now.images == 32:
        os.kill(os.getpid(), signal.SIGKILL)
fit(small(), DATA, CONFIG, out={str(tmp_path)!r}, on_progress=kill)
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=200)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "metrics.csv"]
    started = []
    history = fit(
        small(99), DATA, CONFIG, out=tmp_path, on_progress=lambda now: started.append(now.epoch)
    )
    assert started[0] == 2
    assert outcome(tmp_path, history) == unbroken


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    def train(seed, before):
        model = small()
        torch.manual_seed(before)
        expected = torch.get_rng_state()
        fit(model, DATA, replace(CONFIG, epochs=1, seed=seed))
        assert torch.equal(torch.get_rng_state(), expected)
        return model

    assert same_weights(train(1, before=5), train(1, before=6))
    assert not same_weights(train(1, before=5), train(2, before=5))


@settings(deadline=None)
@given(st.integers(1, 200), st.floats(1e-6, 10), st.sampled_from(["cosine", "constant"]))
def test_the_learning_rate_stays_within_its_bound(steps, lr, schedule):
    config = TrainConfig(lr=lr, schedule=schedule)
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    assert all(0 < rate <= lr for rate in rates)
    top = rates.index(max(rates))
    assert rates[top] == lr
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_a_model_in_evaluation_mode_is_trained_all_the_same():
    one, two = small(), small().eval()
    for model in (one, two):
        fit(model, DATA, replace(CONFIG, epochs=1))
    assert same_weights(one, two)


def test_evaluation_counts_and_leaves_the_mode_as_it_was():
    model = small(seed=3).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    accuracy = evaluate(model, DATA.test, batch_size=7)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.eval()
    with torch.no_grad():
        right = [int(model(x[None]).argmax()) == y for x, y in DATA.test]
    assert accuracy == sum(right) / len(right) and not model.training


# Examples


def test_warm_up_then_cosine_down():
    config = TrainConfig(lr=1.0)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[52] == pytest.approx((1 + math.cos(math.pi * 47 / 95)) / 2)
    assert rates[99] < 0.001
    assert learning_rate(replace(config, schedule="constant"), 0, 100) == 1.0


def test_the_schedule_runs_over_all_epochs(tmp_path):
    fit(small(), DATA, CONFIG, out=tmp_path)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    (group,) = state["optimizer"]["param_groups"]
    assert group["lr"] == learning_rate(CONFIG, step=11, steps=12)


def test_the_finished_model_is_calibrated_and_says_where_it_comes_from(tmp_path):
    model = small()
    history = fit(model, DATA, CONFIG, out=tmp_path)
    checkpoint = load(tmp_path / "model.pt")
    assert all(bool(m.frozen) for m in checkpoint.model.modules() if hasattr(m, "frozen"))
    assert same_weights(checkpoint.model, model)
    assert evaluate(checkpoint.model, DATA.test) == history.accuracy
    assert checkpoint.class_names == ("across", "down") and checkpoint.input_shape == (1, 8, 8)
    facts = {"data": "stripes", "seed": 7, "epochs": 3, "test_accuracy": history.accuracy}
    assert checkpoint.provenance.items() >= facts.items()


def test_a_finished_run_is_not_run_again_unless_asked(tmp_path, unbroken):
    fit(small(), DATA, CONFIG, out=tmp_path)
    (tmp_path / "model.pt").unlink()
    seen = []
    history = fit(small(5), DATA, CONFIG, out=tmp_path, on_progress=seen.append)
    assert not seen
    assert outcome(tmp_path, history) == unbroken
    with pytest.raises(Break):
        fit(small(), DATA, CONFIG, out=tmp_path, resume=False, on_progress=break_at(1, 16))
    assert not (tmp_path / "last.pt").exists()


def test_progress_counts_images_and_ends_every_epoch():
    seen = []
    fit(small(), DATA, replace(CONFIG, epochs=2, subset=40), on_progress=seen.append)
    assert [now.images for now in seen] == 2 * [16, 32, 40, 40]
    assert {now.total for now in seen} == {40}
    ends = [now for now in seen if now.finished]
    assert [end.finished.epoch for end in ends] == [1, 2]
    assert all(end.loss == end.finished.train_loss for end in ends)


def test_a_rest_of_one_image_is_left_out():
    """Batch norm over 1 x 1 maps refuses a batch of one."""
    seen = []
    fit(small(), DATA, replace(CONFIG, epochs=1, subset=33), on_progress=seen.append)
    assert [now.images for now in seen] == [16, 32, 32]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(small(), DATA, replace(CONFIG, epochs=1, optimizer="adam", schedule="constant"))
    assert not list(tmp_path.iterdir())


# Refusals


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"lr": 0.0},
        {"lr": math.inf},
        {"weight_decay": -0.1},
        {"optimizer": "sgd"},
        {"schedule": "step"},
        {"label_smoothing": 1.0},
        {"seed": -1},
        {"subset": 1},
    ],
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(BadInput, match=f"{next(iter(wrong))} must be"):
        TrainConfig(**wrong)


def test_a_subset_larger_than_the_data():
    with pytest.raises(BadInput, match="at most the 64 training images, not 65"):
        fit(small(), DATA, replace(CONFIG, subset=65))


@pytest.mark.parametrize(
    ("model", "data", "config", "message"),
    [
        (small(), DATA, replace(CONFIG, lr=0.5), "lr is 0.02 there and 0.5 here"),
        (small(), DATA, replace(CONFIG, epochs=9), "epochs is 3 there and 9 here"),
        (small(base=5), DATA, CONFIG, "'base': 4.*'base': 5"),
        (small(), replace(DATA, name="dots"), CONFIG, "data is 'stripes' there and 'dots' here"),
    ],
)
def test_the_state_of_another_run_is_not_touched(tmp_path, model, data, config, message):
    with pytest.raises(Break):
        fit(small(), DATA, CONFIG, out=tmp_path, on_progress=break_at(2, 16))
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(BadInput, match=message) as caught:
        fit(model, data, config, out=tmp_path)
    assert "--restart" in str(caught.value)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_damaged_state_is_refused(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"PK half a file")
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        fit(small(), DATA, CONFIG, out=tmp_path)


@pytest.mark.parametrize(("images", "what"), [(16, "loss"), (64, "a weight")])
def test_numbers_that_are_not_finite_end_training_and_keep_the_epoch_before(tmp_path, images, what):
    model = small()

    def spoil(now):
        if now.epoch == 2 and now.images == images and not now.finished:
            with torch.no_grad():
                next(model.parameters()).fill_(math.nan)

    with pytest.raises(TrainingError, match=f"{what} in epoch 2 is not finite: lower the lear"):
        fit(model, DATA, CONFIG, out=tmp_path, on_progress=spoil)
    started = []
    fit(small(), DATA, CONFIG, out=tmp_path, on_progress=lambda now: started.append(now.epoch))
    assert started[0] == 2
    assert all(p.isfinite().all() for p in load(tmp_path / "model.pt").model.parameters())


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write"):
        fit(small(), DATA, replace(CONFIG, epochs=1), out=tmp_path / "file")


# The command


@pytest.fixture
def run(tmp_path, monkeypatch):
    from has8.cli.train import train

    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(train, arguments)


QUICK = (
    *("has8_vgg", "--data", "digits", "--base", "2", "--depth", "1", "--option", "head=[4]"),
    *("--epochs", "2", "--subset", "64"),
)


def test_the_command_trains_and_goes_on(run, tmp_path):
    result = run(*QUICK)
    assert result.exit_code == 0, result.output
    assert [line[:10] for line in result.stderr.splitlines()] == ["epoch 1/2:", "epoch 2/2:"]
    assert result.stdout.splitlines()[-1] == "runs/has8_vgg-digits/model.pt"
    checkpoint = load(tmp_path / "runs" / "has8_vgg-digits" / "model.pt")
    assert checkpoint.config == {
        **{"name": "has8_vgg", "num_classes": 10, "in_channels": 1},
        **{"base": 2, "depth": 1, "head": [4]},
    }
    again = run(*QUICK, "--json")
    answer = json.loads(again.stdout)
    assert again.stderr == "" and answer["epochs"] == 2
    assert answer["test_accuracy"] == checkpoint.provenance["test_accuracy"]
    assert answer["model"] == "runs/has8_vgg-digits/model.pt"
    restarted = run(*QUICK, "--restart", "--out", "runs/has8_vgg-digits")
    assert len(restarted.stderr.splitlines()) == 2


def test_quiet_means_quiet(run, tmp_path):
    result = run(*QUICK, "--quiet", "--out", "here")
    assert result.exit_code == 0 and result.stderr == ""
    assert (tmp_path / "here" / "model.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("has8_vog", "--data", "digits"), UnknownName, "unknown model 'has8_vog'"),
        (("has8_vgg", "--data", "digit"), UnknownName, "unknown data set 'digit'"),
        ((*QUICK, "--option", "head"), BadInput, "takes KEY=VALUE"),
        ((*QUICK, "--option", "wide=3"), BadInput, "no option 'wide'"),
        ((*QUICK, "--option", "base=x"), BadInput, "cannot be built"),
        ((*QUICK, "--lr", "-1"), BadInput, "lr must be"),
    ],
)
def test_mistakes_on_the_command_line(run, tmp_path, arguments, error, message):
    result = run(*arguments)
    assert isinstance(result.exception, error) and message in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_the_subset_is_drawn_by_the_seed():
    """The subset is drawn by the seed, not cut from the front."""
    config = replace(CONFIG, subset=10)
    seen = {seed: [] for seed in (1, 2)}
    for seed, found in seen.items():
        data = replace(DATA, train=_Spy(DATA.train, found))
        fit(small(), data, replace(config, epochs=2, seed=seed))
    first, second = ([sorted(epoch) for epoch in found] for found in seen.values())
    assert first[0] == first[1] and len(set(first[0])) == 10
    assert first[0] != second[0] != list(range(10))


class _Spy(ArrayImages):
    """Notes which images are read, one list a pass."""

    def __init__(self, dataset, found):
        super().__init__(dataset.images, dataset.labels)
        self.found = found

    def read(self, chunks):
        chunks = list(chunks)
        self.found.append(torch.cat(chunks).tolist())
        return super().read(chunks)
