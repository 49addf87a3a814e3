"""Training: it learns, it can be killed at any time, and it never hides what went wrong."""

import copy
import csv
import json
import math
import os
import signal
import struct
import threading
from dataclasses import replace
from uuid import uuid4

import pytest
import torch
from apart import run_apart
from builders import Dropping
from click.testing import CliRunner
from tensorboardX.proto.event_pb2 import Event

from has8.data import ArrayImages, Data, batches, load_data
from has8.errors import BadInput, CheckpointError, TrainingError, UnknownName
from has8.models import create_model
from has8.training import loop
from has8.training.checkpoint import load
from has8.training.fit import evaluate, fit
from has8.training.hardware import Hardware
from has8.training.new_model import recipe_options
from has8.training.optim import learning_rate
from has8.training.recipes import RECIPES, TrainConfig
from has8.training.signals import stop_signals

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
    models = [(folder / name).read_bytes() for name in ("model.pt", "best.pt")]
    return models, epochs, rows, points(folder)


def points(folder):
    """(name, epoch, value) of everything in TensorBoard's files, but for the clock."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        rest = path.read_bytes()
        while rest:  # a record: length, its checksum, the bytes, their checksum
            (length,) = struct.unpack("<Q", rest[:8])
            event = Event.FromString(rest[12 : 12 + length])
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
            rest = rest[16 + length :]
    return [point for point in found if point[0] != "seconds"]


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
    _, epochs, rows, scalars = unbroken
    assert epochs[-1].test_accuracy == 1.0
    assert epochs[-1].train_loss < epochs[0].train_loss
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["train_loss"]) for row in rows] == [epoch.train_loss for epoch in epochs]
    assert [point[:2] for point in scalars if point[0] == "train_loss"] == [
        ("train_loss", epoch) for epoch in (1, 2, 3)
    ]
    assert len(scalars) == 9 and scalars[-1][2] == pytest.approx(epochs[-1].test_accuracy)


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


def stop_at(epoch, images, number=signal.SIGTERM):
    def report(now):
        if (now.epoch, now.images, now.finished) == (epoch, images, None):
            os.kill(os.getpid(), number)

    return report


@pytest.mark.parametrize(
    ("epoch", "images", "left", "number"),
    [
        (1, 16, 32, signal.SIGTERM),
        (2, 32, 48, signal.SIGINT),
        (2, 64, 64, signal.SIGTERM),  # while testing
        (3, 48, 64, signal.SIGTERM),
    ],
)
def test_a_signal_ends_the_step_and_nothing_is_lost(
    tmp_path, unbroken, epoch, images, left, number
):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    expected = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    with pytest.raises(expected) as caught:
        fit(small(), DATA, CONFIG, out=tmp_path, on_progress=stop_at(epoch, images, number))
    assert number == signal.SIGINT or caught.value.code == 143
    assert isinstance(caught.value.__cause__, TrainingError)
    assert f"epoch {epoch} of 3 after {left} of 64 images" in str(caught.value.__cause__)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    for events in tmp_path.glob("events*"):  # named by the second, and this is all in one
        events.rename(tmp_path / "events.out.tfevents.0.before.has8")
    seen = []
    history = fit(small(99), DATA, CONFIG, out=tmp_path, on_progress=seen.append)
    assert (seen[0].epoch, seen[0].images) == (epoch, min(left + 16, 64))
    assert outcome(tmp_path, history) == unbroken


def test_long_epochs_are_saved_within(tmp_path, unbroken, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    with pytest.raises(Break):
        fit(small(), DATA, CONFIG, out=tmp_path, on_progress=break_at(2, 32))
    monkeypatch.undo()
    seen = []
    history = fit(small(99), DATA, CONFIG, out=tmp_path, on_progress=seen.append)
    assert (seen[0].epoch, seen[0].images) == (2, 48)
    assert outcome(tmp_path, history) == unbroken


@pytest.mark.parametrize("recipe", [{}, {"optimizer": "sgd"}, {"optimizer": "adam"}])
def test_random_numbers_go_on_after_a_break_too(tmp_path, recipe):
    config = replace(CONFIG, epochs=2, **recipe)
    whole, broken = Dropping(), Dropping()
    fit(whole, DATA, config)
    with pytest.raises(SystemExit):
        fit(broken, DATA, config, out=tmp_path, on_progress=stop_at(1, 32))
    torch.manual_seed(123)
    assert not same_weights(whole, broken)
    fit(broken, DATA, config, out=tmp_path)
    assert same_weights(whole, broken)


def test_signals_are_left_alone_in_other_threads_and_a_second_one_acts_at_once():
    found = []

    def other():
        with stop_signals() as signalled:
            found.append(signalled())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [0]
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(KeyboardInterrupt), stop_signals() as signalled:
        os.kill(os.getpid(), signal.SIGINT)
        assert signalled() == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal was held back")
    with pytest.raises(KeyboardInterrupt), stop_signals():
        os.kill(os.getpid(), signal.SIGINT)  # nobody acts on it: it is sent again


class Plain(torch.nn.Sequential):
    """A model whose gradient is the mean over images: no batch norm."""

    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 2))
        for parameter in self.parameters():
            torch.nn.init.zeros_(parameter)
        self.config = {"name": "plain"}


PLAIN = replace(CONFIG, epochs=2, subset=37, augment="none", optimizer="sgd", clip_norm=None)


def launch_two(out):
    """What ``torchrun --standalone --nproc-per-node 2`` does, but that its processes are forked."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    server = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": str(uuid4())}
    elastic_launch(LaunchConfig(1, 1, 2, **server, max_restarts=0, start_method="fork"), learn)(out)


def learn(out):
    """What each of the two does."""
    rank, hardware = int(os.environ["RANK"]), Hardware("cpu")

    plain, seen = Plain(), []
    fit(plain, DATA, PLAIN, hardware=hardware, on_progress=seen.append)
    if rank == 0:
        torch.save([plain.state_dict(), [now.images for now in seen]], out / "plain.pt")
    assert rank == 0 or not seen

    config = replace(CONFIG, epochs=2)
    torch.manual_seed(rank)  # other weights in every process: the first one's count
    fit(small(rank), DATA, config, hardware=hardware, out=out / f"whole{rank}")
    stop = stop_at(2, 32) if rank == 0 else None
    with pytest.raises(SystemExit) as stopped:
        fit(small(), DATA, config, hardware=hardware, out=out / "broken", on_progress=stop)
    assert stopped.value.code == 143
    model = small(5)
    history = fit(model, DATA, config, hardware=hardware, out=out / "broken")
    accuracy = evaluate(model, DATA.test, hardware=hardware)
    assert accuracy == history.accuracy
    torch.save([model.state_dict(), accuracy], out / f"rank{rank}.pt")


def test_two_processes_learn_as_one(tmp_path):
    """Same gradient as one process, same weights in both, one writer, and breaks as anywhere."""
    said = tmp_path / "said"
    assert run_apart(said, launch_two, tmp_path) == 0, said.read_text()
    (first, accuracy), (second, again) = (torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1))
    assert accuracy == again and first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not (tmp_path / "whole1").exists()  # the second process writes nothing
    whole, resumed = (load(tmp_path / n / "model.pt").model for n in ("whole0", "broken"))
    assert same_weights(whole, resumed)

    alone = Plain()
    fit(alone, DATA, PLAIN)
    state, images = torch.load(tmp_path / "plain.pt")
    assert images == 2 * [16, 32, 37, 37]
    assert torch.allclose(state["1.weight"], alone[1].weight, atol=1e-6)


def train_until_killed(out):
    def kill(now):
        if now.epoch == 2 and now.images == 32:
            os.kill(os.getpid(), signal.SIGKILL)

    fit(small(), DATA, CONFIG, out=out, on_progress=kill)


def test_a_killed_process_loses_at_most_one_epoch(tmp_path, unbroken, tmp_path_factory):
    said = tmp_path_factory.mktemp("said") / "said"
    code = run_apart(said, train_until_killed, tmp_path)
    assert code == -signal.SIGKILL, said.read_text()
    (events,) = tmp_path.glob("events*")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.pt",
        events.name,
        "last.pt",
        "metrics.csv",
    ]
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


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_parts_of_a_batch_make_the_batch(world):
    indices = torch.arange(64)[:37]
    arguments = {"indices": indices, "shuffle_seed": 3, "first": 1}
    arguments["augment"] = "flip"
    flipped = ArrayImages(DATA.train.images, DATA.train.labels, levels=16, flip=True)
    parts = [list(batches(flipped, 16, part=(rank, world), **arguments)) for rank in range(world)]
    whole = list(batches(flipped, 16, **arguments))
    assert len(whole) == len(parts[0]) == 2
    for step, (images, labels) in enumerate(whole[: len(parts[0])]):
        together = torch.cat([part[step][0] for part in parts])
        assert sum(len(part[step][1]) for part in parts) == len(labels)
        assert torch.equal(together.flatten(1).sort(0).values, images.flatten(1).sort(0).values)


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


def test_the_schedule_runs_over_all_epochs(tmp_path):
    fit(small(), DATA, CONFIG, out=tmp_path)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    for group in state["optimizer"]["param_groups"]:
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


def test_the_best_model_is_that_of_the_first_of_the_best_epochs(tmp_path):
    history = fit(small(), DATA, replace(CONFIG, lr=0.002), out=tmp_path)
    best = load(tmp_path / "best.pt")
    accuracies = [epoch.test_accuracy for epoch in history.epochs]
    assert best.provenance["epoch"] == accuracies.index(max(accuracies)) + 1
    assert best.provenance["test_accuracy"] == evaluate(best.model, DATA.test) == max(accuracies)
    assert all(bool(m.frozen) for m in best.model.modules() if hasattr(m, "frozen"))


def test_bfloat16_learns_and_is_another_run(tmp_path, capfd):
    hardware = Hardware(accelerator="cpu", precision="bf16")
    model = small()
    history = fit(model, DATA, CONFIG, hardware=hardware, out=tmp_path)
    assert history.accuracy > 0.9 and evaluate(model, DATA.test, hardware=hardware) > 0.9
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert capfd.readouterr() == ("", "")
    with pytest.raises(BadInput, match="precision is 'bf16' there and '32' here"):
        fit(small(), DATA, CONFIG, out=tmp_path)


def test_what_fit_leaves_is_laid_out_as_usual(tmp_path):
    model = small(depth=1)
    fit(model, DATA, replace(CONFIG, epochs=1), out=tmp_path)
    for found in (model, load(tmp_path / "best.pt").model, load(tmp_path / "model.pt").model):
        assert all(value.is_contiguous() for value in found.state_dict().values())


@pytest.mark.parametrize("recipe", ["paper", "paper-sgdr", "modern"])
def test_every_recipe_trains(recipe):
    config = replace(RECIPES[recipe], epochs=1)
    assert 0 <= fit(small(), DATA, config).accuracy <= 1


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(small(), DATA, replace(CONFIG, epochs=1, optimizer="adam", schedule="constant"))
    assert not list(tmp_path.iterdir())


# Refusals


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


def test_hardware_that_is_not_there():
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="cannot compute on 1 x 1 x cuda"):
            fit(small(), DATA, CONFIG, hardware=Hardware("cuda"))


def test_a_damaged_state_is_refused(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"PK half a file")
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        fit(small(), DATA, CONFIG, out=tmp_path)


@pytest.mark.parametrize(("images", "what"), [(16, "the loss"), (64, "a weight")])
def test_numbers_that_are_not_finite_end_training_and_keep_the_epoch_before(tmp_path, images, what):
    model = small()

    def spoil(now):
        if now.epoch == 2 and now.images == images and not now.finished:
            with torch.no_grad():
                next(model.parameters()).fill_(math.nan)

    with pytest.raises(TrainingError, match=f"{what} in epoch 2 is not finite: lower the lear"):
        fit(model, DATA, CONFIG, out=tmp_path, on_progress=spoil)
    state = torch.load(tmp_path / "last.pt", weights_only=True)["model"]
    assert all(value.isfinite().all() for value in state.values())
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
        **recipe_options("modern", "has8_vgg", load_data("digits")),
    }
    again = run(*QUICK, "--json")
    answer = json.loads(again.stdout)
    assert again.stderr == "" and answer["epochs"] == 2
    assert answer["test_accuracy"] == checkpoint.provenance["test_accuracy"]
    assert answer["model"] == "runs/has8_vgg-digits/model.pt"
    restarted = run(*QUICK, "--restart", "--out", "runs/has8_vgg-digits")
    assert len(restarted.stderr.splitlines()) == 2


def test_a_recipe_is_chosen_and_changed(run, tmp_path):
    result = run(
        *QUICK, "--recipe", "paper", "--batch-size", "32", "--quiet", "--option", "kernel=1"
    )
    assert result.exit_code == 0, result.output
    checkpoint = load(tmp_path / "runs" / "has8_vgg-digits" / "model.pt")
    expected = replace(RECIPES["paper"], batch_size=32, epochs=2, subset=64)
    facts = {name: getattr(expected, name) for name in TrainConfig.__dataclass_fields__}
    assert checkpoint.provenance.items() >= facts.items()
    assert "mean" not in checkpoint.config and checkpoint.config["kernel"] == 1
    help_text = " ".join(run("--help").stdout.split())
    for text in (
        "adam, lr 0.001, weight decay 0.001, schedule constant, batch 16",
        "sgd, lr 0.00625",
    ):
        assert text in help_text


def test_options_given_win_over_those_of_the_recipe(run, tmp_path):
    result = run(*QUICK, "--quiet", "--option", "mean=[0.25]")
    assert result.exit_code == 0, result.output
    config = load(tmp_path / "runs" / "has8_vgg-digits" / "model.pt").config
    assert config["mean"] == [0.25] and config["std"] == [0.3755]


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
        ((*QUICK, "--option", "base=x"), BadInput, "'base' of has8_vgg: Expected int"),
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


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The state of a run of two epochs that was stopped in the second."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(SystemExit):
        fit(small(), DATA, replace(CONFIG, epochs=2), out=folder, on_progress=stop_at(2, 32))
    return torch.load(folder / "last.pt", weights_only=True)


def first(state):
    return next(iter(state["optimizer"]["state"].values()))


EDITS = {
    "a moment of another shape": lambda s: first(s).update(exp_avg=torch.zeros(1)),
    "a moment of another type": lambda s: first(s).update(exp_avg=first(s)["exp_avg"].double()),
    "a moment that is no tensor": lambda s: first(s).update(exp_avg_sq=0.5),
    "a moment that is missing": lambda s: first(s).pop("exp_avg_sq"),
    "a moment too many": lambda s: first(s).update(max_exp_avg_sq=torch.zeros(1)),
    "a moment of one number": lambda s: first(s).update(
        exp_avg=torch.zeros(1).expand(first(s)["exp_avg"].numel()).view_as(first(s)["exp_avg"])
    ),
    "a negative square": lambda s: first(s)["exp_avg_sq"].fill_(-1),
    "a moment that is no number": lambda s: first(s)["exp_avg"].fill_(float("nan")),
    "a step of another shape": lambda s: first(s).update(step=torch.zeros(3)),
    "a parameter that is not there": lambda s: s["optimizer"]["state"].update({999: {}}),
    "a weight of another shape": lambda s: s["model"].update(
        {"head.snn.0.neuron.beta": torch.ones(2)}
    ),
    "no weights": lambda s: s.update(model=None),
    "no optimiser": lambda s: s.update(optimizer=[]),
    "a step beyond the epoch": lambda s: s["position"].update(step=10**7),
    "a negative step": lambda s: s["position"].update(step=-1),
    "a step as words": lambda s: s["position"].update(step="2"),
    "an epoch that was left out": lambda s: s["position"].update(epoch=3),
    "a loss that is no number": lambda s: s["position"].update(loss=float("nan")),
    "more right than there are": lambda s: s["position"].update(correct=10**6),
    "an accuracy above one": lambda s: s["epochs"][0].update(test_accuracy=1.5),
    "an epoch with another field": lambda s: s["epochs"][0].pop("seconds"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_state_is_refused_and_changes_nothing(tmp_path, stopped, edit):
    state = copy.deepcopy(stopped)
    edit(state)
    torch.save(state, tmp_path / "last.pt")
    model = small()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match="cannot be resumed from") as caught:
        fit(model, DATA, replace(CONFIG, epochs=2), out=tmp_path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_hyperparameters_are_those_of_the_configuration(tmp_path, stopped):
    state = copy.deepcopy(stopped)
    for group in state["optimizer"]["param_groups"]:
        group.update(lr=1e9, weight_decay=77.0, betas=(0.0, 0.0), foreach=True)
    results = []
    for name, saved in (("edited", state), ("as it was", stopped)):
        (tmp_path / name).mkdir()
        torch.save(saved, tmp_path / name / "last.pt")
        model = small()
        fit(model, DATA, replace(CONFIG, epochs=2), out=tmp_path / name)
        results.append(model)
    assert same_weights(*results)


def test_what_cannot_be_saved_is_not_trained(tmp_path):
    with pytest.raises(BadInput, match="provenance.who is a object"):
        fit(small(), DATA, CONFIG, out=tmp_path / "run", provenance={"who": object()})
    model = small()
    model.config = {**model.config, "base": 3}
    with pytest.raises(BadInput, match="cannot be saved"):
        fit(model, DATA, CONFIG, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_seeds_have_64_bits():
    with pytest.raises(BadInput, match="seed must be"):
        replace(CONFIG, seed=2**64)
