"""What callers give: converted where its meaning is clear, else refused in one sentence."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import snntorch as snn
import torch
from torch import nn

from has8 import (
    TrainConfig,
    calibrate,
    create_model,
    evaluate,
    fit,
    given,
    load_checkpoint,
    load_data,
    save_checkpoint,
)
from has8.errors import BadInput, Has8Error, TraceError
from hwsim import Faults, agreement, compare, estimate, fault_sweep, simulate
from mapping import load, map_model, save
from mapping.finetune import prepare


def small(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    shape = {"num_classes": 3, "in_channels": 1, "base": 2, "depth": 1, "head": [4]}
    return create_model("has8_vgg", **{**shape, **options}).eval()


IMAGES = torch.rand(4, 1, 8, 8, generator=torch.manual_seed(0))


@pytest.fixture(scope="module")
def world():
    """A model, its mapping, and a run."""
    model = calibrate(small(), IMAGES)
    mapped = map_model(model, calibration=IMAGES)
    return SimpleNamespace(model=model, mapped=mapped, run=simulate(mapped, IMAGES))


ODD_IMAGES: dict[str, Any] = {
    "None": None,
    "path": "images",
    "list": [0.0],
    "int64": (IMAGES * 255).long(),
    "complex": IMAGES.to(torch.complex64),
    "objects": np.array([None]),
    "no image": IMAGES[:0],
    "number": torch.tensor(1.0),
    "NaN": IMAGES * float("nan"),
    "infinite": IMAGES / 0,
    "loader": torch.utils.data.DataLoader(IMAGES),
    "meta": IMAGES.to("meta"),
    "sparse": IMAGES.to_sparse(),
    "model": nn.Linear(1, 1),
}


@pytest.mark.parametrize("odd", ODD_IMAGES)
def test_what_is_no_batch_of_images_is_refused_by_all_that_take_one(odd, world):
    images = ODD_IMAGES[odd]
    takers: list[Callable[[], object]] = [
        lambda: given.images(images),
        lambda: simulate(world.mapped, images),
        lambda: calibrate(small(), images),
        lambda: map_model(world.model, calibration=images),
        lambda: agreement(world.mapped, images),
        lambda: compare(world.mapped, images, "reference"),
        lambda: fault_sweep(world.mapped, images, [0, 1, 2, 0], Faults()),
    ]
    for take in takers:
        with pytest.raises(BadInput) as refused:
            take()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "images",
    [
        IMAGES.double(),
        IMAGES.numpy(),
        IMAGES.numpy().astype(">f8"),
        IMAGES.clone().requires_grad_(),
        IMAGES.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2),
    ],
)
def test_images_of_other_forms_are_those_images(images, world):
    assert not given.images(images).requires_grad
    run = simulate(world.mapped, images)
    assert torch.equal(run.logits, world.run.logits)
    mapped = map_model(world.model, calibration=images)
    assert torch.equal(simulate(mapped, IMAGES).logits, world.run.logits)


def test_bytes_are_parts_of_255(world):
    bytes_ = (IMAGES * 255).to(torch.uint8)
    expected = simulate(world.mapped, bytes_.float() / 255).logits
    assert torch.equal(simulate(world.mapped, bytes_).logits, expected)
    assert torch.equal(simulate(world.mapped, bytes_.numpy()).logits, expected)
    assert torch.equal(given.images(bytes_ > 99), (bytes_ > 99).float())


def not_finite() -> nn.Module:
    model = small()
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = float("nan")
    return model


ODD_MODELS: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "path": lambda: Path("model.pt"),
    "state": lambda: small().state_dict(),
    "class": lambda: nn.Linear,
    "holder": lambda: SimpleNamespace(model=small()),
    "images": lambda: IMAGES,
    "meta": lambda: small().to("meta"),
    "NaN": not_finite,
}


@pytest.mark.parametrize("odd", ODD_MODELS)
def test_what_is_no_model_is_refused(odd, world):
    model = ODD_MODELS[odd]()
    for take_any in (given.own_copy, lambda model: map_model(model, calibration=IMAGES)):
        with pytest.raises(BadInput) as refused:
            take_any(model)
        assert "\n" not in str(refused.value)
    if odd not in ("meta", "NaN"):
        takers: list[Callable[[], object]] = [
            lambda: calibrate(model, IMAGES),
            lambda: simulate(model, IMAGES),
            lambda: estimate(model, world.run),
            lambda: estimate(world.mapped, model),
            lambda: save(model, "never.h8"),
        ]
        for take in takers:
            with pytest.raises(BadInput):
                take()


@pytest.mark.parametrize(
    "wrap",
    [nn.Module.double, nn.Module.train, nn.DataParallel, torch.compile],
    ids=["double", "train", "parallel", "compiled"],
)
def test_a_model_of_another_form_is_that_model(wrap, world):
    """Computed in float32, out of its wrappers, and left as it was."""
    model = wrap(calibrate(small(), IMAGES))
    kind, mode = next(model.parameters()).dtype, model.training
    mapped = map_model(model, calibration=IMAGES)
    assert torch.equal(simulate(mapped, IMAGES).logits, world.run.logits)
    assert next(model.parameters()).dtype == kind and model.training == mode


def test_a_module_that_holds_another_is_not_taken_for_it(tmp_path):
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = small()

        def forward(self, x):
            return self.module(x) * 2

    assert isinstance(given.own_copy(Doubled()), Doubled)
    with pytest.raises(BadInput, match="without a config"):
        save_checkpoint(tmp_path / "x.pt", Doubled(), input_shape=(1, 8, 8), class_names="abc")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (None, {}),
        ("has8_vgg", {"num_classes": "10"}),
        ("has8_vgg", {"num_classes": 10.0}),
        ("has8_vgg", {"num_classes": True}),
        ("has8_vgg", {"in_channels": None}),
        ("has8_vgg", {"base": 2.5}),
        ("has8_vgg", {"depth": "1"}),
        ("has8_vgg", {"head": 4}),
        ("has8_vgg", {"head": ["x"]}),
        ("has8_vgg", {"slope": 3}),
        ("has8_vgg", {"std": 0}),
        ("has8_resnet", {"neuron": None}),
        ("sew_resnet18", {"steps": 2.5}),
        ("resnet18", {"base": "64"}),
    ],
)
def test_options_of_another_type_are_refused(name, options):
    with pytest.raises(BadInput):
        create_model(name, **{"num_classes": 10, "in_channels": 1, **options})


def test_numbers_of_numpy_are_numbers():
    model = small(base=np.int64(2), head=np.array([4]), mean=(np.float32(0.5),), std=(1,))
    assert model.config["base"] == 2 and type(model.config["base"]) is int
    assert model.config["head"] == [4] and model.config["mean"] == [0.5]


@pytest.mark.parametrize(
    "options",
    [
        {"weight_bits": "8"},
        {"weight_bits": 8.0},
        {"weight_bits": True},
        {"partition": 3},
        {"partition": [3]},
        {"target": None},
        {"input_shape": "x"},
        {"input_shape": (1, 0, 8)},
    ],
)
def test_options_of_a_mapping_of_another_type_are_refused(options, world):
    with pytest.raises(Has8Error):
        map_model(world.model, **{"calibration": IMAGES, **options})


def test_swapped_arguments_are_refused(world):
    for take in (
        lambda: map_model(IMAGES, calibration=world.model),
        lambda: simulate(IMAGES, world.mapped),
        lambda: estimate(world.run, world.mapped),
        lambda: save("x.h8", world.mapped),
        lambda: load(world.mapped),
        lambda: load_checkpoint(world.model),
        lambda: load_data(None),
        lambda: simulate(world.mapped, IMAGES, None),
        lambda: simulate(world.mapped, IMAGES, batch_size="1"),
        lambda: simulate(world.mapped, IMAGES, record="spikes"),
    ):
        with pytest.raises(Has8Error):
            take()


LABELS = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize("labels", [LABELS.int(), LABELS.numpy(), LABELS.tolist(), LABELS.byte()])
def test_labels_of_other_forms_are_those_labels(labels, world):
    expected = agreement(world.mapped, IMAGES, labels=LABELS)
    found = agreement(world.mapped, (IMAGES * 255).byte().numpy(), labels=labels)
    assert found.labels.equal(expected.labels)
    rounded = agreement(world.mapped, (IMAGES * 255).byte().float() / 255)
    assert found.answers.equal(rounded.answers)
    assert found.float_answers.equal(rounded.float_answers)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS + 1, "from 0 to 2, .* from 1 to 3"),
        (LABELS - 1, "from 0 to 2, .* from -1 to 1"),
        (LABELS[:3], "4 whole numbers"),
        (LABELS.float(), "4 whole numbers"),
        (nn.functional.one_hot(LABELS), "4 whole numbers"),
        (["cat"] * 4, "4 whole numbers"),
        (7, "4 whole numbers"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, words, world):
    with pytest.raises(BadInput, match=words):
        agreement(world.mapped, IMAGES, labels=labels)
    with pytest.raises(BadInput, match=words):
        fault_sweep(world.mapped, IMAGES, labels, Faults())


class Loops(nn.Module):
    def forward(self, x):
        total = 0
        for image in x:
            total = total + image
        return total


class Nothing(nn.Module):
    def forward(self):
        return torch.ones(3)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (Loops(), "cannot be followed: it loops over a tensor"),
        (Nothing(), "must take one tensor of images"),
    ],
)
def test_what_mapping_cannot_follow_is_said_in_words_of_the_model(net, words):
    with pytest.raises(TraceError, match=words) as refused:
        map_model(net, calibration=IMAGES)
    assert not any(word in str(refused.value) for word in ("Proxy", "fx", "_tensor_constant"))


def test_a_model_that_overflows_is_told_so():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3))
    with torch.no_grad():
        for values in model.parameters():
            values.fill_(1e30)
    with pytest.raises(BadInput, match="itself answers with NaN or infinity"):
        map_model(model, calibration=IMAGES)


def test_training_and_fine_tuning_take_models_and_data_only():
    data, config = load_data("digits"), TrainConfig(epochs=1)
    for expected, take in (
        ("a model", lambda: fit("model.pt", data, config)),
        ("data", lambda: fit(small(), config, data)),
        ("data", lambda: fit(small(), IMAGES, config)),
        ("a has8.TrainConfig", lambda: fit(small(), data, data)),
        ("a model", lambda: evaluate("model.pt", data.test)),
        ("images", lambda: evaluate(small(), IMAGES)),
        ("batch_size", lambda: evaluate(small(), data.test, batch_size=0)),
        ("a model", lambda: prepare("model.pt", calibration=IMAGES)),
        ("calibration images", lambda: prepare(small(), calibration=None)),
    ):
        with pytest.raises(BadInput, match=f"^(expected )?{expected}"):
            take()


def test_batch_norms_that_depend_on_the_batch_are_told_what_to_do():
    norm = nn.BatchNorm2d(2, track_running_stats=False)
    with pytest.raises(TraceError, match="track_running_stats=True"):
        map_model(nn.Sequential(nn.Conv2d(1, 2, 3), norm), calibration=IMAGES)


def test_a_network_that_was_run_with_gradients_is_copied():
    """snnTorch's neurons keep their membrane, which torch refuses to copy with its gradient."""
    net = nn.Sequential(nn.Linear(3, 2), snn.Leaky(beta=0.5, init_hidden=True))
    net.kept = [net(torch.ones(1, 3))]
    copy = given.own_copy(net)
    assert copy[1].mem.equal(net[1].mem) and copy.kept[0].equal(net.kept[0])
    assert net[1].mem.requires_grad and not copy[1].mem.requires_grad
    assert copy[0].weight.requires_grad and copy[0].weight is not net[0].weight
