"""Networks of artificial and spiking layers: as published, trained together or apart, mapped."""

import json
import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

from has8 import Data, TrainConfig, create_model, fit, load_checkpoint, save_checkpoint
from has8.cli.train import train
from has8.data import ArrayImages
from has8.errors import BadInput, UnknownName
from has8.iir import IIR, Axon, SharedIIR, _Fire
from has8.training import separate
from has8.training.liven import liven
from has8.training.loop import count_right
from has8.training.subset import chosen
from hwsim import compare, simulate
from hwsim.backends.lava.backend import Lava
from hwsim.experiments.cluster import _simulate
from mapping import load, map_model, save
from mapping.finetune import prepare
from mapping.graph.evaluate import evaluate
from mapping.tune import tune

SIDE = 8
mlp = partial(
    create_model, "hnn_mlp", num_classes=4, in_channels=1, side=SIDE, hidden=[12, 9], steps=6
)
cnn = partial(
    create_model, "hnn_cnn", num_classes=4, side=14, widths=[3, 4, 5, 6], hidden=7, steps=4
)
X = torch.rand(6, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def lively(model: nn.Module) -> nn.Module:
    """With weights at which neurons fire."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.spiking.named_parameters():
            if name.endswith(("weight", "bias")):
                parameter.normal_(0.1, 1.5 / math.sqrt(parameter[0].numel()))
    return model


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_networks_of_artificial_layers_have_the_published_parameters():
    assert count(create_model("hnn_mlp", num_classes=10, in_channels=1, split=3)) == 648_010
    assert count(create_model("hnn_cnn", num_classes=10, split=8)) == 890_410


@pytest.mark.parametrize(
    ("split", "axons", "neurons"), [(0, 7, 6), (1, 6, 5), (4, 3, 3), (6, 1, 2), (8, 0, 0)]
)
def test_splits_of_the_tables(split, axons, neurons):
    """A filter in front of each weight and of each pooling, but where values come in directly."""
    net = cnn(split=split)
    found = [type(module) for module in net.modules()]
    assert (found.count(Axon), found.count(IIR)) == (axons, neurons)
    assert net(torch.rand(2, 3, 14, 14)).shape == (2, 4)


@pytest.mark.parametrize("coding", ["duplicate", "gaussian", "poisson", "poisson_released"])
@pytest.mark.parametrize("options", [{}, {"shared": True}, {"direct": False, "mode": "paper"}])
def test_every_option_trains_and_its_config_rebuilds_the_model(coding, options):
    model = lively(mlp(split=1, coding=coding, **options))
    model(X).square().sum().backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None}
    passes = coding in ("duplicate", "gaussian")
    assert silent == (set() if passes else {"artificial.1.weight", "artificial.1.bias"})
    again = create_model(**model.config)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model.eval()(X), again.eval()(X))
        assert model(X).any()


def by_equations(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A784-S500-S10 as it is published: all layers in each step, states by neuron and input."""
    first, axon, second = net.spiking[0], net.spiking[3], net.spiking[4][0]
    theta = math.exp(-1 / 4)
    values = torch.sigmoid(net.artificial[1](x.flatten(1)))
    before = earlier = fired = trace = fired2 = trace2 = total = torch.zeros(())
    for _ in range(6):
        trace = theta * trace + fired
        fired = _Fire.apply(first(values) - trace - 1, 0.4)
        before, earlier = axon.a1 * before + axon.a2 * earlier + axon.b0 * fired, before
        trace2 = theta * trace2 + fired2
        fired2 = _Fire.apply(second(before) - trace2 - 1, 0.4)
        total = total + fired2
    return total


def test_a_network_is_its_equations_and_repeats_nothing_that_stays_the_same():
    net, rows = lively(mlp(split=1)).double(), []
    net.spiking[0].register_forward_hook(lambda module, given, out: rows.append(len(out)))
    found, expected = net(X.double()), by_equations(net, X.double())
    assert rows == [6, *[6] * 6]  # once in the network
    assert torch.equal(found, expected) and found.any()
    weights = list(net.parameters())
    grads = [torch.autograd.grad(F.cross_entropy(y, torch.arange(6) % 4), weights)
             for y in (found, expected)]  # fmt: skip
    assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True))


def test_the_released_probabilities_are_features_taken_for_pixels():
    divide = mlp(split=1, coding="poisson_released").spiking[0][0]
    assert divide(torch.tensor([-1.0, 51.0, 300.0])).tolist() == pytest.approx([0, 0.2, 1])


def pretrained(**options) -> nn.Module:
    torch.manual_seed(3)
    return mlp(split=3, **options)


def data(images: int = 40) -> Data:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(256, (images, 1, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    part = ArrayImages(pixels, torch.arange(images) % 4)
    return Data("random", part, part, (1, SIDE, SIDE), ("a", "b", "c", "d"))


CONFIG = TrainConfig(
    epochs=2, batch_size=16, lr=0.01, augment="none", optimizer="adam", weight_decay=0.1
)


@pytest.mark.parametrize("split", [1, 3])
def test_short_training_begins_with_currents_of_known_mean_and_deviation(split):
    net, images = mlp(split=split), data()
    first = next(net.parameters()).requires_grad_(False).clone()
    liven(net, images, CONFIG)
    assert torch.equal(next(net.parameters()), first)  # what is kept is left alone
    currents = []
    for layer in (m for m in net.modules() if isinstance(m, nn.Linear)):
        layer.register_forward_hook(lambda _, __, out: currents.append(out.detach()))
    net(images.train.tensors(32)[0])
    middle, last = (torch.stack([c.mean(0), c.std(0)]) for c in currents[1:])
    assert torch.allclose(middle, torch.tensor([[0.0], [1.0]]).expand_as(middle), atol=1e-3)
    expected = torch.tensor([[1.0], [0.5]] if split == 1 else [[0.0], [1.0]])
    assert torch.allclose(last, expected.expand_as(last), atol=1e-3)


def test_short_training_begins_by_images_of_its_subset_alone():
    """Others may be anything; a single image gives weights that are finite."""
    part, few = data().train, replace(CONFIG, subset=6, seed=4)
    learned = chosen(40, few)
    images = torch.full_like(part.images, 255)
    images[learned] = part.images[learned]
    nets = mlp(split=1), mlp(split=1)
    nets[1].load_state_dict(nets[0].state_dict())
    liven(nets[0], data(), few)
    liven(nets[1], replace(data(), train=ArrayImages(images, part.labels)), few)
    assert all(map(torch.equal, nets[0].parameters(), nets[1].parameters()))
    liven(nets[0], data(1), CONFIG)
    assert all(parameter.isfinite().all() for parameter in nets[0].parameters())


@pytest.mark.parametrize("coding", ["duplicate", "poisson"])
def test_kept_layers_run_once_and_training_changes_the_others_alone(coding, tmp_path, monkeypatch):
    results, images = [], []
    config = replace(CONFIG, subset=24)
    for most, runs in ((separate.CACHE_BYTES, 1), (0, 2)):  # of train and test images, each epoch
        monkeypatch.setattr(separate, "CACHE_BYTES", most)
        net, ann = lively(mlp(split=2, coding=coding)), pretrained()
        separate.keep_artificial(net, ann)
        net.artificial[1].register_forward_hook(lambda *given: images.append(len(given[-1])))
        history = fit(net, data(), config, out=tmp_path / f"{most}")
        assert sum(images) == (24 + 40) * runs + 2  # and one image twice, to see shapes
        images.clear()
        saved = load_checkpoint(tmp_path / f"{most}" / "model.pt").model
        assert torch.equal(saved.artificial[3].weight, ann.artificial[3].weight)
        trained, drawn = saved.spiking.state_dict(), lively(mlp(split=2, coding=coding)).spiking
        assert not any(torch.equal(trained[name], p) for name, p in drawn.named_parameters())
        results.append((trained, history.accuracy))
    (one, accuracy), (other, expected) = results
    assert accuracy == expected
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: separate.keep_artificial(mlp(split=0), pretrained()), "artificial and spiking"),
        (lambda: separate.keep_artificial(mlp(split=1), mlp(split=2)), "artificial layers alone"),
        (
            lambda: separate.keep_artificial(mlp(split=2), pretrained(activation="sigmoid")),
            r"layer 2 is ReLU\(\) here and Sigmoid\(\) in the trained network",
        ),
        (
            lambda: separate.keep_artificial(mlp(split=1, coding="gaussian"), pretrained()),
            "not coding='gaussian'",
        ),
        (lambda: fit(mlp(split=1, coding="poisson"), data(), CONFIG), "no gradient .*--separate"),
        (lambda: mlp(split=0, coding="gaussian"), "takes what an artificial layer makes"),
        (lambda: mlp(split=4), "split must be from 0 to 3"),
        (lambda: mlp(mode="released"), "mode must be 'hw' or 'paper'"),
        (lambda: mlp(hidden=[0]), "widths of at least 1"),
        (lambda: cnn(side=13), "side >= 14"),
        (lambda: cnn(widths=[3]), "4 convolutions"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(BadInput, match=sentence):
        call()


def test_an_unknown_coding_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'gaussian'"):
        mlp(coding="gausian")


def test_the_command_trains_apart_and_knows_the_size_of_images(tmp_path):
    def run(*arguments):
        common = ["--data", "digits", "--recipe", "hnn", "--epochs", "1", "--subset", "64"]
        common += ["--quiet", "--json", "--option", "hidden=[20,10]"]
        return CliRunner().invoke(train, ["hnn_mlp", *common, *map(str, arguments)])

    ann = json.loads(run("--option", "split=3", "--out", tmp_path / "ann").output)
    assert ann["config"]["side"] == 8
    apart = ("--option", "steps=4", "--out", tmp_path / "net", "--separate", ann["model"])
    trained = load_checkpoint(json.loads(run(*apart).output)["model"])
    front = load_checkpoint(ann["model"]).model.artificial[3].weight
    assert torch.equal(trained.model.artificial[3].weight, front)
    assert trained.provenance["separate"]["file"] == "model.pt"
    refused = run(*apart, "--out", tmp_path / "ann")
    assert "its results would take its place" in str(refused.exception)


def test_shared_filters_put_all_spiking_layers_on_the_chip(tmp_path):
    cases = ((0, "duplicate", 5), (1, "duplicate", 3), (2, "duplicate", 1), (1, "poisson", 4))
    for split, coding, populations in cases:
        net = lively(mlp(split=split, coding=coding, shared=True)).eval()
        mapped = map_model(net, calibration=X)
        (chip,) = mapped.chip_segments
        assert len(chip.populations) == populations  # biases that last come from neurons
        resets = {p.neuron.reset for p in chip.populations if not p.name.endswith("bias")}
        assert resets == {"subtract"}
        with torch.no_grad():
            expected = net(X)
        assert torch.equal(evaluate(mapped.graph, X), expected) and expected.any()
        assert compare(mapped, X, "reference", "fast").equal
    again = simulate(load(save(mapped, tmp_path / "net.h8")), X).logits
    assert torch.equal(again, simulate(mapped, X).logits)


def test_training_s_evaluation_every_simulator_and_a_cluster_s_shards_draw_the_same():
    pixels = (X * 255).round().to(torch.uint8)
    x = pixels / 255
    for coding in ("gaussian", "poisson"):
        net = lively(mlp(split=1, coding=coding, shared=True)).eval()
        mapped = map_model(net, calibration=x)
        expected = simulate(mapped, x, "reference").logits
        for batch, backend in ((6, "fast"), (2, "fast"), (4, "reference")):
            assert torch.equal(simulate(mapped, x, backend, batch_size=batch).logits, expected)
        shared = (mapped, "fast", 2, ())
        shards = [_simulate(x[n : n + 3], first=n, shared=shared).logits for n in (0, 3)]
        assert torch.equal(torch.cat(shards), expected) and expected.any()
        with torch.no_grad():
            labels = net(x).argmax(1)
        for rank, size in ((0, 1), (1, 2)):
            args = (ArrayImages(pixels, labels), 2, torch.device("cpu"), nullcontext())
            assert count_right(net, *args, part=(rank, size)) == 6 // size
        apart = simulate(mapped, x[1:]).logits  # which are other samples: numbers count
        assert not torch.equal(apart, expected[1:])


def test_shared_filters_are_tuned_through_the_chip_s_integers():
    net = lively(mlp(split=1, shared=True)).eval()
    tuned = tune(net, calibration=X, scales="round")
    optimizer = torch.optim.SGD(tuned.parameters(), 0.1)
    F.cross_entropy(tuned(X), torch.arange(6) % 4).backward()
    assert any(p.grad is not None and p.grad.any() for p in tuned.parameters())
    optimizer.step()
    mapped = map_model(tuned.graph, scales=tuned.scales, calibration=X)
    with torch.no_grad():
        assert torch.equal(simulate(mapped, X).logits, tuned(X))


@pytest.mark.parametrize(
    ("made", "options"),
    [
        (mlp, {"split": 1, "coding": "duplicate"}),
        (mlp, {"split": 0, "coding": "poisson"}),
        (mlp, {"split": 2, "coding": "poisson"}),
        (cnn, {"split": 0, "coding": "duplicate"}),
    ],
)
def test_tuned_within_their_model_they_answer_as_the_chip_does(made, options, tmp_path):
    """Weights and biases move under their names; what no gradient reaches stays."""
    net = lively(made(shared=True, **options)).eval()
    start = {name: weight.clone() for name, weight in net.state_dict().items()}
    x = X if made is mlp else torch.rand(6, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    images = ArrayImages(x, torch.arange(6) % 4)
    quantization = prepare(net, calibration=x, weight_bits=3)
    config = replace(CONFIG, epochs=3, batch_size=6)
    noise = Data("noise", images, images, x.shape[1:], ("a", "b", "c", "d"))
    fit(net, noise, config, out=tmp_path)
    plain = load_checkpoint(tmp_path / "model.pt").model
    moved = {name for name, weight in plain.state_dict().items() if (weight != start[name]).any()}
    kept = {name for name in start if name.startswith("artificial") and not net.passes}
    assert moved == start.keys() - kept
    mapped = map_model(plain, calibration=x, weight_bits=3, scales=quantization.scales)
    with torch.no_grad():
        answers = net.eval()(x)
    for backend in ("fast", "reference"):
        assert torch.equal(simulate(mapped, x, backend).logits, answers)
    assert answers.any()


def test_a_neuron_that_another_layer_feeds_is_not_tuned_within_its_model():
    net = lively(mlp(split=0, coding="poisson", shared=True)).eval()
    net.spiking[3] = nn.Sequential(net.spiking[3])
    with pytest.raises(BadInput, match=r"'spiking.4'.*mapping\.tune\.tune trains"):
        prepare(net, calibration=X)


def test_lava_runs_shared_filters_spike_by_spike():
    if Lava().unavailable() is not None:
        pytest.skip(str(Lava().unavailable()))
    mapped = map_model(lively(mlp(split=1, shared=True)).eval(), calibration=X)
    found = compare(mapped, X[:2], "fast", "lava")
    assert found.equal and found.spikes > 50, found.divergence


def test_pooling_of_shared_filters_is_of_spikes_and_goes_to_the_chip():
    net, x = lively(cnn(split=4, shared=True)).eval(), torch.rand(3, 3, 14, 14)
    assert [type(m) for m in net.spiking if isinstance(m, SharedIIR)] == [SharedIIR] * 3
    mapped = map_model(net, calibration=x)
    rejected = {r.node for r in mapped.partition.rejections if r.node.startswith("spiking")}
    assert rejected == {"spiking.0"}  # the same in all steps, so it runs once
    with torch.no_grad():
        assert torch.equal(evaluate(mapped.graph, x), net(x))


@pytest.mark.parametrize("coding", ["duplicate", "gaussian", "poisson"])
def test_filters_of_each_input_stay_on_the_host_with_what_would_change_it(coding, tmp_path):
    net = lively(mlp(split=1, coding=coding)).eval()
    save_checkpoint(
        tmp_path / "m.pt", net, input_shape=(1, SIDE, SIDE), class_names=("a", "b", "c", "d")
    )
    mapped = map_model(load_checkpoint(tmp_path / "m.pt").model, calibration=X)
    assert not mapped.chip_segments
    reasons = {r.node: r.reason for r in mapped.partition.rejections}
    filters = [name for name, m in net.named_modules() if isinstance(m, Axon)]
    assert filters and all("trained filter of its own" in reasons[name] for name in filters)
    assert all("shared=True" in reasons[name] for name in filters)
    with torch.no_grad():
        expected = net(X)
    assert torch.equal(simulate(mapped, X, batch_size=6).logits, expected)
    again = load(save(mapped, tmp_path / "net.h8"))
    assert torch.equal(simulate(again, X, batch_size=6).logits, expected)
